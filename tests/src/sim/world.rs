//! The loop: takes the next event, lets a process handle it, schedules what comes of it.
//!
//! A process has its own origin of time, so that no instant of one run means anything to another.
//! What a step produces leaves only after the step is durable; a kill in between loses it. While
//! a process is frozen everything for it waits, and is handed over before its timers when it goes
//! on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use kepler_protocol::node_id::NodeId;
use kepler_protocol::time::{Instant, UnixMillis};

use super::clock_heap::{ClockHeap, Trace};
use super::network::{Link, Network, Place};
use super::process::{Answer, Ask, Clocks, Durable, Input, Output, Process, Seat, Word};
use super::rng;

/// The most that waits for a frozen process: what socket buffers hold.
const MAX_MAILBOX: usize = 4096;

/// How long a client waits.
const CLIENT_PATIENCE: Duration = Duration::from_secs(40);

/// What is scheduled.
enum Event<P: Process> {
    Deliver { to: Place, run: Option<u64>, input: Input<P> },
    Answered { from: Place, to: Place, run: u64, id: u64, response: Option<P::Response> },
    Forged { to: Place, from: Place, bytes: Vec<u8>, forgery: Forgery },
    Effect { from: Place, run: u64, output: Output<P> },
    Wake { place: Place, run: u64, at: Instant },
    Impatient { operation: u64 },
    Mark(u64),
}

/// What was done to a datagram that somebody overheard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgery {
    /// A bit was flipped.
    Altered,
    /// It came once more, later.
    Replayed,
    /// It went back to whoever sent it.
    Reflected,
    /// It was made of nothing.
    Garbage,
}

/// A node: its disk, and its process while it runs.
pub struct Node<P: Process> {
    /// Its id.
    pub id: NodeId,
    /// What a kill leaves.
    pub durable: P::Durable,
    /// The running process.
    pub process: Option<P>,
    /// Counts starts.
    pub run: u64,
    /// The wall clock minus virtual time, in milliseconds.
    pub wall: i64,
    origin: Instant,
    frozen: bool,
    mailbox: Vec<Input<P>>,
    wake: Option<Instant>,
}

/// Where an answer to a request goes.
struct Return {
    from: Place,
    to: Place,
    run: u64,
    id: u64,
}

/// What the world tells whoever drives it.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one at a time is in flight")]
pub enum Happening {
    /// A process made a step.
    Stepped(Place),
    /// A client was answered.
    Answered {
        /// Its operation.
        operation: u64,
        /// By whom.
        place: Place,
        /// What.
        answer: Answer,
    },
    /// A client gave up: its process died, or took too long.
    Broken {
        /// Its operation.
        operation: u64,
    },
    /// A mark set by [`World::mark`] was reached.
    Mark(u64),
    /// A forged datagram changed what a process believes of the members.
    Tampered {
        /// Who believed it.
        place: Place,
        /// What was done.
        forgery: Forgery,
    },
    /// A process could not make a step durable and is gone.
    Stopped(Place),
    /// A process has left the cluster and is gone.
    Left(Place),
}

/// Counters for people.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Events handled.
    pub events: u64,
    /// Steps made by processes.
    pub steps: u64,
    /// Forged datagrams delivered.
    pub forged: u64,
}

/// A cluster.
pub struct World<P: Process> {
    /// Time and what is to come.
    heap: ClockHeap<Event<P>>,
    /// What becomes of messages.
    pub network: Network,
    /// The nodes, by place.
    pub nodes: Vec<Node<P>>,
    /// The fingerprint of all that happened.
    pub trace: Trace,
    /// Counters.
    pub counts: Counts,
    config: P::Config,
    seed: u64,
    returns: BTreeMap<u64, Return>,
    open: BTreeSet<(Place, u64, u64)>,
    waiting: BTreeMap<u64, (Place, u64)>,
    next_token: u64,
    happenings: VecDeque<Happening>,
    random: fastrand::Rng,
    attacker: fastrand::Rng,
}

impl<P: Process> World<P> {
    /// A cluster of nodes that are all blank and do not run yet.
    pub fn new(seed: u64, nodes: usize, config: P::Config, usual: Link) -> Self {
        let ids: Vec<NodeId> = (0..nodes).map(id_of).collect();
        let nodes = (0..nodes)
            .map(|place| Node {
                id: ids[place],
                durable: P::blank(&config, &seat(seed, place, &ids, 0)),
                process: None,
                run: 0,
                wall: 1_700_000_000_000,
                origin: Instant::ZERO,
                frozen: false,
                mailbox: Vec::new(),
                wake: None,
            })
            .collect();
        Self {
            heap: ClockHeap::default(),
            network: Network::new(usual, rng::stream(seed, "network", 0)),
            nodes,
            trace: Trace::default(),
            counts: Counts::default(),
            config,
            seed,
            returns: BTreeMap::new(),
            open: BTreeSet::new(),
            waiting: BTreeMap::new(),
            next_token: 0,
            happenings: VecDeque::new(),
            random: rng::stream(seed, "world", 0),
            attacker: rng::stream(seed, "attacker", 0),
        }
    }

    /// Virtual time.
    pub fn now(&self) -> Instant {
        self.heap.now()
    }

    /// The wall clock of a node.
    pub fn wall(&self, place: Place) -> UnixMillis {
        let millis = (self.now().as_micros() / 1000) as i64;
        UnixMillis(self.nodes[place].wall.saturating_add(millis).max(0) as u64)
    }

    fn clocks(&self, place: Place) -> Clocks {
        let since = self.now().since(self.nodes[place].origin);
        Clocks { now: Instant::ZERO + since, wall: self.wall(place) }
    }

    /// Has [`Happening::Mark`] told at an instant.
    pub fn mark(&mut self, at: Instant, mark: u64) {
        self.heap.at(at, Event::Mark(mark));
    }

    /// Whether a process runs at a place, frozen or not.
    pub fn is_up(&self, place: Place) -> bool {
        self.nodes[place].process.is_some()
    }

    /// Whether a process runs and is not frozen.
    pub fn is_responsive(&self, place: Place) -> bool {
        self.is_up(place) && !self.nodes[place].frozen
    }

    /// Who sits at a place.
    pub fn seat(&self, place: Place) -> Seat {
        let ids: Vec<NodeId> = self.nodes.iter().map(|n| n.id).collect();
        seat(self.seed, place, &ids, self.nodes[place].run)
    }

    /// Starts the process of a place, unless it runs.
    pub fn start(&mut self, place: Place) {
        if self.is_up(place) {
            return;
        }
        self.trace.mix(1000 + place as u64);
        self.nodes[place].run += 1;
        self.nodes[place].origin = self.now();
        let (seat, clocks) = (self.seat(place), self.clocks(place));
        let node = &mut self.nodes[place];
        match P::start(&self.config, seat, &mut node.durable, clocks) {
            Ok(process) => {
                node.process = Some(process);
                self.flush(place);
            }
            Err(_) => self.happenings.push_back(Happening::Stopped(place)),
        }
    }

    /// Kills the process of a place. With `power_cut`, what was not synced may be gone too.
    pub fn kill(&mut self, place: Place, power_cut: bool) {
        self.trace.mix(2000 + place as u64);
        let node = &mut self.nodes[place];
        node.process = None;
        (node.frozen, node.wake) = (false, None);
        node.mailbox.clear();
        if power_cut {
            node.durable.power_cut(&mut self.random);
        }
        let orphans: Vec<u64> =
            self.waiting.iter().filter(|(_, (at, _))| *at == place).map(|(op, _)| *op).collect();
        for operation in orphans {
            self.waiting.remove(&operation);
            self.happenings.push_back(Happening::Broken { operation });
        }
    }

    /// Makes the disk of a place that does not run as if it never had been there.
    pub fn wipe(&mut self, place: Place) {
        let seat = self.seat(place);
        self.nodes[place].durable = P::blank(&self.config, &seat);
    }

    /// Stops a process in its tracks.
    pub fn freeze(&mut self, place: Place) {
        self.nodes[place].frozen = self.is_up(place);
    }

    /// Lets a process go on: first what waited for it, then its timers.
    pub fn thaw(&mut self, place: Place) {
        if !std::mem::take(&mut self.nodes[place].frozen) {
            return;
        }
        for input in std::mem::take(&mut self.nodes[place].mailbox) {
            self.deliver(place, input);
        }
        let run = self.nodes[place].run;
        let now = self.now();
        self.heap.at(now, Event::Wake { place, run, at: now });
        self.nodes[place].wake = Some(now);
    }

    /// Sends a client's question to a node that runs.
    pub fn ask(&mut self, place: Place, operation: u64, ask: Ask) {
        let run = self.nodes[place].run;
        self.waiting.insert(operation, (place, run));
        self.heap.after(CLIENT_PATIENCE, Event::Impatient { operation });
        self.heap.after(
            Duration::from_micros(100),
            Event::Deliver { to: place, run: Some(run), input: Input::Client { operation, ask } },
        );
    }

    /// Hands a node that runs what its operator asks.
    pub fn operate(&mut self, place: Place, word: Word) {
        let run = self.nodes[place].run;
        let now = self.now();
        self.heap.at(now, Event::Deliver { to: place, run: Some(run), input: Input::Operator(word) });
    }

    /// An attacker who overhears a datagram that arrived at `arrived` sends something like it.
    fn forge(&mut self, from: Place, to: Place, arrived: Instant, bytes: &[u8]) {
        let forgeries = [Forgery::Altered, Forgery::Replayed, Forgery::Reflected, Forgery::Garbage];
        let forgery = forgeries[self.attacker.usize(0..forgeries.len())];
        let mut bytes = bytes.to_vec();
        let (mut from, mut to) = (from, to);
        match forgery {
            Forgery::Altered if !bytes.is_empty() => {
                let at = self.attacker.usize(0..bytes.len());
                bytes[at] ^= 1 << self.attacker.u8(0..8);
            }
            Forgery::Garbage => bytes.iter_mut().for_each(|byte| *byte = self.attacker.u8(..)),
            Forgery::Reflected => std::mem::swap(&mut from, &mut to),
            Forgery::Altered | Forgery::Replayed => {}
        }
        let at = arrived + Duration::from_millis(self.attacker.u64(1..20_000));
        self.heap.at(at, Event::Forged { to, from, bytes, forgery });
    }

    /// The next thing that happens not later than `until`.
    pub fn next(&mut self, until: Instant) -> Option<Happening> {
        loop {
            if let Some(happening) = self.happenings.pop_front() {
                return Some(happening);
            }
            let event = self.heap.next(until)?;
            self.counts.events += 1;
            self.trace.mix(self.heap.now().as_micros());
            self.step(event);
        }
    }

    fn step(&mut self, event: Event<P>) {
        match event {
            Event::Deliver { to, run, input } => {
                if run.is_none_or(|run| run == self.nodes[to].run) {
                    self.deliver(to, input);
                }
            }
            Event::Answered { from, to, run, id, response } => {
                let first = self.open.remove(&(to, run, id));
                // A deadline is told once; an answer as often as it comes.
                if run == self.nodes[to].run && (first || response.is_some()) {
                    self.deliver(to, Input::Response { from, id, response });
                }
            }
            Event::Forged { to, from, bytes, forgery } => {
                if !self.is_responsive(to) {
                    return;
                }
                self.counts.forged += 1;
                let before = self.nodes[to].process.as_ref().map(P::membership);
                self.deliver(to, Input::Datagram { from, bytes });
                if before != self.nodes[to].process.as_ref().map(P::membership) {
                    self.happenings.push_back(Happening::Tampered { place: to, forgery });
                }
            }
            Event::Effect { from, run, output } => {
                if run == self.nodes[from].run && self.is_up(from) {
                    self.effect(from, output);
                }
            }
            Event::Wake { place, run, at } => {
                let node = &self.nodes[place];
                if run == node.run && !node.frozen && node.wake == Some(at) {
                    self.nodes[place].wake = None;
                    self.deliver(place, Input::Timeout);
                }
            }
            Event::Impatient { operation } => {
                if self.waiting.remove(&operation).is_some() {
                    self.happenings.push_back(Happening::Broken { operation });
                }
            }
            Event::Mark(mark) => self.happenings.push_back(Happening::Mark(mark)),
        }
    }

    fn deliver(&mut self, place: Place, input: Input<P>) {
        let clocks = self.clocks(place);
        self.trace.mix(place as u64 * 8 + kind_of(&input));
        if let Input::Datagram { bytes, .. } = &input {
            self.trace.mix_bytes(bytes);
        }
        let node = &mut self.nodes[place];
        if node.frozen {
            if node.mailbox.len() < MAX_MAILBOX {
                node.mailbox.push(input);
            }
            return;
        }
        let Some(process) = &mut node.process else { return };
        self.counts.steps += 1;
        if process.handle(&mut node.durable, clocks, input).is_err() {
            self.kill(place, false);
            self.happenings.push_back(Happening::Stopped(place));
            return;
        }
        self.happenings.push_back(Happening::Stepped(place));
        self.flush(place);
    }

    /// Schedules what a step produced, and the next time the process wants to be woken.
    fn flush(&mut self, place: Place) {
        let node = &mut self.nodes[place];
        let (run, origin) = (node.run, node.origin);
        let Some(process) = &mut node.process else { return };
        let leave = self.heap.now() + process.commit_time(&node.durable);
        while let Some(output) = process.poll() {
            self.heap.at(leave, Event::Effect { from: place, run, output });
        }
        let Some(wanted) = process.poll_timeout() else {
            node.wake = None;
            return;
        };
        let at = (origin + wanted.since(Instant::ZERO)).max(self.heap.now() + Duration::from_micros(1));
        if node.wake != Some(at) {
            node.wake = Some(at);
            self.heap.at(at, Event::Wake { place, run, at });
        }
    }

    fn effect(&mut self, from: Place, output: Output<P>) {
        let now = self.now();
        match output {
            Output::Exit => {
                self.kill(from, false);
                self.happenings.push_back(Happening::Left(from));
            }
            Output::Datagram { to, bytes } => {
                let forged = self.network.link(from, to).forged;
                let arrivals = self.network.datagram(now, from, to, bytes.len());
                if let Some(last) = arrivals.iter().max()
                    && rng::chance(&mut self.attacker, forged)
                {
                    self.forge(from, to, *last, &bytes);
                }
                for at in arrivals {
                    let input = Input::Datagram { from, bytes: bytes.clone() };
                    self.heap.at(at, Event::Deliver { to, run: None, input });
                }
            }
            Output::Request { to, id, request, deadline } => {
                let (run, origin) = (self.nodes[from].run, self.nodes[from].origin);
                let deadline = origin + deadline.since(Instant::ZERO);
                self.open.insert((from, run, id));
                let arrivals = self.network.stream(now, from, to, 300);
                // Whoever does not run refuses the connection, if the way there and back is open.
                if !self.is_up(to) && !arrivals.is_empty() && self.network.link(to, from).streams {
                    let at = arrivals[0] + Duration::from_millis(1);
                    self.heap.at(at, Event::Answered { from: to, to: from, run, id, response: None });
                    return;
                }
                self.heap.at(deadline, Event::Answered { from: to, to: from, run, id, response: None });
                for at in arrivals {
                    self.next_token += 1;
                    let token = self.next_token;
                    self.returns.insert(token, Return { from: to, to: from, run, id });
                    let input = Input::Request { from, token, request: request.clone() };
                    self.heap.at(at, Event::Deliver { to, run: None, input });
                }
            }
            Output::Response { token, response } => {
                let Some(Return { from, to, run, id }) = self.returns.remove(&token) else { return };
                for at in self.network.stream(now, from, to, 300) {
                    let response = Some(response.clone());
                    self.heap.at(at, Event::Answered { from, to, run, id, response });
                }
            }
            Output::Answer { operation, answer } => {
                if self.waiting.remove(&operation).is_some() {
                    self.happenings.push_back(Happening::Answered { operation, place: from, answer });
                }
            }
        }
    }
}

fn kind_of<P: Process>(input: &Input<P>) -> u64 {
    match input {
        Input::Datagram { .. } => 0,
        Input::Request { .. } => 1,
        Input::Response { .. } => 2,
        Input::Client { .. } => 3,
        Input::Timeout => 4,
        Input::Operator(_) => 5,
    }
}

/// The node id of a place.
pub fn id_of(place: Place) -> NodeId {
    format!("n{place}").parse().expect("letters and digits make a node id")
}

fn seat(seed: u64, place: Place, ids: &[NodeId], run: u64) -> Seat {
    Seat { place, id: ids[place], ids: ids.to_vec(), run, seed }
}
