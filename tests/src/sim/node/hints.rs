//! Delivering what uploads still owe: rows of the [`Queue`] are re-aimed as the roster changes, gathered
//! where this node lacks the chunk, and delivered at least once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use kepler_protocol::chunk::ChunkId;
use kepler_protocol::hint::{Aim, aim};
use kepler_protocol::node_id::NodeId;
use kepler_protocol::replicator::rules::Reference;
use kepler_protocol::time::Instant;
use kepler_protocol::version::Dot;

use super::Node;
use super::message::{Question, Reply};
use super::queue::{Queue, Row};
use super::requests::Sent;
use super::room::Room;

/// How often the queue is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Rows of one target that are delivered at a time.
const IN_FLIGHT: usize = 4;

/// How long a row rests that could not be delivered.
const REST: Duration = Duration::from_secs(4);

const FETCH_DEADLINE: Duration = Duration::from_secs(2);

const PUSH_DEADLINE: Duration = Duration::from_secs(8);

/// What this process is about to deliver.
#[derive(Debug, Default)]
pub struct Delivery {
    /// When to look at the queue; never before anything is owed.
    pub next: Option<Instant>,
    /// With the dots that are handed over.
    under_way: BTreeMap<Row, BTreeSet<Dot>>,
    rests: BTreeMap<Row, Instant>,
    /// What is looked for elsewhere, and who is still to be asked.
    gathers: BTreeMap<Row, VecDeque<NodeId>>,
    /// What was got elsewhere, hashed on the way, and waits to be sent on.
    gathered: BTreeSet<Row>,
}

impl Delivery {
    /// A process begins: what is on disk is owed still.
    pub fn new(now: Instant, queue: &Queue) -> Self {
        Self { next: (queue.len() > 0).then_some(now), ..Self::default() }
    }
}

impl Node {
    /// An upload reached its durability and still owes copies.
    pub(super) fn owe(&mut self, room: &mut Room, now: Instant, chunk: ChunkId, dot: Dot, owed: &[NodeId]) {
        if !self.setup.queue {
            return;
        }
        for target in owed {
            room.queue.owe((*target, chunk), [dot]);
        }
        if !owed.is_empty() {
            self.delivery.next.get_or_insert(now);
        }
    }

    /// Looks at the queue, if that is due.
    pub(super) fn pay(&mut self, room: &mut Room, now: Instant) {
        if self.delivery.next.is_none_or(|at| at > now) {
            return;
        }
        for (row, dots) in room.queue.0.clone() {
            self.pay_row(room, now, row, dots);
        }
        self.delivery.next = (room.queue.len() > 0).then_some(now + LOOK);
    }

    fn pay_row(&mut self, room: &mut Room, now: Instant, row: Row, dots: BTreeSet<Dot>) {
        let (target, chunk) = row;
        let rests = self.delivery.rests.get(&row).is_some_and(|until| now < *until);
        if rests || self.delivery.under_way.contains_key(&row) {
            return;
        }
        // What was superseded meanwhile is owed no more.
        let ended =
            |dot: &&Dot| room.worth(self.replica.catalog().seen(), dot, self.setup.heal) == Reference::Ended;
        let ended: BTreeSet<Dot> = dots.iter().filter(ended).copied().collect();
        let dots: BTreeSet<Dot> = dots.difference(&ended).copied().collect();
        room.queue.paid(&row, &ended);
        if dots.is_empty() {
            return;
        }
        let owners = match self.replica.council().roster() {
            Some(_) => self.roster_owners(&chunk),
            None => Vec::new(),
        };
        if let Aim::Instead(owners) = aim(target, &owners) {
            room.queue.paid(&row, &dots);
            for owner in owners {
                room.queue.owe((owner, chunk), dots.iter().copied());
            }
            return;
        }
        let here = target == self.seat.id;
        let busy = self.delivery.under_way.keys().filter(|(to, _)| *to == target).count();
        if busy >= IN_FLIGHT || !here && !self.view.ring().contains(&target) {
            return;
        }
        let held = room.shelf.has(&chunk) && room.is_whole(&chunk);
        self.delivery.under_way.insert(row, dots.clone());
        if here && held {
            let dots: Vec<Dot> = dots.into_iter().collect();
            let taken = room.take(chunk, &dots, false, !self.setup.no_folder_sync, self.setup.heal).0;
            self.owed_done(room, now, row, taken);
        } else if held {
            self.heal_owed(now, row);
        } else {
            let others = owners.into_iter().filter(|id| *id != self.seat.id && *id != target).collect();
            self.delivery.gathers.insert(row, others);
            self.gather(room, now, row, false);
        }
    }

    /// Who was asked for a chunk that is owed has it or not.
    pub(super) fn gather(&mut self, room: &mut Room, now: Instant, row: Row, found: bool) {
        let (target, chunk) = row;
        let Some(others) = self.delivery.gathers.get_mut(&row) else { return };
        if found {
            self.delivery.gathers.remove(&row);
            if target != self.seat.id {
                self.delivery.gathered.insert(row);
                self.heal_owed(now, row);
                return;
            }
            let dots: Vec<Dot> = self.delivery.under_way.get(&row).into_iter().flatten().copied().collect();
            let taken = room.take(chunk, &dots, false, !self.setup.no_folder_sync, self.setup.heal).0;
            self.owed_done(room, now, row, taken);
        } else if let Some(next) = others.pop_front() {
            self.request(next, Question::Fetch(chunk), now + FETCH_DEADLINE, Sent::Gather(row));
        } else {
            self.delivery.gathers.remove(&row);
            self.owed_done(room, now, row, false);
        }
    }

    /// The throttle let a chunk through that is owed.
    pub(super) fn send_owed(&mut self, room: &mut Room, now: Instant, row: Row) {
        let (target, chunk) = row;
        if !self.delivery.gathered.remove(&row) {
            // It may have rotted or gone while it waited.
            if !self.hash(room, now, &chunk) {
                self.owed_done(room, now, row, false);
                return;
            }
            self.witness_sent(room, &chunk);
        }
        let dots = self.delivery.under_way.get(&row).into_iter().flatten().copied().collect();
        let question = Question::Push { chunk, dots, recovered: false };
        self.request(target, question, now + PUSH_DEADLINE, Sent::Owed(row));
    }

    /// The target answered, or did not.
    pub(super) fn owed_answered(&mut self, room: &mut Room, now: Instant, row: Row, reply: Option<Reply>) {
        let taken = matches!(reply, Some(Reply::Pushed { stored: true, .. }));
        room.witness.delivered += u64::from(taken && self.delivery.under_way.contains_key(&row));
        self.owed_done(room, now, row, taken);
    }

    fn owed_done(&mut self, room: &mut Room, now: Instant, row: Row, taken: bool) {
        let Some(dots) = self.delivery.under_way.remove(&row) else { return };
        if taken {
            room.queue.paid(&row, &dots);
            self.delivery.rests.remove(&row);
        } else {
            self.delivery.rests.insert(row, now + REST);
        }
    }
}
