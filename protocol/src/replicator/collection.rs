//! Chunks whose references have all ended, on their way out.
//!
//! One batch at a time: its owners are asked first, for a reference that this node missed may be on its way
//! to it, and only what none of them refers to is left to the store to decide. An owner that does not
//! answer keeps all that it was asked about.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::message::{Answer, Holds};
use super::plan::MAX_WANTS;
use crate::chunk::ChunkId;
use crate::node_id::NodeId;

/// Chunks collected in one action.
const COLLECT: usize = 256;

/// The batch under way.
#[derive(Debug, Default)]
enum Batch {
    #[default]
    Nothing,
    /// So many owners are still to say whether they know of a reference that this node does not.
    Asking(BTreeSet<ChunkId>, usize),
    /// The store decides.
    Deciding,
}

/// What is to be collected.
#[derive(Debug, Default)]
pub(super) struct Collection {
    /// As the pass under way, or the last one, found them.
    candidates: VecDeque<ChunkId>,
    batch: Batch,
}

impl Collection {
    /// A pass begins: it finds the candidates again.
    pub(super) fn begin_pass(&mut self) {
        self.candidates.clear();
    }

    /// A chunk's grace is over. What does not fit is found again by a later pass.
    pub(super) fn candidate(&mut self, chunk: ChunkId) {
        if self.candidates.len() < MAX_WANTS {
            self.candidates.push_back(chunk);
        }
    }

    /// Takes up the next batch, unless one is under way: whom to ask about which chunks. `owners` are those
    /// of a chunk that can be asked.
    pub(super) fn start(
        &mut self,
        owners: impl Fn(&ChunkId) -> Vec<NodeId>,
    ) -> Option<BTreeMap<NodeId, Vec<ChunkId>>> {
        if !matches!(self.batch, Batch::Nothing) || self.candidates.is_empty() {
            return None;
        }
        let some = self.candidates.len().min(COLLECT);
        let chunks: BTreeSet<ChunkId> = self.candidates.drain(..some).collect();
        let mut questions: BTreeMap<NodeId, Vec<ChunkId>> = BTreeMap::new();
        for chunk in &chunks {
            for owner in owners(chunk) {
                questions.entry(owner).or_default().push(*chunk);
            }
        }
        self.batch = Batch::Asking(chunks, questions.len());
        Some(questions)
    }

    /// An owner said what it has, or nothing: what it knows a reference to stays.
    pub(super) fn answered(&mut self, asked: &[ChunkId], answer: Option<Answer>) {
        let Batch::Asking(chunks, outstanding) = &mut self.batch else { return };
        *outstanding -= 1;
        match answer {
            Some(Answer::Holds(holds)) if holds.len() == asked.len() => {
                let referred = asked.iter().zip(holds).filter(|(_, holds)| *holds == Holds::Other);
                for (chunk, _) in referred {
                    chunks.remove(chunk);
                }
            }
            _ => chunks.retain(|chunk| !asked.contains(chunk)),
        }
    }

    /// What the store is to decide about, once all owners have answered; then [`Self::over`] ends the batch.
    pub(super) fn decide(&mut self) -> Option<Vec<ChunkId>> {
        let Batch::Asking(chunks, 0) = &mut self.batch else { return None };
        let chunks: Vec<ChunkId> = std::mem::take(chunks).into_iter().collect();
        self.batch = if chunks.is_empty() { Batch::Nothing } else { Batch::Deciding };
        (!chunks.is_empty()).then_some(chunks)
    }

    /// The store has decided.
    pub(super) fn over(&mut self) {
        self.batch = Batch::Nothing;
    }
}
