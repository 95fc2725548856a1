//! Whom the council asks and tells: admission, greetings, rosters it lacks, and its own to those who have
//! not confirmed it.

use std::time::Duration;

use super::Council;
use super::drive::REQUEST_TIMEOUT;
use super::flights::Kind;
use crate::node_id::NodeId;
use crate::roster::message::{Question, RING_VERSION, Request};
use crate::time::Instant;

/// Between two tries of the same question to the same member.
const RETRY: Duration = Duration::from_millis(500);
/// Others than the decider wait so long before they collect a floor themselves.
const COLLECT_DELAY: Duration = Duration::from_secs(2);
/// Requests of one kind under way at once.
const WINDOW: usize = 16;

impl Council {
    pub(super) fn send(&mut self, now: Instant, to: NodeId, kind: Kind, question: Question) -> bool {
        let Some(id) = self.flights.begin(now, to, kind) else { return false };
        let request = self.request(question);
        self.outbox.push_back((to, id, request));
        true
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
        let mut room = WINDOW.saturating_sub(self.flights.count(kind));
        for (to, pause) in targets {
            let rested = self.flights.has_rested(now, *to, class, *pause);
            if room == 0 || !rested || self.flights.any(Some(to), kind) {
                continue;
            }
            let question = question(self);
            if self.send(now, *to, kind, question) {
                self.flights.asked(now, *to, class);
                room -= 1;
            }
        }
    }

    pub(super) fn dispatch(&mut self, now: Instant) {
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
        if waits || self.next_join > now || self.presence.leaving() || self.flights.any(None, Kind::Join) {
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
    pub(super) fn is_telling(&self) -> bool {
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

    fn request(&self, question: Question) -> Request {
        Request {
            number: self.number().unwrap_or(0),
            cluster: self.constants().map(|c| c.cluster),
            database: self.database,
            mark: self.mark,
            question,
        }
    }

    fn join_question(&self) -> Question {
        Question::Join {
            entry: self.entry(),
            replication_factor: self.config.replication_factor,
            ring_version: RING_VERSION,
        }
    }
}
