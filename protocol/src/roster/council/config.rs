//! What a council is told at its start, and the mistakes that tests plant in it.

use std::time::Duration;

use crate::identity::{ClusterId, DatabaseId};
use crate::node_id::NodeId;

/// How this node comes by its first roster; a roster on disk goes before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Founding {
    /// It founds a cluster: it has neither seeds nor persisted peers. The id is random.
    Found {
        /// The new cluster's name.
        cluster: ClusterId,
    },
    /// It asks the members that gossip shows it.
    Join,
}

/// What a council is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// Its identity key.
    pub key: [u8; 32],
    /// Its failure zone, at most 63 bytes.
    pub zone: Option<String>,
    /// Bytes it offers.
    pub capacity: u64,
    /// The configured N; must be the cluster's.
    pub replication_factor: u8,
    /// `FORGET_AFTER_SECS`: after so long without a word a member is given up.
    pub forget_after: Duration,
    /// How it comes by its first roster.
    pub founding: Founding,
    /// Random: the id of the database if it has none yet, or must have another.
    pub fresh_database: DatabaseId,
    /// Random: seeds nonces, delays and further database ids.
    pub seed: u64,
}

/// Mistakes that tests plant to see that they are found; all off.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A restarted node does not wait for any answer before it takes its database for the latest.
    pub ready_without_nonces: bool,
    /// A database found to be behind goes on under its id.
    pub keep_database_id_when_behind: bool,
    /// The next roster is proposed and voted before the floor of the present one is known and seen.
    pub propose_before_floor: bool,
    /// Promises and acceptances are not written down.
    pub forget_promises: bool,
    /// One home list counts although the floor is not known.
    pub single_list_before_floor: bool,
}
