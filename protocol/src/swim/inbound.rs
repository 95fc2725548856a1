//! What comes in: from bytes to a trusted packet, and the answer to each message.

use std::net::SocketAddr;

use super::member::{Session, Slot};
use super::session::{CHALLENGE_LIFE, Purpose};
use super::{Event, Swim};
use crate::time::Instant;
use crate::view::State;
use crate::wire::gossip::{Message, Packet, Update};
use crate::wire::seal::{Header, Window};

/// A session that was silent for so long may be replaced by one of a lower epoch, so that a forged
/// Round trips kept for whoever asks.
const MAX_ROUND_TRIPS: usize = 256;

/// high epoch excludes nobody for good.
const SESSION_REST: std::time::Duration = std::time::Duration::from_secs(5);

enum Standing {
    Member(Slot),
    Replayed,
    Stranger,
}

impl Swim {
    /// A datagram from `from`. What does not open, is not for this node or is not fresh is counted and changes nothing else.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        if self.stopped {
            return;
        }
        self.notice_backlog(now);
        let Ok((header, plain)) = self.sealer.open(datagram) else {
            self.counters.unopened += 1;
            return;
        };
        let me = self.config.id;
        if header.sender == me || header.receiver.is_some_and(|r| r != me) {
            self.counters.misaddressed += 1;
            return;
        }
        let Ok((packet, updates)) = Packet::decode(&plain) else {
            self.counters.malformed += 1;
            return;
        };
        if header.receiver.is_none() && !matches!(packet.message, Message::Ping { .. }) {
            self.counters.misaddressed += 1;
            return;
        }
        if let (Some(own), Some(cluster)) = (self.constants, packet.cluster)
            && own.cluster != cluster
        {
            self.counters.foreign += 1;
            return self.push_event(Event::ForeignCluster { node: header.sender, from, cluster });
        }
        match self.standing(now, &header) {
            Standing::Member(slot) => self.handle_packet(now, slot, from, &header, packet, updates),
            Standing::Replayed => self.counters.replayed += 1,
            Standing::Stranger => self.handle_stranger(now, from, &header, packet, updates),
        }
    }

    fn standing(&mut self, now: Instant, header: &Header) -> Standing {
        let Some(slot) = self.members.find(&header.sender) else { return Standing::Stranger };
        let Some(session) = self.members.session_mut(slot).and_then(|m| m.session.as_mut()) else {
            return Standing::Stranger;
        };
        if (session.epoch, session.salt) == (header.epoch, header.salt) {
            if !session.window.accept(header.counter) {
                return Standing::Replayed;
            }
            session.heard = now;
            return Standing::Member(slot);
        }
        if header.epoch < session.epoch && now.since(session.heard) < SESSION_REST {
            return Standing::Replayed;
        }
        Standing::Stranger
    }

    /// A datagram whose sender's process has not answered a nonce of ours, unless it does so now.
    fn handle_stranger(
        &mut self,
        now: Instant,
        from: SocketAddr,
        header: &Header,
        packet: Packet,
        updates: Vec<Update>,
    ) {
        self.counters.strangers += 1;
        let sender = header.sender;
        if self.is_usurper(header, &updates) {
            match packet.message {
                Message::Ping { nonce } => self.send_refusal(from, sender, nonce),
                // Somebody refused us whose own id we believe to be another's: it still answers our question.
                Message::Refused { nonce } => self.handle_refusal(now, from, header, nonce),
                _ => {}
            }
            return;
        }
        if let Message::Refused { nonce } = packet.message {
            // It answers a fresh nonce, which is all that it takes to be believed.
            return self.handle_refusal(now, from, header, nonce);
        }
        let answered = match packet.message {
            Message::Ack { nonce } => self.nonces.answer(now, nonce, &sender).map(|purpose| (nonce, purpose)),
            _ => None,
        };
        let Some((nonce, purpose)) = answered else {
            return self.challenge(now, from, header, packet, updates);
        };
        for update in &updates {
            self.apply_update(now, update.clone());
        }
        let Some(slot) = self.members.find(&sender) else { return };
        if self.speaks_for_another(slot, &updates) {
            return;
        }
        let mut window = Window::default();
        window.accept(header.counter);
        let session = Session {
            epoch: header.epoch,
            salt: header.salt,
            window,
            heard: now,
            answered: now,
            announced: 0,
            announcement: None,
            missed: false,
        };
        let was_dead = self.members.get(slot).is_some_and(|m| m.state() == State::Dead);
        self.transition(slot, |m| {
            // An announcement of an earlier process is no news of this one.
            m.session = Some(Box::new(session));
            m.unheard = false;
        });
        if let Some(stash) =
            self.challenges.release(now, &sender, (header.epoch, header.salt), header.counter)
        {
            self.note_packet(slot, stash.counter, stash.announcement, stash.health);
            if let Some(session) = self.members.session_mut(slot).and_then(|m| m.session.as_mut()) {
                session.window.accept(stash.counter);
            }
            stash.updates.into_iter().for_each(|update| self.apply_update(now, update));
        }
        self.counters.accepted += 1;
        self.note_packet(slot, header.counter, packet.announcement, packet.health);
        self.note_latest(slot, header.counter, packet.latest);
        self.handle_answer(now, nonce, purpose, slot);
        if let Some(challenge) = packet.challenge {
            self.answer_challenge(from, slot, challenge, packet.unknown);
        }
        if was_dead || !self.synced {
            self.push_event(Event::PushPull { to: sender });
        }
    }

    /// Answers what may be answered to a stranger and asks it to prove that it is there now.
    fn challenge(
        &mut self,
        now: Instant,
        from: SocketAddr,
        header: &Header,
        packet: Packet,
        updates: Vec<Update>,
    ) {
        let numbers = ((header.epoch, header.salt), header.counter);
        let sender = header.sender;
        if !self.challenges.keep(now, sender, numbers, (packet.announcement, packet.health), updates) {
            return;
        }
        let nonce = self.ask(now, Some(sender), Purpose::Challenge, now + CHALLENGE_LIFE);
        let answer = match (packet.message, packet.challenge) {
            (Message::Ping { nonce }, _) | (_, Some(nonce)) => Message::Ack { nonce },
            _ => Message::Gossip,
        };
        // A process of a member that is not the one we knew may have missed who we are.
        self.send_to_stranger(from, sender, answer, Some(nonce), packet.newcomer, packet.unknown);
    }

    /// Takes over what a trusted packet says of its sender, unless a later one was heard.
    fn note_packet(
        &mut self,
        slot: Slot,
        counter: u64,
        announcement: Option<crate::wire::gossip::Announcement>,
        health: u8,
    ) {
        let Some(member) = self.members.session_mut(slot) else { return };
        let node = member.id();
        let Some(session) = member.session.as_mut().filter(|s| counter > s.announced) else { return };
        session.announced = counter;
        member.health = health.min(super::health::MAX_HEALTH);
        let Some(announcement) = announcement.filter(|a| session.announcement != Some(*a)) else { return };
        session.announcement = Some(announcement);
        self.push_event(Event::Announced { node, announcement });
    }

    /// Notes whether the sender of a packet has said something that did not come here.
    fn note_latest(&mut self, slot: Slot, counter: u64, latest: u16) {
        let Some(member) = self.members.session_mut(slot) else { return };
        let known = member.statement().incarnation as u16;
        // An older packet that came late says nothing.
        if let Some(session) = member.session.as_mut().filter(|session| session.announced == counter) {
            session.missed = known != latest;
        }
    }

    fn handle_packet(
        &mut self,
        now: Instant,
        slot: Slot,
        from: SocketAddr,
        header: &Header,
        packet: Packet,
        updates: Vec<Update>,
    ) {
        self.counters.accepted += 1;
        self.note_packet(slot, header.counter, packet.announcement, packet.health);
        for update in &updates {
            self.apply_update(now, update.clone());
        }
        if self.speaks_for_another(slot, &updates) {
            // Its first packets brought no statement, so it was taken for who had its id before: whose
            // suspicion must not be put off by this one's answers.
            self.members.change(slot, |m| m.session = None);
            if let Message::Ping { nonce } = packet.message {
                self.send_refusal(from, header.sender, nonce);
            }
            return;
        }
        // The updates may have given the sender's id to somebody else.
        let Some(sender) = self.members.get(slot).map(super::Member::id).filter(|id| *id == header.sender)
        else {
            return;
        };
        self.note_latest(slot, header.counter, packet.latest);
        match packet.message {
            Message::Ping { nonce } if packet.unknown => {
                self.send_with_claim(from, sender, Message::Ack { nonce });
            }
            Message::Ping { nonce } => {
                self.send(true, from, Some(sender), Message::Ack { nonce }, None, packet.newcomer);
            }
            Message::Ack { nonce } => {
                if packet.unknown && packet.challenge.is_none() {
                    self.send_with_claim(from, sender, Message::Gossip);
                }
                if let Some(purpose) = self.nonces.answer(now, nonce, &sender) {
                    if let Some(session) = self.members.session_mut(slot).and_then(|m| m.session.as_mut()) {
                        session.answered = now;
                    }
                    self.handle_answer(now, nonce, purpose, slot);
                }
            }
            Message::PingReq { nonce, target } => self.relay(now, sender, nonce, target),
            Message::Relayed { nonce } => {
                if self.probes.succeed(nonce).is_some() {
                    self.health.improve();
                }
            }
            Message::Nack { nonce } => self.probes.nack(nonce),
            Message::Refused { nonce } => self.handle_refusal(now, from, header, nonce),
            Message::Gossip => {}
        }
        if let Some(challenge) = packet.challenge {
            self.answer_challenge(from, slot, challenge, packet.unknown);
        }
    }

    fn answer_challenge(&mut self, from: SocketAddr, slot: Slot, nonce: u64, introduce: bool) {
        let Some(id) = self.members.get(slot).map(super::Member::id) else { return };
        self.send_to_stranger(from, id, Message::Ack { nonce }, None, false, introduce);
    }

    /// A member echoed a nonce.
    fn handle_answer(&mut self, now: Instant, nonce: u64, purpose: Purpose, slot: Slot) {
        match purpose {
            Purpose::Probe => {
                if let Some(sent) = self.probes.succeed(nonce) {
                    self.health.improve();
                    if self.round_trips.len() < MAX_ROUND_TRIPS {
                        self.round_trips.push(now.since(sent));
                    }
                }
            }
            Purpose::Relay { origin, nonce } => self.send_relayed(origin, nonce),
            Purpose::Contact => {
                let gone = self.members.get(slot).is_some_and(|m| m.state() == State::Dead);
                if gone || !self.synced {
                    let to = self.members.get(slot).map(super::Member::id);
                    to.into_iter().for_each(|to| self.push_event(Event::PushPull { to }));
                }
            }
            Purpose::Challenge => {}
        }
    }

    fn handle_refusal(&mut self, now: Instant, from: SocketAddr, header: &Header, nonce: u64) {
        const QUIET: std::time::Duration = std::time::Duration::from_secs(10);
        let asked = self.nonces.answer(now, nonce, &header.sender).is_some();
        if asked && self.refused_at.is_none_or(|at| now.since(at) >= QUIET) {
            self.refused_at = Some(now);
            self.push_event(Event::IdInUse { by: from });
        }
    }
}
