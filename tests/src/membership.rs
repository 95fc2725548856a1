//! A small discrete-event network of real [`Swim`] machines: loss, delay, duplication, one-way cuts,
//! starvation, pauses, kills and restarts, from one seed.
//!
//! Invariants: everything that happens follows from the seed and the calls of the test; a node handles all that waits
//! in its inbox before its timers, as the product's driver does; a starved node may handle only so many
//! datagrams, stream events and timers a second.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kepler_protocol::identity::ClusterId;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::roster::Constants;
use kepler_protocol::swim::{Config, Event, Record, SigningKey, Swim};
use kepler_protocol::time::Instant;
use kepler_protocol::view::{Metadata, State};
use kepler_protocol::wire::seal::KeyRing;
use sha2::{Digest, Sha256};

/// Items that a node's inbox holds; datagrams beyond are lost, as in a socket's buffer.
const INBOX: usize = 1_000;

/// What a node receives.
#[derive(Clone, Debug)]
enum Item {
    Datagram { from: SocketAddr, bytes: Vec<u8> },
    StreamAsk { from: usize, token: u64 },
    StreamAnswer { token: u64, ok: bool },
    ExchangeRequest { from: usize, payload: Vec<u8> },
    ExchangeAnswer { payload: Vec<u8> },
}

#[derive(Debug)]
enum Happening {
    Arrive { node: usize, process: u64, item: Item },
    Wake { node: usize },
}

/// Ordered by time, then by number: two things at one time happen in the order in which they were planned.
#[derive(Debug)]
struct Planned(Instant, u64, Happening);

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Planned {}
impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// How the network treats datagrams.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Probability that a datagram is lost.
    pub loss: f64,
    /// Probability that it arrives twice.
    pub duplication: f64,
    /// Least and greatest delay.
    pub delay: (Duration, Duration),
}

impl Default for Link {
    fn default() -> Self {
        Self { loss: 0.0, duplication: 0.0, delay: (Duration::from_micros(200), Duration::from_millis(2)) }
    }
}

/// One simulated host.
pub struct Host {
    /// Its process, if it runs.
    pub swim: Option<Swim>,
    id: NodeId,
    key: u8,
    /// Counts processes: what arrives for an earlier one is lost.
    process: u64,
    peers: Vec<Arc<Record>>,
    inbox: VecDeque<Item>,
    wake_at: Option<Instant>,
    free_at: Instant,
    paused_until: Option<Instant>,
    /// Events a second, if it is starved.
    pub budget: Option<f64>,
    ready: bool,
}

/// A change that a node saw in its view.
#[derive(Clone, Debug)]
pub struct Observed {
    /// When.
    pub at: Instant,
    /// Who saw it.
    pub observer: usize,
    /// About whom.
    pub subject: usize,
    /// Before.
    pub previous: Option<State>,
    /// After.
    pub state: State,
    /// Whether the subject's process was running and not paused then.
    pub alive: bool,
    /// Whether the subject was starved.
    pub starved: bool,
}

/// The network and its hosts.
pub struct Net {
    /// Virtual time.
    pub now: Instant,
    /// The hosts, by index.
    pub hosts: Vec<Host>,
    /// How datagrams travel.
    pub link: Link,
    /// Hosts of different sides do not hear each other.
    pub side: Vec<u8>,
    /// (from, to): nothing passes this way.
    pub cuts: BTreeSet<(usize, usize)>,
    /// UDP is blocked, streams pass.
    pub udp_blocked: BTreeSet<usize>,
    /// What nodes saw.
    pub seen: Vec<Observed>,
    /// Whether `seen` is kept.
    pub keep_seen: bool,
    /// Datagrams as an eavesdropper has them, if asked for: from, to, bytes.
    pub captured: Option<Vec<(usize, usize, Vec<u8>)>>,
    /// Datagrams and their bytes sent, headers of IP and UDP (28 bytes) included.
    pub sent: (u64, u64),
    /// The longest datagram.
    pub longest: usize,
    period: Duration,
    keys: KeyRing,
    seeds: Vec<usize>,
    /// Exchanges over streams work.
    pub streams: bool,
    rng: fastrand::Rng,
    heap: BinaryHeap<Reverse<Planned>>,
    planned: u64,
    trace: Sha256,
    events: u64,
}

/// The constants of every simulated cluster.
pub fn constants() -> Constants {
    Constants { cluster: ClusterId([7; 16]), reference_capacity: 1 << 30, replication_factor: 3 }
}

/// The address of a host.
pub fn address(host: usize) -> SocketAddr {
    let [_, b, c, d] = (host as u32).to_be_bytes();
    SocketAddr::new(Ipv4Addr::new(10, b, c, d).into(), 4000)
}

fn host_at(addr: SocketAddr) -> usize {
    match addr {
        SocketAddr::V4(v4) => {
            let [_, b, c, d] = v4.ip().octets();
            u32::from_be_bytes([0, b, c, d]) as usize
        }
        SocketAddr::V6(_) => usize::MAX,
    }
}

/// The id of a host.
pub fn node_id(host: usize) -> NodeId {
    format!("n{host:05}").parse().expect("a node id")
}

fn host_of(id: &NodeId) -> usize {
    id.as_str()[1..].parse().expect("ids are made by node_id")
}

/// Nearest-rank percentile of sorted or unsorted durations.
pub fn percentile(times: &[Duration], percent: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

impl Net {
    /// An empty network.
    pub fn new(seed: u64) -> Self {
        Self {
            now: Instant::ZERO,
            hosts: Vec::new(),
            link: Link::default(),
            side: Vec::new(),
            cuts: BTreeSet::new(),
            udp_blocked: BTreeSet::new(),
            seen: Vec::new(),
            keep_seen: true,
            captured: None,
            sent: (0, 0),
            longest: 0,
            period: Duration::from_millis(500),
            keys: KeyRing::open_to_all(),
            seeds: Vec::new(),
            streams: true,
            rng: fastrand::Rng::with_seed(seed),
            heap: BinaryHeap::new(),
            planned: 0,
            trace: Sha256::new(),
            events: 0,
        }
    }

    /// `n` hosts that form a cluster already.
    pub fn formed(seed: u64, n: usize) -> Self {
        let mut net = Self::new(seed);
        for _ in 0..n {
            net.add(Some(constants()));
        }
        let records: Vec<_> =
            net.hosts.iter().filter_map(|h| h.swim.as_ref()).map(|s| s.own_record().clone()).collect();
        for host in &mut net.hosts {
            let swim = host.swim.as_mut().expect("was just added");
            swim.assume(records.iter().cloned());
            while swim.poll_event().is_some() {}
        }
        net
    }

    /// The hosts that later ones join through.
    pub fn set_seeds(&mut self, seeds: &[usize]) {
        self.seeds = seeds.to_vec();
    }

    /// Adds a host and starts it; ready at once.
    pub fn add(&mut self, constants: Option<Constants>) -> usize {
        let host = self.hosts.len();
        self.hosts.push(Host {
            swim: None,
            id: node_id(host),
            key: 0,
            process: 0,
            peers: Vec::new(),
            inbox: VecDeque::new(),
            wake_at: None,
            free_at: self.now,
            paused_until: None,
            budget: None,
            ready: true,
        });
        self.side.push(0);
        self.boot(host, constants);
        host
    }

    fn boot(&mut self, host: usize, constants: Option<Constants>) {
        let SocketAddr::V4(addr) = address(host) else { unreachable!("addresses are made as IPv4") };
        let entry = &mut self.hosts[host];
        entry.process += 1;
        let mut secret = [entry.key; 32];
        secret[..8].copy_from_slice(&(host as u64).to_be_bytes());
        let config = Config {
            id: entry.id,
            identity: SigningKey::from_bytes(&secret),
            metadata: Metadata {
                key: [0; 32],
                addr: (*addr.ip()).into(),
                gossip_port: addr.port(),
                transfer_port: 5000,
                http_port: 3000,
                zone: None,
                capacity: 1 << 30,
                version: "0.1.0".into(),
            },
            keys: self.keys.clone(),
            epoch: entry.process,
            period: self.period,
            seeds: self.seeds.iter().filter(|s| **s != host).map(|s| address(*s)).collect(),
            peers: entry.peers.clone(),
            constants,
        };
        let mut swim = Swim::new(self.now, config, fastrand::Rng::with_seed(self.rng.u64(..)));
        swim.set_ready(entry.ready);
        while swim.poll_event().is_some() {}
        entry.swim = Some(swim);
        entry.free_at = self.now;
        self.plan_wake(host);
    }

    /// kill -9: what it knew of peers stays on its disk.
    pub fn kill(&mut self, host: usize) {
        let entry = &mut self.hosts[host];
        if let Some(swim) = entry.swim.take() {
            entry.peers = swim.members().map(|(_, record)| record.clone()).collect();
        }
        entry.inbox.clear();
        entry.wake_at = None;
        entry.paused_until = None;
    }

    /// Starts a killed host again from its disk.
    pub fn restart(&mut self, host: usize) {
        self.boot(host, Some(constants()));
    }

    /// Starts a killed host again with an empty disk: another key, no peers, and only seeds to find anybody.
    pub fn restart_blank(&mut self, host: usize) {
        let entry = &mut self.hosts[host];
        entry.peers.clear();
        entry.key += 1;
        entry.process = 0;
        self.boot(host, None);
    }

    /// A second host that uses the id of `host`, with another key.
    pub fn impersonate(&mut self, host: usize) -> usize {
        let thief = self.add(None);
        self.kill(thief);
        self.hosts[thief].id = node_id(host);
        self.hosts[thief].key = 99;
        self.hosts[thief].process = 0;
        self.boot(thief, None);
        thief
    }

    /// SIGSTOP for a while.
    pub fn pause(&mut self, host: usize, time: Duration) {
        self.hosts[host].paused_until = Some(self.now + time);
        self.plan_wake(host);
    }

    /// Whether a host's process runs and is not paused.
    pub fn is_alive(&self, host: usize) -> bool {
        let host = &self.hosts[host];
        host.swim.is_some() && host.paused_until.is_none_or(|until| until <= self.now)
    }

    /// Calls a host's machine and carries out what it wants.
    pub fn with<T>(&mut self, host: usize, call: impl FnOnce(&mut Swim, Instant) -> T) -> T {
        let now = self.now;
        let result = call(self.hosts[host].swim.as_mut().expect("the host runs"), now);
        self.flush(host);
        self.plan_wake(host);
        result
    }

    /// What `observer` thinks of `subject`.
    pub fn state(&self, observer: usize, subject: usize) -> Option<State> {
        self.hosts[observer].swim.as_ref()?.member(&node_id(subject)).map(|(state, _)| state)
    }

    /// Whether every running host sees every running host in `state`.
    pub fn all_see(&self, state: State) -> bool {
        let running: Vec<usize> = (0..self.hosts.len()).filter(|h| self.is_alive(*h)).collect();
        running.iter().all(|a| running.iter().all(|b| a == b || self.state(*a, *b) == Some(state)))
    }

    /// Whether every running host but `subject` sees `subject` in `state`.
    pub fn everybody_sees(&self, subject: usize, state: State) -> bool {
        (0..self.hosts.len())
            .filter(|h| *h != subject && self.is_alive(*h))
            .all(|h| self.state(h, subject) == Some(state))
    }

    /// Runs for a while.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.run_to(end);
    }

    fn run_to(&mut self, end: Instant) {
        while let Some(Reverse(next)) = self.heap.peek() {
            if next.0 > end {
                break;
            }
            let Some(Reverse(Planned(at, _, happening))) = self.heap.pop() else { break };
            self.now = at;
            self.happen(happening);
        }
        self.now = end;
    }

    /// Runs until `wanted`, looked at every 50 ms; the time it took, or none after `most`.
    pub fn run_until(&mut self, most: Duration, wanted: impl Fn(&Self) -> bool) -> Option<Duration> {
        let start = self.now;
        loop {
            if wanted(self) {
                return Some(self.now - start);
            }
            if self.now - start >= most {
                return None;
            }
            self.run(Duration::from_millis(50));
        }
    }

    /// Hash of all that happened.
    pub fn trace(&self) -> [u8; 32] {
        self.trace.clone().finalize().into()
    }

    /// Things that happened.
    pub const fn events(&self) -> u64 {
        self.events
    }

    fn plan(&mut self, at: Instant, happening: Happening) {
        self.planned += 1;
        self.heap.push(Reverse(Planned(at, self.planned, happening)));
    }

    fn happen(&mut self, happening: Happening) {
        self.events += 1;
        match happening {
            Happening::Arrive { node, process, item } => {
                let host = &mut self.hosts[node];
                if host.swim.is_none() || host.process != process {
                    return;
                }
                if host.inbox.len() >= INBOX && matches!(item, Item::Datagram { .. }) {
                    return;
                }
                host.inbox.push_back(item);
                self.plan_wake(node);
            }
            Happening::Wake { node } => {
                if self.hosts[node].wake_at == Some(self.now) {
                    self.hosts[node].wake_at = None;
                    self.turn(node);
                }
            }
        }
    }

    /// Lets a host do one thing: the oldest item of its inbox, or, when that is empty, its timers.
    fn turn(&mut self, node: usize) {
        let now = self.now;
        let host = &mut self.hosts[node];
        if host.paused_until.is_some_and(|until| until > now) {
            return self.plan_wake(node);
        }
        host.paused_until = None;
        let Some(swim) = host.swim.as_mut() else { return };
        let mut answer = None;
        match host.inbox.pop_front() {
            Some(Item::Datagram { from, bytes }) => swim.handle_datagram(now, from, &bytes),
            Some(Item::StreamAsk { from, token }) => {
                answer = Some((from, Item::StreamAnswer { token, ok: true }))
            }
            Some(Item::StreamAnswer { token, ok }) => swim.handle_stream_probe(now, token, ok),
            Some(Item::ExchangeRequest { from, payload }) => {
                if let Ok(payload) = swim.handle_exchange_request(now, &payload) {
                    answer = Some((from, Item::ExchangeAnswer { payload }));
                }
            }
            Some(Item::ExchangeAnswer { payload }) => {
                let _ = swim.handle_exchange_response(now, &payload);
            }
            None => swim.handle_timeout(now),
        }
        if let Some(budget) = host.budget {
            host.free_at = now + Duration::from_secs_f64(1.0 / budget);
        }
        if let Some((to, item)) = answer {
            self.stream(node, to, item);
        }
        self.flush(node);
        self.plan_wake(node);
    }

    fn plan_wake(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        let Some(swim) = host.swim.as_ref() else { return };
        let due = if host.inbox.is_empty() { swim.poll_timeout() } else { Some(self.now) };
        let Some(due) = due else { return };
        let at = due.max(self.now).max(host.free_at).max(host.paused_until.unwrap_or_default());
        if host.wake_at != Some(at) {
            host.wake_at = Some(at);
            self.plan(at, Happening::Wake { node });
        }
    }

    fn passes(&self, from: usize, to: usize) -> bool {
        self.side[from] == self.side[to] && !self.cuts.contains(&(from, to))
    }

    fn delay(&mut self) -> Duration {
        let (least, most) = self.link.delay;
        least + (most - least).mul_f64(self.rng.f64())
    }

    /// Sends all datagrams and acts on all events of a host.
    fn flush(&mut self, node: usize) {
        let Some(mut swim) = self.hosts[node].swim.take() else { return };
        while let Some(transmit) = swim.poll_transmit() {
            self.note(node, host_at(transmit.to), transmit.datagram.len());
            self.transmit(node, host_at(transmit.to), transmit.datagram);
        }
        while let Some(event) = swim.poll_event() {
            match event {
                Event::MemberChanged { node: subject, previous, state } => {
                    self.saw(node, host_of(&subject), previous, state);
                }
                Event::StreamProbe { target, token } => {
                    // A stream proves the identity at its other end.
                    let key = swim.member(&target).map(|(_, s)| s.metadata.key);
                    self.stream_probe(node, host_of(&target), token, key);
                }
                Event::PushPull { to } if self.streams => {
                    let payload = swim.exchange_payload();
                    self.stream(node, host_of(&to), Item::ExchangeRequest { from: node, payload });
                }
                _ => {}
            }
        }
        self.hosts[node].swim = Some(swim);
    }

    fn note(&mut self, node: usize, to: usize, len: usize) {
        self.sent.0 += 1;
        self.sent.1 += len as u64 + 28;
        self.longest = self.longest.max(len);
        for number in [self.now.as_micros(), node as u64, to as u64, len as u64] {
            self.trace.update(number.to_be_bytes());
        }
    }

    fn saw(&mut self, observer: usize, subject: usize, previous: Option<State>, state: State) {
        self.trace.update([state as u8]);
        self.trace.update((subject as u64).to_be_bytes());
        if self.keep_seen && observer != subject {
            let (alive, starved) = (self.is_alive(subject), self.hosts[subject].budget.is_some());
            self.seen.push(Observed { at: self.now, observer, subject, previous, state, alive, starved });
        }
    }

    fn transmit(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        if to >= self.hosts.len() {
            return;
        }
        if let Some(captured) = &mut self.captured {
            captured.push((from, to, bytes.clone()));
        }
        let blocked = self.udp_blocked.contains(&from) || self.udp_blocked.contains(&to);
        if blocked || !self.passes(from, to) || self.rng.f64() < self.link.loss {
            return;
        }
        if self.rng.f64() < self.link.duplication {
            let again = self.delay() * 3;
            self.arrive(to, again, Item::Datagram { from: address(from), bytes: bytes.clone() });
        }
        let delay = self.delay();
        self.arrive(to, delay, Item::Datagram { from: address(from), bytes });
    }

    /// Hands bytes to a host as if they came from `from`.
    pub fn inject(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        self.arrive(to, Duration::ZERO, Item::Datagram { from: address(from), bytes });
    }

    fn arrive(&mut self, node: usize, delay: Duration, item: Item) {
        let process = self.hosts[node].process;
        self.plan(self.now + delay, Happening::Arrive { node, process, item });
    }

    /// A stream needs both directions; loss costs it a retransmission.
    fn stream(&mut self, from: usize, to: usize, item: Item) {
        if !self.passes(from, to) || !self.passes(to, from) {
            return;
        }
        let mut delay = self.delay() * 2;
        while self.rng.f64() < self.link.loss {
            delay += Duration::from_millis(200);
        }
        self.arrive(to, delay, item);
    }

    fn stream_probe(&mut self, from: usize, to: usize, token: u64, key: Option<[u8; 32]>) {
        if !self.passes(from, to) || !self.passes(to, from) {
            return;
        }
        let there = self.hosts[to].swim.as_ref().map(|s| s.own_record().statement().metadata.key);
        if there.is_some() && there == key {
            self.stream(from, to, Item::StreamAsk { from, token });
        } else {
            // Nothing listens on the port any more, or somebody else does: refused.
            let delay = self.delay() * 2;
            self.arrive(from, delay, Item::StreamAnswer { token, ok: false });
        }
    }
}
