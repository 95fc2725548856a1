//! What the node knows of the roster: N, its majority, and who would own what with all up.

use std::sync::Arc;

use kepler_protocol::node_id::NodeId;
use kepler_protocol::ring::Ring;
use kepler_protocol::roster::Roster;

/// The present roster and whether this node may vote by it; a cheap snapshot.
#[derive(Clone, Debug)]
pub struct Electors {
    roster: Option<Arc<Roster>>,
    ring: Ring,
    standing: Result<(), String>,
    caught_up: bool,
}

impl Default for Electors {
    fn default() -> Self {
        Self::new(None, Err("it is not admitted to a cluster yet".to_owned()), false)
    }
}

impl Electors {
    /// A snapshot. `caught_up`: whether this node once knew all that a roster started from.
    pub fn new(roster: Option<Roster>, standing: Result<(), String>, caught_up: bool) -> Self {
        let ring = roster.as_ref().map(Roster::ring).unwrap_or_default();
        Self { roster: roster.map(Arc::new), ring, standing, caught_up }
    }

    /// N and its majority; `None` before admission.
    pub fn replicas(&self) -> Option<(usize, usize)> {
        self.roster.as_ref().map(|roster| (roster.replicas(), roster.majority()))
    }

    /// The owners of a chunk if every member of the roster were up.
    pub fn owners(&self, key: u64) -> Vec<NodeId> {
        self.ring.owners(key, self.replicas().map_or(0, |(wanted, _)| wanted))
    }

    /// The roster, once there is one.
    pub const fn roster(&self) -> Option<&Arc<Roster>> {
        self.roster.as_ref()
    }

    /// Whether this node is admitted and ready, else what it waits for.
    pub const fn standing(&self) -> &Result<(), String> {
        &self.standing
    }

    /// Whether what this node lists is all that there was when it last heard of the others.
    pub const fn was_caught_up(&self) -> bool {
        self.caught_up
    }

    /// What this node waits for before it can serve.
    pub fn reason(&self) -> String {
        self.standing.clone().err().unwrap_or_else(|| "it has no roster".to_owned())
    }
}
