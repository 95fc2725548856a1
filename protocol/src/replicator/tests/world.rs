//! A toy cluster: replicators with shelves, messages that are late or lost, crashes, and each node's
//! own and sometimes wrong idea of who is alive.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::chunk::{ChunkId, Codec};
use crate::identity::{ClusterId, DatabaseId};
use crate::node_id::NodeId;
use crate::replicator::memory::{Judge, Shelf};
use crate::replicator::message::{Answer, Question};
use crate::replicator::rules::Reference;
use crate::replicator::*;
use crate::roster::{Constants, Entry, Roster};
use crate::time::Instant;
use crate::version::{Dot, Origin};
use crate::view::{Member, Metadata, State, View};

pub const SIZE: u64 = 1000;

/// What is scheduled.
enum Event {
    Input { to: usize, run: u64, input: Input },
    Ask { from: usize, run: u64, id: ActionId, to: usize, question: Question },
    Arrive { from: usize, run: u64, id: ActionId, to: usize, chunk: ChunkId, dots: Vec<Dot>, recovered: bool },
    Unlink { at: usize, run: u64, chunk: ChunkId, done: Option<(ActionId, Done)> },
    Wake { at: usize, run: u64 },
    Believe { at: usize, about: usize, state: State },
}

pub struct Node {
    pub id: NodeId,
    pub machine: Option<Replicator>,
    pub shelf: Shelf,
    pub files: BTreeSet<ChunkId>,
    pub rotten: BTreeSet<ChunkId>,
    pub believes: Vec<State>,
    pub events: Vec<super::super::Event>,
    origin: Instant,
    died: Instant,
    run: u64,
    wake: Option<Instant>,
    open: BTreeMap<u64, (usize, u64, ActionId)>,
}

/// What became of a dot, and when.
#[derive(Clone, Copy, Default)]
pub struct Fate {
    published: Option<Instant>,
    ended: Option<Instant>,
}

pub struct World {
    pub now: Instant,
    pub random: fastrand::Rng,
    pub nodes: Vec<Node>,
    pub faults: Faults,
    pub roster: Roster,
    pub config: fn(NodeId) -> Config,
    pub loss: f64,
    /// Questions for receipts take up to 15 s, and files are unlinked up to two after they were marked.
    pub slow: bool,
    /// Sends nothing, and does not say so.
    pub stalled: Option<usize>,
    /// By dot: what became of it; and which chunks it keeps.
    pub fates: BTreeMap<Dot, Fate>,
    pub chunks: BTreeMap<Dot, Vec<ChunkId>>,
    pub sent: u64,
    /// Of every sending: how fast, and how many copies could be reached when it began.
    pub paces: Vec<(Pace, usize)>,
    pub broken: Vec<String>,
    events: BTreeMap<(Instant, u64), Event>,
    next: u64,
    tokens: u64,
}

pub fn chunk(number: u64) -> ChunkId {
    ChunkId::of(Codec::Raw, &number.to_be_bytes())
}

pub fn quick(node: NodeId) -> Config {
    Config {
        repair_delay: Duration::from_secs(10),
        handoff_grace: Duration::from_secs(20),
        gc_grace: Duration::from_secs(30),
        inventory_interval: Duration::from_secs(60),
        scrub_interval: Duration::from_secs(600),
        ..Config::new(node)
    }
}

/// How long a node's catalog lags behind the truth.
fn lag(at: usize) -> Duration {
    Duration::from_millis(500 + 1500 * at as u64)
}

impl World {
    pub fn new(seed: u64, nodes: usize, faults: Faults) -> Self {
        let ids: Vec<NodeId> = (0..nodes).map(|i| format!("n{i}").parse().unwrap()).collect();
        let entry = |i: usize| Entry {
            key: [i as u8; 32],
            database: DatabaseId([i as u8; 16]),
            zone: None,
            capacity: 1 << 30,
        };
        let constants =
            Constants { cluster: ClusterId([1; 16]), reference_capacity: 1 << 30, replication_factor: 3 };
        let members = ids.iter().enumerate().map(|(i, id)| (*id, entry(i))).collect();
        let nodes = ids.iter().map(|id| Node {
            id: *id,
            machine: None,
            shelf: Shelf::default(),
            files: BTreeSet::new(),
            rotten: BTreeSet::new(),
            believes: vec![State::Alive; nodes],
            events: Vec::new(),
            origin: Instant::ZERO,
            died: Instant::from_micros(1_000_000),
            run: 0,
            wake: None,
            open: BTreeMap::new(),
        });
        let mut world = Self {
            now: Instant::from_micros(1_000_000),
            random: fastrand::Rng::with_seed(seed),
            nodes: nodes.collect(),
            faults,
            roster: Roster { number: 1, constants, members },
            config: quick,
            loss: 0.0,
            slow: false,
            stalled: None,
            fates: BTreeMap::new(),
            chunks: BTreeMap::new(),
            sent: 0,
            paces: Vec::new(),
            broken: Vec::new(),
            events: BTreeMap::new(),
            next: 0,
            tokens: 0,
        };
        for at in 0..ids.len() {
            world.start(at);
        }
        world
    }

    fn after(&mut self, time: Duration, event: Event) {
        self.next += 1;
        self.events.insert((self.now + time, self.next), event);
    }

    fn some(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.random.u64(least..=most))
    }

    pub fn is_up(&self, at: usize) -> bool {
        self.nodes[at].machine.is_some()
    }

    /// A process starts; what was marked gone is unlinked first.
    pub fn start(&mut self, at: usize) {
        if self.is_up(at) {
            return;
        }
        let node = &mut self.nodes[at];
        node.run += 1;
        node.shelf.pass_down(self.now.since(node.died), self.faults);
        node.origin = self.now;
        for chunk in node.shelf.open(Instant::ZERO, self.faults) {
            node.files.remove(&chunk);
            node.shelf.forget(&chunk);
        }
        let config = Config { faults: self.faults, ..(self.config)(node.id) };
        node.machine = Some(Replicator::new(Instant::ZERO, config));
        self.nodes[at].believes[at] = State::Alive;
        let roster = self.roster.clone();
        self.input(at, Input::Roster(roster));
        self.input(at, Input::Ready(true));
        self.view(at);
        self.rumour(at, State::Alive);
    }

    pub fn kill(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        (node.machine, node.wake, node.died) = (None, None, self.now);
        node.open.clear();
        self.rumour(at, State::Dead);
    }

    /// Killed and started at once, so that nobody notices.
    pub fn restart(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        (node.machine, node.wake, node.died) = (None, None, self.now);
        node.open.clear();
        self.start(at);
    }

    /// The others learn of a state, each at its own time.
    pub fn rumour(&mut self, about: usize, state: State) {
        for at in (0..self.nodes.len()).filter(|at| *at != about) {
            let time = self.some(100, 3000);
            self.after(time, Event::Believe { at, about, state });
        }
    }

    /// One node believes something of another, right or wrong.
    pub fn believe(&mut self, at: usize, about: usize, state: State) {
        self.nodes[at].believes[about] = state;
        self.view(at);
    }

    pub fn view(&mut self, at: usize) {
        let member = |(i, node): (usize, &Node)| Member {
            id: node.id,
            state: self.nodes[at].believes[i],
            incarnation: 1,
            metadata: Metadata {
                key: [i as u8; 32],
                addr: [127, 0, 0, 1].into(),
                gossip_port: 1,
                transfer_port: 1,
                http_port: 1,
                zone: None,
                capacity: 1 << 30,
                version: String::new(),
            },
        };
        let in_roster = |(_, node): &(usize, &Node)| self.roster.members.contains_key(&node.id);
        let members: Vec<Member> = self.nodes.iter().enumerate().filter(in_roster).map(member).collect();
        let view = Arc::new(View::new(1, 1 << 30, members));
        self.input(at, Input::View(view));
    }

    fn clock(&self, at: usize) -> Instant {
        Instant::ZERO + self.now.since(self.nodes[at].origin)
    }

    pub fn input(&mut self, at: usize, input: Input) {
        let now = self.clock(at);
        if let Some(machine) = &mut self.nodes[at].machine {
            machine.handle(now, input);
            self.drain(at);
        }
    }

    /// What a reference is worth to a node that learns of everything late.
    fn worth(fates: &BTreeMap<Dot, Fate>, now: Instant, at: usize, dot: &Dot, faults: Faults) -> Reference {
        let fate = fates.get(dot).copied().unwrap_or_default();
        let known = |when: Option<Instant>| when.is_some_and(|when| when + lag(at) <= now);
        match () {
            () if known(fate.ended) => Reference::Ended,
            () if known(fate.published) => Reference::Live,
            () if faults.unseen_is_ended => Reference::Ended,
            () => Reference::Unseen,
        }
    }

    /// What needs this copy: a reference recorded with it, or one that too few others have recorded.
    fn needed(&self, at: usize, chunk: &ChunkId) -> Option<Dot> {
        let holders = self.holders(chunk);
        let has =
            |at: usize, dot: &Dot| self.nodes[at].shelf.row(chunk).is_some_and(|row| row.dots.contains(dot));
        let needs = |dot: &&Dot| {
            let elsewhere = holders.iter().filter(|other| **other != at && has(**other, dot)).count();
            let majority = self.roster.replicas() / 2 + 1;
            self.is_live(dot) && (has(at, dot) || elsewhere < majority)
        };
        self.chunks
            .iter()
            .filter(|(_, chunks)| chunks.contains(chunk))
            .map(|(dot, _)| dot)
            .find(needs)
            .copied()
    }

    /// Nodes with a whole copy that is not on its way out.
    pub fn holders(&self, chunk: &ChunkId) -> BTreeSet<usize> {
        let whole =
            |node: &Node| node.shelf.has(chunk) && node.files.contains(chunk) && !node.rotten.contains(chunk);
        (0..self.nodes.len()).filter(|at| whole(&self.nodes[*at])).collect()
    }

    /// Who should hold a chunk, as whoever knows all would say.
    pub fn owners(&self, chunk: &ChunkId) -> BTreeSet<usize> {
        let members =
            self.roster.members.keys().map(|id| self.nodes.iter().position(|n| n.id == *id).unwrap());
        let on: Vec<usize> = members.filter(|at| self.is_up(*at)).collect();
        let ring = crate::ring::Ring::build(
            1 << 30,
            on.iter().map(|at| crate::ring::Weighted {
                id: self.nodes[*at].id,
                zone: None,
                capacity: 1 << 30,
            }),
        );
        let owners = ring.owners(chunk.key(), self.roster.replicas());
        owners.iter().map(|id| self.nodes.iter().position(|n| n.id == *id).unwrap()).collect()
    }

    /// A client stores a file of these chunks through a node: on whom that node believes to own them. It
    /// fails where too few do.
    pub fn upload(&mut self, through: usize, number: u64, chunks: &[ChunkId]) -> Dot {
        let origin = Origin { node: self.nodes[through].id, generation: self.nodes[through].run };
        let dot = Dot { origin, sequence: number + 1 };
        self.fates.insert(dot, Fate::default());
        self.chunks.insert(dot, chunks.to_vec());
        for chunk in chunks {
            let Some(machine) = &self.nodes[through].machine else { continue };
            let mut copies = 0;
            for owner in machine.placement.present_owners(chunk) {
                let to = self.nodes.iter().position(|n| n.id == owner).unwrap();
                if self.is_up(to) && self.nodes[to].shelf.enter(*chunk, SIZE, &[dot], false, self.faults) {
                    self.nodes[to].files.insert(*chunk);
                    copies += 1;
                }
            }
            if copies <= self.roster.replicas() / 2 {
                self.end(dot);
            }
        }
        dot
    }

    pub fn publish(&mut self, dot: Dot) {
        self.fates.get_mut(&dot).unwrap().published = Some(self.now);
    }

    pub fn end(&mut self, dot: Dot) {
        self.fates.get_mut(&dot).unwrap().ended.get_or_insert(self.now);
    }

    /// What the nodes believe of a chunk, for whoever looks into a failure.
    pub fn describe(&self, chunk: &ChunkId) -> String {
        let of = |(at, node): (usize, &Node)| {
            let machine = node.machine.as_ref();
            let health = machine.map(|machine| machine.health(self.clock(at)));
            format!("n{at} at {:?}: {:?} {health:?}", self.clock(at), node.shelf.row(chunk))
        };
        self.nodes.iter().enumerate().map(of).collect::<Vec<_>>().join("\n")
    }

    pub fn is_live(&self, dot: &Dot) -> bool {
        self.fates[dot].ended.is_none()
    }

    fn drain(&mut self, at: usize) {
        loop {
            let node = &mut self.nodes[at];
            let Some(machine) = &mut node.machine else { return };
            while let Some(event) = machine.poll_event() {
                node.events.push(event);
            }
            let Some(action) = machine.poll_action() else { break };
            self.act(at, action);
        }
        let (origin, run) = (self.nodes[at].origin, self.nodes[at].run);
        let wanted = self.nodes[at].machine.as_ref().and_then(Replicator::poll_timeout);
        let Some(wanted) = wanted else { return };
        let due = (origin + wanted.since(Instant::ZERO)).max(self.now + Duration::from_micros(1));
        if self.nodes[at].wake.is_none_or(|wake| wake > due || wake <= self.now) {
            self.nodes[at].wake = Some(due);
            let wait = due.since(self.now);
            self.after(wait, Event::Wake { at, run });
        }
    }

    fn done(&mut self, at: usize, time: Duration, id: ActionId, done: Done) {
        let run = self.nodes[at].run;
        self.after(time, Event::Input { to: at, run, input: Input::Done { id, done } });
    }

    fn act(&mut self, at: usize, action: Action) {
        let (now, clock, run) = (self.now, self.clock(at), self.nodes[at].run);
        let (fates, faults) = (&self.fates, self.faults);
        let worth = |dot: &Dot| Self::worth(fates, now, at, dot, faults);
        let node = &mut self.nodes[at];
        let breaker = node.machine.as_ref().is_some_and(Replicator::breaker);
        let gc_grace = (self.config)(node.id).gc_grace;
        let judge = Judge { worth: &worth, now: clock, breaker, ready: true, gc_grace, faults };
        let (id, done, time) = match action {
            Action::Page { id, after } => {
                let files = &node.files;
                let page = node.shelf.page(&judge, after, |chunk| files.contains(chunk));
                (id, Done::Page(Some(page)), 5)
            }
            Action::Note(note) => return node.shelf.note(clock, note),
            Action::Ask { id, to, question, deadline } => {
                let to = self.nodes.iter().position(|n| n.id == to).unwrap();
                // Through the wire, as bytes.
                let question = Question::from_bytes(&question.to_bytes()).unwrap();
                let input = Input::Answer { id, result: Err(Unreachable) };
                self.after(deadline, Event::Input { to: at, run, input });
                if self.random.f64() >= self.loss {
                    let slow = self.slow && matches!(question, Question::Vouch(_));
                    let time = self.some(1, if slow { 15_000 } else { 40 });
                    self.after(time, Event::Ask { from: at, run, id, to, question });
                }
                return;
            }
            Action::Answer { token, answer } => {
                let Some((to, run, id)) = node.open.remove(&token) else { return };
                let answer = Answer::from_bytes(&answer.to_bytes()).unwrap();
                if self.random.f64() >= self.loss {
                    let time = self.some(1, 40);
                    let input = Input::Answer { id, result: Ok(answer) };
                    self.after(time, Event::Input { to, run, input });
                }
                return;
            }
            Action::Look { id, items } => {
                let files = &node.files;
                let holds = node.shelf.look(&worth, &items, |chunk| files.contains(chunk));
                (id, Done::Looked(holds), 2)
            }
            Action::Promise { id, chunk, dots } => {
                let whole = node.files.contains(&chunk) && !node.rotten.contains(&chunk);
                let given = whole && node.shelf.promise(clock, chunk, &dots, faults);
                (id, Done::Promised(given), 10)
            }
            Action::References { id, chunk } => {
                (id, Done::References(node.shelf.references(&worth, &chunk)), 2)
            }
            Action::Send { .. } if self.stalled == Some(at) => return,
            Action::Send { id, chunk, to, pace } => {
                let reachable = self.holders(&chunk).into_iter().filter(|at| self.is_up(*at)).count();
                self.paces.push((pace, reachable));
                let node = &mut self.nodes[at];
                let row = node.shelf.row(&chunk).filter(|row| !row.gone).cloned();
                match row.filter(|_| node.files.contains(&chunk) && !node.rotten.contains(&chunk)) {
                    Some(row) => {
                        let to = self.nodes.iter().position(|n| n.id == to).unwrap();
                        let (dots, recovered) = (row.dots.into_iter().collect(), row.recovered);
                        let time = self.some(50, 400);
                        self.after(time, Event::Arrive { from: at, run, id, to, chunk, dots, recovered });
                        return;
                    }
                    None => (id, Done::Sent(Sent::NotHere), 1),
                }
            }
            Action::Fetch { id, chunk, from } => {
                let ids: Vec<usize> =
                    from.iter().map(|n| self.nodes.iter().position(|m| m.id == *n).unwrap()).collect();
                let holders = self.holders(&chunk);
                let found = ids.iter().any(|n| holders.contains(n) && self.is_up(*n));
                let node = &mut self.nodes[at];
                if found && node.shelf.row(&chunk).is_some_and(|row| !row.gone) {
                    node.files.insert(chunk);
                    node.rotten.remove(&chunk);
                }
                (id, Done::Fetched(found.then_some(SIZE)), 100)
            }
            Action::Release { id, claim } => match node.shelf.release(&judge, &claim) {
                Ok(bytes) => {
                    let chunk = claim.chunk;
                    let others = self.holders(&chunk).into_iter().filter(|other| *other != at).count();
                    if others < self.roster.replicas() && !self.nodes[at].believes.contains(&State::Leaving) {
                        let why = format!("I8: n{at} releases {chunk} with {others} copies elsewhere");
                        self.broken.push(why);
                    }
                    self.carried(at, &claim.chunk);
                    let done = Some((id, Done::Released(Ok(bytes))));
                    let time = self.some(0, if self.slow { 2000 } else { 60 });
                    self.after(time, Event::Unlink { at, run, chunk, done });
                    return;
                }
                Err(kept) => (id, Done::Released(Err(kept)), 5),
            },
            Action::Collect { id, chunks } => {
                let marked = node.shelf.collect(&judge, &chunks);
                for (chunk, _) in &marked {
                    if let Some(dot) = self.needed(at, chunk) {
                        self.broken.push(format!("I7: n{at} collects {chunk}, which {dot} needs"));
                    }
                    let time = self.some(0, 60);
                    self.after(time, Event::Unlink { at, run, chunk: *chunk, done: None });
                }
                let (count, bytes) = (marked.len() as u64, marked.iter().map(|(_, size)| size).sum());
                (id, Done::Collected { chunks: count, bytes }, 80)
            }
            // Nothing is unreadable here.
            Action::SetAside { .. } => return,
            Action::Scrub { id, restart, limit } => {
                let (files, rotten) = (&node.files, &node.rotten);
                let whole = |chunk: &ChunkId| files.contains(chunk) && !rotten.contains(chunk);
                let scrubbed = node.shelf.scrub(restart, limit, whole);
                for chunk in &scrubbed.bad {
                    node.files.remove(chunk);
                    node.rotten.remove(chunk);
                }
                (id, Done::Scrubbed(scrubbed), 5)
            }
        };
        self.done(at, Duration::from_millis(time), id, done);
    }

    /// I7: whatever keeps this copy here keeps one elsewhere.
    fn carried(&mut self, at: usize, chunk: &ChunkId) {
        let row = self.nodes[at].shelf.row(chunk).cloned().unwrap_or_default();
        let holders = self.holders(chunk);
        for dot in row.dots.iter().filter(|dot| self.fates[*dot].ended.is_none()) {
            let has = |other: &&usize| {
                self.nodes[**other].shelf.row(chunk).is_some_and(|row| row.dots.contains(dot))
            };
            if holders.iter().filter(has).count() < self.roster.replicas() {
                self.broken.push(format!("I7: n{at} releases {chunk} and leaves {dot} behind"));
            }
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Input { to, run, input } if run == self.nodes[to].run => self.input(to, input),
            Event::Ask { from, run, id, to, question } if self.is_up(to) => {
                self.tokens += 1;
                let token = self.tokens;
                self.nodes[to].open.insert(token, (from, run, id));
                let from = self.nodes[from].id;
                self.input(to, Input::Question { from, token, question });
            }
            Event::Arrive { from, run, id, to, chunk, dots, recovered } => {
                let mut bytes = 0;
                let node = &mut self.nodes[to];
                let stored =
                    node.machine.is_some() && node.shelf.enter(chunk, SIZE, &dots, recovered, self.faults);
                if stored && node.files.insert(chunk) {
                    bytes = SIZE;
                    self.sent += 1;
                }
                let done = Done::Sent(if stored { Sent::Stored(bytes) } else { Sent::Failed });
                let input = Input::Done { id, done };
                let time = self.some(1, 40);
                self.after(time, Event::Input { to: from, run, input });
            }
            Event::Unlink { at, run, chunk, done } if run == self.nodes[at].run && self.is_up(at) => {
                self.nodes[at].files.remove(&chunk);
                self.nodes[at].shelf.forget(&chunk);
                if let Some((id, done)) = done {
                    self.input(at, Input::Done { id, done });
                }
            }
            Event::Wake { at, run } if run == self.nodes[at].run => {
                let now = self.clock(at);
                if let Some(machine) = &mut self.nodes[at].machine
                    && machine.poll_timeout().is_some_and(|due| due <= now)
                {
                    machine.handle_timeout(now);
                }
                self.drain(at);
            }
            // Old rumours are overtaken by what is so.
            Event::Believe { at, about, state }
                if (state == State::Dead) != self.is_up(about) && self.nodes[at].believes[about] != state =>
            {
                self.believe(at, about, state);
            }
            _ => {}
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > until {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.step(event);
        }
        self.now = until;
    }
}
