//! What the replicator wants done, carried out on the simulated disk and network.

use std::collections::VecDeque;

use kepler_protocol::chunk::ChunkId;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::replicator::memory::Judge;
use kepler_protocol::replicator::rules::Reference;
use kepler_protocol::replicator::{Action, ActionId, Done, Input as Told};
use kepler_protocol::time::Instant;
use kepler_protocol::version::Dot;

use super::UNLINK_AFTER;
use super::lanes::Sending;
use crate::sim::node::Node;
use crate::sim::node::message::{Question, Reply};
use crate::sim::node::requests::Sent;
use crate::sim::node::room::{CHUNK_BYTES, Room};
use crate::sim::process::Output;

impl Node {
    /// Carries out what the machine wants done.
    pub(in crate::sim::node) fn heal(&mut self, room: &mut Room, now: Instant) {
        let database = self.replica.council().database();
        if database != self.healing.database {
            // The database was found to be behind: references may be missing.
            self.healing.database = database;
            room.shelf.doubt();
        }
        let ready = self.replica.council().standing().is_ok();
        if let Some(bound) = self.replica.council().roster().and_then(|r| room.bound.follow(r, ready)) {
            room.bound = bound;
        }
        while let Some(action) = self.healing.machine.poll_action() {
            if let Some((id, done)) = self.act(room, now, action) {
                self.healing.machine.handle(now, Told::Done { id, done });
            }
        }
        while self.healing.machine.poll_event().is_some() {}
    }

    fn act(&mut self, room: &mut Room, now: Instant, action: Action) -> Option<(ActionId, Done)> {
        let faults = self.setup.heal;
        Some(match action {
            Action::Page { id, after } => {
                let mut shelf = std::mem::take(&mut room.shelf);
                let worth = |dot: &Dot| room.worth(self.replica.catalog().seen(), dot, faults);
                let page = shelf.page(&self.judge(now, &worth), after, |chunk| room.is_named(chunk));
                room.shelf = shelf;
                (id, Done::Page(Some(page)))
            }
            Action::Note(note) => {
                room.witness.noted(self.seat.id, &note);
                room.shelf.note(now, note);
                return None;
            }
            Action::Ask { id, to, question, deadline } => {
                let question = Question::Heal(question.to_bytes());
                self.request(to, question, now + deadline, Sent::Heal(id));
                return None;
            }
            Action::Answer { token, answer } => {
                let response = Reply::Heal(answer.to_bytes());
                self.outputs.push_back(Output::Response { token, response });
                return None;
            }
            Action::Look { id, items } => {
                let worth = |dot: &Dot| room.worth(self.replica.catalog().seen(), dot, faults);
                (id, Done::Looked(room.shelf.look(&worth, &items, |chunk| room.is_named(chunk))))
            }
            Action::Promise { id, chunk, dots } => {
                let good = faults.vouches_unhashed || self.hash(room, now, &chunk);
                let given = good && room.shelf.promise(now, chunk, &dots, faults);
                let rotten = given && !room.is_whole(&chunk);
                room.witness.break_if(rotten, "I8", || {
                    format!("{} vouches for {chunk}, which is rotten", self.seat.id)
                });
                if given {
                    room.witness.promised.insert(chunk, room.witness.uptime);
                }
                if given && !dots.is_empty() {
                    room.witness.unreferenced.remove(&chunk);
                }
                (id, Done::Promised(given))
            }
            Action::References { id, chunk } => {
                let worth = |dot: &Dot| room.worth(self.replica.catalog().seen(), dot, faults);
                (id, Done::References(room.shelf.references(&worth, &chunk)))
            }
            Action::Send { id, chunk, to, pace } => {
                self.witness_move(room, now, &chunk, to);
                self.healing.lanes.wait(now, pace, Sending { id: Some(id), chunk, to });
                return None;
            }
            Action::Fetch { id, chunk, from } => {
                if faults.quarantined_is_held && room.shelf.has(&chunk) {
                    return Some((id, Done::Fetched(Some(CHUNK_BYTES))));
                }
                let mut all: VecDeque<NodeId> = from.into();
                let others = self.seat.ids.iter().filter(|other| **other != self.seat.id);
                all.extend(others.filter(|other| !all.contains(other)).copied().collect::<Vec<_>>());
                self.fetch(now, id, chunk, all);
                return None;
            }
            Action::Release { id, claim } => {
                let mut shelf = std::mem::take(&mut room.shelf);
                let worth = |dot: &Dot| room.worth(self.replica.catalog().seen(), dot, faults);
                let decided = shelf.release(&self.judge(now, &worth), &claim);
                room.shelf = shelf;
                match decided {
                    Ok(bytes) => {
                        self.witness_release(room, now, &claim);
                        self.healing.unlinks.push_back((now + UNLINK_AFTER, claim.chunk, Some((id, bytes))));
                        return None;
                    }
                    Err(kept) => (id, Done::Released(Err(kept))),
                }
            }
            Action::Collect { id, chunks } => {
                let mut shelf = std::mem::take(&mut room.shelf);
                let worth = |dot: &Dot| room.worth(self.replica.catalog().seen(), dot, faults);
                let marked = shelf.collect(&self.judge(now, &worth), &chunks);
                room.shelf = shelf;
                let count = marked.len() as u64;
                for (chunk, _) in marked {
                    self.witness_collect(room, &chunk);
                    self.healing.unlinks.push_back((now + UNLINK_AFTER, chunk, None));
                }
                (id, Done::Collected { chunks: count, bytes: count * CHUNK_BYTES })
            }
            Action::SetAside { chunk } => {
                if room.shelf.has(&chunk) && room.is_unreadable(&chunk) {
                    room.give_up(&chunk, faults);
                    self.healing.machine.handle(now, Told::Lost(chunk));
                }
                return None;
            }
            Action::Scrub { id, restart, limit } => {
                let mut shelf = std::mem::take(&mut room.shelf);
                let mut scrubbed = shelf.scrub(restart, limit, |chunk| room.is_whole(chunk));
                room.shelf = shelf;
                let (unreadable, bad) = scrubbed.bad.into_iter().partition(|chunk| room.is_unreadable(chunk));
                scrubbed.bad = bad;
                for chunk in &scrubbed.bad {
                    room.set_aside(chunk, faults);
                }
                let unreadable: Vec<ChunkId> = unreadable;
                for chunk in unreadable {
                    self.healing.machine.handle(now, Told::Unreadable(chunk));
                }
                (id, Done::Scrubbed(scrubbed))
            }
        })
    }

    fn judge<'a>(&self, now: Instant, worth: &'a dyn Fn(&Dot) -> Reference) -> Judge<'a> {
        Judge {
            worth,
            now,
            breaker: self.healing.machine.breaker(),
            ready: self.replica.council().standing().is_ok(),
            gc_grace: self.healing.config.gc_grace,
            faults: self.setup.heal,
        }
    }
}
