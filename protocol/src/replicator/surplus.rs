//! Superfluous copies: whose receipts they need, and when to ask for them.
//!
//! A copy is a candidate once it has been superfluous for its grace. All N owners are asked at once,
//! with the references; when all have vouched, the claim goes to the store, whose transaction decides.
//! Nothing here survives a change of owners, a refusal or the process: a copy that could not be
//! released is a candidate again in a later pass.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Faults;
use super::message::MAX_DOTS;
use super::rules::Claim;
use crate::chunk::ChunkId;
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::version::Dot;

/// Candidates remembered.
pub const MAX_CANDIDATES: usize = 4096;

/// Candidates whose owners are being asked.
pub const MAX_ASKED: usize = 8;

#[derive(Debug)]
enum State {
    /// The references are being read.
    Reading,
    /// The owners are being asked.
    Asking { claim: Claim, outstanding: BTreeMap<NodeId, usize> },
    /// The store decides.
    Releasing,
}

/// Questions to ask for one copy.
#[derive(Debug, PartialEq, Eq)]
pub struct Questions {
    /// Whom.
    pub owners: Vec<NodeId>,
    /// The references, in parts of what one question carries; at least one, which may be empty.
    pub parts: Vec<Vec<Dot>>,
}

/// The copies that are on their way out.
#[derive(Debug, Default)]
pub struct Releases {
    candidates: VecDeque<ChunkId>,
    known: BTreeSet<ChunkId>,
    under_way: BTreeMap<ChunkId, State>,
    /// Some did not fit, or were refused: look again soon.
    pub(super) again: bool,
    /// Planted: receipts of earlier attempts count.
    keep_receipts: bool,
    /// Planted: nobody is asked.
    count_owners: bool,
    /// Planted: questions carry no references.
    no_references: bool,
    old: BTreeMap<ChunkId, Claim>,
}

impl Releases {
    /// Nothing is on its way out.
    pub fn new(faults: Faults) -> Self {
        Self {
            keep_receipts: faults.stale_receipts,
            count_owners: faults.surplus_counted,
            no_references: faults.references_left_behind,
            ..Self::default()
        }
    }

    /// A copy may go, if its owners vouch for theirs.
    pub fn candidate(&mut self, chunk: ChunkId) {
        if self.known.len() >= MAX_CANDIDATES {
            self.again = true;
        } else if self.known.insert(chunk) {
            self.candidates.push_back(chunk);
        }
    }

    /// The owners changed: all is void but what the store decides on already.
    pub fn void(&mut self) {
        self.candidates.clear();
        self.under_way.retain(|_, state| matches!(state, State::Releasing));
        self.known = self.under_way.keys().copied().collect();
    }

    /// Begins with the next copy, whose references are to be read, then [`Releases::references`].
    pub fn start(&mut self) -> Option<ChunkId> {
        if self.under_way.len() >= MAX_ASKED {
            return None;
        }
        let chunk = self.candidates.pop_front()?;
        self.under_way.insert(chunk, State::Reading);
        Some(chunk)
    }

    /// The references were read; whom to ask what. The owners are all N, else nobody is asked.
    pub fn references(
        &mut self,
        now: Instant,
        chunk: ChunkId,
        dots: Option<Vec<Dot>>,
        owners: Option<Vec<NodeId>>,
    ) -> Option<Questions> {
        if !matches!(self.under_way.get(&chunk), Some(State::Reading)) {
            return None;
        }
        let (Some(mut dots), Some(owners)) = (dots, owners) else {
            self.drop(&chunk);
            return None;
        };
        if self.no_references {
            dots.clear();
        }
        let mut parts: Vec<Vec<Dot>> = dots.chunks(MAX_DOTS).map(<[Dot]>::to_vec).collect();
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        let mut claim = Claim {
            chunk,
            asked_at: now,
            owners: owners.iter().copied().collect(),
            receipts: BTreeSet::new(),
            references: dots.into_iter().collect(),
        };
        if let Some(old) = self.old.remove(&chunk).filter(|old| old.owners == claim.owners) {
            (claim.receipts, claim.asked_at) = (old.receipts, old.asked_at);
        }
        let outstanding = owners.iter().map(|owner| (*owner, parts.len())).collect();
        self.under_way.insert(chunk, State::Asking { claim, outstanding });
        Some(Questions { owners, parts })
    }

    /// An owner answered one question; the claim, once all have vouched.
    pub fn answered(&mut self, chunk: ChunkId, owner: NodeId, vouched: bool) -> Option<Claim> {
        let Some(State::Asking { claim, outstanding }) = self.under_way.get_mut(&chunk) else { return None };
        let left = outstanding.get_mut(&owner)?;
        *left = left.saturating_sub(1);
        if vouched && *left == 0 {
            claim.receipts.insert(owner);
        }
        let complete = claim.receipts == claim.owners || self.count_owners;
        if complete {
            let mut claim = claim.clone();
            if self.count_owners {
                claim.receipts = claim.owners.clone();
            }
            self.under_way.insert(chunk, State::Releasing);
            return Some(claim);
        }
        if self.keep_receipts {
            // As if the refusal would not matter: what was given is kept for the next attempt.
            if outstanding.values().all(|left| *left == 0) || !vouched {
                let claim = claim.clone();
                self.drop(&chunk);
                self.old.insert(chunk, claim);
            }
        } else if !vouched {
            self.drop(&chunk);
        }
        None
    }

    /// The store decided.
    pub fn released(&mut self, chunk: &ChunkId, done: bool) {
        if matches!(self.under_way.get(chunk), Some(State::Releasing)) {
            self.under_way.remove(chunk);
            self.known.remove(chunk);
            self.again |= !done;
        }
    }

    fn drop(&mut self, chunk: &ChunkId) {
        self.under_way.remove(chunk);
        self.known.remove(chunk);
        self.again = true;
    }

    /// Whether nothing is on its way out.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}
