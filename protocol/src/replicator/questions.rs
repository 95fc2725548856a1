//! What peers ask: which chunks are here, and whether a copy is promised to stay.
//!
//! The store is asked for at most [`MAX_SERVING`] of them at a time; who comes then is told nothing that it
//! could act upon.

use super::calls::Call;
use super::message::{Answer, Held, Holds, Item, MAX_CHUNKS, Question, Vouch};
use super::{Action, Replicator};
use crate::node_id::NodeId;
use crate::time::Instant;

/// Questions of peers that wait for the store.
const MAX_SERVING: usize = 1024;

impl Replicator {
    pub(super) fn question(&mut self, now: Instant, from: NodeId, token: u64, question: Question) {
        let epoch = self.placement.epoch();
        let refusal = match question {
            Question::Compare(compare) => self.rounds.compare(now, epoch, &from, &compare),
            Question::Held(Held { chunks }) => {
                if self.serving < MAX_SERVING && chunks.len() <= MAX_CHUNKS {
                    self.serving += 1;
                    let id = self.calls.begin(Call::Look(token, chunks.clone()));
                    self.actions.push_back(Action::Look { id, items: chunks });
                    return;
                }
                Answer::Holds(Vec::new())
            }
            Question::Vouch(Vouch { chunk, dots }) => {
                if self.serving < MAX_SERVING && self.placement.is_owner(&chunk) {
                    self.serving += 1;
                    let id = self.calls.begin(Call::Promise(token));
                    self.actions.push_back(Action::Promise { id, chunk, dots });
                    return;
                }
                Answer::Vouched(false)
            }
        };
        self.actions.push_back(Action::Answer { token, answer: refusal });
    }

    /// The store says what it has of what a peer asked about.
    pub(super) fn looked(&mut self, token: u64, items: &[Item], holds: Vec<Holds>) {
        self.serving -= 1;
        let of = |(item, holds): (&Item, Holds)| match holds {
            Holds::Lacks if !self.placement.is_mine(&item.chunk) => Holds::NotMine,
            holds => holds,
        };
        let answer = Answer::Holds(items.iter().zip(holds).map(of).collect());
        self.actions.push_back(Action::Answer { token, answer });
    }

    /// The store has promised to keep a copy, or not.
    pub(super) fn promised(&mut self, token: u64, given: bool) {
        self.serving -= 1;
        self.actions.push_back(Action::Answer { token, answer: Answer::Vouched(given) });
    }
}
