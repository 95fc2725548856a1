//! An event loop over a few catalogs: delays, loss, duplicates, cuts, crashes, lost databases.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::api::Durability;
use crate::catalog::command::{Command, CommandId, Consistency, Outcome, Precondition};
use crate::catalog::electorate::{Electorate, FixedElectorate};
use crate::catalog::memory::MemoryStorage;
use crate::catalog::message::{Request, Response};
use crate::catalog::seen::Seen;
use crate::catalog::storage::{Result, Storage};
use crate::catalog::{Catalog, Config, Event, Faults, Transmit, Unreachable};
use crate::chunk::{ChunkId, Codec};
use crate::identity::DatabaseId;
use crate::name::Name;
use crate::node_id::NodeId;
use crate::time::{Instant, UnixMillis};
use crate::version::{Content, Dot, Version, head};

/// How many seeds a test runs: `count`, or that many times `KEPLER_SEEDS`.
pub(super) fn seeds(count: u64) -> std::ops::Range<u64> {
    let factor = std::env::var("KEPLER_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    0..count * factor
}

pub(super) fn content(number: u64) -> Content {
    let root = ChunkId::of(Codec::Raw, &number.to_be_bytes());
    Content { root, size: number, chunks: 1, content_type: None }
}

enum Item {
    Request { to: usize, from: usize, epoch: u64, id: u64, bytes: Vec<u8> },
    Response { to: usize, from: usize, epoch: u64, id: u64, bytes: Vec<u8> },
    Lost { node: usize, from: usize, epoch: u64, id: u64 },
    Wake { node: usize, epoch: u64 },
    Restart { node: usize },
    Announce,
}

pub(super) struct Node {
    pub id: NodeId,
    pub storage: MemoryStorage,
    pub catalog: Option<Catalog>,
    pub electorate: FixedElectorate,
    epoch: u64,
    pending: BTreeSet<u64>,
    wake: Option<Instant>,
    /// What it must have seen to be ready.
    floor: Option<Seen>,
}

/// A cluster with a virtual network and clock.
pub(super) struct Net {
    pub seed: u64,
    pub rng: fastrand::Rng,
    pub now: Instant,
    queue: BTreeMap<(Instant, u64), Item>,
    serial: u64,
    pub nodes: Vec<Node>,
    pub faults: Faults,
    /// Pairs (from, to) that nothing passes.
    pub cut: BTreeSet<(usize, usize)>,
    pub loss: f64,
    pub duplicates: f64,
    /// The share of messages that take seconds.
    pub slow: f64,
    /// Probability of a crash at each step.
    pub crashes: f64,
    /// How many milliseconds each node's wall clock is off.
    pub clocks: Vec<u64>,
    tokens: BTreeMap<u64, (usize, usize, u64, u64)>,
    pub outcomes: BTreeMap<CommandId, Outcome>,
    /// Every version that was ever published.
    pub ledger: BTreeMap<Dot, Version>,
    /// Every `fast` version, which hides what it saw at its receiver before it is published.
    kept: BTreeMap<Dot, Version>,
    /// What supersedes each version directly.
    later: BTreeMap<Dot, BTreeSet<Dot>>,
    pub sent: u64,
    /// Nodes, each as often as it said that a name has concurrent versions.
    pub conflicts: Vec<usize>,
    /// From the next start of a node on.
    pub audit_interval: Duration,
    /// Bytes of requests and responses, and of the longest of them.
    pub bytes: usize,
    pub longest: usize,
    /// Steps within the present millisecond: a machine that spins is a bug.
    spin: (u64, u32),
}

impl Net {
    pub fn new(seed: u64, count: usize, replication: usize, faults: Faults) -> Self {
        let ids: Vec<NodeId> = (0..count).map(|i| format!("n{i}").parse().unwrap()).collect();
        let mut rng = fastrand::Rng::with_seed(seed);
        let nodes = ids.iter().map(|id| Node {
            id: *id,
            storage: MemoryStorage::new(),
            catalog: None,
            electorate: FixedElectorate::new(ids.clone(), replication),
            epoch: 0,
            pending: BTreeSet::new(),
            wake: None,
            floor: None,
        });
        let mut net = Self {
            seed,
            now: Instant::ZERO,
            queue: BTreeMap::new(),
            serial: 0,
            nodes: nodes.collect(),
            faults,
            cut: BTreeSet::new(),
            loss: 0.0,
            duplicates: 0.0,
            slow: 0.0,
            crashes: 0.0,
            clocks: (0..count).map(|_| rng.u64(..10_000_000)).collect(),
            tokens: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            ledger: BTreeMap::new(),
            kept: BTreeMap::new(),
            later: BTreeMap::new(),
            sent: 0,
            conflicts: Vec::new(),
            audit_interval: Config::new(ids[0]).audit_interval,
            bytes: 0,
            longest: 0,
            spin: (0, 0),
            rng,
        };
        (0..count).for_each(|node| net.start(node));
        net.at(Duration::from_millis(50), Item::Announce);
        net
    }

    fn at(&mut self, after: Duration, item: Item) {
        self.serial += 1;
        self.queue.insert((self.now + after, self.serial), item);
    }

    pub fn is_up(&self, node: usize) -> bool {
        self.nodes[node].catalog.is_some()
    }

    pub fn start(&mut self, node: usize) {
        if self.is_up(node) {
            return;
        }
        let (seed, generation) = (self.rng.u64(..), self.rng.u64(..));
        let (now, faults) = (self.now, self.faults);
        let this = &mut self.nodes[node];
        this.epoch += 1;
        this.pending.clear();
        this.wake = None;
        let mut config = Config::new(this.id);
        config.faults = faults;
        config.audit_interval = self.audit_interval;
        this.storage.begin();
        let mut catalog = Catalog::open(config, &mut this.storage, now, seed, generation).unwrap();
        catalog.handle_roster(&mut this.storage, now, &this.electorate).unwrap();
        this.storage.commit();
        this.catalog = Some(catalog);
        self.step(node, |_, _, _, _| Ok(()));
        self.look_around();
    }

    pub fn crash(&mut self, node: usize) {
        self.nodes[node].storage.rollback();
        self.nodes[node].catalog = None;
    }

    /// The database is gone; the roster binds the node to a new one, and it waits for the floor.
    pub fn wipe(&mut self, node: usize) {
        self.crash(node);
        let mut floor = Seen::default();
        for (_, other) in self.nodes.iter().enumerate().filter(|(i, _)| *i != node) {
            floor.union(&other.storage.seen().unwrap());
        }
        let database = DatabaseId(self.rng.u128(..).to_be_bytes());
        let id = self.nodes[node].id;
        self.nodes[node].storage = MemoryStorage::new();
        self.nodes[node].floor = Some(floor);
        self.nodes[node].electorate.not_ready = Some("the database is new".into());
        for other in 0..self.nodes.len() {
            self.nodes[other].electorate.members.insert(id, database);
            self.roster_changed(other);
        }
    }

    pub fn roster_changed(&mut self, node: usize) {
        self.step(node, |catalog, storage, now, electorate| catalog.handle_roster(storage, now, electorate));
    }

    /// Tells every node who can hear it, as gossip would.
    pub fn look_around(&mut self) {
        for node in 0..self.nodes.len() {
            let reachable = (0..self.nodes.len())
                .filter(|other| self.is_up(*other) && !self.cut.contains(&(*other, node)))
                .map(|other| self.nodes[other].id)
                .collect();
            self.step(node, |catalog, storage, now, electorate| {
                catalog.handle_reachable(storage, now, electorate, reachable)
            });
        }
    }

    pub fn partition(&mut self, left: &[usize]) {
        self.cut.clear();
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                if left.contains(&a) != left.contains(&b) {
                    self.cut.insert((a, b));
                }
            }
        }
        self.look_around();
    }

    /// One transaction on one node, with what follows from it.
    pub fn step(
        &mut self,
        node: usize,
        verb: impl FnOnce(&mut Catalog, &mut MemoryStorage, Instant, &FixedElectorate) -> Result<()>,
    ) {
        let now = self.now;
        let this = &mut self.nodes[node];
        let Some(mut catalog) = this.catalog.take() else { return };
        this.storage.begin();
        verb(&mut catalog, &mut this.storage, now, &this.electorate).unwrap();
        let crash = self.rng.f64() < self.crashes;
        if crash && self.rng.bool() {
            this.storage.rollback();
            self.restart_later(node);
            return;
        }
        this.storage.commit();
        let mut events = Vec::new();
        while let Some(event) = catalog.poll_event() {
            events.push(event);
        }
        for event in events {
            match event {
                Event::Written { dot, .. } => self.record(node, &dot),
                Event::Conflict { .. } => self.conflicts.push(node),
                Event::Completed { id, outcome } if !crash => {
                    assert!(
                        self.outcomes.insert(id, outcome).is_none(),
                        "seed {}: answered twice",
                        self.seed
                    );
                }
                _ => {}
            }
        }
        if crash {
            self.restart_later(node);
            return;
        }
        while let Some(transmit) = catalog.poll_transmit() {
            self.send(node, transmit);
        }
        let this = &mut self.nodes[node];
        if let Some(at) = catalog.poll_timeout()
            && this.wake.is_none_or(|wake| at < wake || wake <= now)
        {
            this.wake = Some(at);
            let (epoch, after) = (this.epoch, (at - now).max(Duration::from_micros(1)));
            self.at(after, Item::Wake { node, epoch });
        }
        self.nodes[node].catalog = Some(catalog);
    }

    fn restart_later(&mut self, node: usize) {
        let after = Duration::from_millis(self.rng.u64(10..4000));
        self.at(after, Item::Restart { node });
    }

    fn record(&mut self, node: usize, dot: &Dot) {
        if let Some(survivor) = self.nodes[node].storage.survivor(dot).unwrap() {
            for earlier in survivor.version.context.iter() {
                self.later.entry(*earlier).or_default().insert(*dot);
            }
            if !survivor.published {
                self.kept.insert(*dot, survivor.version);
                return;
            }
            let known = self.ledger.entry(*dot).or_insert_with(|| survivor.version.clone());
            if !self.faults.reuse_dots {
                assert_eq!(*known, survivor.version, "seed {}: a dot names two versions", self.seed);
            }
        }
    }

    fn delay(&mut self) -> Duration {
        if self.rng.f64() < self.slow {
            Duration::from_millis(self.rng.u64(1_000..4_500))
        } else {
            Duration::from_micros(self.rng.u64(200..20_000))
        }
    }

    fn copies(&mut self) -> usize {
        if self.rng.f64() < self.loss {
            0
        } else if self.rng.f64() < self.duplicates {
            2
        } else {
            1
        }
    }

    fn weigh(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= 1 << 20, "nobody builds so long a message");
        self.bytes += bytes.len();
        self.longest = self.longest.max(bytes.len());
    }

    fn send(&mut self, from: usize, transmit: Transmit) {
        match transmit {
            Transmit::Request { to, id, request, deadline } => {
                self.sent += 1;
                let to = self.nodes.iter().position(|n| n.id == to).unwrap();
                let epoch = self.nodes[from].epoch;
                self.nodes[from].pending.insert(id);
                let bytes = request.to_bytes();
                self.weigh(&bytes);
                if self.cut.contains(&(from, to)) || !self.is_up(to) && from != to {
                    let after = Duration::from_millis(self.rng.u64(1..50));
                    self.at(after, Item::Lost { node: from, from: to, epoch, id });
                    return;
                }
                self.at(deadline - self.now, Item::Lost { node: from, from: to, epoch, id });
                for _ in 0..self.copies() {
                    let delay = self.delay();
                    self.at(delay, Item::Request { to, from, epoch, id, bytes: bytes.clone() });
                }
            }
            Transmit::Response { token, response } => {
                let Some((to, from, epoch, id)) = self.tokens.remove(&token) else { return };
                let bytes = response.to_bytes();
                self.weigh(&bytes);
                for _ in 0..self.copies() {
                    let delay = self.delay();
                    self.at(delay, Item::Response { to, from, epoch, id, bytes: bytes.clone() });
                }
            }
        }
    }

    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(entry) = self.queue.first_entry() {
            let at = entry.key().0;
            if at > end {
                break;
            }
            let item = entry.remove();
            self.now = at;
            self.handle(item);
        }
        self.now = end;
    }

    fn handle(&mut self, item: Item) {
        let millisecond = self.now.as_micros() / 1000;
        self.spin =
            if self.spin.0 == millisecond { (millisecond, self.spin.1 + 1) } else { (millisecond, 0) };
        assert!(self.spin.1 < 700, "seed {}: a machine spins", self.seed);
        match item {
            Item::Request { to, from, epoch, id, bytes } => {
                if self.cut.contains(&(from, to)) {
                    return;
                }
                let request = Request::from_bytes(&bytes).unwrap();
                self.serial += 1;
                let token = self.serial;
                self.tokens.insert(token, (from, to, epoch, id));
                let peer = self.nodes[from].id;
                self.step(to, |catalog, storage, now, electorate| {
                    catalog.handle_request(storage, now, electorate, peer, token, request)
                });
            }
            Item::Response { to, from, epoch, id, bytes } => {
                let this = &mut self.nodes[to];
                if this.epoch != epoch || self.cut.contains(&(from, to)) || !this.pending.remove(&id) {
                    return;
                }
                let response = Response::from_bytes(&bytes).unwrap();
                self.answer(to, from, id, Ok(response));
            }
            Item::Lost { node, from, epoch, id } => {
                if self.nodes[node].epoch == epoch && self.nodes[node].pending.remove(&id) {
                    self.answer(node, from, id, Err(Unreachable));
                }
            }
            Item::Wake { node, epoch } => {
                if self.nodes[node].epoch == epoch {
                    self.nodes[node].wake = None;
                    self.step(node, |catalog, storage, now, electorate| {
                        if catalog.poll_timeout().is_some_and(|at| at <= now) {
                            catalog.handle_timeout(storage, now, electorate)?;
                        }
                        Ok(())
                    });
                }
            }
            Item::Restart { node } => self.start(node),
            Item::Announce => {
                self.announce();
                self.at(Duration::from_millis(200), Item::Announce);
            }
        }
    }

    fn answer(
        &mut self,
        node: usize,
        from: usize,
        id: u64,
        response: std::result::Result<Response, Unreachable>,
    ) {
        let peer = self.nodes[from].id;
        self.step(node, |catalog, storage, now, electorate| {
            catalog.handle_response(storage, now, electorate, id, peer, response)
        });
    }

    fn announce(&mut self) {
        for from in 0..self.nodes.len() {
            let Some(catalog) = &mut self.nodes[from].catalog else { continue };
            let digest = catalog.seen_digest();
            let (id, database) =
                (self.nodes[from].id, self.nodes[from].electorate.members[&self.nodes[from].id]);
            for to in 0..self.nodes.len() {
                if from != to && !self.cut.contains(&(from, to)) && self.rng.f64() >= self.loss {
                    self.step(to, |catalog, _, now, _| {
                        catalog.handle_announcement(now, id, database, digest);
                        Ok(())
                    });
                }
            }
            let Some(catalog) = &self.nodes[from].catalog else { continue };
            if self.nodes[from].floor.as_ref().is_some_and(|floor| catalog.seen().is_superset(floor)) {
                self.nodes[from].floor = None;
                self.nodes[from].electorate.not_ready = None;
                self.roster_changed(from);
            }
        }
    }

    pub fn command(&mut self, node: usize, command: Command) -> CommandId {
        self.serial += 1;
        let id = CommandId(self.serial);
        self.step(node, |catalog, storage, now, electorate| {
            catalog.handle_command(storage, now, electorate, id, command)
        });
        id
    }

    /// Runs until the command is answered; `None` if it is not within 20 s.
    pub fn wait(&mut self, id: CommandId) -> Option<Outcome> {
        for _ in 0..4000 {
            if let Some(outcome) = self.outcomes.get(&id) {
                return Some(outcome.clone());
            }
            self.run_for(Duration::from_millis(5));
        }
        None
    }

    pub fn ask(&mut self, node: usize, command: Command) -> Outcome {
        let id = self.command(node, command);
        self.wait(id).unwrap_or_else(|| panic!("seed {}: no answer", self.seed))
    }

    pub fn clock(&self, node: usize) -> UnixMillis {
        UnixMillis(self.clocks[node] + self.now.as_micros() / 1000 + 1)
    }

    /// A whole write: what its publishing was answered.
    pub fn put(
        &mut self,
        node: usize,
        name: &Name,
        number: u64,
        precondition: Precondition,
        durability: Durability,
    ) -> Outcome {
        let begin = Command::Begin { name: name.clone(), precondition, durability };
        match self.ask(node, begin) {
            Outcome::Begun { dot } => {
                let created_at = self.clock(node);
                self.ask(
                    node,
                    Command::Publish {
                        dot,
                        content: Some(content(number)),
                        created_at,
                        within: Duration::from_secs(9),
                    },
                )
            }
            refused => refused,
        }
    }

    pub fn delete(&mut self, node: usize, name: &Name, durability: Durability) -> Outcome {
        let (name, created_at) = (name.clone(), self.clock(node));
        let precondition = Precondition::None;
        self.ask(node, Command::Delete { name, version: None, precondition, durability, created_at })
    }

    pub fn read(&mut self, node: usize, name: &Name) -> Outcome {
        self.ask(node, Command::Read { name: name.clone() })
    }

    /// Ends the network's faults and crashes.
    pub fn heal_network(&mut self) {
        (self.loss, self.duplicates, self.slow, self.crashes) = (0.0, 0.0, 0.0, 0.0);
        self.cut.clear();
        self.look_around();
    }

    /// Ends all faults, brings everybody back and lets them talk.
    pub fn heal(&mut self, duration: Duration) {
        self.heal_network();
        (0..self.nodes.len()).for_each(|node| self.start(node));
        self.look_around();
        self.run_for(Duration::from_secs(1));
        for node in 0..self.nodes.len() {
            for survivor in self.nodes[node].storage.unpublished(None, 1000).unwrap() {
                let dot = survivor.version.dot;
                assert_eq!(self.ask(node, Command::Settle { dot }), Outcome::Done);
                self.record(node, &dot);
            }
        }
        self.run_for(duration);
    }

    /// Published versions that none supersedes, by all that ever was.
    pub fn expected(&self) -> BTreeSet<Dot> {
        let superseded: BTreeSet<Dot> =
            self.ledger.values().flat_map(|v| v.context.iter().copied()).collect();
        self.ledger.keys().filter(|dot| !superseded.contains(dot)).copied().collect()
    }

    /// Checks that after healing everybody holds exactly what nothing supersedes. Collected
    /// tombstones may be missing.
    pub fn check_equal(&self) -> std::result::Result<(), String> {
        let expected = self.expected();
        let live = |dot: &&Dot| !self.ledger[*dot].is_tombstone();
        for node in &self.nodes {
            let held: BTreeSet<Dot> = node.storage.all_survivors().map(|s| s.version.dot).collect();
            if let Some(dot) = held.iter().find(|dot| !expected.contains(dot)) {
                return Err(format!("seed {}: {} still has {dot}", self.seed, node.id));
            }
            if let Some(dot) = expected.iter().filter(live).find(|dot| !held.contains(dot)) {
                return Err(format!("seed {}: {} lacks {dot}", self.seed, node.id));
            }
        }
        Ok(())
    }

    /// Whether `dot` is among the survivors or something they descend from, or was deleted.
    fn is_covered(&self, dot: &Dot, survivors: &BTreeSet<Dot>) -> bool {
        let (mut reached, mut queue) = (BTreeSet::new(), vec![*dot]);
        while let Some(dot) = queue.pop() {
            if survivors.contains(&dot) || self.ledger.get(&dot).is_some_and(Version::is_tombstone) {
                return true;
            }
            let later = self.later.get(&dot).into_iter().flatten();
            queue.extend(later.filter(|dot| reached.insert(**dot)));
        }
        false
    }

    /// All that `dot` supersedes, directly or not.
    fn ancestors(&self, dot: &Dot) -> BTreeSet<Dot> {
        let (mut reached, mut queue) = (BTreeSet::new(), vec![*dot]);
        while let Some(version) = queue.pop().and_then(|dot| self.ledger.get(&dot)) {
            queue.extend(version.context.iter().filter(|dot| reached.insert(**dot)));
        }
        reached
    }

    /// Checks a read by majority that began after the writes `acked` were acknowledged.
    pub fn check_read(&self, acked: &[Dot], survivors: &[Version]) -> std::result::Result<(), String> {
        let survivors: BTreeSet<Dot> = survivors.iter().map(|v| v.dot).collect();
        for dot in acked {
            if !self.is_covered(dot, &survivors) {
                return Err(format!("seed {}: a read missed {dot}: {survivors:?}", self.seed));
            }
            if let Some(old) = self.ancestors(dot).intersection(&survivors).next() {
                return Err(format!("seed {}: {old} came back after {dot}", self.seed));
            }
        }
        Ok(())
    }
}

enum Phase {
    Idle,
    Begin { id: CommandId, name: Name },
    Publish { id: CommandId, name: Name, base: Option<Dot> },
    Look { id: CommandId, name: Name, acked: Vec<Dot>, then_write: bool },
    Delete { id: CommandId, name: Name },
}

/// What a workload of several clients has done and found.
#[derive(Default)]
pub(super) struct History {
    pub acked: BTreeMap<Name, Vec<Dot>>,
    /// Successful conditional writes by the version they were based on.
    pub winners: BTreeMap<Dot, Vec<Dot>>,
    pub reads: usize,
    pub violations: Vec<String>,
}

/// Clients that each do one operation after another through random nodes.
pub(super) struct Workload {
    clients: Vec<(Phase, usize, Instant, Option<Dot>)>,
    names: Vec<Name>,
    number: u64,
    /// Shares of operations: conditional writes, deletes, reads, fast writes; the rest are puts.
    pub shares: [f64; 4],
    pub history: History,
}

impl Workload {
    pub fn new(clients: usize, names: usize, shares: [f64; 4]) -> Self {
        Self {
            clients: (0..clients).map(|_| (Phase::Idle, 0, Instant::ZERO, None)).collect(),
            names: (0..names).map(|i| format!("name-{i}").parse().unwrap()).collect(),
            number: 0,
            shares,
            history: History::default(),
        }
    }

    pub fn run(&mut self, net: &mut Net, duration: Duration) {
        let end = net.now + duration;
        while net.now < end {
            for client in 0..self.clients.len() {
                self.step(net, client);
            }
            net.run_for(Duration::from_millis(10));
        }
    }

    fn acked(&self, name: &Name) -> Vec<Dot> {
        self.history.acked.get(name).cloned().unwrap_or_default()
    }

    fn step(&mut self, net: &mut Net, client: usize) {
        let (phase, node, since, _) = &mut self.clients[client];
        let (node, since) = (*node, *since);
        let phase = std::mem::replace(phase, Phase::Idle);
        let outcome = match &phase {
            Phase::Idle => None,
            Phase::Begin { id, .. }
            | Phase::Publish { id, .. }
            | Phase::Look { id, .. }
            | Phase::Delete { id, .. } => net.outcomes.remove(id),
        };
        let next = match (phase, outcome) {
            (Phase::Idle, _) => self.begin(net, client),
            (phase, None) if net.now.since(since) < Duration::from_secs(15) => phase,
            (_, None) => Phase::Idle,
            (Phase::Begin { name, .. }, Some(Outcome::Begun { dot })) => {
                self.number += 1;
                let created_at = net.clock(node);
                let content = Some(content(self.number));
                let id = net.command(
                    node,
                    Command::Publish { dot, content, created_at, within: Duration::from_secs(9) },
                );
                Phase::Publish { id, name, base: self.clients[client].3 }
            }
            (Phase::Publish { name, base, .. }, Some(Outcome::Published { version, acked, .. })) => {
                if acked.len() > 1 || net.nodes.len() == 1 {
                    self.history.acked.entry(name).or_default().push(version.dot);
                }
                if let Some(base) = base {
                    self.history.winners.entry(base).or_default().push(version.dot);
                }
                Phase::Idle
            }
            (Phase::Delete { name, .. }, Some(Outcome::Published { version, .. })) => {
                self.history.acked.entry(name).or_default().push(version.dot);
                Phase::Idle
            }
            (Phase::Look { name, acked, then_write, .. }, Some(Outcome::Read { survivors, consistency })) => {
                if consistency == Consistency::Majority {
                    self.history.reads += 1;
                    self.history.violations.extend(net.check_read(&acked, &survivors).err());
                }
                match head(&survivors).map(|v| v.dot) {
                    Some(head) if then_write => {
                        self.clients[client].3 = Some(head);
                        let (precondition, durability) = (Precondition::Head(head), Durability::Quorum);
                        let begin = Command::Begin { name: name.clone(), precondition, durability };
                        Phase::Begin { id: net.command(node, begin), name }
                    }
                    _ => Phase::Idle,
                }
            }
            (_, Some(_)) => Phase::Idle,
        };
        self.clients[client].0 = next;
    }

    fn begin(&mut self, net: &mut Net, client: usize) -> Phase {
        let node = net.rng.usize(..net.nodes.len());
        if !net.is_up(node) || net.rng.f64() < 0.5 {
            return Phase::Idle;
        }
        let name = self.names[net.rng.usize(..self.names.len())].clone();
        self.clients[client].1 = node;
        self.clients[client].2 = net.now;
        self.clients[client].3 = None;
        let draw = net.rng.f64();
        let [conditional, delete, read, fast] = self.shares;
        let acked = self.acked(&name);
        if draw < conditional + read {
            let id = net.command(node, Command::Read { name: name.clone() });
            return Phase::Look { id, name, acked, then_write: draw < conditional };
        }
        if draw < conditional + read + delete {
            let created_at = net.clock(node);
            let (precondition, durability) = (Precondition::None, Durability::Quorum);
            let command =
                Command::Delete { name: name.clone(), version: None, precondition, durability, created_at };
            return Phase::Delete { id: net.command(node, command), name };
        }
        let durability =
            if draw < conditional + read + delete + fast { Durability::Fast } else { Durability::Quorum };
        let precondition = Precondition::None;
        let begin = Command::Begin { name: name.clone(), precondition, durability };
        Phase::Begin { id: net.command(node, begin), name }
    }

    /// Everything that was found wrong, once the cluster is healed.
    pub fn verdict(&self, net: &mut Net) -> std::result::Result<(), String> {
        if let Some(violation) = self.history.violations.first() {
            return Err(violation.clone());
        }
        for (base, winners) in &self.history.winners {
            if winners.len() > 1 {
                return Err(format!("seed {}: {winners:?} both replaced {base}", net.seed));
            }
        }
        for (name, acked) in &self.history.acked {
            for node in 0..net.nodes.len() {
                let Outcome::Read { survivors, .. } = net.read(node, name) else {
                    return Err(format!("seed {}: no read after healing", net.seed));
                };
                net.check_read(acked, &survivors)?;
            }
        }
        net.check_equal()
    }
}

#[test]
fn a_fixed_electorate_gives_every_name_its_replicas() {
    let ids = ["a", "b", "c", "d"].map(|id| id.parse().unwrap());
    let electorate = FixedElectorate::new(ids, 3);
    let homes = electorate.homes(&"x".parse().unwrap());
    assert_eq!((homes.len(), homes[0].nodes.len(), homes[0].majority), (1, 3, 2));
}
