//! Single-decree Paxos for the roster after a given one (L. Lamport, *Paxos Made Simple*, 2001).
//!
//! One instance per number: the members of n decide the one [`Change`] that makes n+1. Invariants:
//! an acceptor's state is durable before its answer leaves; a proposer promises itself its ballot
//! before it sends it, so a restarted one never reuses a ballot; a proposer that finds an accepted
//! value proposes the one of the highest ballot and no other.

use std::collections::BTreeSet;

use minicbor::{Decode, Encode};

use super::change::Change;
use crate::node_id::NodeId;
use crate::time::Instant;

/// Paxos ballot: the counter, then the proposer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(map)]
pub struct Ballot {
    /// Raised above every ballot the proposer has met.
    #[n(0)]
    pub counter: u64,
    /// The proposer: no two share a ballot.
    #[n(1)]
    pub node: NodeId,
}

/// An accepted value with its ballot.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Vote {
    /// The ballot it was accepted in.
    #[n(0)]
    pub ballot: Ballot,
    /// The value.
    #[n(1)]
    pub change: Change,
}

/// A member's durable part in the decision on the roster after `base`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Acceptor {
    /// The roster whose members decide.
    #[n(0)]
    pub base: u64,
    /// No lower ballot is answered.
    #[n(1)]
    pub promised: Option<Ballot>,
    /// The last accepted value.
    #[n(2)]
    pub accepted: Option<Vote>,
}

impl Acceptor {
    pub fn new(base: u64) -> Self {
        Self { base, ..Self::default() }
    }

    /// Phase 1: promises `ballot`, or says which higher one was promised.
    pub fn prepare(&mut self, ballot: Ballot) -> Result<Option<Vote>, Ballot> {
        self.outbid(ballot)?;
        self.promised = Some(ballot);
        Ok(self.accepted.clone())
    }

    /// Phase 2: accepts, or says which higher ballot was promised.
    pub fn accept(&mut self, ballot: Ballot, change: Change) -> Result<(), Ballot> {
        self.outbid(ballot)?;
        self.promised = Some(ballot);
        self.accepted = Some(Vote { ballot, change });
        Ok(())
    }

    fn outbid(&self, ballot: Ballot) -> Result<(), Ballot> {
        match self.promised {
            Some(promised) if promised > ballot => Err(promised),
            _ => Ok(()),
        }
    }
}

/// One attempt of this node to have a change decided.
#[derive(Clone, Debug)]
pub(super) struct Proposer {
    pub base: u64,
    pub ballot: Ballot,
    pub change: Change,
    /// Whether `change` is this node's own wish.
    pub fresh: bool,
    pub deadline: Instant,
    members: BTreeSet<NodeId>,
    highest: Option<Vote>,
    promised: BTreeSet<NodeId>,
    accepted: BTreeSet<NodeId>,
    lost: BTreeSet<NodeId>,
    accepting: bool,
}

/// What an answer led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More answers are needed.
    Waiting,
    /// A majority has promised: send [`Proposer::change`] to all to accept.
    Accept,
    /// A majority has accepted.
    Decided,
    /// Too many did not answer or refused.
    Hopeless,
}

impl Proposer {
    pub fn new(
        base: u64,
        ballot: Ballot,
        change: Change,
        members: BTreeSet<NodeId>,
        deadline: Instant,
    ) -> Self {
        Self {
            base,
            ballot,
            change,
            fresh: true,
            deadline,
            members,
            highest: None,
            promised: BTreeSet::new(),
            accepted: BTreeSet::new(),
            lost: BTreeSet::new(),
            accepting: false,
        }
    }

    fn majority(&self) -> usize {
        self.members.len() / 2 + 1
    }

    pub fn members(&self) -> impl Iterator<Item = &NodeId> {
        self.members.iter()
    }

    /// Whether a majority has promised.
    pub const fn is_accepting(&self) -> bool {
        self.accepting
    }

    /// A member promised. A repeated promise counts once.
    pub fn handle_promise(&mut self, from: NodeId, vote: Option<Vote>) -> Progress {
        if self.accepting || !self.members.contains(&from) {
            return Progress::Waiting;
        }
        if let Some(vote) = vote
            && self.highest.as_ref().is_none_or(|h| h.ballot < vote.ballot)
        {
            self.highest = Some(vote);
        }
        self.promised.insert(from);
        if self.promised.len() < self.majority() {
            return Progress::Waiting;
        }
        self.accepting = true;
        self.lost.clear();
        if let Some(vote) = self.highest.take() {
            self.fresh = false;
            self.change = vote.change;
        }
        Progress::Accept
    }

    /// A member accepted. A repeated answer counts once.
    pub fn handle_accepted(&mut self, from: NodeId) -> Progress {
        if !self.accepting || !self.members.contains(&from) {
            return Progress::Waiting;
        }
        self.accepted.insert(from);
        if self.accepted.len() >= self.majority() { Progress::Decided } else { Progress::Waiting }
    }

    /// A member was not reached or did not agree.
    pub fn handle_loss(&mut self, from: NodeId) -> Progress {
        let done = if self.accepting { &self.accepted } else { &self.promised };
        if self.members.contains(&from) && !done.contains(&from) {
            self.lost.insert(from);
        }
        let hopeless = self.members.len() - self.lost.len() < self.majority();
        if hopeless { Progress::Hopeless } else { Progress::Waiting }
    }
}
