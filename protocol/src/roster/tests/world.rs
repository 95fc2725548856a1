//! A small world for councils: virtual time, a lossy network, gossip and exchange reduced to what
//! councils see of them, transactions that a crash undoes, and a ledger of acknowledged dots.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::catalog::seen::{Seen, SeenSet};
use crate::catalog::storage::{Result, Storage, Stub, Survivor, Table};
use crate::identity::{ClusterId, DatabaseId};
use crate::name::Name;
use crate::node_id::NodeId;
use crate::roster::Roster;
use crate::roster::council::{Config, Council, Event, Faults, Founding, Peer, Unreachable};
use crate::roster::message::{Request, RequestId, Response};
use crate::time::Instant;
use crate::version::{Dot, Origin};
use crate::view::{Member, Metadata, State, View};

/// What a council needs of a storage; versions are not kept, only that they are seen.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    seen: BTreeMap<Origin, SeenSet>,
    records: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
}

impl Disk {
    pub fn has(&self, dot: &Dot) -> bool {
        self.seen.get(&dot.origin).is_some_and(|set| set.contains(dot.sequence))
    }

    pub fn learn(&mut self, dot: Dot) -> bool {
        self.seen.entry(dot.origin).or_default().insert(dot.sequence)
    }

    fn learn_all(&mut self, other: &Self) -> bool {
        let mut grown = false;
        for (origin, set) in &other.seen {
            grown |= self.seen.entry(*origin).or_default().union(set);
        }
        grown
    }
}

impl Storage for Disk {
    fn survivors(&self, _: &Name) -> Result<Vec<Survivor>> {
        Ok(Vec::new())
    }
    fn survivor(&self, _: &Dot) -> Result<Option<Survivor>> {
        Ok(None)
    }
    fn put_survivor(&mut self, _: &Survivor) -> Result<()> {
        Ok(())
    }
    fn remove_survivor(&mut self, _: &Dot) -> Result<()> {
        Ok(())
    }
    fn unpublished(&self, _: Option<&Dot>, _: usize) -> Result<Vec<Survivor>> {
        Ok(Vec::new())
    }
    fn stubs(&self, _: &Name) -> Result<Vec<Stub>> {
        Ok(Vec::new())
    }
    fn stub(&self, _: &Dot) -> Result<Option<Stub>> {
        Ok(None)
    }
    fn put_stub(&mut self, _: &Stub) -> Result<()> {
        Ok(())
    }
    fn remove_stub(&mut self, _: &Dot) -> Result<()> {
        Ok(())
    }
    fn stubs_after(&self, _: Option<&Dot>, _: usize) -> Result<Vec<Stub>> {
        Ok(Vec::new())
    }
    fn names(&self, _: Option<&Name>, _: usize) -> Result<Vec<Name>> {
        Ok(Vec::new())
    }
    fn names_unseen_by(&self, _: &Seen, _: Option<&Name>, _: usize) -> Result<Vec<Name>> {
        Ok(Vec::new())
    }
    fn closed_unseen_by(&self, _: &Seen, _: Option<&Dot>, _: usize) -> Result<Vec<Dot>> {
        Ok(Vec::new())
    }
    fn seen(&self) -> Result<Seen> {
        let mut seen = Seen::default();
        self.seen.iter().for_each(|(origin, set)| seen.set_origin(*origin, set.clone()));
        Ok(seen)
    }
    fn put_seen(&mut self, origin: &Origin, set: &SeenSet) -> Result<()> {
        self.seen.insert(*origin, set.clone());
        Ok(())
    }
    fn record(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.records.get(&(table, key.to_vec())).cloned())
    }
    fn put_record(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        match value {
            Some(value) => self.records.insert((table, key.to_vec()), value.to_vec()),
            None => self.records.remove(&(table, key.to_vec())),
        };
        Ok(())
    }
    fn records(&self, table: Table) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let rows = self.records.iter().filter(|((t, _), _)| *t == table);
        Ok(rows.map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }
}

pub fn id(index: usize) -> NodeId {
    format!("node-{index}").parse().unwrap()
}

#[derive(Debug)]
pub struct Node {
    pub disk: Disk,
    pub council: Option<Council>,
    pub founding: Founding,
    pub key: [u8; 32],
    pub replication_factor: u8,
    pub left: bool,
    pub faults: Faults,
    /// Counts starts, so that answers to an earlier start are lost.
    starts: u64,
    down_since: Instant,
    sequence: u64,
}

#[derive(Debug)]
enum Parcel {
    Request(RequestId, Vec<u8>),
    Response(RequestId, Option<Vec<u8>>),
}

#[derive(Debug)]
struct Letter {
    from: usize,
    to: usize,
    /// The start of the node whose request this is about.
    start: u64,
    parcel: Parcel,
}

/// A write on its way to the home replicas of its name.
#[derive(Debug)]
struct Write {
    coordinator: usize,
    name: Name,
    dot: Dot,
    number: u64,
    lists: Vec<(Vec<NodeId>, usize)>,
    acked: BTreeSet<NodeId>,
    left: Vec<NodeId>,
}

pub struct World {
    pub seed: u64,
    pub rng: fastrand::Rng,
    pub now: Instant,
    pub nodes: Vec<Node>,
    pub forget_after: Duration,
    /// Lost messages in 100.
    pub loss: u8,
    /// Doubled messages in 100.
    pub doubled: u8,
    /// Crashes in 10,000 steps, by the step they undo.
    pub crashes: u32,
    /// The greatest delay of a message.
    pub delay: Duration,
    /// Nodes of different groups hear nothing of each other.
    pub group: Vec<usize>,
    /// The writes in flight advance and new ones begin.
    pub writing: bool,
    /// Whether what a node has seen spreads to others.
    pub exchange: bool,
    pub decided: BTreeMap<(ClusterId, u64), Roster>,
    pub acknowledged: Vec<(Name, Dot)>,
    pub reads: usize,
    pub refusals: Vec<(usize, String)>,
    pub violations: Vec<String>,
    letters: BTreeMap<(Instant, u64), Letter>,
    count: u64,
    writes: Vec<Write>,
    next_tick: Instant,
    /// Of 100 meetings so many exchange what they have seen.
    pub exchange_rate: u8,
    shown: BTreeMap<usize, Vec<(State, [u8; 32])>>,
}

const TICK: Duration = Duration::from_millis(40);
const DEAD_AFTER: Duration = Duration::from_millis(500);

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            rng: fastrand::Rng::with_seed(seed),
            now: Instant::from_micros(1_000_000),
            nodes: Vec::new(),
            forget_after: Duration::from_secs(20),
            loss: 0,
            doubled: 0,
            crashes: 0,
            delay: Duration::from_millis(5),
            group: Vec::new(),
            writing: false,
            exchange: true,
            decided: BTreeMap::new(),
            acknowledged: Vec::new(),
            reads: 0,
            refusals: Vec::new(),
            violations: Vec::new(),
            letters: BTreeMap::new(),
            count: 0,
            writes: Vec::new(),
            next_tick: Instant::ZERO,
            exchange_rate: 100,
            shown: BTreeMap::new(),
        }
    }

    /// A world of a founder and those who join it, none started.
    pub fn of(seed: u64, count: usize) -> Self {
        let mut world = Self::new(seed);
        for index in 0..count {
            let founding = match index {
                0 => Founding::Found { cluster: ClusterId([7; 16]) },
                _ => Founding::Join,
            };
            world.add(founding);
        }
        world
    }

    pub fn add(&mut self, founding: Founding) -> usize {
        let index = self.nodes.len();
        self.nodes.push(Node {
            disk: Disk::default(),
            council: None,
            founding,
            key: [index as u8 + 1; 32],
            replication_factor: 3,
            left: false,
            faults: Faults::default(),
            starts: 0,
            down_since: self.now,
            sequence: 0,
        });
        self.group.push(0);
        index
    }

    pub fn start(&mut self, index: usize) {
        let seed = self.rng.u64(..);
        let fresh = DatabaseId(self.rng.u128(..).to_be_bytes());
        let (now, forget_after) = (self.now, self.forget_after);
        let node = &mut self.nodes[index];
        let config = Config {
            node: id(index),
            key: node.key,
            zone: None,
            capacity: 1 << 40,
            replication_factor: node.replication_factor,
            forget_after,
            founding: node.founding.clone(),
            fresh_database: fresh,
            seed,
        };
        let mut disk = node.disk.clone();
        node.council = Some(Council::open_with_faults(config, node.faults, &mut disk, now).unwrap());
        node.disk = disk;
        node.starts += 1;
        self.shown.remove(&index);
        self.flush(index);
        self.show(index);
    }

    pub fn start_all(&mut self) {
        (0..self.nodes.len()).for_each(|index| self.start(index));
    }

    pub fn crash(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.council = None;
        node.down_since = self.now;
    }

    /// A transaction in which the council is stepped; a crash undoes all of it.
    pub fn step<T>(
        &mut self,
        index: usize,
        verb: impl FnOnce(&mut Council, &mut Disk, Instant) -> T,
    ) -> Option<T> {
        let now = self.now;
        let mut disk = self.nodes[index].disk.clone();
        let council = self.nodes[index].council.as_mut()?;
        council.advance(now);
        let outcome = verb(council, &mut disk, now);
        // Before the commit or after it, but before anything has left.
        let crash = self.rng.u32(..10_000) < self.crashes;
        if crash && self.rng.bool() {
            self.crash(index);
            return None;
        }
        self.nodes[index].disk = disk;
        if crash {
            self.crash(index);
            return None;
        }
        self.flush(index);
        Some(outcome)
    }

    fn flush(&mut self, index: usize) {
        let start = self.nodes[index].starts;
        loop {
            let Some(council) = self.nodes[index].council.as_mut() else { return };
            if let Some((to, request_id, request)) = council.poll_transmit() {
                let bytes = request.to_bytes();
                let to = to.as_str()[5..].parse().unwrap();
                self.post(Letter { from: index, to, start, parcel: Parcel::Request(request_id, bytes) });
            } else if let Some(event) = council.poll_event() {
                let factor = council.constants().map(|c| c.cluster);
                self.note(index, factor, event);
            } else {
                return;
            }
        }
    }

    fn note(&mut self, index: usize, cluster: Option<ClusterId>, event: Event) {
        match event {
            Event::Adopted(roster) => {
                let Some(cluster) = cluster else { return };
                let known = self.decided.entry((cluster, roster.number)).or_insert_with(|| roster.clone());
                if *known != roster {
                    let text = format!("two rosters {}: {known:?} and {roster:?}", roster.number);
                    self.violations.push(text);
                }
            }
            Event::Refused(why) => self.refusals.push((index, why)),
            Event::FloorKnown | Event::Ready(_) | Event::DatabaseReplaced(_) => {}
        }
    }

    fn post(&mut self, letter: Letter) {
        let copies = if self.rng.u8(..100) < self.doubled { 2 } else { 1 };
        for copy in 0..copies {
            let (lost, delay) = (self.rng.u8(..100) < self.loss, self.delay.mul_f64(self.rng.f64()));
            let parcel = match &letter.parcel {
                Parcel::Request(id, bytes) => Parcel::Request(*id, bytes.clone()),
                Parcel::Response(id, bytes) => Parcel::Response(*id, bytes.clone()),
            };
            let lost = lost || copy > 0 && matches!(parcel, Parcel::Response(_, None));
            let at = self.now + delay + Duration::from_micros(100);
            self.count += 1;
            if !lost {
                let copy = Letter { from: letter.from, to: letter.to, start: letter.start, parcel };
                self.letters.insert((at, self.count), copy);
            }
        }
    }

    pub fn connected(&self, a: usize, b: usize) -> bool {
        self.group[a] == self.group[b]
    }

    fn is_up(&self, index: usize) -> bool {
        self.nodes.get(index).is_some_and(|n| n.council.is_some())
    }

    fn deliver(&mut self, letter: Letter) {
        let Letter { from, to, start, parcel } = letter;
        let arrives = self.is_up(to) && self.connected(from, to);
        match parcel {
            Parcel::Request(request_id, bytes) => {
                let key = self.nodes[from].key;
                let answer = arrives.then(|| {
                    let request = Request::from_bytes(&bytes).unwrap();
                    let peer = Peer { node: id(from), key };
                    self.step(to, |c, disk, now| c.handle_request(disk, now, peer, request).unwrap())
                });
                let parcel = Parcel::Response(request_id, answer.flatten().map(|r| r.to_bytes()));
                self.post(Letter { from: to, to: from, start, parcel });
            }
            Parcel::Response(request_id, bytes) => {
                if !self.is_up(to) || self.nodes[to].starts != start {
                    return;
                }
                let result = match bytes {
                    Some(bytes) if arrives => Ok(Response::from_bytes(&bytes).unwrap()),
                    _ => Err(Unreachable),
                };
                self.step(to, |c, disk, now| {
                    c.handle_response(disk, now, request_id, id(from), result).unwrap();
                });
            }
        }
    }

    /// Gossip, as far as councils see it: who is there, and what they announce.
    fn show(&mut self, index: usize) {
        if !self.is_up(index) {
            return;
        }
        let mut members = Vec::new();
        for (other, node) in self.nodes.iter().enumerate() {
            if node.starts == 0 {
                continue;
            }
            let live = node.council.is_some() && self.connected(index, other);
            let fresh = node.council.is_none() && self.now.since(node.down_since) < DEAD_AFTER;
            let state = match (node.left, live || fresh) {
                (true, _) => State::Left,
                (false, true) => State::Alive,
                (false, false) => State::Dead,
            };
            members.push(Member {
                id: id(other),
                state,
                incarnation: 1,
                metadata: Metadata {
                    key: node.key,
                    addr: IpAddr::V4(Ipv4Addr::LOCALHOST),
                    gossip_port: 1,
                    transfer_port: 1,
                    http_port: 1,
                    zone: None,
                    // Least tokens: councils do not look at this ring.
                    capacity: 1,
                    version: String::new(),
                },
            });
        }
        let states = members.iter().map(|m| (m.state, m.metadata.key)).collect();
        if self.shown.get(&index) == Some(&states) {
            return;
        }
        self.shown.insert(index, states);
        let view = View::new(1, 1 << 40, members);
        self.step(index, |c, disk, now| c.handle_view(disk, now, &view).unwrap());
    }

    fn gossip(&mut self) {
        for index in 0..self.nodes.len() {
            if !self.is_up(index) {
                continue;
            }
            self.show(index);
            let other = self.rng.usize(..self.nodes.len());
            if other != index && self.is_up(other) && self.connected(index, other) {
                self.announce(other, index);
                if self.exchange && self.rng.u8(..100) < self.exchange_rate && self.is_up(index) {
                    self.exchange(other, index);
                }
            }
        }
    }

    /// `from` tells `to` its number, database and mark, as every datagram and answer does.
    fn announce(&mut self, from: usize, to: usize) {
        let Some(council) = &self.nodes[from].council else { return };
        let (number, database, mark) = (council.number().unwrap_or(0), council.database(), council.mark());
        self.step(to, |c, disk, now| {
            c.handle_announcement(disk, now, id(from), number, database, mark).unwrap();
        });
    }

    fn exchange(&mut self, from: usize, to: usize) {
        let theirs = self.nodes[from].disk.clone();
        self.step(to, |c, disk, now| {
            if disk.learn_all(&theirs) {
                c.note_commit(disk).unwrap();
            }
            c.handle_seen_grown(disk, now).unwrap();
        });
    }

    // Writes and reads of names.

    /// Has `name` acknowledged by just these replicas, a majority, as a write through the first.
    pub fn write_to(&mut self, name: &str, replicas: &[usize]) -> Dot {
        let node = &mut self.nodes[replicas[0]];
        node.sequence += 1;
        let origin = Origin { node: id(replicas[0]), generation: node.starts };
        let dot = Dot { origin, sequence: node.sequence };
        for index in replicas {
            assert!(self.is_ready(*index));
            self.step(*index, |c, disk, _| {
                disk.learn(dot);
                c.note_commit(disk).unwrap();
            });
            self.announce(*index, replicas[0]);
        }
        self.acknowledged.push((name.parse().unwrap(), dot));
        dot
    }

    fn begin_write(&mut self) {
        let coordinator = self.rng.usize(..self.nodes.len());
        let name: Name = format!("n{}", self.rng.u8(..4)).parse().unwrap();
        let node = &mut self.nodes[coordinator];
        let Some(council) = &mut node.council else { return };
        council.advance(self.now);
        if council.standing().is_err() {
            return;
        }
        node.sequence += 1;
        let origin = Origin { node: id(coordinator), generation: node.starts };
        let dot = Dot { origin, sequence: node.sequence };
        let lists: Vec<_> = council.homes(&name).into_iter().map(|l| (l.nodes, l.majority)).collect();
        let left: BTreeSet<NodeId> = lists.iter().flat_map(|(nodes, _)| nodes).copied().collect();
        let mut left: Vec<NodeId> = left.into_iter().collect();
        self.rng.shuffle(&mut left);
        let number = council.number().unwrap();
        self.writes.push(Write { coordinator, name, dot, number, lists, acked: BTreeSet::new(), left });
    }

    /// Brings one write to one more of its home replicas.
    fn advance_write(&mut self) {
        if self.writes.is_empty() {
            return;
        }
        let at = self.rng.usize(..self.writes.len());
        let write = &mut self.writes[at];
        let Some(replica) = write.left.pop() else {
            self.writes.swap_remove(at);
            return;
        };
        let (coordinator, dot, number) = (write.coordinator, write.dot, write.number);
        let to: usize = replica.as_str()[5..].parse().unwrap();
        if !self.is_up(coordinator) || !self.is_up(to) || !self.connected(coordinator, to) {
            return;
        }
        let kept = self.step(to, |c, disk, now| {
            if c.standing().is_err() || c.number() != Some(number) {
                return false;
            }
            disk.learn(dot);
            c.note_commit(disk).unwrap();
            c.handle_seen_grown(disk, now).unwrap();
            true
        });
        if kept != Some(true) {
            return;
        }
        if to != coordinator {
            self.announce(to, coordinator);
        }
        if !self.is_up(coordinator) {
            return;
        }
        let Some(write) = self.writes.iter_mut().find(|w| w.dot == dot) else { return };
        write.acked.insert(replica);
        let done = |(nodes, majority): &(Vec<NodeId>, usize)| {
            nodes.iter().filter(|n| write.acked.contains(n)).count() >= *majority
        };
        if write.lists.iter().all(done) {
            let entry = (write.name.clone(), dot);
            if !self.acknowledged.contains(&entry) {
                self.acknowledged.push(entry);
            }
        }
    }

    /// Reads a name through `coordinator` from a random majority; a read that gets its majorities
    /// and misses an acknowledged dot is a violation.
    pub fn read(&mut self, coordinator: usize) -> bool {
        let name = format!("n{}", self.rng.u8(..4));
        self.read_name(coordinator, &name)
    }

    /// [`World::read`] of a given name.
    pub fn read_name(&mut self, coordinator: usize, name: &str) -> bool {
        let name: Name = name.parse().unwrap();
        let now = self.now;
        let Some(council) = &mut self.nodes[coordinator].council else { return false };
        council.advance(now);
        if council.standing().is_err() {
            return false;
        }
        let (lists, number) = (council.homes(&name), council.number());
        let mut answers = BTreeSet::new();
        for list in &lists {
            let mut nodes = list.nodes.clone();
            self.rng.shuffle(&mut nodes);
            let mut got = 0;
            for node in nodes {
                let index: usize = node.as_str()[5..].parse().unwrap();
                let reachable = self.connected(coordinator, index);
                let Some(council) = &mut self.nodes[index].council else { continue };
                council.advance(now);
                if reachable
                    && council.standing().is_ok()
                    && council.number() == number
                    && got < list.majority
                {
                    got += 1;
                    answers.insert(index);
                }
            }
            if got < list.majority {
                return false;
            }
        }
        self.reads += 1;
        let missing = self
            .acknowledged
            .iter()
            .find(|(n, dot)| *n == name && !answers.iter().any(|index| self.nodes[*index].disk.has(dot)));
        if let Some((name, dot)) = missing {
            let text = format!(
                "at {:?} node-{coordinator} reads {name} at {number:?} from {answers:?} and misses {dot}",
                self.now
            );
            self.violations.push(text);
        }
        true
    }

    // Running.

    /// Runs until the next thing that happens; gossip always does.
    pub fn turn(&mut self) {
        let timer = |n: &Node| n.council.as_ref().map(Council::poll_timeout);
        let timers = self.nodes.iter().enumerate().filter_map(|(i, n)| timer(n).map(|at| (at, i)));
        let timer = timers.min();
        let letter = self.letters.first_key_value().map(|((at, _), _)| *at);
        let soonest = self.next_tick.min(letter.unwrap_or(self.next_tick));
        match timer {
            Some((at, index)) if at < soonest => {
                self.now = self.now.max(at);
                self.step(index, |c, disk, now| c.handle_timeout(disk, now).unwrap());
            }
            _ if letter == Some(soonest) => {
                if let Some(((at, _), letter)) = self.letters.pop_first() {
                    self.now = self.now.max(at);
                    self.deliver(letter);
                }
            }
            _ => {
                self.now = self.now.max(self.next_tick);
                self.next_tick = self.now + TICK;
                self.gossip();
                if self.writing {
                    self.begin_write();
                    (0..6).for_each(|_| self.advance_write());
                    let reader = self.rng.usize(..self.nodes.len());
                    self.read(reader);
                }
            }
        }
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.turn();
        }
    }

    /// Runs until `done`, or fails after `limit`.
    pub fn run_until(&mut self, what: &str, limit: Duration, done: impl Fn(&Self) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            assert!(self.now < end, "seed {}: not reached: {what}\n{}", self.seed, self.describe());
            self.turn();
        }
        self.check();
    }

    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let line = match &node.council {
                Some(c) => format!(
                    "{index}: {:?} roster {:?} of {} {:?}\n",
                    c.number(),
                    c.roster().map(|r| r.number),
                    c.members().len(),
                    c.standing()
                ),
                None => format!("{index}: down\n"),
            };
            text.push_str(&line);
        }
        text
    }

    pub fn check(&self) {
        assert!(self.violations.is_empty(), "seed {}: {:#?}", self.seed, self.violations);
    }

    /// Whether all are up, hear each other, are ready and know each other's marks.
    pub fn quiet(&mut self) -> bool {
        let whole = self.group.iter().all(|g| *g == self.group[0]);
        if !whole || !(0..self.nodes.len()).all(|index| self.is_ready(index)) {
            return false;
        }
        for from in 0..self.nodes.len() {
            (0..self.nodes.len()).filter(|to| *to != from).for_each(|to| self.announce(from, to));
        }
        (0..self.nodes.len()).all(|index| self.is_ready(index))
    }

    pub fn council(&self, index: usize) -> &Council {
        self.nodes[index].council.as_ref().unwrap()
    }

    pub fn is_ready(&self, index: usize) -> bool {
        self.nodes[index].council.as_ref().is_some_and(|c| c.standing().is_ok())
    }

    /// Whether all of these are ready under one number, in a roster of just them.
    pub fn settled(&self, members: &[usize]) -> bool {
        let ids: BTreeSet<NodeId> = members.iter().map(|i| id(*i)).collect();
        let number = |i: &usize| self.nodes[*i].council.as_ref().and_then(Council::number);
        members.iter().all(|i| self.is_ready(*i) && number(i) == number(&members[0]))
            && members.iter().all(|i| {
                let c = self.council(*i);
                c.members().iter().map(|(id, _)| *id).eq(ids.iter().copied())
                    && c.number().is_some_and(|n| n % 2 == 1)
            })
    }
}
