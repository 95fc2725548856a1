//! Membership updates: which word outweighs which.
//!
//! - A claim (signed by its subject) with a greater incarnation replaces everything earlier.
//! - An accusation holds against an incarnation that is not greater than the one it names: suspect over alive, dead
//!   over suspect. Its subject answers it with a greater incarnation.
//! - Another key takes a node id over only from a member that is dead or gone, and with a greater incarnation,
//!   so that the predecessor's words never come back.

use super::broadcast::Subject;
use super::config::{MAX_JUMP, MAX_MEMBERS};
use super::member::{Accused, Member, Slot};
use super::{Event, Swim};
use crate::time::Instant;
use crate::view::State;
use crate::wire::gossip::{Accusation, Claim, Update};
use crate::wire::seal::Header;

/// Members that hear of a refutation at once.
const REFUTE_FANOUT: usize = 6;

/// Of all members that hear of a suspicion, about so many look for themselves.
const CONFIRMERS: f64 = 6.0;

impl Swim {
    pub(super) fn apply_update(&mut self, now: Instant, update: Update) {
        match update {
            Update::Claim(claim) => self.apply_claim(claim, true),
            Update::Accusation(accusation) => self.apply_accusation(now, accusation),
            Update::Unknown => {}
        }
    }

    /// Whether a stranger says to be a node that we know, by another key, as being here.
    pub(super) fn is_usurper(&self, header: &Header, updates: &[Update]) -> bool {
        let Some(member) = self.members.find(&header.sender).and_then(|slot| self.members.get(slot)) else {
            return false;
        };
        let key = member.statement().metadata.key;
        let here = member.state().is_reachable();
        here && updates.iter().any(|update| match update {
            Update::Claim(claim) => {
                claim.statement().is_ok_and(|s| s.id == header.sender && s.metadata.key != key)
            }
            _ => false,
        })
    }

    /// Whether a packet's sender has, after its updates were applied, another key than we know of it. It was not loud
    /// enough, has been told so, and comes again.
    pub(super) fn speaks_for_another(&self, slot: Slot, updates: &[Update]) -> bool {
        let Some(member) = self.members.get(slot) else { return true };
        let known = member.statement();
        updates.iter().any(|update| match update {
            Update::Claim(claim) => {
                claim.statement().is_ok_and(|s| s.id == known.id && s.metadata.key != known.metadata.key)
            }
            _ => false,
        })
    }

    /// Changes a member and says so if its state or metadata differs after that.
    pub(super) fn transition(&mut self, slot: Slot, change: impl FnOnce(&mut Member)) {
        let Some(before) = self.members.get(slot).map(|m| (m.state(), m.record.clone())) else { return };
        self.members.change(slot, change);
        let Some(member) = self.members.get(slot) else { return };
        let (node, state, suspected) = (member.id(), member.state(), member.is_suspected());
        let moved = before.0 != state || before.1.statement().metadata != member.statement().metadata;
        if !suspected || !state.is_reachable() {
            self.suspicions.end(slot);
        }
        if moved {
            if state.is_reachable() && !before.0.is_reachable() {
                self.probes.add(&mut self.rng, slot);
            }
            self.push_event(Event::MemberChanged { node, previous: Some(before.0), state });
        }
    }

    pub(super) fn apply_claim(&mut self, claim: Claim, spread: bool) {
        let Ok(statement) = claim.statement() else {
            self.counters.malformed += 1;
            return;
        };
        if statement.id == self.config.id {
            return self.hear_oneself(claim, statement);
        }
        let known =
            self.members.find(&statement.id).and_then(|slot| self.members.get(slot).map(|m| (slot, m)));
        let Some((slot, member)) = known else {
            return self.welcome(claim, statement, spread);
        };
        let old = member.statement();
        let same_key = old.metadata.key == statement.metadata.key;
        if same_key && old.incarnation == statement.incarnation && member.unheard {
            return self.transition(slot, |m| m.unheard = false);
        }
        let news = statement.incarnation > old.incarnation && (same_key || !member.state().is_reachable());
        if !news {
            return;
        }
        if same_key && statement.incarnation - old.incarnation > MAX_JUMP {
            self.counters.forged += 1;
            return;
        }
        self.counters.verified += 1;
        let Ok(record) = claim.verify(statement) else {
            self.counters.forged += 1;
            return;
        };
        let incarnation = record.statement().incarnation;
        let bytes = Update::Claim(record.claim().clone()).to_bytes();
        self.transition(slot, |m| {
            if same_key {
                m.record = record;
                m.unheard = false;
                m.accused = m.accused.filter(|a| a.incarnation >= incarnation);
            } else {
                *m = Member::new(record);
            }
        });
        if spread {
            self.broadcasts.push(Subject::Member(slot), bytes);
        }
    }

    /// A member that was not known.
    fn welcome(&mut self, claim: Claim, statement: crate::wire::gossip::Statement, spread: bool) {
        self.counters.verified += 1;
        let Ok(record) = claim.verify(statement) else {
            self.counters.forged += 1;
            return;
        };
        if self.members.len() >= MAX_MEMBERS {
            let gone = self.members.iter().find(|(_, m)| !m.state().is_reachable()).map(|(slot, _)| slot);
            let Some(slot) = gone else {
                self.counters.overflowed += 1;
                return;
            };
            self.drop_member(slot);
        }
        let bytes = Update::Claim(record.claim().clone()).to_bytes();
        let slot = self.members.insert(Member::new(record));
        let Some((node, state)) = self.members.get(slot).map(|m| (m.id(), m.state())) else { return };
        if state.is_reachable() {
            self.probes.add(&mut self.rng, slot);
        }
        if spread && state.is_reachable() {
            self.broadcasts.push(Subject::Member(slot), bytes);
        }
        self.push_event(Event::MemberChanged { node, previous: None, state });
    }

    /// Somebody repeats what this node, or one of the same name, once said.
    fn hear_oneself(&mut self, claim: Claim, statement: crate::wire::gossip::Statement) {
        let own = self.me.statement();
        let other_key = statement.metadata.key != own.metadata.key;
        let louder = statement.incarnation > own.incarnation
            || (other_key && statement.incarnation == own.incarnation);
        if !louder || statement.incarnation - own.incarnation > MAX_JUMP {
            return;
        }
        // An earlier life of ours whose end this disk has forgotten, or the dead predecessor of this name.
        self.counters.verified += 1;
        if claim.verify(statement.clone()).is_err() {
            self.counters.forged += 1;
            return;
        }
        self.raise_above(statement.incarnation);
    }

    pub(super) fn apply_accusation(&mut self, now: Instant, accusation: Accusation) {
        if accusation.subject == self.config.id {
            return self.refute(&accusation);
        }
        let Some(slot) = self.members.find(&accusation.subject) else { return };
        let Some(member) = self.members.get(slot) else { return };
        let own = member.statement();
        let holds = accusation.key == member.key_tag()
            && accusation.incarnation >= own.incarnation
            && accusation.incarnation - own.incarnation <= MAX_JUMP;
        if !holds || !own.state.is_reachable() {
            return;
        }
        let answered = member.session.as_ref().map(|s| s.answered);
        // Who answered us itself after the suspicion must have begun is not dead: it only has to hear of it.
        let doubtful = answered.is_some_and(|at| now.since(at) < self.trust_window()) && !member.unheard;
        match (accusation.verdict, member.accused.map(|a| a.verdict)) {
            (_, Some(State::Dead)) => {}
            (State::Dead, _) if !doubtful => {
                self.condemn(slot, accusation.incarnation, &accusation.accusers);
            }
            _ => self.hear_suspicion(now, slot, &accusation),
        }
    }

    /// Others suspect a member.
    pub(super) fn hear_suspicion(&mut self, now: Instant, slot: Slot, accusation: &Accusation) {
        let Some(member) = self.members.get(slot) else { return };
        if member.unheard {
            return;
        }
        if member.is_suspected() {
            let raised = member.accused.is_some_and(|a| accusation.incarnation > a.incarnation);
            if raised {
                self.members.change(slot, |m| {
                    m.accused = m.accused.map(|a| Accused { incarnation: accusation.incarnation, ..a });
                });
            }
            if self.suspicions.confirm(slot, &accusation.accusers) || raised {
                self.spread_accusation(slot);
            }
            return;
        }
        self.open_suspicion(now, slot, accusation.incarnation, &accusation.accusers);
        if self.rng.f64() * (self.members.reachable() as f64) < CONFIRMERS {
            self.start_probe(now, slot);
        }
    }

    /// This node found a member silent.
    pub(super) fn suspect(&mut self, now: Instant, slot: Slot) {
        let Some(member) = self.members.get(slot).filter(|m| m.state().is_reachable()) else { return };
        let incarnation = member.statement().incarnation;
        let me = [self.config.id];
        if member.is_suspected() {
            if self.suspicions.confirm(slot, &me) {
                self.spread_accusation(slot);
            }
            return;
        }
        self.open_suspicion(now, slot, incarnation, &me);
    }

    fn open_suspicion(
        &mut self,
        now: Instant,
        slot: Slot,
        incarnation: u64,
        accusers: &[crate::node_id::NodeId],
    ) {
        let members = self.members.reachable() + 1;
        let Some(member) = self.members.get(slot) else { return };
        let (least, most) = self.config.suspicion_bounds(members);
        // Who struggles, we or it, gets more time; a healthy cluster is not slowed down by that.
        let patience = 1.0 + f64::from(self.health.value().max(member.health)) / 2.0;
        let bounds = (least.mul_f64(patience), most.mul_f64(patience));
        self.suspicions.start(now, slot, accusers, bounds, members.saturating_sub(3));
        self.transition(slot, |m| m.accused = Some(Accused { verdict: State::Suspect, incarnation }));
        self.spread_accusation(slot);
    }

    fn spread_accusation(&mut self, slot: Slot) {
        let accusation = self.members.get(slot).and_then(|m| self.accusation(slot, m));
        if let Some(accusation) = accusation {
            self.broadcasts.push(Subject::Member(slot), Update::Accusation(accusation).to_bytes());
        }
    }

    /// The time of a suspicion is up.
    pub(super) fn decide(&mut self, now: Instant, slot: Slot) {
        let Some(member) = self.members.get(slot) else { return self.suspicions.end(slot) };
        let Some(accused) = member.accused else { return self.suspicions.end(slot) };
        let trusted = member.session.as_ref().map(|s| s.answered + self.trust_window());
        // Instants are compared, which are whole microseconds: put off to now, it would be due for ever.
        if let Some(until) = trusted.filter(|until| *until > now) {
            // It answers us, so it will hear what it is accused of.
            return self.suspicions.postpone(slot, until);
        }
        let accusers = self.suspicions.accusers(slot).to_vec();
        self.condemn(slot, accused.incarnation, &accusers);
    }

    fn condemn(&mut self, slot: Slot, incarnation: u64, accusers: &[crate::node_id::NodeId]) {
        let Some(member) = self.members.get(slot) else { return };
        let accusation = Accusation {
            subject: member.id(),
            key: member.key_tag(),
            incarnation,
            verdict: State::Dead,
            accusers: if accusers.is_empty() { vec![self.config.id] } else { accusers.to_vec() },
        };
        self.transition(slot, |m| {
            m.accused = Some(Accused { verdict: State::Dead, incarnation });
            m.unheard = false;
        });
        self.broadcasts.push(Subject::Member(slot), Update::Accusation(accusation).to_bytes());
    }

    /// Others doubt this node: it says otherwise, louder.
    fn refute(&mut self, accusation: &Accusation) {
        let own = self.me.statement();
        if accusation.key != crate::wire::gossip::key_tag(&own.metadata.key) || self.stopped {
            return;
        }
        if accusation.incarnation < own.incarnation {
            // Answered already, but whoever says so has not heard it: perhaps nobody could at the time.
            if !self.broadcasts.contains(Subject::Me) {
                self.broadcasts.push(Subject::Me, Update::Claim(self.me.claim().clone()).to_bytes());
                self.gossip_to(REFUTE_FANOUT);
            }
            return;
        }
        if accusation.incarnation - own.incarnation > MAX_JUMP {
            return;
        }
        let incarnation = accusation.incarnation;
        self.health.worsen(1);
        self.raise_above(incarnation);
        self.push_event(Event::Refuted { incarnation: self.me.statement().incarnation });
        self.gossip_to(REFUTE_FANOUT);
    }
}
