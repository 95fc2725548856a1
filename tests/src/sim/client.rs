//! Clients: what they ask, when and where, and the history of what they were answered.
//!
//! What is asked is planned before the run, so that a failing run can be shrunk by leaving
//! questions out. Only the base of a conditional write is picked as the run goes: the head that
//! clients saw last.

mod moves;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kepler_protocol::api::Durability;
use kepler_protocol::catalog::command::{Precondition, Refusal};
use kepler_protocol::chunk::{ChunkId, Codec};
use kepler_protocol::name::Name;
use kepler_protocol::time::Instant;
use kepler_protocol::version::{Dot, Version, head};

use super::invariants::Ledger;
use super::network::Place;
use super::process::{Answer, Ask};
use crate::history::{Action, History, Line, Phase};

pub use moves::{Moved, plan as plan_moves};

/// What kind of question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A plain write.
    Put,
    /// A write if the head is still the one seen last.
    PutIfHead,
    /// A write if there is no file.
    PutIfAbsent,
    /// A plain delete.
    Delete,
    /// A delete of the head seen last and nothing else.
    DeleteVersion,
    /// A read.
    Get,
    /// A read, a copy under the new name with this number, and the end of what was read.
    Move {
        /// The number of the new name.
        to: usize,
    },
}

/// A question to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When.
    pub at: Instant,
    /// Through which node, if it runs then.
    pub place: Place,
    /// Which of the names.
    pub name: usize,
    /// What.
    pub kind: Kind,
    /// What a write's 200 promises.
    pub durability: Durability,
}

/// How many questions, about how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The mean time between questions.
    pub every: Duration,
    /// Different names.
    pub names: usize,
    /// Percent of writes that are `fast`.
    pub fast: u8,
    /// Percent of questions that are conditional writes.
    pub conditional: u8,
    /// The mean time between moves; none without.
    pub moves: Option<Duration>,
}

impl Default for Workload {
    fn default() -> Self {
        Self { every: Duration::from_millis(400), names: 4, fast: 10, conditional: 25, moves: None }
    }
}

/// Plans the questions from one instant to another.
pub fn plan(
    workload: &Workload,
    nodes: usize,
    from: Instant,
    to: Instant,
    random: &mut fastrand::Rng,
) -> Vec<Planned> {
    let mut planned = Vec::new();
    let mut at = from;
    loop {
        at += Duration::from_micros(random.u64(0..=2 * workload.every.as_micros() as u64));
        if at >= to {
            return planned;
        }
        let conditional = random.u8(0..100) < workload.conditional;
        let kind = match random.u8(0..20) {
            0..10 if conditional => Kind::PutIfHead,
            _ if conditional => Kind::PutIfAbsent,
            0..8 => Kind::Get,
            8..10 => Kind::Delete,
            10 => Kind::DeleteVersion,
            _ => Kind::Put,
        };
        let durability = match random.u8(0..100) {
            roll if roll < workload.fast => Durability::Fast,
            roll if roll > 96 => Durability::All,
            _ => Durability::Quorum,
        };
        let question = Planned {
            at,
            place: random.usize(0..nodes),
            name: random.usize(0..workload.names),
            kind,
            durability,
        };
        planned.push(question);
        // Conditional writes come in pairs, through another node: races.
        if conditional && random.bool() {
            let place = random.usize(0..nodes);
            let at = at + Duration::from_micros(random.u64(0..20_000));
            planned.push(Planned { at, place, ..question });
        }
    }
}

/// An operation under way.
struct Open {
    name: Name,
    place: Place,
    writes: bool,
    value: Option<ChunkId>,
}

/// All clients together.
#[derive(Default)]
pub struct Clients {
    /// What they saw.
    pub history: History,
    /// Acknowledged writes with the operation that made them, in order.
    pub acknowledged: Vec<(u64, Version, Durability)>,
    open: BTreeMap<u64, Open>,
    moving: BTreeMap<u64, moves::Moving>,
    /// Moves whose copy was acknowledged.
    pub moved: Vec<Moved>,
    durabilities: BTreeMap<u64, Durability>,
    began: BTreeMap<u64, Instant>,
    heads: BTreeMap<Name, Dot>,
    /// Writes that nobody answered, until their version is found.
    unanswered: Vec<(u64, Open)>,
    next: u64,
    /// Questions asked, by how they ended: ok, fail, unknown.
    pub ended: [u64; 3],
}

/// The name number `index`.
pub fn name_of(index: usize) -> Name {
    format!("folder/file-{index}").parse().expect("a plain name")
}

/// The chunk that a file shares with others: its other one is its root.
pub fn shared_of(root: &ChunkId) -> ChunkId {
    ChunkId::of(Codec::Raw, format!("shared {}", root.digest()[0] % 6).as_bytes())
}

impl Clients {
    /// Turns a plan into a question and notes that it is asked.
    pub fn invoke(&mut self, planned: &Planned, node: &str, run: u64, now: Instant) -> (u64, Ask) {
        self.next += 1;
        let operation = self.next;
        let name = name_of(planned.name);
        let head = self.heads.get(&name).copied();
        let mut line = Line::new(Phase::Invoke, operation);
        (line.node, line.session, line.name) = (node.into(), run, name.as_str().into());
        (line.durability, line.start) = (planned.durability, now.as_micros());
        let value = ChunkId::of(Codec::Raw, format!("value {operation}").as_bytes());
        let precondition = match (planned.kind, head) {
            (Kind::PutIfHead, Some(head)) => Precondition::Head(head),
            (Kind::PutIfHead | Kind::PutIfAbsent, _) => Precondition::Absent,
            _ => Precondition::None,
        };
        // Nothing is fenced with `fast`: a condition is only kept by a majority.
        let durability = match precondition {
            Precondition::None => planned.durability,
            _ if planned.durability == Durability::Fast => Durability::Quorum,
            _ => planned.durability,
        };
        line.durability = durability;
        let ask = match planned.kind {
            Kind::Get | Kind::Move { .. } => Ask::Get { name: name.clone() },
            Kind::Delete | Kind::DeleteVersion => {
                line.action = Action::Delete;
                line.durability = Durability::Quorum;
                let only = head.filter(|_| planned.kind == Kind::DeleteVersion);
                line.only = only.map(|dot| dot.to_string());
                Ask::Delete { name: name.clone(), only, precondition: Precondition::None }
            }
            Kind::Put | Kind::PutIfHead | Kind::PutIfAbsent => {
                line.action = Action::Put;
                line.cid = Some(value.to_string());
                line.if_absent = precondition == Precondition::Absent;
                if let Precondition::Head(dot) = precondition {
                    line.if_match = Some(dot.to_string());
                }
                Ask::Put { name: name.clone(), value, precondition, durability, hit: false }
            }
        };
        let value = (line.action == Action::Put).then_some(value);
        if let Kind::Move { to } = planned.kind {
            self.move_begins(operation, *planned, to);
        }
        let writes = line.action != Action::Get;
        self.begins(line, Open { name, place: planned.place, writes, value }, now);
        (operation, ask)
    }

    fn begins(&mut self, line: Line, open: Open, now: Instant) {
        self.durabilities.insert(line.id, line.durability);
        self.began.insert(line.id, now);
        self.open.insert(line.id, open);
        self.history.push(line);
    }

    /// Asks for a name as part of verification.
    pub fn invoke_get(
        &mut self,
        name: usize,
        place: Place,
        node: &str,
        run: u64,
        now: Instant,
    ) -> (u64, Ask) {
        let planned = Planned { at: now, place, name, kind: Kind::Get, durability: Durability::Quorum };
        self.invoke(&planned, node, run, now)
    }

    /// Notes an answer. Says how it ended.
    pub fn answered(&mut self, operation: u64, answer: &Answer, now: Instant) -> Phase {
        let Some(open) = self.open.remove(&operation) else { return Phase::Unknown };
        let mut line = Line::new(Phase::Ok, operation);
        line.end = now.as_micros();
        match answer {
            Answer::Written(version) => {
                (line.version, line.context) = (Some(version.dot.to_string()), Some(tokens(version)));
                let durability = self.durabilities[&operation];
                self.acknowledged.push((operation, version.clone(), durability));
                if !version.is_tombstone() {
                    self.heads.insert(open.name, version.dot);
                }
            }
            Answer::Read { survivors, local, .. } => {
                let live = survivors.iter().filter(|v| !v.is_tombstone());
                line.survivors = Some(live.map(|v| v.dot.to_string()).collect());
                line.local = *local;
                if let Some(head) = head(survivors) {
                    line.version = Some(head.dot.to_string());
                    line.cid = head.content.as_ref().map(|c| c.root.to_string());
                    self.heads.insert(open.name, head.dot);
                } else {
                    self.heads.remove(&open.name);
                }
            }
            Answer::Refused(Refusal::Unknown { dot, .. }) => {
                line.phase = Phase::Unknown;
                line.version = Some(dot.to_string());
                self.unanswered.push((operation, open));
            }
            Answer::Refused(_) | Answer::NoOwners => line.phase = Phase::Fail,
        }
        let phase = line.phase;
        self.history.push(line);
        self.count(phase);
        phase
    }

    /// Notes that nobody will answer.
    pub fn broken(&mut self, operation: u64, now: Instant) {
        let Some(open) = self.open.remove(&operation) else { return };
        if open.writes {
            self.unanswered.push((operation, open));
        }
        let mut line = Line::new(Phase::Unknown, operation);
        line.end = now.as_micros();
        self.history.push(line);
        self.count(Phase::Unknown);
    }

    fn count(&mut self, phase: Phase) {
        match phase {
            Phase::Ok => self.ended[0] += 1,
            Phase::Fail => self.ended[1] += 1,
            Phase::Unknown | Phase::Invoke => self.ended[2] += 1,
        }
    }

    /// When an operation was asked for.
    pub fn began(&self, operation: u64) -> Instant {
        self.began.get(&operation).copied().unwrap_or_default()
    }

    /// Operations under way.
    pub fn under_way(&self) -> usize {
        self.open.len()
    }

    /// The history, with the versions of unanswered writes filled in from every version that ever
    /// reached a disk: a client cannot know them, an observer of the disks can.
    pub fn complete(&self, ledger: &Ledger, nodes: &[String]) -> History {
        let mut named: BTreeSet<Dot> = self.acknowledged.iter().map(|(_, v, _)| v.dot).collect();
        let mut found: BTreeMap<u64, &Version> = BTreeMap::new();
        let mut ends: BTreeMap<u64, (u64, Option<Dot>)> = BTreeMap::new();
        for line in self.history.lines().iter().filter(|line| line.phase == Phase::Unknown) {
            ends.insert(line.id, (line.end, line.version.as_ref().and_then(|token| token.parse().ok())));
        }
        // Some were told which version it would be.
        for (operation, (_, dot)) in &ends {
            if let Some(version) = dot.as_ref().and_then(|dot| ledger.stored.get(dot)) {
                named.insert(version.dot);
                found.insert(*operation, version);
            }
        }
        for (operation, open) in self.unanswered.iter().filter(|(operation, _)| ends[operation].1.is_none()) {
            let while_asked =
                |at: &Instant| *at >= self.began(*operation) && at.as_micros() <= ends[operation].0;
            let fits = |version: &&Version| {
                version.name == open.name
                    && version.dot.origin.node.as_str() == nodes[open.place]
                    && version.content.as_ref().map(|c| c.root) == open.value
                    && !named.contains(&version.dot)
                    && (open.value.is_some() || ledger.stored_at.get(&version.dot).is_some_and(while_asked))
            };
            if let Some(version) = ledger.stored.values().find(fits) {
                named.insert(version.dot);
                found.insert(*operation, version);
            }
        }
        let mut history = History::default();
        for line in self.history.lines() {
            let mut line = line.clone();
            if let Some(version) = found.get(&line.id).filter(|_| line.phase == Phase::Unknown) {
                (line.version, line.context) = (Some(version.dot.to_string()), Some(tokens(version)));
            }
            // Nothing of it ever reached a disk, so nobody has learnt of it.
            let vanished = line.phase == Phase::Unknown && !found.contains_key(&line.id);
            if vanished && self.unanswered.iter().any(|(operation, _)| *operation == line.id) {
                line.phase = Phase::Fail;
            }
            history.push(line);
        }
        history
    }
}

fn tokens(version: &Version) -> Vec<String> {
    version.context.iter().map(ToString::to_string).collect()
}
