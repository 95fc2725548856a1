//! Settings of a replicator, and the bugs that tests plant in it.

use std::time::Duration;

use crate::node_id::NodeId;

/// Settings; durations are running time.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// `REPAIR_DELAY_SECS`: how long a dead member keeps its place before its chunks are copied.
    pub repair_delay: Duration,
    /// `HANDOFF_GRACE_SECS`: how long a superfluous copy is kept.
    pub handoff_grace: Duration,
    /// `GC_GRACE_SECS`: how long a chunk is kept after its last reference ended.
    pub gc_grace: Duration,
    /// `INVENTORY_INTERVAL_SECS`: between two passes over the disk.
    pub inventory_interval: Duration,
    /// `SCRUB_INTERVAL_SECS`: for one pass of re-hashing.
    pub scrub_interval: Duration,
    /// Planted bugs.
    #[doc(hidden)]
    pub faults: Faults,
}

impl Config {
    /// The defaults.
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            repair_delay: Duration::from_secs(30),
            handoff_grace: Duration::from_secs(600),
            gc_grace: Duration::from_secs(3600),
            inventory_interval: Duration::from_secs(600),
            scrub_interval: Duration::from_secs(604_800),
            faults: Faults::default(),
        }
    }
}

/// Planted bugs, each one changed line, to show that a harness finds them.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A reference whose dot was never seen counts as ended.
    pub unseen_is_ended: bool,
    /// A release may rest on receipts of any age.
    pub stale_receipts: bool,
    /// Who has given a promise deletes its own copy all the same: circular receipts.
    pub promise_forgotten: bool,
    /// Questions for receipts carry no references, and a release does not look for them.
    pub references_left_behind: bool,
    /// Collection does not wait.
    pub no_gc_grace: bool,
    /// A node whose catalog is not ready collects.
    pub collect_when_cut_off: bool,
    /// Deletes while too many members are dead.
    pub breaker_ignored: bool,
    /// A chunk marked gone is promised.
    pub gone_is_a_hit: bool,
    /// Owners that are believed to hold a copy are not asked for a receipt.
    pub surplus_counted: bool,
    /// Copies are made as soon as a member is dead.
    pub no_repair_delay: bool,
    /// The grace of a superfluous copy is not begun anew when an owner dies.
    pub grace_not_reset: bool,
    /// Only the first holder ever sends.
    pub healer_not_replaced: bool,
    /// Chunks whose references have all ended are offered like any other.
    pub offers_the_dead: bool,
    /// In the store: promises are kept in memory only.
    pub promise_not_durable: bool,
    /// In the store: time in which no process ran counts as grace.
    pub downtime_counts: bool,
    /// In the store: a chunk that is here already is a hit that records no reference.
    pub hit_without_reference: bool,
    /// In the store: since when a copy is superfluous is kept in memory only.
    pub grace_not_durable: bool,
    /// Who leaves is said to be drained at the first look.
    pub leaves_undrained: bool,
    /// In the store: a receipt is given without hashing the file.
    pub vouches_unhashed: bool,
    /// In the store: a chunk is sent without hashing the file.
    pub sends_unhashed: bool,
    /// In the store: a chunk that was set aside still counts as held.
    pub quarantined_is_held: bool,
    /// Who leaves takes copies that others bring.
    pub leaver_takes_copies: bool,
    /// Of those that leave nobody stays, though nobody else is left.
    pub all_leave: bool,
    /// What nobody saw of the logs of a database that was dropped is never ended.
    pub lost_logs_live: bool,
    /// All logs of a node whose database was dropped are ended, those of its successor too.
    pub successor_is_dropped: bool,
    /// In the throttle: the bytes of a whole second may pass at once.
    pub bursts: bool,
}
