//! The stages of an operation, and what each has collected so far.

use std::collections::{BTreeMap, BTreeSet};

use super::vote::Verdict;
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::version::{Dot, Version};

/// How often each node gave an answer of one kind. Only whether it did counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally(pub BTreeMap<NodeId, usize>);

impl Tally {
    pub fn add(&mut self, node: NodeId) {
        *self.0.entry(node).or_default() += 1;
    }

    pub fn has(&self, node: &NodeId) -> bool {
        self.0.contains_key(node)
    }

    pub fn nodes(&self) -> Vec<NodeId> {
        self.0.keys().copied().collect()
    }
}

/// Where an operation stands.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// A begun write whose bytes still arrive; when its name was last read, if it was.
    Idle {
        read_at: Option<Instant>,
    },
    Reading(Reading),
    Reserving(Reserving),
    Publishing(Box<Publishing>),
}

/// What one replica answered to a read.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub holds: BTreeSet<Dot>,
    /// What it has been told of, or told of itself.
    pub covered: BTreeSet<Dot>,
    pub rounds: u32,
}

/// The answers so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    pub answers: BTreeMap<NodeId, Answer>,
}

/// Reservations so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Reserving {
    pub verdicts: BTreeMap<NodeId, Verdict>,
    /// How often the attempt backed off.
    pub attempts: u32,
    /// Backing off until then.
    pub resume: Option<Instant>,
}

impl Reserving {
    /// The same attempt under another roster.
    pub fn restarted(&self) -> Self {
        Self { attempts: self.attempts, ..Self::default() }
    }

    /// Who gave one of these verdicts.
    pub fn tally(&self, accepted: &[Verdict]) -> Tally {
        let mut tally = Tally::default();
        self.verdicts.iter().filter(|(_, v)| accepted.contains(v)).for_each(|(node, _)| tally.add(*node));
        tally
    }
}

/// Who has a version so far.
#[derive(Clone, Debug)]
pub(super) struct Publishing {
    pub version: Version,
    /// In a conditional write, what the replicas said to the attempt.
    pub verdicts: Option<BTreeMap<NodeId, Verdict>>,
    pub acks: Tally,
    pub votes: Tally,
    pub refused: BTreeSet<NodeId>,
    /// Set once the durability is reached: stragglers are waited for until then.
    pub grace_end: Option<Instant>,
}

impl Publishing {
    /// The same version under another roster: who had it is asked again.
    pub fn restarted(&self) -> Self {
        Self {
            version: self.version.clone(),
            verdicts: self.verdicts.as_ref().map(|_| BTreeMap::new()),
            acks: Tally::default(),
            votes: Tally::default(),
            refused: BTreeSet::new(),
            grace_end: None,
        }
    }
}
