//! The replicator on a simulated node: carries its actions out on the simulated disk and network, a
//! step at a time, so that a crash may fall between any two. Judges each deletion as it is decided, by
//! what the node itself could know.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use kepler_protocol::chunk::ChunkId;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::replicator::health::Health;
use kepler_protocol::replicator::memory::{Judge, Shelf};
use kepler_protocol::replicator::message::{Answer, Question as Asked};
use kepler_protocol::replicator::rules::{Claim, PROMISE, RECEIPT_VALID, Reference};
use kepler_protocol::replicator::{
    Action, ActionId, Config, Done, Faults, Input as Told, Pace, Replicator, Sent as Came, Unreachable,
};
use kepler_protocol::ring::{Ring, Weighted};
use kepler_protocol::roster::{DatabaseId, Roster};
use kepler_protocol::throttle::Throttle;
use kepler_protocol::time::Instant;
use kepler_protocol::version::Dot;
use kepler_protocol::view::{State, View};

use super::{Node, Output, Question, Reply, Room, Sent, Setup, hints, path_of};
use crate::sim::disk::Data;
use crate::sim::process::Deleted;

/// The size of every simulated chunk.
pub const CHUNK_BYTES: u64 = 256 << 10;

/// How long a push waits for its answer.
const PUSH_DEADLINE: Duration = Duration::from_secs(8);

/// How long a fetch waits for one holder.
const FETCH_DEADLINE: Duration = Duration::from_secs(2);

/// From the decision to delete until the file is unlinked: what a crash may fall into.
const UNLINK_AFTER: Duration = Duration::from_millis(40);

/// When a deletion is tried again that failed.
const UNLINK_AGAIN: Duration = Duration::from_secs(5);

type Marks = BTreeMap<ChunkId, Duration>;

/// With who owned the chunk then.
type Graces = BTreeMap<ChunkId, (Duration, Vec<NodeId>)>;

/// How much more than the cap may pass in a second, in percent.
const OVER: u64 = 10;

/// What a run of the process measures by itself, whatever the planted bugs believe.
#[derive(Default)]
pub struct Witness {
    /// Time in which a process ran.
    uptime: Duration,
    told: Instant,
    wall: u64,
    /// Since when, in uptime, a chunk has been noted as superfluous, or as unreferenced.
    surplus: Graces,
    unreferenced: Marks,
    /// When, in uptime, a chunk was promised last.
    promised: Marks,
    /// Of a database that was put aside.
    backup: (Graces, Marks),
    /// When members were last seen dying.
    deaths: BTreeMap<NodeId, Duration>,
    /// What was deleted since this was asked last.
    pub deleted: Vec<Deleted>,
    /// What must not be, and was.
    pub broken: Vec<(&'static str, String)>,
    /// Copies sent.
    pub pushed: u64,
    /// Copies delivered that were owed.
    pub delivered: u64,
    /// Members it agreed to have forgotten.
    pub forgotten: u64,
    /// What this process sent in the background within the last second, and the caps of that time.
    sent: VecDeque<(Instant, u64)>,
    caps: VecDeque<(Instant, u64)>,
    /// The most that a process sent in a second, in percent of the cap.
    pub busiest: u64,
}

impl Witness {
    /// Time passes in a process.
    pub fn tick(&mut self, now: Instant, wall: u64) {
        self.uptime += now.since(self.told);
        (self.told, self.wall) = (now, wall);
    }

    /// A process starts; what the wall clock says has passed.
    pub fn start(&mut self, wall: u64) -> Duration {
        let passed = Duration::from_millis(wall.saturating_sub(self.wall));
        (self.told, self.wall) = (Instant::ZERO, wall);
        self.sent.clear();
        self.caps.clear();
        passed
    }

    /// Another cap counts from now on; what was let through before it keeps its second.
    fn cap(&mut self, now: Instant, cap: u64) {
        self.caps.push_back((now, cap));
    }

    /// I18: no second holds more than the cap and a tenth.
    fn sends(&mut self, now: Instant, bytes: u64, me: NodeId) {
        let second = Duration::from_secs(1);
        self.sent.push_back((now, bytes));
        while self.sent.front().is_some_and(|(at, _)| now.since(*at) > second) {
            self.sent.pop_front();
        }
        // A cap counts until a second after the next one came.
        while self.caps.get(1).is_some_and(|(at, _)| now.since(*at) > second) {
            self.caps.pop_front();
        }
        let cap = self.caps.iter().map(|(_, cap)| *cap).max().unwrap_or(1);
        let sum: u64 = self.sent.iter().map(|(_, bytes)| bytes).sum();
        self.busiest = self.busiest.max(sum * 100 / cap);
        self.break_if(sum * 100 > cap * (100 + OVER), "I18", || {
            format!("{me} sent {sum} bytes within a second, and its cap is {cap}")
        });
    }

    /// The database is put aside.
    pub fn back_up(&mut self) {
        self.backup = (self.surplus.clone(), self.unreferenced.clone());
    }

    /// It takes the place of the one in use.
    pub fn restore(&mut self) {
        (self.surplus, self.unreferenced) = std::mem::take(&mut self.backup);
        self.promised.clear();
    }

    fn break_if(&mut self, broken: bool, invariant: &'static str, why: impl FnOnce() -> String) {
        if broken && self.broken.len() < 16 {
            self.broken.push((invariant, why()));
        }
    }
}

/// When to unlink what, and which release that ends.
type Unlink = (Instant, ChunkId, Option<(ActionId, u64)>);

/// A chunk that is to be sent, and how many of its bytes are still to be let through.
struct Sending {
    /// The replicator's; none for a copy that is owed.
    id: Option<ActionId>,
    chunk: ChunkId,
    to: NodeId,
    left: u64,
}

/// Chunks that wait for one bucket of the throttle, in order.
#[derive(Default)]
struct Lane {
    waiting: VecDeque<Sending>,
    /// When to ask for the first.
    due: Instant,
}

/// The replicator of a process, and what it has under way.
pub struct Healing {
    /// The machine.
    pub machine: Replicator,
    config: Config,
    database: DatabaseId,
    unlinks: VecDeque<Unlink>,
    throttle: Throttle,
    /// What waits for tokens: of the whole cap, and of a tenth of it.
    lanes: [Lane; 2],
    fetches: BTreeMap<u64, (ActionId, ChunkId, VecDeque<NodeId>)>,
    next: u64,
    /// Members that died, since when, as this process saw it.
    absent: BTreeMap<NodeId, Instant>,
    view: Option<View>,
}

impl Healing {
    /// Opens what a crash left: unlinks what was marked gone, takes in files without a row.
    pub fn open(setup: &Setup, me: NodeId, room: &mut Room, database: DatabaseId, wall: u64) -> Self {
        let faults = setup.heal;
        let passed = room.witness.start(wall);
        room.shelf.pass_down(passed, faults);
        let mut unlinks = VecDeque::new();
        for chunk in room.shelf.open(Instant::ZERO, faults) {
            if !room.unlink(&chunk) {
                unlinks.push_back((Instant::ZERO + UNLINK_AGAIN, chunk, None));
            }
        }
        for chunk in room.whole_files() {
            if room.shelf.row(&chunk).is_none() {
                room.shelf.enter(chunk, CHUNK_BYTES, &[], true, faults);
            }
        }
        let config = Config {
            repair_delay: setup.repair_delay,
            handoff_grace: setup.handoff_grace,
            gc_grace: setup.gc_grace,
            inventory_interval: setup.inventory_interval,
            scrub_interval: Duration::from_secs(240),
            faults,
            ..Config::new(me)
        };
        let throttle =
            if faults.bursts { Throttle::bursting } else { Throttle::new }(Instant::ZERO, setup.cap);
        room.witness.cap(Instant::ZERO, setup.cap);
        Self {
            machine: Replicator::new(Instant::ZERO, config),
            config,
            database,
            unlinks,
            throttle,
            lanes: Default::default(),
            fetches: BTreeMap::new(),
            next: 0,
            absent: BTreeMap::new(),
            view: None,
        }
    }

    /// When something is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let sends = self.lanes.iter().filter(|lane| !lane.waiting.is_empty()).map(|lane| lane.due);
        let unlinks = self.unlinks.iter().map(|(at, ..)| *at).min();
        sends.chain(self.machine.poll_timeout()).chain(unlinks).min()
    }

    /// Who was taken off the roster has given up its place, however soon it returns.
    pub fn forget_removed(&mut self, roster: &Roster) {
        self.absent.retain(|id, _| roster.members.contains_key(id));
    }

    /// What healing waits for, for whoever looks into a failure.
    pub fn why(&self) -> Health {
        self.machine.health(Instant::ZERO)
    }

    fn wait(&mut self, now: Instant, pace: Pace, sending: Sending) {
        let lane = &mut self.lanes[pace as usize];
        if lane.waiting.is_empty() {
            lane.due = now;
        }
        lane.waiting.push_back(sending);
    }
}

impl Room {
    /// Whether a chunk's file is whole.
    pub fn is_whole(&self, chunk: &ChunkId) -> bool {
        self.disk.peek(&path_of(chunk)) == Some(Data::Whole(*chunk))
    }

    /// The chunks whose files are whole.
    fn whole_files(&self) -> Vec<ChunkId> {
        let paths = self.disk.paths();
        let chunks = paths.iter().filter_map(|path| path.strip_prefix("chunks/")?.parse().ok());
        chunks.filter(|chunk| self.is_whole(chunk)).collect()
    }

    /// Removes a chunk that was marked gone: file, folder entry, row.
    fn unlink(&mut self, chunk: &ChunkId) -> bool {
        let path = path_of(chunk);
        let gone = self.disk.peek(&path).is_none() || self.disk.unlink(&path).is_ok();
        if gone && self.disk.sync_dir("chunks").is_ok() {
            self.shelf.forget(chunk);
            self.witness.surplus.remove(chunk);
            self.witness.unreferenced.remove(chunk);
            return true;
        }
        false
    }

    /// The database is lost: what the files tell remains.
    pub fn rebuild_shelf(&mut self) {
        let files: Vec<(ChunkId, u64)> = self.whole_files().into_iter().map(|c| (c, CHUNK_BYTES)).collect();
        self.shelf = Shelf::default();
        self.shelf.rebuild(files);
        self.witness.surplus.clear();
        self.witness.unreferenced.clear();
        // Promises were in it: to lose a database is to lose them.
        self.witness.promised.clear();
    }

    /// What a reference is worth, by what this node knows.
    pub(super) fn worth(&self, node: &Node, dot: &Dot, faults: Faults) -> Reference {
        use kepler_protocol::catalog::storage::Storage;
        let survives = self.db.survivor(dot).ok().flatten().is_some();
        Reference::judge(dot, node.replica.catalog().seen(), survives, false, faults)
    }
}

impl Node {
    /// Membership has another view.
    pub(super) fn heal_view(&mut self, room: &mut Room, now: Instant, view: View) {
        let healing = &mut self.healing;
        for member in view.members() {
            let before = healing.view.as_ref();
            let was_on = before.is_some_and(|old| old.ring().contains(&member.id));
            let was_dead =
                before.and_then(|old| old.member(&member.id)).is_some_and(|m| m.state == State::Dead);
            match member.state {
                State::Alive | State::Suspect | State::Leaving | State::Left => {
                    healing.absent.remove(&member.id);
                }
                State::Dead | State::Joining if was_on => drop(healing.absent.insert(member.id, now)),
                State::Dead | State::Joining => {}
            }
            if member.state == State::Dead && !was_dead && healing.absent.contains_key(&member.id) {
                room.witness.deaths.insert(member.id, room.witness.uptime);
            }
        }
        healing.view = Some(view.clone());
        healing.machine.handle(now, Told::View(std::sync::Arc::new(view)));
    }

    /// A peer's replicator asks.
    pub(super) fn heal_asked(&mut self, now: Instant, from: NodeId, token: u64, bytes: &[u8]) {
        if let Ok(question) = Asked::from_bytes(bytes) {
            self.healing.machine.handle(now, Told::Question { from, token, question });
        }
    }

    /// A peer's replicator answered.
    pub(super) fn heal_answered(&mut self, now: Instant, id: ActionId, reply: Option<Reply>) {
        let result = match reply {
            Some(Reply::Heal(bytes)) => Answer::from_bytes(&bytes).map_err(|_| Unreachable),
            _ => Err(Unreachable),
        };
        self.healing.machine.handle(now, Told::Answer { id, result });
    }

    /// A pushed chunk was taken, or not.
    pub(super) fn heal_pushed(&mut self, room: &mut Room, now: Instant, id: ActionId, reply: Option<Reply>) {
        let sent = match reply {
            Some(Reply::Pushed { stored: true, held }) => {
                room.witness.pushed += u64::from(!held);
                Came::Stored(if held { 0 } else { CHUNK_BYTES })
            }
            _ => Came::Failed,
        };
        self.healing.machine.handle(now, Told::Done { id, done: Done::Sent(sent) });
    }

    /// A peer has the chunk that is fetched, or not.
    pub(super) fn heal_fetched(&mut self, room: &mut Room, now: Instant, key: u64, reply: Option<Reply>) {
        let Some((id, chunk, others)) = self.healing.fetches.remove(&key) else { return };
        let found = matches!(reply, Some(Reply::Fetched(true)));
        if found && room.shelf.has(&chunk) && room.keep(chunk, !self.setup.no_folder_sync) {
            self.healing.machine.handle(now, Told::Done { id, done: Done::Fetched(Some(CHUNK_BYTES)) });
            return;
        }
        self.fetch(now, id, chunk, others);
    }

    fn fetch(&mut self, now: Instant, id: ActionId, chunk: ChunkId, mut from: VecDeque<NodeId>) {
        let Some(next) = from.pop_front() else {
            self.healing.machine.handle(now, Told::Done { id, done: Done::Fetched(None) });
            return;
        };
        self.healing.next += 1;
        let key = self.healing.next;
        self.healing.fetches.insert(key, (id, chunk, from));
        self.request(next, Question::Fetch(chunk), now + FETCH_DEADLINE, Sent::Fetch(key));
    }

    /// Does what is due.
    pub(super) fn heal_timeout(&mut self, room: &mut Room, now: Instant) {
        let (due, later) =
            std::mem::take(&mut self.healing.unlinks).into_iter().partition(|(at, ..)| *at <= now);
        self.healing.unlinks = later;
        let due: VecDeque<Unlink> = due;
        for (_, chunk, done) in due {
            if !room.unlink(&chunk) {
                self.healing.unlinks.push_back((now + UNLINK_AGAIN, chunk, None));
            }
            if let Some((id, bytes)) = done {
                self.healing.machine.handle(now, Told::Done { id, done: Done::Released(Ok(bytes)) });
            }
        }
        self.let_through(room, now);
        if self.healing.machine.poll_timeout().is_some_and(|at| at <= now) {
            self.healing.machine.handle_timeout(now);
        }
    }

    /// Sends what the throttle lets through, in order.
    fn let_through(&mut self, room: &mut Room, now: Instant) {
        for pace in [Pace::Tenth, Pace::Full] {
            while let Some(first) = self.healing.lanes[pace as usize].waiting.front_mut() {
                let piece = first.left.min(self.healing.throttle.piece());
                match self.healing.throttle.take(now, pace, piece) {
                    Ok(bytes) => {
                        first.left -= bytes;
                        if pace == Pace::Full {
                            room.witness.sends(now, bytes, self.seat.id);
                        }
                        if first.left > 0 {
                            continue;
                        }
                        let Some(sending) = self.healing.lanes[pace as usize].waiting.pop_front() else {
                            break;
                        };
                        match sending.id {
                            _ if pace == Pace::Tenth => {
                                self.healing.wait(now, Pace::Full, Sending { left: CHUNK_BYTES, ..sending });
                            }
                            Some(id) => self.send(room, now, id, sending.chunk, sending.to),
                            None => self.send_owed(now, (sending.to, sending.chunk)),
                        }
                    }
                    Err(at) => {
                        self.healing.lanes[pace as usize].due = at;
                        break;
                    }
                }
            }
        }
    }

    /// A copy that is owed waits for the throttle.
    pub(super) fn heal_owed(&mut self, now: Instant, (to, chunk): hints::Row) {
        self.healing.wait(now, Pace::Full, Sending { id: None, chunk, to, left: CHUNK_BYTES });
    }

    /// An operator changes the cap.
    pub(super) fn heal_cap(&mut self, room: &mut Room, now: Instant, cap: u64) {
        self.healing.throttle.set_cap(now, cap);
        self.healing.lanes.iter_mut().for_each(|lane| lane.due = now);
        room.witness.cap(now, cap);
    }

    fn send(&mut self, room: &mut Room, now: Instant, id: ActionId, chunk: ChunkId, to: NodeId) {
        let row = room.shelf.row(&chunk).filter(|row| !row.gone);
        let Some(row) = row.filter(|_| room.is_whole(&chunk)) else {
            self.healing.machine.handle(now, Told::Done { id, done: Done::Sent(Came::NotHere) });
            return;
        };
        let question =
            Question::Push { chunk, dots: row.dots.iter().copied().collect(), recovered: row.recovered };
        self.request(to, question, now + PUSH_DEADLINE, Sent::Push(id));
    }

    /// A copy is made because somebody died: not before the delay is over.
    fn witness_move(&self, room: &mut Room, now: Instant, chunk: &ChunkId, to: NodeId) {
        let (Some(view), Some(roster)) = (&self.healing.view, self.replica.council().roster()) else {
            return;
        };
        let delay = self.healing.config.repair_delay;
        let recent = |id: &NodeId| self.healing.absent.get(id).is_some_and(|at| now.since(*at) < delay);
        let on = |id: &NodeId| view.ring().contains(id) || recent(id);
        // A process that has just begun keeps everybody's place, seen or not.
        let young = now.since(Instant::ZERO) < delay + Duration::from_secs(30);
        if young || !roster.members.keys().any(recent) {
            return;
        }
        let owns = |on: &dyn Fn(&NodeId) -> bool| {
            let nodes = roster.members.iter().filter(|(id, _)| on(id));
            let nodes = nodes.map(|(id, entry)| Weighted {
                id: *id,
                zone: entry.zone.as_deref(),
                capacity: entry.capacity,
            });
            let ring = Ring::build(roster.constants.reference_capacity, nodes);
            ring.owners(chunk.key(), roster.replicas()).contains(&to)
        };
        let early = owns(&|id| view.ring().contains(id)) && !owns(&on);
        room.witness.break_if(early, "I5", || {
            let absent: Vec<_> = self.healing.absent.iter().map(|(id, at)| (id, now.since(*at))).collect();
            let ring: Vec<NodeId> = view.ring().nodes().collect();
            format!(
                "{} sends {chunk} to {to} before the repair delay is over: absent {absent:?}, ring {ring:?}",
                self.seat.id
            )
        });
    }

    /// Carries out what the machine wants done.
    pub(super) fn heal(&mut self, room: &mut Room, now: Instant) {
        let database = self.replica.council().database();
        if database != self.healing.database {
            // The database was found to be behind: references may be missing.
            self.healing.database = database;
            room.shelf.doubt();
        }
        while let Some(action) = self.healing.machine.poll_action() {
            if let Some((id, done)) = self.act(room, now, action) {
                self.healing.machine.handle(now, Told::Done { id, done });
            }
        }
        while self.healing.machine.poll_event().is_some() {}
    }

    fn act(&mut self, room: &mut Room, now: Instant, action: Action) -> Option<(ActionId, Done)> {
        let faults = self.setup.heal;
        Some(match action {
            Action::Page { id, after } => {
                let mut shelf = std::mem::take(&mut room.shelf);
                let worth = |dot: &Dot| room.worth(self, dot, faults);
                let page = shelf.page(&self.judge(now, &worth), after, |chunk| room.is_named(chunk));
                room.shelf = shelf;
                (id, Done::Page(Some(page)))
            }
            Action::Note(note) => {
                let (witness, me) = (&mut room.witness, self.seat.id);
                for (chunk, owners) in &note.surplus {
                    let before = witness.surplus.insert(*chunk, (witness.uptime, owners.clone()));
                    witness.break_if(before.is_some_and(|(_, before)| before == *owners), "I8", || {
                        format!("{me} began the grace of {chunk} anew, for the same owners")
                    });
                }
                for chunk in &note.wanted {
                    witness.surplus.remove(chunk);
                }
                for chunk in &note.unreferenced {
                    witness.unreferenced.entry(*chunk).or_insert(witness.uptime);
                }
                for chunk in &note.referenced {
                    witness.unreferenced.remove(chunk);
                }
                room.shelf.note(now, note);
                return None;
            }
            Action::Ask { id, to, question, deadline } => {
                let question = Question::Heal(question.to_bytes());
                self.request(to, question, now + deadline, Sent::Heal(id));
                return None;
            }
            Action::Answer { token, answer } => {
                let response = Reply::Heal(answer.to_bytes());
                self.outputs.push_back(Output::Response { token, response });
                return None;
            }
            Action::Look { id, items } => {
                let worth = |dot: &Dot| room.worth(self, dot, faults);
                (id, Done::Looked(room.shelf.look(&worth, &items, |chunk| room.is_named(chunk))))
            }
            Action::Promise { id, chunk, dots } => {
                if room.shelf.has(&chunk) && room.is_named(&chunk) && !room.is_whole(&chunk) {
                    // Set aside, to be fetched anew; a failure is found again.
                    let _ = room.disk.unlink(&path_of(&chunk));
                    self.healing.machine.handle(now, Told::Lost(chunk));
                }
                let given = room.is_whole(&chunk) && room.shelf.promise(now, chunk, &dots, faults);
                if given {
                    room.witness.promised.insert(chunk, room.witness.uptime);
                }
                if given && !dots.is_empty() {
                    room.witness.unreferenced.remove(&chunk);
                }
                (id, Done::Promised(given))
            }
            Action::References { id, chunk } => {
                let worth = |dot: &Dot| room.worth(self, dot, faults);
                (id, Done::References(room.shelf.references(&worth, &chunk)))
            }
            Action::Send { id, chunk, to, pace } => {
                self.witness_move(room, now, &chunk, to);
                self.healing.wait(now, pace, Sending { id: Some(id), chunk, to, left: CHUNK_BYTES });
                return None;
            }
            Action::Fetch { id, chunk, from } => {
                let mut all: VecDeque<NodeId> = from.into();
                let others = self.seat.ids.iter().filter(|other| **other != self.seat.id);
                all.extend(others.filter(|other| !all.contains(other)).copied().collect::<Vec<_>>());
                self.fetch(now, id, chunk, all);
                return None;
            }
            Action::Release { id, claim } => {
                let mut shelf = std::mem::take(&mut room.shelf);
                let worth = |dot: &Dot| room.worth(self, dot, faults);
                let decided = shelf.release(&self.judge(now, &worth), &claim);
                room.shelf = shelf;
                match decided {
                    Ok(bytes) => {
                        self.witness_release(room, now, &claim);
                        self.healing.unlinks.push_back((now + UNLINK_AFTER, claim.chunk, Some((id, bytes))));
                        return None;
                    }
                    Err(kept) => (id, Done::Released(Err(kept))),
                }
            }
            Action::Collect { id, chunks } => {
                let mut shelf = std::mem::take(&mut room.shelf);
                let worth = |dot: &Dot| room.worth(self, dot, faults);
                let marked = shelf.collect(&self.judge(now, &worth), &chunks);
                room.shelf = shelf;
                let count = marked.len() as u64;
                for (chunk, _) in marked {
                    self.witness_collect(room, &chunk);
                    self.healing.unlinks.push_back((now + UNLINK_AFTER, chunk, None));
                }
                (id, Done::Collected { chunks: count, bytes: count * CHUNK_BYTES })
            }
            Action::Scrub { id, restart, limit } => {
                let mut shelf = std::mem::take(&mut room.shelf);
                let scrubbed = shelf.scrub(restart, limit, |chunk| room.is_whole(chunk));
                room.shelf = shelf;
                for chunk in &scrubbed.bad {
                    // Set aside; a failure is found again.
                    let _ = room.disk.unlink(&path_of(chunk));
                }
                (id, Done::Scrubbed(scrubbed))
            }
        })
    }

    fn judge<'a>(&self, now: Instant, worth: &'a dyn Fn(&Dot) -> Reference) -> Judge<'a> {
        Judge {
            worth,
            now,
            breaker: self.healing.machine.breaker(),
            ready: self.replica.council().standing().is_ok(),
            gc_grace: self.healing.config.gc_grace,
            faults: self.setup.heal,
        }
    }

    /// I20, as this node's own view has it.
    fn witness_breaker(&self, room: &mut Room, chunk: &ChunkId) {
        let (Some(view), Some(roster)) = (&self.healing.view, self.replica.council().roster()) else {
            return;
        };
        let is_dead = |id: &&NodeId| view.member(id).is_some_and(|m| m.state == State::Dead);
        let (dead, all) = (roster.members.keys().filter(is_dead).count(), roster.members.len());
        room.witness.break_if(dead >= 2 && 3 * dead > all, "I20", || {
            format!("{} deletes {chunk} while {dead} of {all} members are dead", self.seat.id)
        });
    }

    fn witness_release(&self, room: &mut Room, now: Instant, claim: &Claim) {
        self.witness_breaker(room, &claim.chunk);
        let grace = self.healing.config.handoff_grace;
        let me = self.seat.id;
        // Who leaves has no grace.
        let grace = if self.leave_at.is_some() { Duration::ZERO } else { grace };
        let witness = &mut room.witness;
        let waited = witness.surplus.get(&claim.chunk).map(|(since, _)| witness.uptime - *since);
        witness.break_if(waited.is_none_or(|waited| waited < grace), "I8", || {
            format!("{me} released {} after {waited:?} of its grace", claim.chunk)
        });
        let uptime = witness.uptime;
        let died = |id: &NodeId| witness.deaths.get(id).is_some_and(|at| uptime - *at < grace);
        let died: Vec<NodeId> = claim.owners.iter().filter(|id| died(id)).copied().collect();
        witness.break_if(!died.is_empty(), "I8", || {
            format!("{me} released {} within its grace after the death of {died:?}", claim.chunk)
        });
        let age = now.since(claim.asked_at);
        room.witness.break_if(age >= RECEIPT_VALID, "I8", || {
            format!("{me} released {} against receipts it asked for {age:?} ago", claim.chunk)
        });
        self.deleted(room, &claim.chunk, false);
    }

    fn witness_collect(&self, room: &mut Room, chunk: &ChunkId) {
        self.witness_breaker(room, chunk);
        let grace = self.healing.config.gc_grace;
        let me = self.seat.id;
        let witness = &mut room.witness;
        let waited = witness.unreferenced.get(chunk).map(|since| witness.uptime - *since);
        witness.break_if(waited.is_none_or(|waited| waited < grace), "I7", || {
            format!("{me} collected {chunk} after {waited:?} of its grace")
        });
        let standing = self.replica.council().standing();
        witness.break_if(standing.is_err(), "I7", || {
            format!("{me} collected {chunk} with its catalog not ready: {standing:?}")
        });
        self.deleted(room, chunk, true);
    }

    fn deleted(&self, room: &mut Room, chunk: &ChunkId, collected: bool) {
        let dots: BTreeSet<Dot> = room.shelf.row(chunk).map(|row| row.dots.clone()).unwrap_or_default();
        let replicas = self.copies_elsewhere();
        let witness = &mut room.witness;
        let promised = witness.promised.get(chunk).map(|at| witness.uptime - *at);
        witness.break_if(promised.is_some_and(|age| age < PROMISE), "I8", || {
            format!("{} deletes {chunk}, which it promised to keep {promised:?} ago", self.seat.id)
        });
        room.witness.deleted.push(Deleted { chunk: *chunk, dots, collected, replicas });
    }

    /// How many others must have a copy before this one goes.
    fn copies_elsewhere(&self) -> usize {
        let replicas = self.replica.council().replicas();
        let (Some(view), Some(roster)) = (&self.healing.view, self.replica.council().roster()) else {
            return replicas;
        };
        if self.leave_at.is_none() {
            return replicas;
        }
        let leaves =
            |id: &NodeId| view.member(id).is_some_and(|m| matches!(m.state, State::Leaving | State::Left));
        let staying = roster.members.keys().filter(|id| !leaves(id) && **id != self.seat.id).count();
        usize::from(self.setup.replication_factor).min(staying).max(1)
    }
}
