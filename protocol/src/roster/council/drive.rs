//! What the council does when it can: prove its database, reach the floor, propose, ask and tell.

use std::time::Duration;

use super::{
    ACCEPTOR, CAUGHT_UP, CONFIRMATION, CaughtUp, Council, DATABASE, DECIDED, Event, FLOOR, Flight, Founding,
    Held, Kind, KnownFloor, MAX_IN_FLIGHT, MAX_WANTED, Want,
};
use crate::catalog::seen::Seen;
use crate::catalog::storage::{Result, Storage, Table};
use crate::node_id::NodeId;
use crate::roster::message::{Answer, Ballot, Change, Decided, Question, Reason, RequestId};
use crate::roster::paxos::{Acceptor, Progress, Proposer};
use crate::roster::{Constants, DatabaseId};
use crate::time::Instant;

/// How long a newcomer's wish stands without being repeated.
pub(super) const JOIN_TRIES: Duration = Duration::from_secs(10);
/// How long an operator's forget is tried.
pub(super) const FORGET_TRIES: Duration = Duration::from_secs(60);
/// The most members remembered to be ahead.
pub(super) const MAX_BEHIND: usize = 64;

/// After this a request counts as unanswered.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// An attempt to have a change decided ends after this.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// The first random back-off after a lost attempt; doubled up to [`MAX_BACK_OFF`].
const BACK_OFF: Duration = Duration::from_millis(50);
const MAX_BACK_OFF: Duration = Duration::from_secs(3);
/// Between two tries of the same question to the same member.
const RETRY: Duration = Duration::from_millis(500);
/// Others than the decider wait so long before they collect a floor themselves.
const COLLECT_DELAY: Duration = Duration::from_secs(2);
/// Between two comparisons of all that is seen with the floor.
const COVER_INTERVAL: Duration = Duration::from_millis(50);
/// While something is under way the council looks so often whether it can go on.
const BUSY: Duration = Duration::from_millis(50);
/// Requests of one kind under way at once.
const WINDOW: usize = 16;

impl Council {
    /// Does all that has become possible.
    pub(super) fn drive(&mut self, storage: &mut dyn Storage, now: Instant) -> Result<()> {
        self.expire(now);
        // Each round adopts a roster or learns a floor, or is the last.
        for _ in 0..MAX_WANTED {
            let before = self.number();
            self.settle(storage, now)?;
            self.rejoin(storage)?;
            self.propose(storage, now)?;
            if self.number() == before {
                break;
            }
        }
        self.dispatch(now);
        self.report();
        self.wake = now + self.patience();
        if let Some(until) = self.held.as_ref().and_then(|held| self.heard_until(held))
            && until > now
        {
            self.wake = self.wake.min(until);
        }
        Ok(())
    }

    /// Between two greetings of a member that answers.
    fn ping_interval(&self) -> Duration {
        (self.config.forget_after / 8).clamp(Duration::from_millis(100), Duration::from_secs(30))
    }

    fn patience(&self) -> Duration {
        let settled = self.standing().is_ok()
            && self.is_caught_up()
            && self.proposer.is_none()
            && self.wanted.is_empty()
            && self.behind.is_empty()
            && !self.is_telling();
        if settled { (self.ping_interval() / 2).min(Duration::from_secs(5)) } else { BUSY }
    }

    fn expire(&mut self, now: Instant) {
        let late: Vec<RequestId> = self
            .in_flight
            .iter()
            .filter(|(_, f)| now.since(f.sent) >= REQUEST_TIMEOUT)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            if let Some(flight) = self.in_flight.remove(&id) {
                self.take_loss(&flight);
            }
        }
        if self.proposer.as_ref().is_some_and(|p| p.deadline <= now) {
            self.back_off(now);
        }
        self.wanted.retain(|_, want| want.until > now);
    }

    /// Adopts a decided roster: from this transaction on nothing is answered for the one before.
    pub(super) fn adopt(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        decided: Decided,
        floor: Option<Seen>,
    ) -> Result<()> {
        self.confirm(storage, &decided)?;
        self.put(storage, DECIDED, Some(&decided))?;
        self.put::<Acceptor>(storage, ACCEPTOR, None)?;
        self.put::<KnownFloor>(storage, FLOOR, None)?;
        self.acceptor = Acceptor::new(decided.roster.number);
        let held = self.held.insert(Held::new(decided));
        if let Some(floor) = floor {
            held.floor.set_known(now, floor);
        }
        self.presence.retain(|id, database| held.binds(id, database));
        // Who was just bound counts as heard from: nobody else takes its id over at once.
        let decided = &held.decided;
        if let Some(entry) = decided.roster.members.get(&decided.changed) {
            self.presence.handle_heard(now, decided.changed, entry.database, true);
        }
        self.contact.retain(|id| held.knows(id));
        for node in self.remembered.keys().filter(|id| !held.knows(id)) {
            storage.put_record(Table::Mark, node.as_str().as_bytes(), None)?;
        }
        self.remembered.retain(|id, _| held.knows(id));
        let phase = held.phase();
        self.behind.retain(|_, theirs| *theirs > phase);
        self.events.push_back(Event::Adopted(held.roster().clone()));
        self.proposer = None;
        self.attempts = 0;
        self.propose_after = now;
        self.decider = false;
        self.adopted_at = now;
        self.told.clear();
        self.last_sent.clear();
        self.next_cover = now;
        self.refused = None;
        Ok(())
    }

    /// Gives the database another id: all that was said in the name of the old one is void.
    pub(super) fn replace_database(&mut self, storage: &mut dyn Storage) -> Result<()> {
        self.database = match std::mem::replace(&mut self.fresh_database_used, true) {
            false => self.config.fresh_database,
            true => DatabaseId(self.rng.u128(..).to_be_bytes()),
        };
        self.drawn_here = true;
        self.proof.proved = false;
        self.confirmation = None;
        self.caught_up = None;
        self.acceptor = Acceptor::default();
        self.proposer = None;
        let database = self.database;
        self.put(storage, DATABASE, Some(&database))?;
        self.put::<Acceptor>(storage, ACCEPTOR, None)?;
        self.put::<super::Confirmation>(storage, CONFIRMATION, None)?;
        self.put::<CaughtUp>(storage, CAUGHT_UP, None)?;
        self.events.push_back(Event::DatabaseReplaced(database));
        Ok(())
    }

    /// Sees whether the database is proved, the floor known, and reached.
    fn settle(&mut self, storage: &mut dyn Storage, now: Instant) -> Result<()> {
        let Some(held) = &self.held else { return Ok(()) };
        if !self.proof.proved {
            let drawn_here = self.drawn_here && self.is_bound(held.roster());
            self.proof.proved = drawn_here
                || self.proof.outstanding(held.roster(), &self.config.node) == 0
                || self.faults.ready_without_nonces;
        }
        let silent = match held.floor.known() {
            Some(_) if self.is_caught_up() => return Ok(()),
            _ => self.silent_members(now, held.floor.previous()),
        };
        let (me, database) = (self.config.node, self.database);
        let Some(held) = &mut self.held else { return Ok(()) };
        if let Some(own) = &self.confirmation
            && own.number == held.number()
            && own.database == database
            && self.proof.proved
        {
            held.floor.confirm(me, own.seen.clone(), silent);
        }
        held.floor.conclude(now);
        if let Some(seen) = held.floor.known()
            && !held.floor_kept
        {
            held.floor_kept = true;
            let known = KnownFloor { number: held.number(), seen: seen.clone() };
            let phase = held.phase();
            self.behind.retain(|_, theirs| *theirs > phase);
            self.events.push_back(Event::FloorKnown);
            self.put(storage, FLOOR, Some(&known))?;
        }
        self.cover(storage, now)
    }

    fn cover(&mut self, storage: &mut dyn Storage, now: Instant) -> Result<()> {
        let Some(held) = &mut self.held else { return Ok(()) };
        if self.next_cover > now || held.floor.known().is_none() {
            return Ok(());
        }
        self.next_cover = now + COVER_INTERVAL;
        if held.floor.is_covered_by(&storage.seen()?) {
            let caught_up = CaughtUp { number: held.number(), database: self.database };
            self.caught_up = Some(caught_up);
            self.put(storage, CAUGHT_UP, Some(&caught_up))?;
        }
        Ok(())
    }

    /// Who was removed takes another database id and asks to be let in again, once nobody waits
    /// for its confirmation any more.
    fn rejoin(&mut self, storage: &mut dyn Storage) -> Result<()> {
        let Some(held) = &self.held else { return Ok(()) };
        let removed = !held.roster().members.contains_key(&self.config.node);
        let bound_before = self.confirmation.as_ref().is_some_and(|c| c.database == self.database);
        if removed && held.phase().floor && !self.presence.leaving() && (bound_before || !self.drawn_here) {
            self.replace_database(storage)?;
        }
        Ok(())
    }

    /// Another cluster of the same key: a founder alone joins the one with more members, or of
    /// two that are alone the one with the greater id joins the other.
    pub(super) fn take_foreign(
        &mut self,
        storage: &mut dyn Storage,
        theirs: Constants,
        members: u32,
    ) -> Result<()> {
        let Some(own) = self.held.as_ref().map(Held::roster) else { return Ok(()) };
        let alone = own.members.len() == 1 && own.members.contains_key(&self.config.node);
        let joins = members > 1 || members == 1 && own.constants.cluster > theirs.cluster;
        if !alone || !joins || own.constants.replication_factor != theirs.replication_factor {
            return Ok(());
        }
        self.held = None;
        self.wanted.clear();
        self.behind.clear();
        self.config.founding = Founding::Join;
        self.put::<Decided>(storage, DECIDED, None)?;
        self.put::<KnownFloor>(storage, FLOOR, None)?;
        self.replace_database(storage)
    }

    // Proposing.

    /// Notes a change to propose, not before a random part of `spread` has passed.
    pub(super) fn want(&mut self, now: Instant, change: Change, spread: Duration, tries: Duration) {
        let until = now + tries;
        if let Some(want) = self.wanted.get_mut(&change.node)
            && want.change == change
        {
            want.until = until;
        } else if self.wanted.len() < MAX_WANTED || self.wanted.contains_key(&change.node) {
            let after = now + spread.mul_f64(self.rng.f64());
            self.wanted.insert(change.node, Want { change, after, until });
        }
    }

    /// Wishes that come from what this node sees: who left, who is dead for long, itself changed.
    fn look_around(&mut self, now: Instant) {
        let Some(held) = &self.held else { return };
        let me = self.config.node;
        let mut changes = Vec::new();
        for (id, entry) in &held.roster().members {
            let reason = if self.presence.has_left(id, entry) {
                Reason::Left
            } else if self.presence.silent_for(now, id, entry) >= self.config.forget_after {
                Reason::Dead
            } else {
                continue;
            };
            changes.push(Change { node: *id, entry: None, reason });
        }
        let own = self.entry();
        if self.is_bound(held.roster()) && held.roster().members.get(&me) != Some(&own) {
            changes.push(Change { node: me, entry: Some(own), reason: Reason::Admitted });
        }
        let spread = (self.config.forget_after / 8).min(Duration::from_secs(2));
        for change in changes {
            if !self.wanted.contains_key(&change.node) {
                self.want(now, change, spread, JOIN_TRIES);
            }
        }
    }

    fn propose(&mut self, storage: &mut dyn Storage, now: Instant) -> Result<()> {
        if self.proposer.is_some() || self.propose_after > now || !self.may_vote() {
            return Ok(());
        }
        self.look_around(now);
        let Some(held) = &self.held else { return Ok(()) };
        let (roster, forget_after) = (held.roster(), self.config.forget_after);
        let presence = &self.presence;
        self.wanted.retain(|_, w| presence.judge(now, roster, &w.change, forget_after).is_ok());
        let Some(want) = self.wanted.values().find(|w| w.after <= now) else { return Ok(()) };
        let (base, change) = (roster.number, want.change.clone());
        let members = roster.members.keys().copied().collect();
        self.begin_base(base);
        let promised = self.acceptor.promised.map_or(0, |b| b.counter);
        let counter = promised.max(self.ballot_floor).saturating_add(1);
        let ballot = Ballot { counter, node: self.config.node };
        let proposer = Proposer::new(base, ballot, change.clone(), members, now + ATTEMPT_TIMEOUT);
        for to in self.others(&proposer) {
            let change = change.clone();
            self.send(now, to, Kind::Prepare(ballot), Question::Prepare { base, ballot, change });
        }
        self.proposer = Some(proposer);
        // The own promise is durable before the ballot leaves: a restart never reuses it.
        if let Answer::Promise { accepted, .. } = self.prepare(storage, ballot)? {
            let me = self.config.node;
            self.step_proposer(storage, now, ballot, |p| p.handle_promise(me, accepted))?;
        }
        Ok(())
    }

    fn others(&self, proposer: &Proposer) -> Vec<NodeId> {
        proposer.members().filter(|id| **id != self.config.node).copied().collect()
    }

    pub(super) fn step_proposer(
        &mut self,
        storage: &mut dyn Storage,
        now: Instant,
        ballot: Ballot,
        step: impl FnOnce(&mut Proposer) -> Progress,
    ) -> Result<()> {
        let Some(proposer) = self.proposer.as_mut().filter(|p| p.ballot == ballot) else { return Ok(()) };
        let progress = step(proposer);
        self.proceed(storage, now, progress)
    }

    fn proceed(&mut self, storage: &mut dyn Storage, now: Instant, progress: Progress) -> Result<()> {
        let Some(proposer) = self.proposer.clone() else { return Ok(()) };
        let ballot = proposer.ballot;
        match progress {
            Progress::Waiting => {}
            Progress::Hopeless => self.back_off(now),
            Progress::Accept => {
                let (base, change, fresh) = (proposer.base, proposer.change.clone(), proposer.fresh);
                for to in self.others(&proposer) {
                    let change = change.clone();
                    let question = Question::Accept { base, ballot, change, fresh };
                    self.send(now, to, Kind::Accept(ballot), question);
                }
                let me = self.config.node;
                return match self.accept(storage, ballot, change)? {
                    Answer::Accepted { .. } => {
                        self.step_proposer(storage, now, ballot, |p| p.handle_accepted(me))
                    }
                    _ => {
                        self.back_off(now);
                        Ok(())
                    }
                };
            }
            Progress::Decided => {
                let change = proposer.change.clone();
                self.proposer = None;
                if let Some(held) = &self.held
                    && held.number() == self.acceptor.base
                {
                    let decided = Decided::after(held.roster(), &change);
                    self.adopt(storage, now, decided, None)?;
                    self.decider = true;
                }
            }
        }
        Ok(())
    }

    /// Ends the attempt and waits for a random time, longer after each.
    pub(super) fn back_off(&mut self, now: Instant) {
        self.proposer = None;
        self.attempts = (self.attempts + 1).min(8);
        let most = MAX_BACK_OFF.min(BACK_OFF * 2u32.pow(self.attempts));
        self.propose_after = now + most.mul_f64(self.rng.f64());
    }

    // Asking and telling.

    fn send(&mut self, now: Instant, to: NodeId, kind: Kind, question: Question) -> bool {
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            return false;
        }
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.in_flight.insert(id, Flight { to, kind, sent: now });
        let request = self.request(question);
        self.outbox.push_back((to, id, request));
        true
    }

    fn is_under_way(&self, to: Option<&NodeId>, same: impl Fn(Kind) -> bool) -> bool {
        self.in_flight.values().any(|f| to.is_none_or(|to| f.to == *to) && same(f.kind))
    }

    /// Sends to each of `targets` that was not asked within `pause` and has no such request under
    /// way, as far as the window allows.
    fn ask(
        &mut self,
        now: Instant,
        class: u8,
        targets: &[(NodeId, Duration)],
        kind: Kind,
        question: impl Fn(&Self) -> Question,
    ) {
        let mut room = WINDOW.saturating_sub(self.in_flight.values().filter(|f| f.kind == kind).count());
        for (to, pause) in targets {
            let rested = self.last_sent.get(&(*to, class)).is_none_or(|at| now.since(*at) >= *pause);
            if room == 0 || !rested || self.is_under_way(Some(to), |k| k == kind) {
                continue;
            }
            let question = question(self);
            if self.send(now, *to, kind, question) {
                self.last_sent.insert((*to, class), now);
                room -= 1;
            }
        }
    }

    fn dispatch(&mut self, now: Instant) {
        self.ask_for_admission(now);
        self.greet(now);
        self.probe_strangers(now);
        let behind: Vec<(NodeId, Duration)> = self.behind.keys().map(|id| (*id, RETRY / 4)).collect();
        self.ask(now, 1, &behind, Kind::Learn, |_| Question::Learn);
        self.tell(now);
    }

    fn pick(&mut self, from: Vec<NodeId>) -> Option<NodeId> {
        let me = self.config.node;
        let from: Vec<NodeId> = from.into_iter().filter(|id| *id != me).collect();
        if from.is_empty() { None } else { Some(from[self.rng.usize(..from.len())]) }
    }

    fn ask_for_admission(&mut self, now: Instant) {
        // Removed members wait until the floor they may be asked for is known.
        let waits = match &self.held {
            None => false,
            Some(held) => self.is_bound(held.roster()) || !held.phase().floor,
        };
        if waits
            || self.next_join > now
            || self.presence.leaving()
            || self.is_under_way(None, |k| k == Kind::Join)
        {
            return;
        }
        let mut candidates: Vec<NodeId> = self.presence.reachable().collect();
        if let Some(held) = &self.held {
            let members = &held.roster().members;
            let known: Vec<NodeId> =
                candidates.iter().filter(|id| members.contains_key(id)).copied().collect();
            candidates = if known.is_empty() { members.keys().copied().collect() } else { known };
        }
        if let Some(to) = self.pick(candidates) {
            self.next_join = now + RETRY + RETRY.mul_f64(self.rng.f64());
            let question = self.join_question();
            self.send(now, to, Kind::Join, question);
        }
    }

    /// Asks members what they remember of this node, and thereby whether they are there.
    fn greet(&mut self, now: Instant) {
        let Some(held) = &self.held else { return };
        let me = self.config.node;
        let silent = self.heard_until(held).is_none_or(|until| until <= now);
        let ping = self.ping_interval();
        let targets: Vec<(NodeId, Duration)> = held
            .roster()
            .members
            .keys()
            .filter(|id| **id != me)
            .map(|id| {
                let eager = silent || !self.proof.proved && !self.proof.has(id);
                (*id, if eager { RETRY.min(ping) } else { ping })
            })
            .collect();
        let nonce = self.proof.nonce;
        self.ask(now, 0, &targets, Kind::Hello, |_| Question::Hello { nonce });
    }

    /// A founder alone looks whether others it can talk to have a cluster already.
    fn probe_strangers(&mut self, now: Instant) {
        let Some(held) = &self.held else { return };
        if held.roster().members.len() > 1 || self.next_probe > now {
            return;
        }
        let strangers = self.presence.reachable().collect();
        if let Some(to) = self.pick(strangers) {
            self.next_probe = now + RETRY * 2;
            let nonce = self.proof.nonce;
            self.send(now, to, Kind::Hello, Question::Hello { nonce });
        }
    }

    /// Whether the decider still has somebody to tell, for as long as it tries.
    fn is_telling(&self) -> bool {
        let recent = self.now.since(self.adopted_at) < REQUEST_TIMEOUT * 6;
        self.decider
            && recent
            && self.held.as_ref().is_some_and(|held| {
                let phase = held.phase();
                let mut all = held.roster().members.keys().chain(held.floor.previous().members.keys());
                all.any(|id| *id != self.config.node && self.told.get(id).is_none_or(|t| *t < phase))
            })
    }

    /// Passes the roster on, and collects confirmations of it.
    fn tell(&mut self, now: Instant) {
        let telling = self.is_telling();
        let caught_up = self.is_caught_up();
        let Some(held) = &self.held else { return };
        let me = self.config.node;
        let phase = held.phase();
        let previous = held.floor.previous();
        let collecting = match held.floor.known_at {
            None => self.decider || now.since(self.adopted_at) >= COLLECT_DELAY,
            // What nobody has any more can be in one floor and not in another.
            Some(at) => !caught_up && now.since(at) >= COLLECT_DELAY,
        };
        let mut targets: Vec<(NodeId, Duration)> = Vec::new();
        if collecting {
            let missing: Vec<NodeId> = held.floor.missing().copied().collect();
            targets.extend(missing.iter().map(|id| (*id, RETRY)));
            // Those that have confirmed are asked again whom they have given up.
            let again = (self.ping_interval() * 2).max(RETRY);
            let confirmed = previous.members.keys().filter(|id| !missing.contains(id));
            targets.extend(confirmed.map(|id| (*id, again)));
        }
        if telling {
            let all = held.roster().members.keys().chain(previous.members.keys());
            let untold = all.filter(|id| self.told.get(id).is_none_or(|told| *told < phase));
            targets.extend(untold.map(|id| (*id, RETRY)));
        }
        targets.retain(|(id, _)| *id != me);
        let class = if phase.floor { 3 } else { 2 };
        self.ask(now, class, &targets, Kind::Adopt(phase), Self::adopt_question);
    }

    fn adopt_question(&self) -> Question {
        match &self.held {
            Some(held) => {
                Question::Adopt { decided: held.decided.clone(), floor: held.floor.known().cloned() }
            }
            None => Question::Learn,
        }
    }

    fn report(&mut self) {
        let standing = self.standing();
        let same = match (&self.reported, &standing) {
            (Some(Ok(())), Ok(())) => true,
            (Some(Err(before)), Err(now)) => before == now,
            _ => false,
        };
        if !same {
            self.reported = Some(standing.clone());
            self.events.push_back(Event::Ready(standing));
        }
    }
}
