//! What goes out: packets with the news that fits, gossip rounds, and contacts to who is away.

use std::net::SocketAddr;
use std::time::Duration;

use super::broadcast::Subject;
use super::config::FANOUT;
use super::member::{Member, Slot};
use super::session::Purpose;
use super::{Event, Swim, Transmit};
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::view::State;
use crate::wire::gossip::{Accusation, MAX_UPDATES, Message, Packet, Update};

/// Datagrams waiting to be sent, of each class.
const MAX_QUEUE: usize = 4_096;

/// Members told of a goodbye directly.
const FAREWELLS: usize = 16;

/// What a packet carries beside its message.
#[derive(Clone, Copy, Debug)]
struct Extras {
    /// Random members, for a newcomer.
    help: bool,
    /// This node's own statement.
    introduce: bool,
    /// Broadcasts.
    news: bool,
}

impl Swim {
    pub(super) fn ask(&mut self, now: Instant, to: Option<NodeId>, purpose: Purpose, until: Instant) -> u64 {
        self.nonces.ask(&mut self.rng, now, to, purpose, until)
    }

    /// Sends to a member at its own address.
    pub(super) fn send_to_member(&mut self, addr: SocketAddr, id: NodeId, message: Message) {
        self.send(!matches!(message, Message::Gossip), addr, Some(id), message, None, false);
    }

    /// Answers a sender that has not proved to be present; `newcomer` asks to be told of members.
    pub(super) fn send_to_stranger(
        &mut self,
        addr: SocketAddr,
        id: NodeId,
        message: Message,
        challenge: Option<u64>,
        newcomer: bool,
        introduce: bool,
    ) {
        let extras = Extras { help: newcomer, introduce, news: false };
        self.send_packet(true, addr, Some(id), message, challenge, extras);
    }

    /// Sends with this node's own statement, for somebody who may not have it.
    pub(super) fn send_with_claim(&mut self, addr: SocketAddr, id: NodeId, message: Message) {
        let extras = Extras { help: false, introduce: true, news: false };
        self.send_packet(true, addr, Some(id), message, None, extras);
    }

    /// Refuses an id that is taken.
    pub(super) fn send_refusal(&mut self, addr: SocketAddr, id: NodeId, nonce: u64) {
        let packet = self.packet(Message::Refused { nonce }, None);
        let datagram = self.sealer.seal(Some(&id), &packet.to_bytes());
        self.enqueue(true, Transmit { to: addr, datagram });
    }

    pub(super) fn send(
        &mut self,
        urgent: bool,
        addr: SocketAddr,
        receiver: Option<NodeId>,
        message: Message,
        challenge: Option<u64>,
        help: bool,
    ) {
        let news = challenge.is_none();
        let extras = Extras { help, introduce: false, news };
        self.send_packet(urgent, addr, receiver, message, challenge, extras);
    }

    fn packet(&self, message: Message, challenge: Option<u64>) -> Packet {
        Packet {
            message,
            cluster: self.constants.map(|c| c.cluster),
            announcement: self.announcement,
            health: self.health.value(),
            challenge,
            newcomer: !self.synced,
            unknown: false,
            // Its lowest bits.
            latest: self.me.statement().incarnation as u16,
        }
    }

    fn send_packet(
        &mut self,
        urgent: bool,
        addr: SocketAddr,
        receiver: Option<NodeId>,
        message: Message,
        challenge: Option<u64>,
        Extras { help, introduce, news }: Extras,
    ) {
        let room = self.sealer.room(receiver.as_ref());
        let slot = receiver.and_then(|id| self.members.find(&id));
        let member = slot.and_then(|slot| self.members.get(slot).map(|m| (slot, m)));
        let accusation = member.and_then(|(slot, m)| self.accusation(slot, m));
        let dead = member.is_some_and(|(_, m)| m.state() == State::Dead);
        let unknown = member.is_none() || dead;
        let missed = member.and_then(|(_, m)| m.session.as_ref()).is_some_and(|session| session.missed);
        let mut out = Packet { unknown: unknown || missed, ..self.packet(message, challenge) }.to_bytes();
        // What the receiver is accused of comes first: nobody else can answer it.
        if let Some(accusation) = accusation {
            Update::Accusation(accusation).encode_to(&mut out);
        }
        let mut except = slot.map(Subject::Member);
        if unknown || introduce {
            Update::Claim(self.me.claim().clone()).encode_to(&mut out);
            except = Some(Subject::Me);
        }
        // Who is away for us is told what it, or who had its id before, said last: it must speak louder.
        if let Some(record) = slot.and_then(|s| self.members.get(s)).filter(|_| dead).map(|m| &m.record) {
            let bytes = Update::Claim(record.claim().clone()).to_bytes();
            if out.len() + bytes.len() <= room {
                out.extend(bytes);
            }
        }
        // The packets of one handshake go to one member: news in each of them would be told to too few.
        if !unknown && news {
            let limit = self.config.transmit_limit(self.members.reachable() + 1);
            self.broadcasts.fill(&mut out, room, MAX_UPDATES - 16, limit, except);
        }
        if help {
            self.fill_with_members(&mut out, room);
        }
        let datagram = self.sealer.seal(receiver.as_ref(), &out);
        self.enqueue(urgent, Transmit { to: addr, datagram });
    }

    /// Tells a newcomer of random members: the way in where streams do not work yet.
    fn fill_with_members(&mut self, out: &mut Vec<u8>, room: usize) {
        const MOST: usize = 8;
        let chosen = self.members.choose(&mut self.rng, MOST, |_, m| m.state().is_reachable());
        for member in chosen.into_iter().filter_map(|slot| self.members.get(slot)) {
            let bytes = Update::Claim(member.record.claim().clone()).to_bytes();
            if out.len() + bytes.len() <= room {
                out.extend(bytes);
            }
        }
    }

    fn enqueue(&mut self, urgent: bool, transmit: Transmit) {
        let queue = if urgent { &mut self.urgent } else { &mut self.relaxed };
        if queue.len() >= MAX_QUEUE {
            queue.pop_front();
            self.counters.overflowed += 1;
        }
        queue.push_back(transmit);
    }

    /// What is held against a member.
    pub(super) fn accusation(&self, slot: Slot, member: &Member) -> Option<Accusation> {
        let accused = member.accused?;
        let mut accusers = self.suspicions.accusers(slot).to_vec();
        if accusers.is_empty() {
            accusers.push(self.config.id);
        }
        Some(Accusation {
            subject: member.id(),
            key: member.key_tag(),
            incarnation: accused.incarnation,
            verdict: accused.verdict,
            accusers,
        })
    }

    /// One round of gossip: the news to a few random members.
    pub(super) fn gossip(&mut self) {
        if self.broadcasts.is_empty() {
            return;
        }
        let fanout = FANOUT + usize::from(self.broadcasts.len() > 32) * FANOUT;
        self.gossip_to(fanout);
    }

    pub(super) fn gossip_to(&mut self, count: usize) {
        let chosen = self.members.choose(&mut self.rng, count, |_, m| m.state().is_reachable());
        for slot in chosen {
            let Some((addr, id, health)) = self.members.get(slot).map(|m| (m.addr(), m.id(), m.health))
            else {
                continue;
            };
            let spared = health > 0 && self.rng.u8(..=health) > 0;
            if !spared && !self.broadcasts.is_empty() {
                self.send_to_member(addr, id, Message::Gossip);
            }
        }
    }

    /// Tries to reach who is away: the dead, persisted peers, seeds. For ever, at a low rate, so that any
    /// partition heals; a node without company tries harder.
    pub(super) fn contact_absent(&mut self, now: Instant) {
        let alone = !self.has_company();
        let seeds: Vec<SocketAddr> = if self.config.seeds.is_empty() {
            Vec::new()
        } else {
            let here: Vec<SocketAddr> = self
                .members
                .iter()
                .filter(|(_, m)| m.state().is_reachable())
                .map(|(_, m)| m.addr())
                .collect();
            self.config.seeds.iter().filter(|seed| !here.contains(seed)).copied().collect()
        };
        let absent = self.members.dead().len() + seeds.len();
        let interval = if alone {
            self.config.period * 2
        } else {
            self.config.contact_interval(self.members.reachable(), absent)
        };
        self.contact_at = now + interval.mul_f64(0.9 + 0.2 * self.rng.f64());
        let count = if alone { 3 } else { 1 };
        let dead: Vec<Slot> = {
            let all = self.members.dead();
            (0..count.min(all.len()))
                .filter_map(|_| all.iter().nth(self.rng.usize(..all.len())).copied())
                .collect()
        };
        let until = now + self.config.period * 8;
        for slot in dead {
            if let Some((addr, id)) = self.members.get(slot).map(|m| (m.addr(), m.id())) {
                let nonce = self.ask(now, Some(id), Purpose::Contact, until);
                self.send_to_member(addr, id, Message::Ping { nonce });
            }
        }
        let tried = if alone { seeds.len().min(16) } else { seeds.len().min(1) };
        let offset = if seeds.is_empty() { 0 } else { self.rng.usize(..seeds.len()) };
        for seed in seeds.iter().cycle().skip(offset).take(tried) {
            let nonce = self.ask(now, None, Purpose::Contact, until);
            self.send(true, *seed, None, Message::Ping { nonce }, None, false);
        }
        if !alone && !self.synced {
            self.exchange_with_anybody();
        }
    }

    fn exchange_with_anybody(&mut self) {
        let chosen = self.members.choose(&mut self.rng, 1, |_, m| m.state().is_reachable());
        if let Some(to) = chosen.first().and_then(|slot| self.members.get(*slot)).map(Member::id) {
            self.push_event(Event::PushPull { to });
        }
    }

    pub(super) fn exchange_next(&mut self, now: Instant) {
        let interval = self.config.exchange_interval(self.members.reachable() + 1);
        self.exchange_at = now + interval.mul_f64(0.75 + 0.5 * self.rng.f64());
        self.exchange_with_anybody();
    }

    /// Asks `target` on behalf of `origin`. The nack goes at once: it says that the helper is there.
    pub(super) fn relay(&mut self, now: Instant, origin: NodeId, nonce: u64, target: NodeId) {
        let found = self.members.find(&target).and_then(|slot| self.members.get(slot).map(Member::addr));
        if let Some(addr) = found {
            let purpose = Purpose::Relay { origin, nonce };
            let own = self.ask(now, Some(target), purpose, now + self.config.period * 8);
            self.send_to_member(addr, target, Message::Ping { nonce: own });
        }
        self.answer_origin(origin, Message::Nack { nonce });
    }

    pub(super) fn send_relayed(&mut self, origin: NodeId, nonce: u64) {
        self.answer_origin(origin, Message::Relayed { nonce });
    }

    fn answer_origin(&mut self, origin: NodeId, message: Message) {
        if let Some(slot) = self.members.find(&origin)
            && let Some(addr) = self.members.get(slot).map(Member::addr)
        {
            self.send_to_member(addr, origin, message);
        }
    }

    /// Tells random members the last words; the machine does nothing after that.
    pub(super) fn say_goodbye(&mut self, state: State) {
        if self.stopped {
            return;
        }
        self.speak(|own| own.state = state);
        self.urgent.clear();
        self.relaxed.clear();
        let chosen = self.members.choose(&mut self.rng, FAREWELLS, |_, m| m.state().is_reachable());
        for _ in 0..2 {
            for slot in &chosen {
                if let Some((addr, id)) = self.members.get(*slot).map(|m| (m.addr(), m.id())) {
                    self.send_with_claim(addr, id, Message::Gossip);
                }
            }
        }
        self.stopped = true;
    }

    /// Time within which a member's answer outweighs what others say of it.
    pub(super) fn trust_window(&self) -> Duration {
        self.config.suspicion_bounds(self.members.reachable() + 1).0
    }
}
