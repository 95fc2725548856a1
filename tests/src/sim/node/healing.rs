//! The replicator on a simulated node: carries its actions out on the simulated disk and network, a
//! step at a time, so that a crash may fall between any two. Judges each deletion as it is decided, by
//! what the node itself could know.
//!
//! | module | decides |
//! | --- | --- |
//! | [`lanes`] | when which chunk is let through by the throttle |
//! | [`act`] | what an action does |
//! | [`judge`] | whether it may |

mod act;
mod judge;
mod lanes;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kepler_protocol::chunk::ChunkId;
use kepler_protocol::identity::DatabaseId;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::replicator::health::Health;
use kepler_protocol::replicator::message::{Answer, Question as Asked};
use kepler_protocol::replicator::{
    ActionId, Config, Done, Input as Told, Pace, Replicator, Sent as Came, Unreachable,
};
use kepler_protocol::roster::Roster;
use kepler_protocol::throttle::Throttle;
use kepler_protocol::time::Instant;
use kepler_protocol::view::{State, View};

use super::Node;
use super::message::{Question, Reply};
use super::queue::Row;
use super::requests::Sent;
use super::room::{CHUNK_BYTES, Room};
use super::setup::Setup;
use lanes::{Lanes, Sending};

/// How long a push waits for its answer.
const PUSH_DEADLINE: Duration = Duration::from_secs(8);

/// How long a fetch waits for one holder.
const FETCH_DEADLINE: Duration = Duration::from_secs(2);

/// From the decision to delete until the file is unlinked: what a crash may fall into.
const UNLINK_AFTER: Duration = Duration::from_millis(40);

/// When a deletion is tried again that failed.
const UNLINK_AGAIN: Duration = Duration::from_secs(5);

/// When to unlink what, and which release that ends.
type Unlink = (Instant, ChunkId, Option<(ActionId, u64)>);

/// The replicator of a process, and what it has under way.
pub struct Healing {
    /// The machine.
    pub machine: Replicator,
    config: Config,
    database: DatabaseId,
    unlinks: VecDeque<Unlink>,
    lanes: Lanes,
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
            let row = room.shelf.row(&chunk);
            if row.is_none_or(|row| row.aside) {
                room.shelf.enter(chunk, CHUNK_BYTES, &[], row.is_none(), faults);
            }
        }
        let config = Config {
            repair_delay: setup.repair_delay,
            handoff_grace: setup.handoff_grace,
            gc_grace: setup.gc_grace,
            inventory_interval: setup.inventory_interval,
            scrub_interval: setup.scrub_interval,
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
            lanes: Lanes::new(throttle),
            fetches: BTreeMap::new(),
            next: 0,
            absent: BTreeMap::new(),
            view: None,
        }
    }

    /// When something is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let unlinks = self.unlinks.iter().map(|(at, ..)| *at).min();
        [self.lanes.poll_timeout(), self.machine.poll_timeout(), unlinks].into_iter().flatten().min()
    }

    /// Who was taken off the roster has given up its place, however soon it returns.
    pub fn forget_removed(&mut self, roster: &Roster) {
        self.absent.retain(|id, _| roster.members.contains_key(id));
    }

    /// What healing waits for, for whoever looks into a failure.
    pub fn why(&self) -> Health {
        self.machine.health(Instant::ZERO)
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
        let folder = !self.setup.no_folder_sync;
        if found && room.take(chunk, &[], false, folder, self.setup.heal).0 {
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
        let me = self.seat.id;
        self.healing.lanes.let_tenth_through(now);
        while let Some(Sending { id, chunk, to }) =
            self.healing.lanes.next(now, |bytes| room.witness.sends(now, bytes, me))
        {
            match id {
                Some(id) => self.send(room, now, id, chunk, to),
                None => self.send_owed(room, now, (to, chunk)),
            }
        }
    }

    /// A copy that is owed waits for the throttle.
    pub(super) fn heal_owed(&mut self, now: Instant, (to, chunk): Row) {
        self.healing.lanes.wait(now, Pace::Full, Sending { id: None, chunk, to });
    }

    /// An operator changes the cap.
    pub(super) fn heal_cap(&mut self, room: &mut Room, now: Instant, cap: u64) {
        self.healing.lanes.set_cap(now, cap);
        room.witness.cap(now, cap);
    }

    /// Hashes a copy before it is relied on: one that is rotten or gone is set aside and fetched anew. Whether there
    /// is a good one.
    pub(super) fn hash(&mut self, room: &mut Room, now: Instant, chunk: &ChunkId) -> bool {
        if room.set_aside(chunk, self.setup.heal) {
            self.healing.machine.handle(now, Told::Lost(*chunk));
        } else if room.shelf.has(chunk) && room.is_unreadable(chunk) {
            self.healing.machine.handle(now, Told::Unreadable(*chunk));
        }
        room.shelf.has(chunk) && room.is_whole(chunk)
    }

    fn send(&mut self, room: &mut Room, now: Instant, id: ActionId, chunk: ChunkId, to: NodeId) {
        if !self.setup.heal.sends_unhashed {
            self.hash(room, now, &chunk);
        }
        let unreadable = room.is_unreadable(&chunk);
        let Some(row) = room.shelf.row(&chunk).filter(|row| row.is_here() && !unreadable) else {
            let came = if unreadable { Came::Failed } else { Came::NotHere };
            self.healing.machine.handle(now, Told::Done { id, done: Done::Sent(came) });
            return;
        };
        let question =
            Question::Push { chunk, dots: row.dots.iter().copied().collect(), recovered: row.recovered };
        self.witness_sent(room, &chunk);
        self.request(to, question, now + PUSH_DEADLINE, Sent::Push(id));
    }
}
