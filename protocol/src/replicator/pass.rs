//! The pass over what is held: what becomes of each chunk that the disk shows.
//!
//! Each is counted for the peers that own it too, offered where a round lists it, and its graces begin and
//! end here. A pass reads no further while too many peers still owe an answer about what it found.

use std::time::Duration;

use super::calls::Call;
use super::holding::{Holding, Note, Page};
use super::message::{Answer, Held, Item, Question};
use super::{Action, DEADLINE, Event, Replicator};
use crate::chunk::ChunkId;
use crate::node_id::NodeId;
use crate::time::Instant;

/// Questions about gathered chunks that may wait for an answer before a pass stops reading.
const MAX_OFFERS: usize = 32;

/// What a pass over the disk has counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) chunks: u64,
    pub(super) kept: u64,
    pub(super) surplus: u64,
    /// When the first grace of what was seen is over.
    pub(super) grace_over: Option<Instant>,
}

/// The pass under way, and what the last one found.
#[derive(Debug, Default)]
pub(super) struct Pass {
    counting: Counts,
    pub(super) counted: Counts,
    /// Questions about gathered chunks that wait for an answer.
    pub(super) offers: usize,
    /// Where the pass goes on once fewer do.
    held_back: Option<ChunkId>,
    /// The last pass found nothing that who leaves has still to hand over.
    pub(super) drained: bool,
}

impl Replicator {
    pub(super) fn begin_pass(&mut self) {
        self.pass.counting = Counts::default();
        self.collection.begin_pass();
        self.read(None);
    }

    fn read(&mut self, after: Option<ChunkId>) {
        let id = self.calls.begin(Call::Page);
        self.actions.push_back(Action::Page { id, after });
    }

    pub(super) fn page(&mut self, now: Instant, page: Option<Page>) {
        let Some(page) = page else {
            self.rounds.fail(now);
            return;
        };
        let mut note = Note::default();
        for holding in &page.holdings {
            self.holding(now, holding, &mut note);
        }
        if !note.is_empty() {
            self.actions.push_back(Action::Note(note));
        }
        match page.holdings.last().filter(|_| page.more) {
            // The pass goes on when peers have answered.
            Some(last) if self.pass.offers >= MAX_OFFERS => self.pass.held_back = Some(last.chunk),
            Some(last) => self.read(Some(last.chunk)),
            None => self.end_of_pass(now),
        }
    }

    fn holding(&mut self, now: Instant, holding: &Holding, note: &mut Note) {
        let Holding { chunk, size, kept, .. } = *holding;
        self.pass.counting.chunks += 1;
        let item = Item { chunk, references: holding.references };
        let mine = self.placement.is_mine(&chunk);
        if mine && holding.surplus.is_some() {
            note.wanted.push(chunk);
        }
        match (kept, holding.unreferenced_for) {
            (true, Some(_)) => note.referenced.push(chunk),
            (false, None) => {
                note.unreferenced.push(chunk);
                self.grace(now, self.config.gc_grace);
            }
            (false, Some(waited)) if waited >= self.config.gc_grace || self.config.faults.no_gc_grace => {
                self.collection.candidate(chunk);
            }
            (false, Some(waited)) => self.grace(now, self.config.gc_grace.saturating_sub(waited)),
            (true, None) => {}
        }
        // What nothing refers to is not spread any more: else two collectors hand it to each other.
        if !kept && !self.config.faults.offers_the_dead {
            // The owners may know of a reference that was never told here: then it is superfluous.
            if !mine && holding.file {
                self.surplus(now, holding, note);
            }
            return;
        }
        if !holding.file {
            // A row without a file is no copy: an owner fetches it, anybody else has nothing to give.
            if mine {
                self.fetches.want(now, chunk);
            }
            return;
        }
        self.pass.counting.kept += 1;
        let owners = self.placement.owners(&chunk);
        let reachable: Vec<NodeId> =
            owners.into_iter().filter(|owner| self.placement.is_reachable(owner)).collect();
        if mine {
            for peer in reachable {
                if self.rounds.count(peer, &item) {
                    self.offer(peer, item, size);
                }
            }
            return;
        }
        self.pass.counting.surplus += 1;
        if self.rounds.is_counting() {
            for peer in reachable {
                self.offer(peer, item, size);
            }
        }
        self.surplus(now, holding, note);
    }

    fn surplus(&mut self, now: Instant, holding: &Holding, note: &mut Note) {
        let chunk = holding.chunk;
        let owners = self.placement.present_owners(&chunk);
        let leaving = self.placement.is_leaving();
        let known = match &holding.surplus {
            Some(surplus) if surplus.owners == owners => Some(surplus.held_for),
            Some(surplus) if self.config.faults.grace_not_reset => Some(surplus.held_for),
            _ => None,
        };
        if known.is_none() {
            note.surplus.push((chunk, owners.clone()));
        }
        if !leaving {
            let waited = known.unwrap_or_default();
            if waited < self.config.handoff_grace {
                self.grace(now, self.config.handoff_grace.saturating_sub(waited));
                return;
            }
            let after = self.placement.grace_after_death(now, &owners, self.config.handoff_grace);
            if let Some(at) = after.filter(|_| !self.config.faults.grace_not_reset) {
                self.grace(now, at.since(now));
                return;
            }
        }
        if owners.len() >= self.placement.receipts_needed() {
            self.releases.candidate(chunk);
        }
    }

    /// Something that was seen in this pass may go after so long.
    fn grace(&mut self, now: Instant, wait: Duration) {
        let at = now + wait;
        self.pass.counting.grace_over = Some(self.pass.counting.grace_over.map_or(at, |first| first.min(at)));
    }

    fn offer(&mut self, peer: NodeId, item: Item, size: u64) {
        if let Some(batch) = self.batches.add(peer, item, size) {
            self.ask_held(peer, batch);
        }
    }

    fn ask_held(&mut self, peer: NodeId, batch: Vec<(Item, u64)>) {
        let held = Held { chunks: batch.iter().map(|(item, _)| *item).collect() };
        self.pass.offers += 1;
        self.ask(peer, Question::Held(held), DEADLINE, Call::Offer(peer, batch));
    }

    fn end_of_pass(&mut self, now: Instant) {
        for (peer, batch) in self.batches.take() {
            self.ask_held(peer, batch);
        }
        self.pass.counted = self.pass.counting;
        self.fetches.end_of_pass();
        self.scrub.counted(now, self.pass.counted.chunks);
        let placement = &self.placement;
        self.rounds.end(now, placement.epoch(), |peer| placement.is_reachable(peer));
        if let Some(at) = self.pass.counted.grace_over {
            self.rounds.grace_over(now, at);
        }
        let drained = self.pass.counted.kept == 0 || self.config.faults.leaves_undrained;
        let before = std::mem::replace(&mut self.pass.drained, self.placement.is_leaving() && drained);
        if !self.placement.is_leaving() {
            return;
        }
        // A peer whose view is behind may still bring a copy: it is looked for until the process ends.
        self.rounds.grace_over(now, now + Duration::from_secs(2));
        if !self.pass.drained {
            self.events.push_back(Event::Leaving { left: self.pass.counted.kept });
        } else if !before {
            self.events.push_back(Event::Drained);
        }
    }

    /// A peer said what it has of what was offered, or nothing.
    pub(super) fn offered(
        &mut self,
        now: Instant,
        peer: NodeId,
        batch: Vec<(Item, u64)>,
        answer: Option<Answer>,
    ) {
        self.pass.offers -= 1;
        match answer {
            Some(Answer::Holds(holds)) if holds.len() == batch.len() => {
                for ((item, size), holds) in batch.into_iter().zip(holds) {
                    self.told(now, peer, item.chunk, size, holds);
                }
            }
            _ => self.rounds.undone(now),
        }
        if self.pass.offers < MAX_OFFERS
            && let Some(last) = self.pass.held_back.take()
        {
            self.read(Some(last));
        }
    }
}
