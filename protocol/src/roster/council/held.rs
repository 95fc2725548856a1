//! The roster that a node holds, with what follows from it: its floor, its rings, whom it binds.

use std::sync::OnceLock;

use crate::catalog::electorate::HomeList;
use crate::identity::DatabaseId;
use crate::name::Name;
use crate::node_id::NodeId;
use crate::ring::Ring;
use crate::roster::Roster;
use crate::roster::change::{Decided, Phase};
use crate::roster::floor::Floor;

/// The roster this node holds, with what follows from it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) decided: Decided,
    pub(super) floor: Floor,
    /// Built when a name is first asked about.
    ring: OnceLock<Ring>,
    previous_ring: OnceLock<Ring>,
    /// Whether the floor is written down.
    pub(super) floor_kept: bool,
}

impl Held {
    pub(super) fn new(decided: Decided) -> Self {
        let floor = Floor::new(&decided);
        Self { decided, floor, ring: OnceLock::new(), previous_ring: OnceLock::new(), floor_kept: false }
    }

    pub(super) const fn roster(&self) -> &Roster {
        &self.decided.roster
    }

    pub(super) const fn number(&self) -> u64 {
        self.decided.roster.number
    }

    pub(super) fn phase(&self) -> Phase {
        Phase { number: self.number(), floor: self.floor.known().is_some() }
    }

    pub(super) fn binds(&self, node: &NodeId, database: DatabaseId) -> bool {
        let lists = [self.roster(), self.floor.previous()];
        lists.into_iter().any(|r| r.members.get(node).is_some_and(|e| e.database == database))
    }

    pub(super) fn knows(&self, node: &NodeId) -> bool {
        self.roster().members.contains_key(node) || self.floor.previous().members.contains_key(node)
    }

    /// The home lists that each must give a majority for `name`: the one before too, unless there is none or a
    /// `single` one counts.
    pub(super) fn homes(&self, name: &Name, single: bool) -> Vec<HomeList> {
        let list = |roster: &Roster, ring: &OnceLock<Ring>| HomeList {
            nodes: ring.get_or_init(|| roster.ring()).owners(name.key(), roster.replicas()),
            majority: roster.majority(),
        };
        let present = list(self.roster(), &self.ring);
        let previous = self.floor.previous();
        if single || previous.members.is_empty() {
            return vec![present];
        }
        vec![list(previous, &self.previous_ring), present]
    }
}
