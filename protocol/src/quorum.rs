//! When enough replicas have a chunk, and whom to try instead of one that does not answer.
//!
//! A [`Placement`] leads one chunk (or manifest node) to the durability its writer asked for. Its
//! invariants: success is reported only with acknowledgements of as many *distinct* nodes as the
//! durability needs; it ends within its deadline; every owner that has not acknowledged by then is
//! owed the chunk. Deliberately absent: the queue that pays what is owed, and the votes on names.
//!
//! Writing to the nodes beyond the owners where owners do not answer is the sloppy quorum of Dynamo
//! (DeCandia et al., 2007, section 4.6). It is sound here because chunks are immutable.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::api::{Durability, Queued, Replicas};
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::view::View;

/// Nodes beyond the owners that may take over for those that do not answer.
const FALLBACKS: usize = 8;

/// How a chunk is placed.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// What is asked for.
    pub durability: Durability,
    /// N: min(`REPLICATION_FACTOR`, roster size); at least 1.
    pub wanted: usize,
    /// The least number of copies that is a majority of N.
    pub majority: usize,
    /// How long a straggler is waited for once a majority has the chunk (`ACK_GRACE_MS`).
    pub ack_grace: Duration,
    /// How long a node may take before the next one clockwise is tried beside it.
    pub attempt_timeout: Duration,
    /// How long the whole may take.
    pub deadline: Duration,
    /// How often a node that failed is tried again where no other is left to try.
    pub retries: u32,
    /// How long after its first failure; twice as long after each further one.
    pub retry_after: Duration,
}

impl Config {
    /// The defaults: a grace of 500 ms, 2 s for an attempt, 10 s in all, two retries from 250 ms on.
    pub fn new(durability: Durability, wanted: usize) -> Self {
        let wanted = wanted.max(1);
        Self {
            durability,
            wanted,
            majority: wanted / 2 + 1,
            ack_grace: Duration::from_millis(500),
            attempt_timeout: Duration::from_secs(2),
            deadline: Duration::from_secs(10),
            retries: 2,
            retry_after: Duration::from_millis(250),
        }
    }

    /// Acknowledgements without which there is no success.
    pub fn needed(&self) -> usize {
        match self.durability {
            Durability::Fast => 1,
            Durability::Quorum => self.majority.max(1),
            Durability::All => self.wanted.max(1),
        }
    }

    /// Copies that the placement tries to make. Those beyond the local one of `fast` are the
    /// queue's.
    const fn copies(&self) -> usize {
        if self.wanted == 0 || matches!(self.durability, Durability::Fast) { 1 } else { self.wanted }
    }
}

/// Whom to try to place the chunk of `key` on, in order: the `wanted` owners by the view's ring, a few
/// fallbacks clockwise, and, where the ring is smaller than the roster asks, those of the roster's
/// owners that are reachable though not on the ring yet.
///
/// The last are members that were just admitted: the roster counts them from its adoption on, the
/// ring only once they are ready. They can hold a chunk before they can vote, and without them no
/// write would succeed in between.
pub fn candidates(view: &View, key: u64, wanted: usize, owners: &[NodeId]) -> Vec<NodeId> {
    let mut candidates = view.ring().candidates(key, wanted, wanted + FALLBACKS);
    if candidates.len() < wanted {
        let here = |id: &&NodeId| view.member(id).is_some_and(|m| m.state.is_reachable());
        let late: Vec<NodeId> =
            owners.iter().filter(|id| !candidates.contains(id)).filter(here).copied().collect();
        candidates.extend(late);
    }
    candidates
}

/// How a placement ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The chunk has its durability.
    Done {
        /// Who has it durably, in the order of the acknowledgements: where a copy can be had.
        acked: Vec<NodeId>,
        /// Owners that have not acknowledged, dead ones included: queue the chunk for them.
        owed: Vec<NodeId>,
    },
    /// It has not, and will not within the deadline.
    Failed {
        /// How many distinct nodes that count acknowledged.
        answered: usize,
        /// How many had to.
        needed: usize,
    },
}

/// Bugs that the simulator plants to show that it finds them; none by default.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Counts an acknowledgement that a node repeats as another copy.
    pub count_repeats: bool,
    /// Answers one acknowledgement early.
    pub ack_one_short: bool,
}

/// The way of one chunk to its durability.
///
/// Drive it so: send the chunk to every [`Placement::poll_transmit`], report what becomes of it
/// with [`Placement::handle_ack`] and [`Placement::handle_failure`], call
/// [`Placement::handle_timeout`] at [`Placement::poll_timeout`], until there is an
/// [`Placement::outcome`]. Transfers still under way then may go on: what they report changes nothing.
#[derive(Clone, Debug)]
pub struct Placement {
    config: Config,
    faults: Faults,
    /// The owners by the roster's ring.
    owners: Vec<NodeId>,
    /// Whom to try next: owners by the view's ring, then the others clockwise.
    candidates: VecDeque<NodeId>,
    /// Everyone tried.
    attempts: BTreeMap<NodeId, Attempt>,
    /// In the order in which they came; distinct, but for a planted fault.
    acked: Vec<NodeId>,
    deadline: Instant,
    /// When stragglers are no longer waited for; set by the majority.
    grace_until: Option<Instant>,
    transmits: VecDeque<NodeId>,
    outcome: Option<Outcome>,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    state: State,
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Sent; slow after the instant.
    Waiting(Instant),
    /// Too slow to be waited for, but what it acknowledges still counts.
    Slow,
    /// Failed; may be tried again at the instant.
    Failed(Option<Instant>),
    Acked,
}

impl Placement {
    /// Begins to place a chunk.
    ///
    /// `preference` is the preference list by the view's ring: who could take the chunk now, owners
    /// first, then fallbacks clockwise ([`crate::ring::Ring::candidates`]). `owners` are the owners
    /// by the ring over the whole roster, dead members included. `local` is this node; it is sent
    /// the chunk like any other where the list names it, and for `fast` in any case.
    pub fn new(
        now: Instant,
        config: Config,
        preference: impl IntoIterator<Item = NodeId>,
        owners: impl IntoIterator<Item = NodeId>,
        local: NodeId,
    ) -> Self {
        Self::with_faults(now, config, preference, owners, local, Faults::default())
    }

    /// [`Placement::new`] with bugs, for the simulator.
    #[doc(hidden)]
    pub fn with_faults(
        now: Instant,
        config: Config,
        preference: impl IntoIterator<Item = NodeId>,
        owners: impl IntoIterator<Item = NodeId>,
        local: NodeId,
        faults: Faults,
    ) -> Self {
        let candidates: VecDeque<NodeId> = match config.durability {
            Durability::Fast => VecDeque::from([local]),
            Durability::Quorum => distinct(preference).into(),
            // A copy elsewhere is no copy on an owner, so nobody takes over.
            Durability::All => distinct(preference).into_iter().take(config.copies()).collect(),
        };
        let mut placement = Self {
            config,
            faults,
            owners: distinct(owners),
            candidates,
            attempts: BTreeMap::new(),
            acked: Vec::new(),
            deadline: now + config.deadline,
            grace_until: None,
            transmits: VecDeque::new(),
            outcome: None,
        };
        placement.decide(now);
        placement
    }

    /// To whom to send the chunk next, this node included.
    pub fn poll_transmit(&mut self) -> Option<NodeId> {
        self.transmits.pop_front()
    }

    /// `node` has the chunk, synced to its disk.
    pub fn handle_ack(&mut self, now: Instant, node: NodeId) {
        if self.outcome.is_some() {
            return;
        }
        // Whoever was never asked has promised nothing.
        let Some(attempt) = self.attempts.get_mut(&node) else { return };
        if attempt.state == State::Acked && !self.faults.count_repeats {
            return;
        }
        attempt.state = State::Acked;
        self.acked.push(node);
        self.decide(now);
    }

    /// `node` did not take the chunk: no connection, no room, an error, a deadline of the transport.
    pub fn handle_failure(&mut self, now: Instant, node: NodeId) {
        if self.outcome.is_some() {
            return;
        }
        let Some(attempt) = self.attempts.get_mut(&node) else { return };
        if matches!(attempt.state, State::Acked | State::Failed(_)) {
            return;
        }
        let pause = self.config.retry_after.saturating_mul(1 << attempt.failures.min(16));
        let retry_at = (attempt.failures < self.config.retries).then(|| now + pause);
        *attempt = Attempt { state: State::Failed(retry_at), failures: attempt.failures + 1 };
        self.decide(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.outcome.is_some() {
            return;
        }
        for attempt in self.attempts.values_mut() {
            if matches!(attempt.state, State::Waiting(until) if until <= now) {
                attempt.state = State::Slow;
            }
        }
        self.decide(now);
    }

    /// When to call [`Placement::handle_timeout`]; `None` once it is over.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.outcome.is_some() {
            return None;
        }
        // A retry that is due now but not wanted yet must not make the driver spin.
        let retries = self.wants_more().then(|| self.retries());
        let waits = self.attempts.values().filter_map(|attempt| match attempt.state {
            State::Waiting(until) => Some(until),
            _ => None,
        });
        let retries = retries.into_iter().flatten().map(|(at, _)| at);
        waits.chain(retries).chain(self.grace_until).chain([self.deadline]).min()
    }

    /// How it ended, once it has. It does not change any more then.
    pub const fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Who has acknowledged until now, in order.
    pub fn acked(&self) -> &[NodeId] {
        &self.acked
    }

    /// Everyone who was sent the chunk, by id.
    pub fn asked(&self) -> impl Iterator<Item = &NodeId> {
        self.attempts.keys()
    }

    /// Ends, or sends the chunk to as many as are wanted.
    fn decide(&mut self, now: Instant) {
        self.outcome = self.verdict(now);
        if self.outcome.is_some() {
            self.transmits.clear();
            return;
        }
        while self.wants_more() {
            let next = self.candidates.pop_front().or_else(|| self.due_retry(now));
            let Some(node) = next else { break };
            let until = now + self.config.attempt_timeout;
            let attempt = self.attempts.entry(node).or_insert(Attempt { state: State::Slow, failures: 0 });
            attempt.state = State::Waiting(until);
            self.transmits.push_back(node);
        }
        // With nobody left to send to, that may have been the end.
        self.outcome = self.verdict(now);
    }

    fn verdict(&mut self, now: Instant) -> Option<Outcome> {
        let needed = self.config.needed() - usize::from(self.faults.ack_one_short);
        let enough = self.acked.len() >= needed;
        if enough && self.grace_until.is_none() {
            self.grace_until = Some(now + self.config.ack_grace);
        }
        let in_time = now < self.deadline && self.grace_until.is_none_or(|until| now < until);
        let nobody_left = self.in_flight() == 0 && self.candidates.is_empty();
        // As many as are wanted, or everybody who answers.
        let settled = self.acked.len() >= self.config.copies() || nobody_left;
        if enough && (settled || !in_time) {
            let acked: BTreeSet<&NodeId> = self.acked.iter().collect();
            let owed = self.owners.iter().filter(|owner| !acked.contains(owner)).copied().collect();
            return Some(Outcome::Done { acked: self.acked.clone(), owed });
        }
        let hopeless = nobody_left && self.acked.len() + self.hopes() < needed;
        if !enough && (now >= self.deadline || hopeless) {
            return Some(Outcome::Failed { answered: self.acked.len(), needed: self.config.needed() });
        }
        None
    }

    /// Whether fewer copies are made or under way than the placement tries to make.
    fn wants_more(&self) -> bool {
        self.in_flight() + self.acked.len() < self.config.copies()
    }

    fn in_flight(&self) -> usize {
        self.attempts.values().filter(|attempt| matches!(attempt.state, State::Waiting(_))).count()
    }

    /// Nodes that may still acknowledge though none of them is waited for.
    fn hopes(&self) -> usize {
        let may = |attempt: &&Attempt| matches!(attempt.state, State::Slow | State::Failed(Some(_)));
        self.attempts.values().filter(may).count()
    }

    /// When who may be tried again.
    fn retries(&self) -> impl Iterator<Item = (Instant, NodeId)> {
        self.attempts.iter().filter_map(|(node, attempt)| match attempt.state {
            State::Failed(Some(at)) => Some((at, *node)),
            _ => None,
        })
    }

    fn due_retry(&self, now: Instant) -> Option<NodeId> {
        self.retries().min().filter(|(at, _)| *at <= now).map(|(_, node)| node)
    }
}

/// Sums the placements of one write up for its receipt.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    least: Option<usize>,
    nodes: BTreeSet<NodeId>,
    queued: BTreeMap<NodeId, u64>,
}

impl Tally {
    /// Counts one chunk, or the version: who has it, and to whom it is owed.
    pub fn add(&mut self, acked: &[NodeId], owed: &[NodeId]) {
        let copies = acked.iter().collect::<BTreeSet<_>>().len();
        self.least = Some(self.least.map_or(copies, |least| least.min(copies)));
        self.nodes.extend(acked);
        owed.iter().for_each(|node| *self.queued.entry(*node).or_default() += 1);
    }

    /// What the receipt says, with N.
    pub fn into_replicas(self, wanted: usize) -> Replicas {
        Replicas {
            wanted,
            acked: self.least.unwrap_or(0),
            nodes: self.nodes.into_iter().collect(),
            queued: self.queued.into_iter().map(|(node, chunks)| Queued { node, chunks }).collect(),
        }
    }
}

/// The nodes without repetitions, in their order.
fn distinct(nodes: impl IntoIterator<Item = NodeId>) -> Vec<NodeId> {
    let mut seen = BTreeSet::new();
    nodes.into_iter().filter(|node| seen.insert(*node)).collect()
}

#[cfg(test)]
mod tests;
