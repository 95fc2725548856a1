//! What the executor has done, and what follows from it.

use super::calls::Call;
use super::message::{Question, Vouch};
use super::rules::{Kept, PROMISE};
use super::{ActionId, Done, Event, Replicator, Scrubbed, Sent, VOUCH_DEADLINE};
use crate::time::Instant;

impl Replicator {
    pub(super) fn done(&mut self, now: Instant, id: ActionId, done: Done) {
        let Some(call) = self.calls.take(id) else { return };
        match (call, done) {
            (Call::Page, Done::Page(page)) => self.page(now, page),
            (Call::Look(token, items), Done::Looked(holds)) => self.looked(token, &items, holds),
            (Call::Promise(token), Done::Promised(given)) => self.promised(token, given),
            (Call::References(chunk), Done::References(dots)) => {
                let owners = self.placement.present_owners(&chunk);
                let enough = owners.len() >= self.placement.receipts_needed() && !owners.is_empty();
                let mine = self.placement.is_mine(&chunk);
                let owners = (enough && !mine).then_some(owners);
                let Some(questions) = self.releases.references(now, chunk, dots, owners) else { return };
                for owner in questions.owners {
                    for dots in questions.parts.clone() {
                        let question = Question::Vouch(Vouch { chunk, dots });
                        self.ask(owner, question, VOUCH_DEADLINE, Call::Vouch(chunk, owner));
                    }
                }
            }
            (Call::Send(chunk, to), Done::Sent(sent)) => match sent {
                Sent::Stored(bytes) => {
                    self.plan.copied(chunk, to);
                    self.repaired.0 += 1;
                    self.repaired.1 += bytes;
                    if bytes > 0 {
                        self.events.push_back(Event::Moved { chunk, to, bytes });
                    }
                }
                Sent::NotHere => self.plan.dropped(chunk, to),
                Sent::Failed => self.plan.failed(now, chunk, to),
            },
            (Call::Fetch(chunk), Done::Fetched(size)) => self.fetches.fetched(now, chunk, size.is_some()),
            (Call::Release(chunk), Done::Released(result)) => {
                self.releases.released(&chunk, result.is_ok());
                if result == Err(Kept::Promised) {
                    // Nothing else would have it looked at just when that is over.
                    self.rounds.grace_over(now, now + PROMISE);
                }
                if let Ok(bytes) = result {
                    self.pass.counted.surplus = self.pass.counted.surplus.saturating_sub(1);
                    self.events.push_back(Event::Released { chunk, bytes });
                }
            }
            (Call::Collect, Done::Collected { chunks, bytes }) => {
                self.collection.over();
                if chunks > 0 {
                    self.events.push_back(Event::Collected { chunks, bytes });
                }
            }
            (Call::Scrub, Done::Scrubbed(Scrubbed { checked, bad, finished })) => {
                let over = self.scrub.stepped(now, checked, bad.len() as u64, finished);
                for chunk in bad {
                    if self.placement.is_mine(&chunk) {
                        self.fetches.want(now, chunk);
                    }
                }
                if let Some((checked, bad)) = over {
                    self.events.push_back(Event::Scrubbed { checked, bad });
                }
            }
            // Done with something else than was asked: the executor is confused, the action is still awaited.
            (call, _) => self.calls.put_back(id, call),
        }
    }
}
