//! Probes: asking one member at a time whether it is alive, directly, through others, over a stream.
//!
//! SWIM (Das, Gupta, Motivala, 2002), sections 3 and 4.3: targets are taken in a random order that
//! is drawn anew after each round, so everybody is asked within two rounds. A round of the order starts one probe a period.
//! Suspicions heard from others start further ones at once, which is how a suspicion is confirmed independently.

use std::collections::BTreeMap;
use std::time::Duration;

use super::config::INDIRECT;
use super::member::{Member, Slot};
use super::{Event, Swim};
use crate::time::Instant;
use crate::view::State;
use crate::wire::gossip::Message;

/// Probes under way at most.
const MAX_PROBES: usize = 32;

/// One probe under way.
#[derive(Debug)]
struct Probe {
    slot: Slot,
    sent: Instant,
    /// When others are asked to help.
    direct: Option<Instant>,
    /// When it has failed.
    verdict: Instant,
    helpers: u8,
    nacks: u8,
    /// What the stream said, once it was asked and answered.
    stream: Option<bool>,
    extended: bool,
}

impl Probe {
    fn next(&self) -> Instant {
        self.direct.unwrap_or(self.verdict)
    }
}

/// The order of the round, and the probes under way by their nonces.
#[derive(Debug, Default)]
pub(super) struct Probes {
    order: Vec<Slot>,
    at: usize,
    open: BTreeMap<u64, Probe>,
}

impl Probes {
    /// Puts a new member at a random place of what is left of the round.
    pub fn add(&mut self, rng: &mut fastrand::Rng, slot: Slot) {
        self.order.push(slot);
        let last = self.order.len() - 1;
        self.order.swap(rng.usize(self.at.min(last)..=last), last);
    }

    pub fn next(&self) -> Option<Instant> {
        self.open.values().map(Probe::next).min()
    }

    /// Forgets what is under way without a verdict.
    pub fn abandon(&mut self) {
        self.open.clear();
    }

    /// Ends a probe because its target answered; says when it was sent, if there was one.
    pub fn succeed(&mut self, nonce: u64) -> Option<Instant> {
        self.open.remove(&nonce).map(|probe| probe.sent)
    }

    pub fn nack(&mut self, nonce: u64) {
        if let Some(probe) = self.open.get_mut(&nonce) {
            probe.nacks = probe.nacks.saturating_add(1).min(probe.helpers);
        }
    }

    fn due(&self, now: Instant) -> Option<u64> {
        self.open.iter().find(|(_, probe)| probe.next() <= now).map(|(nonce, _)| *nonce)
    }
}

impl Swim {
    /// Probes the next member of the round.
    pub(super) fn probe_next(&mut self, now: Instant) {
        for _ in 0..=self.probes.order.len() {
            if self.probes.at >= self.probes.order.len() {
                self.begin_round();
            }
            let Some(slot) = self.probes.order.get(self.probes.at).copied() else { return };
            self.probes.at += 1;
            let Some(member) = self.members.get(slot).filter(|m| m.state().is_reachable()) else { continue };
            // A struggling member is asked less often, so that it gets round to answering.
            let spared = member.health > 0 && self.rng.u8(..=member.health) > 0;
            if !spared {
                return self.start_probe(now, slot);
            }
        }
    }

    fn begin_round(&mut self) {
        self.probes.at = 0;
        self.probes.order.clear();
        let reachable = self.members.iter().filter(|(_, m)| m.state().is_reachable()).map(|(slot, _)| slot);
        self.probes.order.extend(reachable);
        self.rng.shuffle(&mut self.probes.order);
    }

    pub(super) fn start_probe(&mut self, now: Instant, slot: Slot) {
        let busy = self.probes.open.len() >= MAX_PROBES || self.probes.open.values().any(|p| p.slot == slot);
        let Some(member) = self.members.get(slot).filter(|_| !busy) else { return };
        let (addr, id, peer) = (member.addr(), member.id(), member.health);
        let stretch = |duration: Duration| self.health.stretch(duration, peer);
        let probe = Probe {
            slot,
            sent: now,
            direct: Some(now + stretch(self.config.direct_timeout())),
            verdict: now + stretch(self.config.period),
            helpers: 0,
            nacks: 0,
            stream: None,
            extended: false,
        };
        let nonce =
            self.ask(now, Some(id), super::session::Purpose::Probe, probe.verdict + self.config.period * 4);
        self.probes.open.insert(nonce, probe);
        self.send_to_member(addr, id, Message::Ping { nonce });
    }

    /// Steps every probe whose time has come.
    pub(super) fn handle_probe_timeouts(&mut self, now: Instant) {
        while let Some(nonce) = self.probes.due(now) {
            let Some(probe) = self.probes.open.get_mut(&nonce) else { return };
            let slot = probe.slot;
            if probe.direct.take().is_some() {
                self.ask_helpers(nonce, slot);
            } else if probe.stream.is_none() && !probe.extended {
                // Not answered, not refused: the stream gets one period more.
                probe.extended = true;
                probe.verdict = now + self.config.period;
            } else {
                self.fail_probe(now, nonce);
            }
        }
    }

    fn ask_helpers(&mut self, nonce: u64, target: Slot) {
        let healthy =
            |slot: Slot, m: &Member| slot != target && m.state() == State::Alive && m.session.is_some();
        let mut helpers = self.members.choose(&mut self.rng, INDIRECT, healthy);
        if helpers.is_empty() {
            helpers = self
                .members
                .choose(&mut self.rng, INDIRECT, |slot, m| slot != target && m.state().is_reachable());
        }
        let Some(id) = self.members.get(target).map(Member::id) else { return };
        if let Some(probe) = self.probes.open.get_mut(&nonce) {
            probe.helpers = helpers.len() as u8;
        }
        for slot in helpers {
            if let Some((addr, helper)) = self.members.get(slot).map(|m| (m.addr(), m.id())) {
                self.send_to_member(addr, helper, Message::PingReq { nonce, target: id });
            }
        }
        self.push_event(Event::StreamProbe { target: id, token: nonce });
    }

    /// Nobody reached the target.
    fn fail_probe(&mut self, now: Instant, nonce: u64) {
        let Some(probe) = self.probes.open.remove(&nonce) else { return };
        // Helpers that said nothing at all point to ourselves (Lifeguard, section IV-A).
        self.health.worsen(if probe.helpers == 0 { 1 } else { probe.helpers - probe.nacks });
        self.suspect(now, probe.slot);
    }

    /// What a stream probe found: `ok` if the member answered over the swarm.
    pub fn handle_stream_probe(&mut self, now: Instant, token: u64, ok: bool) {
        let Some(probe) = self.probes.open.get_mut(&token) else { return };
        if ok {
            let slot = probe.slot;
            self.probes.open.remove(&token);
            if let Some(session) = self.members.session_mut(slot).and_then(|m| m.session.as_mut()) {
                session.answered = now;
            }
        } else {
            probe.stream = Some(false);
        }
    }
}
