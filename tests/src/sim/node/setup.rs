//! How a simulated cluster is set up, and which bugs are planted in it.

use std::time::Duration;

use kepler_protocol::roster::council;
use kepler_protocol::{catalog, quorum, relocation, replicator};

/// How a cluster is set up, and which bugs are planted in it.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// `REPLICATION_FACTOR`.
    pub replication_factor: u8,
    /// `FORGET_AFTER_SECS`.
    pub forget_after: Duration,
    /// How many zones the nodes are in, another one each after each start; none for 0.
    pub zones: u8,
    /// Planted in the catalog.
    pub catalog: catalog::Faults,
    /// Planted in the council.
    pub council: council::Faults,
    /// Planted in the placement of chunks.
    pub quorum: quorum::Faults,
    /// Planted in moves.
    pub relocation: relocation::Faults,
    /// Planted here: the folder is not synced after a rename.
    pub no_folder_sync: bool,
    /// `REPAIR_DELAY_SECS`.
    pub repair_delay: Duration,
    /// `HANDOFF_GRACE_SECS`.
    pub handoff_grace: Duration,
    /// `GC_GRACE_SECS`.
    pub gc_grace: Duration,
    /// `INVENTORY_INTERVAL_SECS`.
    pub inventory_interval: Duration,
    /// `SCRUB_INTERVAL_SECS`.
    pub scrub_interval: Duration,
    /// The cap of background traffic, in bytes a second, when a process starts.
    pub cap: u64,
    /// Whether who leaves drains before: without it only what becomes of names is looked at.
    pub drains: bool,
    /// Planted here: who is drained does not ask whether the others know all that its catalog knows.
    pub leaves_unshared: bool,
    /// Whether what uploads still owe is queued; without, all of it is left to the comparison of what is held.
    pub queue: bool,
    /// Whether some uploads take so long that a grace ends while they are under way.
    pub slow_uploads: bool,
    /// Planted in the replicator and its store.
    pub heal: replicator::Faults,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            replication_factor: 3,
            forget_after: Duration::from_secs(3600),
            zones: 0,
            catalog: catalog::Faults::default(),
            council: council::Faults::default(),
            quorum: quorum::Faults::default(),
            relocation: relocation::Faults::default(),
            no_folder_sync: false,
            repair_delay: Duration::from_secs(8),
            handoff_grace: Duration::from_secs(20),
            gc_grace: Duration::from_secs(15),
            inventory_interval: Duration::from_secs(20),
            scrub_interval: Duration::from_secs(240),
            cap: 4 << 20,
            drains: false,
            leaves_unshared: false,
            queue: true,
            slow_uploads: false,
            heal: replicator::Faults::default(),
        }
    }
}
