//! What peers answered: who lacks what, who keeps what it has, and whose turn it is to send.

use std::collections::BTreeSet;

use super::calls::Call;
use super::message::{Answer, Holds};
use super::plan::Lack;
use super::{Action, ActionId, Replicator};
use crate::chunk::ChunkId;
use crate::node_id::NodeId;
use crate::time::Instant;

impl Replicator {
    pub(super) fn answer(&mut self, now: Instant, id: ActionId, answer: Option<Answer>) {
        match (self.calls.take(id), answer) {
            (Some(Call::Compare(peer)), answer) => {
                if self.rounds.answered(now, self.placement.epoch(), peer, answer) {
                    self.begin_pass();
                }
            }
            (Some(Call::Offer(peer, batch)), answer) => self.offered(now, peer, batch, answer),
            (Some(Call::Check(chunk, to)), answer) => {
                let lacks = match answer {
                    // Who owns it may have changed since it was asked.
                    Some(Answer::Holds(_)) if !self.placement.owners(&chunk).contains(&to) => Some(false),
                    Some(Answer::Holds(holds)) => holds.first().map(|holds| *holds == Holds::Lacks),
                    _ => None,
                };
                if let Some(step) = self.plan.checked(now, chunk, to, lacks) {
                    self.step(step);
                }
            }
            (Some(Call::Vouch(chunk, owner)), answer) => {
                let vouched = answer == Some(Answer::Vouched(true));
                if let Some(claim) = self.releases.answered(chunk, owner, vouched) {
                    let id = self.calls.begin(Call::Release(chunk));
                    self.actions.push_back(Action::Release { id, claim });
                }
            }
            (Some(Call::Known(asked)), answer) => {
                self.collection.answered(&asked, answer);
                self.collect_asked();
            }
            (Some(other), _) => {
                // Not a question's id: the executor is confused, the action is still awaited.
                self.calls.put_back(id, other);
            }
            (None, _) => {}
        }
    }

    /// A peer said what it has of a chunk that is here.
    pub(super) fn told(&mut self, now: Instant, peer: NodeId, chunk: ChunkId, size: u64, holds: Holds) {
        match holds {
            Holds::Same => self.plan.has(chunk, peer),
            Holds::Other => self.lacks(now, chunk, peer, Lack::References),
            Holds::Lacks => self.lacks(now, chunk, peer, Lack::Chunk(size)),
            // Our rings differ: one of us is behind.
            Holds::NotMine => self.rounds.undone(now),
        }
    }

    fn lacks(&mut self, now: Instant, chunk: ChunkId, peer: NodeId, lack: Lack) {
        let owners = self.placement.owners(&chunk);
        if !owners.contains(&peer) {
            return;
        }
        if lack == Lack::References {
            self.plan.lacks(now, (chunk, peer), lack, 0, false);
            return;
        }
        let mut lacking: BTreeSet<NodeId> = self
            .plan
            .lacking(&chunk)
            .filter(|(_, lack)| matches!(lack, Lack::Chunk(_)))
            .map(|(owner, _)| owner)
            .collect();
        lacking.insert(peer);
        let me = self.config.node;
        // Whether another is expected to have it, and so to send it before this node does.
        let has = |owner: &&NodeId| **owner != me && !lacking.contains(owner);
        let alive = |owner: &&NodeId| self.placement.is_reachable(owner);
        let others = owners.iter().filter(has).filter(alive).count();
        let mine = owners.iter().position(|owner| *owner == me);
        let turn = match mine {
            Some(place) => owners[..place].iter().filter(has).filter(alive).count(),
            None => {
                let before = owners.iter().filter(has).filter(alive).count();
                before + self.placement.strays_before(&chunk, 3)
            }
        };
        for owner in lacking {
            let of = self.plan.lacking(&chunk).find(|(node, _)| *node == owner).map(|(_, lack)| lack);
            self.plan.lacks(now, (chunk, owner), of.unwrap_or(lack), turn, others == 0);
        }
    }
}
