//! Operations: what this node does as the coordinator of a command.
//!
//! An operation asks the home replicas of one name, stage by stage (`stage`), until a stage has its
//! majorities or its deadline has passed. A stage says what it still wants to ask of each replica
//! (`read`, `reserve`, `write`); asking again and backing off are the same for all (`drive`).

use std::collections::BTreeMap;

use super::command::{CommandId, Precondition};
use super::electorate::HomeList;
use super::stage::{Stage, Tally};
use super::storage::Survivor;
use crate::api::Durability;
use crate::name::Name;
use crate::node_id::NodeId;
use crate::time::{Instant, UnixMillis};
use crate::version::{Content, Dot};

/// The most operations under way; what comes beyond is refused.
pub(super) const MAX_OPERATIONS: usize = 8192;

/// What an operation is for.
#[derive(Clone, Debug)]
pub(super) enum Goal {
    Read,
    Write {
        dot: Dot,
        precondition: Precondition,
        durability: Durability,
        /// What is to be published, once the upload is done.
        payload: Option<(Option<Content>, UnixMillis)>,
    },
    Delete {
        version: Option<Dot>,
        precondition: Precondition,
        durability: Durability,
        created_at: UnixMillis,
        /// Drawn when it is known that there is something to delete.
        dot: Option<Dot>,
    },
}

impl Goal {
    pub fn precondition(&self) -> Precondition {
        match self {
            Self::Read => Precondition::None,
            Self::Write { precondition, .. } | Self::Delete { precondition, .. } => *precondition,
        }
    }

    pub fn durability(&self) -> Durability {
        match self {
            Self::Read => Durability::Quorum,
            Self::Write { durability, .. } | Self::Delete { durability, .. } => *durability,
        }
    }

    pub fn dot(&self) -> Option<Dot> {
        match self {
            Self::Read => None,
            Self::Write { dot, .. } => Some(*dot),
            Self::Delete { dot, .. } => *dot,
        }
    }
}

/// A home replica as an operation sees it.
#[derive(Clone, Debug, Default)]
pub(super) struct Target {
    /// Unanswered requests of this stage. A late answer is as good as a timely one.
    pub requests: Vec<u64>,
    /// The newest of them and when it was sent; `None` while nothing is waited for.
    pub waiting: Option<(u64, Instant)>,
    /// Not to be asked before.
    pub not_before: Option<Instant>,
    /// Failures in a row.
    pub failures: u32,
}

/// One command under way.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    /// To be answered; absent while a begun write has no command.
    pub command: Option<CommandId>,
    pub name: Name,
    pub goal: Goal,
    pub number: Option<u64>,
    pub homes: Vec<HomeList>,
    pub targets: BTreeMap<NodeId, Target>,
    pub stage: Stage,
    /// The survivors that a majority was found to hold when the name was last read, and this node's
    /// own `fast` ones, whatever becomes of them until the write is published. What a version
    /// supersedes must be known to a majority before it: a replica that has the version and none
    /// of what it superseded would show what *that* had superseded. Absent where nothing is read.
    /// Kept whole: what another operation of this node supersedes meanwhile is superseded all the
    /// same, for that other one may yet be lost.
    pub agreed: Option<BTreeMap<Dot, Survivor>>,
    /// When the present stage gives up.
    pub deadline: Option<Instant>,
    /// When the whole gives up.
    pub end: Option<Instant>,
    /// When it looks at itself again, as the catalog has it in its list.
    pub alarm: Option<Instant>,
}

/// Whether an operation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing more can be done now.
    Waiting,
    /// The stage changed: look again.
    Moved,
    /// It was answered and is to be forgotten.
    Finished,
}

impl Operation {
    pub fn new(name: Name, goal: Goal, command: Option<CommandId>) -> Self {
        Self {
            command,
            name,
            goal,
            number: None,
            homes: Vec::new(),
            targets: BTreeMap::new(),
            stage: Stage::Idle { read_at: None },
            agreed: None,
            deadline: None,
            end: None,
            alarm: None,
        }
    }

    /// Whether this node is a home replica by a list that counts.
    pub fn is_home(&self, node: &NodeId) -> bool {
        self.homes.iter().any(|list| list.nodes.contains(node))
    }

    /// N by the present roster.
    pub fn wanted(&self) -> usize {
        self.homes.last().map_or(0, |list| list.nodes.len())
    }

    /// How many answers the durability needs, and how many of the present list gave one.
    pub fn shortfall(&self, tally: &Tally) -> (usize, usize) {
        let Some(list) = self.homes.last() else { return (0, 1) };
        let answered = list.nodes.iter().filter(|node| tally.has(node)).count();
        let needed = match self.goal.durability() {
            Durability::All => list.nodes.len(),
            Durability::Fast | Durability::Quorum => list.majority,
        };
        (answered, needed)
    }

    /// Whether all replicas of the present list are in the tally.
    pub fn has_all(&self, tally: &Tally) -> bool {
        self.homes.last().is_some_and(|list| list.nodes.iter().all(|node| tally.has(node)))
    }
}
