//! Settings of a catalog, and the bugs that tests plant in it.

use std::time::Duration;

use super::audit;
use crate::node_id::NodeId;

/// Settings of a catalog.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// How long stragglers are waited for once a majority has acknowledged (`ACK_GRACE_MS`).
    pub ack_grace: Duration,
    /// How long a read of a name waits for a majority.
    pub read_timeout: Duration,
    /// How long a write, from its publishing command on, may take in all.
    pub write_timeout: Duration,
    /// How long one request waits for its answer before it is sent again.
    pub request_timeout: Duration,
    /// How long a reservation stands.
    pub reservation: Duration,
    /// How long a recorded vote is kept.
    pub vote_kept: Duration,
    /// The least time between two exchanges that this node begins.
    pub exchange_interval: Duration,
    /// The least time between two windows of names that this node compares by fingerprints.
    pub audit_interval: Duration,
    /// How often stubs are looked through for what everybody has seen.
    pub collect_interval: Duration,
    /// Planted bugs.
    #[doc(hidden)]
    pub faults: Faults,
}

impl Config {
    /// The defaults, for this node.
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            ack_grace: Duration::from_millis(500),
            read_timeout: Duration::from_secs(3),
            write_timeout: Duration::from_secs(9),
            request_timeout: Duration::from_secs(2),
            reservation: Duration::from_secs(5),
            vote_kept: Duration::from_secs(600),
            exchange_interval: Duration::from_secs(1),
            audit_interval: audit::INTERVAL,
            collect_interval: Duration::from_secs(10),
            faults: Faults::default(),
        }
    }
}

/// Planted bugs, each one changed line, to show that a harness finds them.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Majorities are counted over the live members of the view instead of the roster.
    pub majority_over_view: bool,
    /// Generation and block of dots start from 1 after a lost database.
    pub reuse_dots: bool,
    /// The context of a write is taken from the local state only.
    pub local_context_only: bool,
    /// A tombstone can be the head.
    pub tombstone_as_head: bool,
    /// A replica that is not ready answers all the same.
    pub answer_before_ready: bool,
    /// A repeated vote counts as another.
    pub count_repeated_votes: bool,
    /// The stamp's count is the wall clock.
    pub wall_clock_stamp: bool,
}
