//! The table of other members: what each said of itself, what others say of it, and our session with it.
//!
//! Invariants: `order` holds every occupied slot, by node id; `reachable` counts the members whose state
//! is reachable. A member's record is the one of the greatest incarnation that was verified.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::node_id::NodeId;
use crate::time::Instant;
use crate::view::State;
use crate::wire::gossip::{Announcement, Record, Statement, key_tag};
use crate::wire::seal::Window;

/// A place in the table; stays the same while the member is known.
pub(super) type Slot = u32;

/// What others say of a member, about `incarnation` or an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accused {
    pub verdict: State,
    pub incarnation: u64,
}

/// A process of a member that answered a fresh nonce of ours.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub epoch: u64,
    pub salt: u64,
    pub window: Window,
    /// When a datagram of it was accepted last.
    pub heard: Instant,
    /// When it last echoed a nonce of ours: it hears us, and we it.
    pub answered: Instant,
    /// The counter of the datagram that brought the announcement.
    pub announced: u64,
    pub announcement: Option<Announcement>,
    /// It has said something of itself since that did not come here.
    pub missed: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub record: Arc<Record>,
    pub accused: Option<Accused>,
    /// Known from an earlier run or by a contact that never answered: counts as dead, and nobody is told of it.
    pub unheard: bool,
    /// The local health it reports.
    pub health: u8,
    pub session: Option<Box<Session>>,
}

impl Member {
    pub fn new(record: Arc<Record>) -> Self {
        Self { record, accused: None, unheard: false, health: 0, session: None }
    }

    pub fn statement(&self) -> &Statement {
        self.record.statement()
    }

    pub fn id(&self) -> NodeId {
        self.statement().id
    }

    pub fn key_tag(&self) -> u64 {
        key_tag(&self.statement().metadata.key)
    }

    pub fn addr(&self) -> SocketAddr {
        let metadata = &self.statement().metadata;
        SocketAddr::new(metadata.addr, metadata.gossip_port)
    }

    /// Its state in the view. A silent member that owned nothing does not become an owner by being suspected.
    pub fn state(&self) -> State {
        match (self.accused.map(|a| a.verdict), self.statement().state) {
            (_, own @ (State::Left | State::Dead)) => own,
            _ if self.unheard => State::Dead,
            (Some(State::Dead), _) => State::Dead,
            (Some(_), State::Alive) => State::Suspect,
            (_, own) => own,
        }
    }

    pub fn is_suspected(&self) -> bool {
        self.accused.is_some_and(|a| a.verdict == State::Suspect)
    }
}

#[derive(Debug, Default)]
pub(super) struct Members {
    slots: Vec<Option<Member>>,
    free: Vec<Slot>,
    order: Vec<Slot>,
    reachable: usize,
    dead: BTreeSet<Slot>,
}

impl Members {
    fn position(&self, id: &NodeId) -> Result<usize, usize> {
        self.order.binary_search_by(|slot| self.at(*slot).statement().id.cmp(id))
    }

    fn at(&self, slot: Slot) -> &Member {
        self.slots[slot as usize].as_ref().expect("the order holds occupied slots")
    }

    pub fn find(&self, id: &NodeId) -> Option<Slot> {
        self.position(id).ok().map(|at| self.order[at])
    }

    pub fn get(&self, slot: Slot) -> Option<&Member> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// For what does not touch the state: sessions and health.
    pub fn session_mut(&mut self, slot: Slot) -> Option<&mut Member> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// Changes a member and keeps the count of the reachable.
    pub fn change(&mut self, slot: Slot, change: impl FnOnce(&mut Member)) {
        let Some(member) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        let before = member.state().is_reachable();
        change(member);
        let after = member.state().is_reachable();
        let dead = member.state() == State::Dead;
        self.reachable = self.reachable + usize::from(after) - usize::from(before);
        self.note_dead(slot, dead);
    }

    fn note_dead(&mut self, slot: Slot, dead: bool) {
        if dead {
            self.dead.insert(slot);
        } else {
            self.dead.remove(&slot);
        }
    }

    /// Adds a member whose id is not in the table.
    pub fn insert(&mut self, member: Member) -> Slot {
        let at = self.position(&member.id()).expect_err("is not in the table");
        self.reachable += usize::from(member.state().is_reachable());
        let dead = member.state() == State::Dead;
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(member);
            slot
        } else {
            self.slots.push(Some(member));
            Slot::try_from(self.slots.len() - 1).expect("the table is bounded")
        };
        self.order.insert(at, slot);
        self.note_dead(slot, dead);
        slot
    }

    pub fn remove(&mut self, slot: Slot) {
        let Some(member) = self.get(slot) else { return };
        let (id, reachable) = (member.id(), member.state().is_reachable());
        let at = self.position(&id).expect("is in the table");
        self.order.remove(at);
        self.reachable -= usize::from(reachable);
        self.slots[slot as usize] = None;
        self.free.push(slot);
        self.dead.remove(&slot);
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Members, this node not counted, that are neither dead nor gone.
    pub const fn reachable(&self) -> usize {
        self.reachable
    }

    /// The dead, in no meaningful order.
    pub const fn dead(&self) -> &BTreeSet<Slot> {
        &self.dead
    }

    /// By node id.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Member)> {
        self.order.iter().map(|slot| (*slot, self.at(*slot)))
    }

    /// Up to `count` different random members that satisfy `wanted`.
    pub fn choose(
        &self,
        rng: &mut fastrand::Rng,
        count: usize,
        wanted: impl Fn(Slot, &Member) -> bool,
    ) -> Vec<Slot> {
        if count == 0 || self.order.is_empty() {
            return Vec::new();
        }
        if self.order.len() <= 64 {
            let mut all: Vec<Slot> = self.iter().filter(|(s, m)| wanted(*s, m)).map(|(s, _)| s).collect();
            rng.shuffle(&mut all);
            all.truncate(count);
            return all;
        }
        let mut chosen = Vec::with_capacity(count);
        for _ in 0..count * 8 + 32 {
            let slot = self.order[rng.usize(..self.order.len())];
            if !chosen.contains(&slot) && wanted(slot, self.at(slot)) {
                chosen.push(slot);
                if chosen.len() == count {
                    break;
                }
            }
        }
        chosen
    }
}
