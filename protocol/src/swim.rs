//! Who is alive: SWIM with the Lifeguard extensions, as one machine without sockets, clock or threads.
//!
//! [`Swim`] takes datagrams, stream results and the time, and gives datagrams, events and a
//! [`View`]. Das, Gupta, Motivala, "SWIM" (DSN 2002); Dadgar, Phillips, Currey, "Lifeguard" (DSN-W 2018).
//!
//! Invariants:
//! - What a member is, it says itself, signed; others can only suspect it or declare it dead, for an
//!   incarnation that it has left behind as soon as it hears of it.
//! - No datagram changes anything unless it opens under the cluster's key, is addressed to this node, and
//!   its sender's present process has answered a fresh nonce ([`session`]). Replays, reflections and foreign
//!   clusters only move counters.
//! - At one node id with two keys the live holder wins; the newcomer is refused and told.
//! - A node that was away (paused, starved) accuses nobody of what it missed: late timers give time, they
//!   do not take it.
//! - Every queue, table and packet is bounded.
//!
//! The driver's duty: hand over every waiting datagram before it calls [`Swim::handle_timeout`], then send all of
//! [`Swim::poll_transmit`], take all of [`Swim::poll_event`] and come back by [`Swim::poll_timeout`].
//!
//! Absent on purpose: who may vote (the roster), whether this node is ready (told by [`Swim::set_ready`]).

mod broadcast;
pub mod config;
mod exchange;
pub mod health;
mod inbound;
mod member;
mod outbound;
mod probe;
mod session;
mod suspicion;
mod update;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::identity::ClusterId;
use crate::node_id::NodeId;
use crate::roster::Constants;
use crate::time::Instant;
use crate::view::{self, State, View};
pub use crate::wire::gossip::{Announcement, Record, Statement};
use crate::wire::gossip::{MAX_INCARNATION, Update};
use crate::wire::seal::{KeyRing, Sealer};
use broadcast::{Broadcasts, Subject};
pub use config::Config;
pub use ed25519_dalek::SigningKey;
use health::Health;
use member::{Member, Members, Slot};
use probe::Probes;
use session::{Challenges, Nonces};
use suspicion::Suspicions;

/// Events kept for a driver that does not fetch them.
const MAX_EVENTS: usize = 65_536;

/// What the driver should know or do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A member's state or metadata changed; this node's own too.
    MemberChanged {
        /// Whose.
        node: NodeId,
        /// Before; none for a member that was not known.
        previous: Option<State>,
        /// Now.
        state: State,
    },
    /// A member announced something else than before.
    Announced {
        /// Who.
        node: NodeId,
        /// What.
        announcement: Announcement,
    },
    /// UDP found `target` silent: ask it over the swarm, and call [`Swim::handle_stream_probe`].
    StreamProbe {
        /// Whom to ask.
        target: NodeId,
        /// To be handed back.
        token: u64,
    },
    /// Send [`Swim::exchange_payload`] to this member over the swarm and hand its answer to [`Swim::handle_exchange_response`].
    PushPull {
        /// Whom.
        to: NodeId,
    },
    /// This node's id belongs to a live node with another identity: a member at `by` refused us.
    IdInUse {
        /// Who said so.
        by: SocketAddr,
    },
    /// Others doubted this node, and it said otherwise.
    Refuted {
        /// Its incarnation from now on.
        incarnation: u64,
    },
    /// A node with our key and another cluster's id sent something; it was ignored.
    ForeignCluster {
        /// Who.
        node: NodeId,
        /// Where.
        from: SocketAddr,
        /// Its cluster.
        cluster: ClusterId,
    },
}

/// A sealed datagram to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// At most [`crate::wire::seal::MAX_DATAGRAM`] bytes.
    pub datagram: Vec<u8>,
}

/// Datagrams that were dropped, by reason, and other counts, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Accepted.
    pub accepted: u64,
    /// Did not open.
    pub unopened: u64,
    /// For somebody else, or our own come back.
    pub misaddressed: u64,
    /// Opened, and did not parse.
    pub malformed: u64,
    /// Heard before, or of an earlier process.
    pub replayed: u64,
    /// From a process that had not proved to be present; it was challenged.
    pub strangers: u64,
    /// Of another cluster.
    pub foreign: u64,
    /// Claims whose signature did not verify, or that jumped too far.
    pub forged: u64,
    /// Signatures checked.
    pub verified: u64,
    /// Not sent because a queue was full.
    pub overflowed: u64,
    /// Times that timers fired too late to blame others.
    pub stalls: u64,
}

/// The membership machine of one node.
#[derive(Debug)]
pub struct Swim {
    config: Config,
    rng: fastrand::Rng,
    sealer: Sealer,
    me: Arc<Record>,
    /// Whether the node was last said to be ready.
    ready: bool,
    constants: Option<Constants>,
    announcement: Option<Announcement>,
    round_trips: Vec<std::time::Duration>,
    members: Members,
    suspicions: Suspicions,
    broadcasts: Broadcasts,
    probes: Probes,
    health: Health,
    nonces: Nonces,
    challenges: Challenges,
    counters: Counters,
    urgent: VecDeque<Transmit>,
    relaxed: VecDeque<Transmit>,
    events: VecDeque<Event>,
    probe_at: Instant,
    gossip_at: Instant,
    contact_at: Instant,
    exchange_at: Instant,
    refused_at: Option<Instant>,
    /// When this node noticed last that it is late.
    doubted_at: Instant,
    /// A full-state exchange has succeeded.
    synced: bool,
    /// This node has said goodbye.
    stopped: bool,
}

impl Swim {
    /// A node that begins `joining`. `rng` is seeded from the system's randomness by the node, from the run's seed in a
    /// simulation: nonces and the salt of its datagrams come from it.
    pub fn new(now: Instant, mut config: Config, mut rng: fastrand::Rng) -> Self {
        config.metadata.key = config.identity.verifying_key().to_bytes();
        let statement = Statement {
            id: config.id,
            // A process starts above whatever its predecessor refuted.
            incarnation: config.epoch.saturating_mul(1 << 16).min(MAX_INCARNATION >> 1),
            state: State::Joining,
            metadata: config.metadata.clone(),
        };
        let salt = rng.u64(..).to_be_bytes();
        let period = config.period;
        let mut phase = |most: std::time::Duration| now + most.mul_f64(rng.f64());
        let mut swim = Self {
            sealer: Sealer::new(config.id, config.keys.clone(), config.epoch, salt),
            me: Record::sign(&config.identity, statement),
            constants: config.constants,
            announcement: None,
            round_trips: Vec::new(),
            members: Members::default(),
            suspicions: Suspicions::default(),
            broadcasts: Broadcasts::default(),
            probes: Probes::default(),
            health: Health::default(),
            nonces: Nonces::default(),
            challenges: Challenges::default(),
            counters: Counters::default(),
            urgent: VecDeque::new(),
            relaxed: VecDeque::new(),
            events: VecDeque::new(),
            probe_at: phase(period),
            gossip_at: phase(config.gossip_interval()),
            contact_at: now,
            exchange_at: phase(config.exchange_interval(1)),
            refused_at: None,
            doubted_at: now,
            synced: false,
            stopped: false,
            ready: false,
            rng,
            config,
        };
        swim.broadcasts.push(Subject::Me, Update::Claim(swim.me.claim().clone()).to_bytes());
        for record in std::mem::take(&mut swim.config.peers) {
            swim.remember(record, true);
        }
        swim
    }

    /// Takes over a table of members as if they had just been exchanged: for simulations that begin with a formed cluster.
    pub fn assume(&mut self, records: impl IntoIterator<Item = Arc<Record>>) {
        for record in records {
            self.remember(record, false);
        }
        self.synced = true;
    }

    fn remember(&mut self, record: Arc<Record>, unheard: bool) {
        let id = record.statement().id;
        let known = id == self.config.id || self.members.find(&id).is_some();
        if !known && self.members.len() < config::MAX_MEMBERS {
            let slot = self.members.insert(Member { unheard, ..Member::new(record) });
            if !unheard {
                self.probes.add(&mut self.rng, slot);
            }
        }
    }

    /// This node's id.
    pub const fn id(&self) -> NodeId {
        self.config.id
    }

    /// This node's own word, signed.
    pub const fn own_record(&self) -> &Arc<Record> {
        &self.me
    }

    /// Counts since the start.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// The local health multiplier, 0 (well) to 8.
    pub const fn health(&self) -> u8 {
        self.health.value()
    }

    /// Whether some other member is there.
    pub const fn has_company(&self) -> bool {
        self.members.reachable() > 0
    }

    /// What is known of one other member: its state and its own words.
    pub fn member(&self, id: &NodeId) -> Option<(State, &Statement)> {
        let member = self.members.get(self.members.find(id)?)?;
        Some((member.state(), member.statement()))
    }

    /// What a member announced last, in this process.
    pub fn announcement_of(&self, id: &NodeId) -> Option<Announcement> {
        self.members.get(self.members.find(id)?)?.session.as_ref()?.announcement
    }

    /// When each member was last heard from itself, in this process.
    pub fn heard(&self) -> impl Iterator<Item = (NodeId, Instant)> {
        self.members.iter().filter_map(|(_, m)| Some((m.id(), m.session.as_ref()?.heard)))
    }

    /// Other members to be persisted, so that a restart finds them: whoever has not left.
    pub fn members(&self) -> impl Iterator<Item = (State, &Arc<Record>)> {
        self.members.iter().map(|(_, m)| (m.state(), &m.record)).filter(|(state, _)| *state != State::Left)
    }

    /// A snapshot of members and ring under `epoch`. Before the cluster's constants are known nobody is on the ring.
    pub fn view(&self, epoch: u64) -> View {
        let own = self.me.statement();
        let member = |statement: &Statement, state: State| view::Member {
            id: statement.id,
            state,
            incarnation: statement.incarnation,
            metadata: statement.metadata.clone(),
        };
        let all = std::iter::once(member(own, own.state))
            .chain(self.members.iter().map(|(_, m)| member(m.statement(), m.state())));
        match self.constants {
            Some(constants) => View::new(epoch, constants.reference_capacity, all),
            None => View::without_ring(epoch, all),
        }
    }

    /// Admitted and caught up (`alive`), or not (`joining`). Changes nothing for a node that is leaving.
    pub fn set_ready(&mut self, ready: bool) {
        let state = if ready { State::Alive } else { State::Joining };
        self.ready = ready;
        if matches!(self.me.statement().state, State::Alive | State::Joining) {
            self.speak(|own| own.state = state);
        }
    }

    /// The cluster's constants: its id is the only one listened to from now on.
    pub fn set_constants(&mut self, constants: Constants) {
        self.constants = Some(constants);
    }

    /// What every datagram tells from now on.
    pub fn set_announcement(&mut self, announcement: Announcement) {
        self.announcement = Some(announcement);
    }

    /// How long members took to answer probes since this was last asked; some are left out where
    /// nobody asks.
    pub fn take_round_trips(&mut self) -> Vec<std::time::Duration> {
        std::mem::take(&mut self.round_trips)
    }

    /// Changes what this node says of itself; its key stays.
    pub fn set_metadata(&mut self, metadata: view::Metadata) {
        let key = self.me.statement().metadata.key;
        self.speak(|own| own.metadata = view::Metadata { key, ..metadata });
    }

    /// Replaces the keys: first accept the new one everywhere, then send with it, then drop the old one.
    pub fn set_keys(&mut self, keys: KeyRing) {
        self.sealer.set_keys(keys);
    }

    /// Forgets a dead or gone member; it is not contacted any more. A member that is here stays.
    pub fn forget(&mut self, id: &NodeId) -> bool {
        let Some(slot) = self.members.find(id) else { return false };
        if self.members.get(slot).is_some_and(|m| m.state().is_reachable()) {
            return false;
        }
        self.drop_member(slot);
        true
    }

    fn drop_member(&mut self, slot: Slot) {
        self.suspicions.end(slot);
        self.broadcasts.remove(Subject::Member(slot));
        self.members.remove(slot);
    }

    /// Begins to leave: this node owns nothing from now on and drains what it has.
    pub fn leave(&mut self) {
        self.speak(|own| own.state = State::Leaving);
    }

    /// Calls a leave off: this node owns its share again, once it is ready.
    pub fn stay(&mut self) {
        let state = if self.ready { State::Alive } else { State::Joining };
        if self.me.statement().state == State::Leaving {
            self.speak(|own| own.state = state);
        }
    }

    /// Ends a leave. Some members are told at once; nothing more is done after that.
    pub fn left(&mut self) {
        self.say_goodbye(State::Left);
    }

    /// Says that this process ends. Nobody waits for a suspicion; a restart is a higher incarnation.
    pub fn announce_dead(&mut self) {
        self.say_goodbye(State::Dead);
    }

    /// Says something else of this node, if it is something else.
    fn speak(&mut self, change: impl FnOnce(&mut Statement)) {
        let mut statement = self.me.statement().clone();
        change(&mut statement);
        if statement != *self.me.statement() {
            self.utter(statement);
        }
    }

    /// Says the same with an incarnation greater than `incarnation`.
    fn raise_above(&mut self, incarnation: u64) {
        self.utter(Statement { incarnation, ..self.me.statement().clone() });
    }

    /// Signs a statement under the next incarnation and begins to spread it.
    fn utter(&mut self, mut statement: Statement) {
        if self.stopped {
            return;
        }
        let previous = self.me.statement().clone();
        statement.incarnation = (statement.incarnation.max(previous.incarnation) + 1).min(MAX_INCARNATION);
        let state = statement.state;
        let changed = previous.state != state || previous.metadata != statement.metadata;
        self.me = Record::sign(&self.config.identity, statement);
        self.broadcasts.push(Subject::Me, Update::Claim(self.me.claim().clone()).to_bytes());
        if changed {
            let previous = Some(previous.state);
            self.push_event(Event::MemberChanged { node: self.config.id, previous, state });
        }
    }

    fn push_event(&mut self, event: Event) {
        if matches!(event, Event::PushPull { .. }) && self.events.back() == Some(&event) {
            return;
        }
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
            self.counters.overflowed += 1;
        }
        self.events.push_back(event);
    }

    /// The next datagram to send; pings, answers and accusations come before other gossip.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.urgent.pop_front().or_else(|| self.relaxed.pop_front())
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Swim::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.stopped {
            return None;
        }
        let gossip = (!self.broadcasts.is_empty()).then_some(self.gossip_at);
        let own = self.probe_at.min(self.contact_at).min(self.exchange_at);
        [gossip, self.suspicions.next(), self.probes.next()].into_iter().flatten().chain([own]).min()
    }

    /// Does what the time asks for. All waiting datagrams must have been handed over before.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Some(due) = self.poll_timeout().filter(|due| *due <= now) else { return };
        self.notice_stall(now, now.since(due));
        self.handle_probe_timeouts(now);
        while let Some(slot) = self.suspicions.due(now) {
            self.decide(now, slot);
        }
        if self.probe_at <= now {
            self.probe_at = now + self.health.stretch(self.config.period, 0);
            self.probe_next(now);
        }
        if self.gossip_at <= now {
            self.gossip_at = now + self.health.stretch(self.config.gossip_interval(), 0);
            self.gossip();
        }
        if self.contact_at <= now {
            self.contact_absent(now);
        }
        if self.exchange_at <= now {
            self.exchange_next(now);
        }
    }

    /// A node whose timers fire late was paused or is starved: what it did not hear in that time is its own
    /// fault. Probes under way end without a verdict and suspicions get the time back.
    fn notice_stall(&mut self, now: Instant, late: std::time::Duration) {
        if late <= self.config.period / 2 {
            return;
        }
        self.counters.stalls += 1;
        self.health.worsen(1);
        self.probes.abandon();
        self.suspicions.postpone_all(late);
        self.doubted_at = now;
    }

    /// A node whose timers wait behind datagrams is starved, and says so in every answer, so that its peers slow down.
    fn notice_backlog(&mut self, now: Instant) {
        let last = self.probe_at.max(self.doubted_at);
        if now.since(last) > self.config.period {
            self.doubted_at = now;
            self.health.worsen(1);
        }
    }
}

#[cfg(test)]
mod tests;
