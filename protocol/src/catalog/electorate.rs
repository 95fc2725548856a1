//! Who votes on names: the face that the roster shows to the catalog.
//!
//! The council (`crate::roster`) implements [`Electorate`] in the node. [`FixedElectorate`] is a
//! roster that never changes, for tests of the catalog alone.

use std::collections::BTreeMap;

use crate::identity::DatabaseId;
use crate::name::Name;
use crate::node_id::NodeId;

/// The home replicas of a name under one roster, and how many of them are a majority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HomeList {
    /// The preference list of the name over the roster, dead members included.
    pub nodes: Vec<NodeId>,
    /// floor(N/2) + 1.
    pub majority: usize,
}

/// Who votes on names, and whether this node may.
pub trait Electorate {
    /// The number every request on a name carries; `None` before admission.
    fn number(&self) -> Option<u64>;
    /// The home lists that must each give a majority: one, or two while the floor of the present
    /// roster is unknown. The list of the present roster is the last. Empty before admission.
    fn homes(&self, name: &Name) -> Vec<HomeList>;
    /// N of the present roster.
    fn replicas(&self) -> usize;
    /// All members of the roster with the database id under which each is bound.
    fn members(&self) -> Vec<(NodeId, DatabaseId)>;
    /// Whether this node may answer for its roster, else why not.
    fn standing(&self) -> Result<(), String>;
    /// Whether what this node's database says can be relied on: it is the latest, and once was
    /// caught up. Such a node may still wait for what others have seen; if nobody took its word
    /// while all wait for one another, none would ever be ready.
    fn is_intact(&self) -> bool {
        self.standing().is_ok()
    }
}

/// A roster that does not change by itself.
#[derive(Clone, Debug)]
pub struct FixedElectorate {
    /// The number of the roster.
    pub number: u64,
    /// The members and their databases.
    pub members: BTreeMap<NodeId, DatabaseId>,
    /// The replication factor.
    pub replication_factor: usize,
    /// Why the node may not answer, if it may not.
    pub not_ready: Option<String>,
}

impl FixedElectorate {
    /// Roster number 1 over these members, every one ready, each with a database id of its own.
    pub fn new(members: impl IntoIterator<Item = NodeId>, replication_factor: usize) -> Self {
        let members = members
            .into_iter()
            .enumerate()
            .map(|(index, id)| (id, DatabaseId((index as u128 + 1).to_be_bytes())))
            .collect();
        Self { number: 1, members, replication_factor, not_ready: None }
    }
}

impl Electorate for FixedElectorate {
    fn number(&self) -> Option<u64> {
        Some(self.number)
    }

    /// N members in a row, from one that the name's key chooses.
    fn homes(&self, name: &Name) -> Vec<HomeList> {
        let count = self.members.len();
        if count == 0 {
            return Vec::new();
        }
        let start = (name.key() % count as u64) as usize;
        let nodes: Vec<NodeId> =
            self.members.keys().cycle().skip(start).take(self.replicas()).copied().collect();
        vec![HomeList { majority: nodes.len() / 2 + 1, nodes }]
    }

    fn replicas(&self) -> usize {
        self.replication_factor.min(self.members.len())
    }

    fn members(&self) -> Vec<(NodeId, DatabaseId)> {
        self.members.iter().map(|(id, database)| (*id, *database)).collect()
    }

    fn standing(&self) -> Result<(), String> {
        match &self.not_ready {
            None => Ok(()),
            Some(why) => Err(why.clone()),
        }
    }
}
