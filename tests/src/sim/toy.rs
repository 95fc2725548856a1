//! A toy store of a few lines, and the harness tried on it: what holds passes, what is broken on
//! purpose is found.
//!
//! Fixed members, no conditional writes, no lost databases: versions are read from and pushed to
//! all, a majority decides, and everything is gossiped whole.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use kepler_protocol::api::Durability;
use kepler_protocol::catalog::command::Refusal;
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::name::Name;
use kepler_protocol::time::Instant;
use kepler_protocol::version::{Content, Context, Dot, Origin, Version};

use super::client::Kind;
use super::disk::{Data, Disk};
use super::network::Place;
use super::process::{Answer, Ask, Broken, Clocks, Durable, Input, Output, Process, Seat};
use super::run::{Options, Plan, Report, run, shrink};

#[derive(Clone, Copy, Default)]
struct Toy {
    one_short: bool,
    local_context: bool,
    no_folder_sync: bool,
}

#[derive(Default)]
struct Room {
    versions: BTreeMap<Dot, Version>,
    sequence: u64,
    disk: Disk,
    fails: bool,
    stored: Vec<Version>,
}

impl Durable for Room {
    fn power_cut(&mut self, random: &mut fastrand::Rng) {
        self.disk.crash(random);
    }
    fn disk(&mut self) -> &mut Disk {
        &mut self.disk
    }
    fn back_up(&mut self) {}
    fn restore(&mut self) {}
    fn lose_database(&mut self) {}
    fn fail_commit(&mut self) {
        self.fails = true;
    }
    fn set_commit_time(&mut self, _: Duration) {}
    fn take_stored(&mut self) -> Vec<Version> {
        std::mem::take(&mut self.stored)
    }
    fn knows(&self, version: &Version) -> bool {
        self.versions.contains_key(&version.dot)
    }
    fn holds(&self, chunk: &ChunkId) -> bool {
        self.disk.durable(&format!("c/{chunk}")) == Some(Data::Whole(*chunk))
    }
    fn survivors(&self) -> Vec<Version> {
        survivors(self.versions.values())
    }
}

fn survivors<'a>(versions: impl Iterator<Item = &'a Version> + Clone) -> Vec<Version> {
    let gone: BTreeSet<Dot> = versions.clone().flat_map(|v| v.context.iter().copied()).collect();
    versions.filter(|v| !gone.contains(&v.dot)).cloned().collect()
}

impl Room {
    fn store(&mut self, version: &Version) {
        if self.versions.insert(version.dot, version.clone()).is_none() {
            self.stored.push(version.clone());
        }
    }

    fn keep(&mut self, chunk: ChunkId, folder: bool) -> bool {
        let (temporary, path) = (format!("c/{chunk}.tmp"), format!("c/{chunk}"));
        self.disk.write(&temporary, chunk).is_ok()
            && self.disk.sync_file(&temporary).is_ok()
            && self.disk.rename(&temporary, &path).is_ok()
            && (!folder || self.disk.sync_dir("c").is_ok())
    }
}

#[derive(Clone, Debug)]
enum Message {
    Read(Name),
    Write(Version),
    Gossip(Vec<Version>),
}

#[derive(Clone, Debug)]
enum Reply {
    Versions(Vec<Version>),
    Done(bool),
}

struct Pending {
    ask: Ask,
    deadline: Instant,
    learnt: BTreeMap<Dot, Version>,
    answered: BTreeSet<Place>,
    writing: Option<Version>,
}

struct Machine {
    config: Toy,
    seat: Seat,
    pending: BTreeMap<u64, Pending>,
    asked: BTreeMap<u64, u64>,
    next: u64,
    outputs: VecDeque<Output<Machine>>,
    gossip: Instant,
}

impl Machine {
    fn needed(&self, pending: &Pending) -> usize {
        let all = self.seat.ids.len();
        match &pending.ask {
            Ask::Put { durability: Durability::All, .. } if pending.writing.is_some() => all,
            _ => all / 2 + 1 - usize::from(self.config.one_short),
        }
    }

    fn broadcast(&mut self, operation: u64, now: Instant, message: &Message) {
        for to in (0..self.seat.ids.len()).filter(|to| *to != self.seat.place) {
            self.next += 1;
            self.asked.insert(self.next, operation);
            let deadline = now + Duration::from_secs(2);
            self.outputs.push_back(Output::Request { to, id: self.next, request: message.clone(), deadline });
        }
    }

    fn begin(&mut self, room: &Room, operation: u64, ask: Ask, now: Instant) {
        let name = ask.name().clone();
        let local = room.versions.values().filter(|v| v.name == name).map(|v| (v.dot, v.clone()));
        let pending = Pending {
            ask,
            deadline: now + Duration::from_secs(5),
            learnt: local.collect(),
            answered: BTreeSet::from([self.seat.place]),
            writing: None,
        };
        self.pending.insert(operation, pending);
        self.broadcast(operation, now, &Message::Read(name));
    }

    fn advance(&mut self, room: &mut Room, operation: u64, now: Instant) {
        let Some(pending) = self.pending.get(&operation) else { return };
        if pending.answered.len() < self.needed(pending) {
            return;
        }
        let Some(pending) = self.pending.get_mut(&operation) else { return };
        if let Some(version) = pending.writing.take() {
            self.pending.remove(&operation);
            self.outputs.push_back(Output::Answer { operation, answer: Answer::Written(version) });
            return;
        }
        pending.learnt.values().for_each(|v| room.store(v));
        let mine = room.versions.values().filter(|v| v.name == *pending.ask.name());
        let found = survivors(mine);
        let content = match &pending.ask {
            Ask::Get { .. } => {
                self.pending.remove(&operation);
                let answer = Answer::Read { survivors: found, local: false, lacking: None };
                self.outputs.push_back(Output::Answer { operation, answer });
                return;
            }
            Ask::Put { value, .. } => Some(*value),
            Ask::Delete { .. } => None,
        };
        room.sequence += 1;
        let own = |v: &&Version| !self.config.local_context || v.dot.origin.node == self.seat.id;
        let origin = Origin { node: self.seat.id, generation: 1 };
        let version = Version {
            name: pending.ask.name().clone(),
            dot: Dot { origin, sequence: room.sequence },
            context: Context::new(found.iter().filter(own).map(|v| v.dot)).unwrap_or_default(),
            count: 1 + found.iter().map(|v| v.count).max().unwrap_or(0),
            content: content.map(|root| Content { root, size: 1, chunks: 1, content_type: None }),
            created_at: kepler_protocol::time::UnixMillis(0),
        };
        room.store(&version);
        let kept = content.is_none_or(|chunk| room.keep(chunk, !self.config.no_folder_sync));
        let pending = self.pending.get_mut(&operation).expect("looked up above");
        pending.answered = kept.then_some(self.seat.place).into_iter().collect();
        pending.writing = Some(version.clone());
        self.broadcast(operation, now, &Message::Write(version));
    }

    fn answer(&mut self, room: &mut Room, token: u64, message: Message) {
        let response = match message {
            Message::Read(name) => {
                Reply::Versions(room.versions.values().filter(|v| v.name == name).cloned().collect())
            }
            Message::Write(version) => {
                room.store(&version);
                let chunk = version.content.map(|c| c.root);
                Reply::Done(chunk.is_none_or(|chunk| room.keep(chunk, !self.config.no_folder_sync)))
            }
            Message::Gossip(versions) => {
                versions.iter().for_each(|v| room.store(v));
                Reply::Done(true)
            }
        };
        self.outputs.push_back(Output::Response { token, response });
    }

    fn timeout(&mut self, room: &Room, now: Instant) {
        if self.gossip <= now {
            self.gossip = now + Duration::from_secs(2);
            self.broadcast(0, now, &Message::Gossip(room.versions.values().cloned().collect()));
        }
        let late: Vec<u64> =
            self.pending.iter().filter(|(_, p)| p.deadline <= now).map(|(op, _)| *op).collect();
        for operation in late {
            let pending = self.pending.remove(&operation).expect("listed above");
            let answer = match pending.writing {
                Some(version) => Refusal::Unknown { dot: version.dot, answered: 0, needed: 2 },
                None => Refusal::NoQuorum { answered: 0, needed: 2 },
            };
            self.outputs.push_back(Output::Answer { operation, answer: Answer::Refused(answer) });
        }
    }
}

impl Process for Machine {
    type Durable = Room;
    type Config = Toy;
    type Request = Message;
    type Response = Reply;

    fn blank(_: &Toy, _: &Seat) -> Room {
        Room::default()
    }

    fn start(config: &Toy, seat: Seat, _: &mut Room, clocks: Clocks) -> Result<Self, Broken> {
        Ok(Self {
            config: *config,
            seat,
            pending: BTreeMap::new(),
            asked: BTreeMap::new(),
            next: 0,
            outputs: VecDeque::new(),
            gossip: clocks.now,
        })
    }

    fn handle(&mut self, room: &mut Room, clocks: Clocks, input: Input<Self>) -> Result<(), Broken> {
        if std::mem::take(&mut room.fails) {
            return Err(Broken);
        }
        match input {
            Input::Datagram { .. } => {}
            Input::Request { token, request, .. } => self.answer(room, token, request),
            Input::Client { operation, ask } => self.begin(room, operation, ask, clocks.now),
            Input::Timeout => self.timeout(room, clocks.now),
            Input::Response { from, id, response } => {
                let Some(operation) = self.asked.get(&id).copied() else { return Ok(()) };
                let Some(pending) = self.pending.get_mut(&operation) else { return Ok(()) };
                match (response, &pending.writing) {
                    (Some(Reply::Versions(versions)), None) => {
                        pending.learnt.extend(versions.into_iter().map(|v| (v.dot, v)));
                        pending.answered.insert(from);
                    }
                    (Some(Reply::Done(true)), Some(_)) => {
                        pending.answered.insert(from);
                    }
                    _ => {}
                }
                self.advance(room, operation, clocks.now);
            }
        }
        Ok(())
    }

    fn poll(&mut self) -> Option<Output<Self>> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.pending.values().map(|p| p.deadline).chain([self.gossip]).min()
    }

    fn commit_time(&self, _: &Room) -> Duration {
        Duration::from_millis(1)
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn replicas(&self) -> usize {
        self.seat.ids.len()
    }
}

fn plan(seed: u64) -> Plan {
    let mut options = Options::new(seed);
    (options.budget.losses, options.workload.conditional, options.workload.fast) = (0, 0, 0);
    options.chaos = Duration::from_secs(40);
    let mut plan = Plan::new(options);
    plan.questions.retain(|question| question.kind != Kind::DeleteVersion);
    plan
}

fn sweep(config: Toy, seeds: u64) -> Report {
    let mut sum = Report::default();
    for seed in 0..seeds {
        sum.add(&run::<Machine>(&plan(seed), config));
    }
    sum
}

#[test]
fn a_sound_toy_passes_and_one_seed_gives_one_trace() {
    let report = sweep(Toy::default(), 25);
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
    assert!(report.operations[0] > 500 && report.faults > 100, "too little happened: {report}");
    let once = run::<Machine>(&plan(3), Toy::default());
    let again = run::<Machine>(&plan(3), Toy::default());
    assert_eq!((once.trace, once.state, once.history), (again.trace, again.state, again.history));
    assert_ne!(once.trace, run::<Machine>(&plan(4), Toy::default()).trace);
}

#[test]
fn a_toy_that_acknowledges_one_short_is_found() {
    let report = sweep(Toy { one_short: true, ..Toy::default() }, 3);
    let found: BTreeSet<_> = report.violations.iter().map(|v| v.invariant).collect();
    assert!(found.contains("I4"), "{found:?}");
}

#[test]
fn a_toy_that_leaves_out_the_folders_sync_is_found() {
    let report = sweep(Toy { no_folder_sync: true, ..Toy::default() }, 1);
    assert!(report.violations.iter().any(|v| v.invariant == "I4"));
}

#[test]
fn a_failing_plan_shrinks_to_what_fails() {
    let config = Toy { local_context: true, ..Toy::default() };
    let plan = plan(1);
    assert!(run::<Machine>(&plan, config).violations.iter().any(|v| v.invariant == "I9"));
    let small = shrink::<Machine>(&plan, &config, 60);
    assert!(!run::<Machine>(&small, config).violations.is_empty());
    let size = |plan: &Plan| plan.faults.len() + plan.questions.len();
    assert!(size(&small) * 3 < size(&plan), "{} of {}: {small}", size(&small), size(&plan));
}
