//! Where chunks should be for healing: the ring on which the newly absent still have their place.
//!
//! Two rings. The *present* one is the view's: by it clients write and receipts are given. The
//! *repair* ring has beside it the members of the roster that were on the ring and are not any more,
//! for [`Config::repair_delay`](super::Config::repair_delay) of this process's running time: dead,
//! restarting, or not heard of yet since this process began. So a bounce moves nothing, a death shows
//! up as a change of the repair ring once the delay is over, and a join at once. Who leaves gives its
//! place up at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::rules;
use crate::chunk::ChunkId;
use crate::node_id::NodeId;
use crate::ring::{Ring, Weighted};
use crate::roster::Roster;
use crate::time::Instant;
use crate::view::{State, View};

/// What a new view or the passing of time has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The present ring or the repair ring is another.
    pub rings: bool,
    /// Members that lost their place on the repair ring because they were absent for too long, or were forgotten.
    pub given_up: Vec<NodeId>,
}

/// The rings, and who is absent since when.
#[derive(Debug)]
pub struct Placement {
    me: NodeId,
    delay: Duration,
    opened: Instant,
    view: Option<Arc<View>>,
    roster: Option<Roster>,
    repair: Ring,
    /// Members of the roster that are not on the view's ring and keep their place until the delay is
    /// over, since when.
    absent: BTreeMap<NodeId, Instant>,
    /// Who was on the present ring in some view of this process.
    known: BTreeSet<NodeId>,
    /// When members that are dead now were first seen so.
    died: BTreeMap<NodeId, Instant>,
    /// When members died last, whether they came back or not.
    last_death: BTreeMap<NodeId, Instant>,
    /// Counts changes of either ring.
    epoch: u64,
}

impl Placement {
    /// Rings of nobody.
    pub fn new(me: NodeId, delay: Duration, now: Instant) -> Self {
        Self {
            me,
            delay,
            opened: now,
            view: None,
            roster: None,
            repair: Ring::default(),
            absent: BTreeMap::new(),
            known: BTreeSet::new(),
            died: BTreeMap::new(),
            last_death: BTreeMap::new(),
            epoch: 0,
        }
    }

    /// Takes a view.
    pub fn handle_view(&mut self, now: Instant, view: Arc<View>) -> Change {
        let needed = self.receipts_needed();
        let before = self.view.replace(view);
        let Some(view) = &self.view else { return Change::default() };
        let dead: BTreeSet<NodeId> =
            view.members().filter(|m| m.state == State::Dead).map(|m| m.id).collect();
        self.died.retain(|id, _| dead.contains(id));
        // Who was never seen on the ring died before this process began, or has not been heard yet.
        for id in dead.into_iter().filter(|id| self.known.contains(id)) {
            let at = *self.died.entry(id).or_insert(now);
            if at == now {
                self.last_death.insert(id, now);
            }
        }
        self.known.extend(view.ring().nodes());
        // Who leaves and dies may come back, so that more receipts are needed than were asked for.
        let moved =
            before.is_none_or(|before| before.ring() != view.ring()) || self.receipts_needed() != needed;
        if moved {
            self.epoch += 1;
        }
        let mut change = self.advance(now);
        change.rings |= moved;
        change
    }

    /// Takes a roster.
    pub fn handle_roster(&mut self, now: Instant, roster: Roster) -> Change {
        let (known, needed) = (self.roster.is_some(), self.receipts_needed());
        let replicas = self.replicas();
        self.last_death.retain(|id, _| roster.members.contains_key(id));
        // Who is on the ring all the while keeps its place, whether it was off the roster for a moment or not.
        let on_ring = |id: &NodeId| self.view.as_ref().is_some_and(|view| view.ring().contains(id));
        self.known.retain(|id| roster.members.contains_key(id) || on_ring(id));
        self.roster = Some(roster);
        // N may be another, or what N will be without those who leave: what was counted or asked before is void.
        let moved = !known || self.replicas() != replicas || self.receipts_needed() != needed;
        self.epoch += u64::from(moved);
        let mut change = self.advance(now);
        change.rings |= moved;
        change
    }

    /// Time has passed: who is absent for too long loses its place.
    pub fn advance(&mut self, now: Instant) -> Change {
        let (Some(view), Some(roster)) = (&self.view, &self.roster) else { return Change::default() };
        let fresh = now.since(self.opened) < self.delay;
        let absent = |id: &NodeId| {
            let state = view.member(id).map(|m| m.state);
            let on_its_way = matches!(state, None | Some(State::Dead | State::Joining));
            on_its_way && !view.ring().contains(id) && (fresh || self.known.contains(id))
        };
        let absent: Vec<NodeId> =
            roster.members.keys().filter(|id| **id != self.me && absent(id)).copied().collect();
        // Who was taken off the roster is not waited for.
        let removed = |id: &&NodeId| !roster.members.contains_key(*id);
        let mut given_up: Vec<NodeId> = self.absent.keys().filter(removed).copied().collect();
        let mut since = BTreeMap::new();
        for id in absent {
            let from = self.absent.get(&id).copied().unwrap_or(now);
            if now.since(from) < self.delay {
                since.insert(id, from);
            } else {
                given_up.push(id);
                self.known.remove(&id);
                self.last_death.insert(id, now);
            }
        }
        self.absent = since;
        let present = view.members().filter(|m| view.ring().contains(&m.id)).map(|m| Weighted {
            id: m.id,
            zone: m.metadata.zone.as_deref(),
            capacity: m.metadata.capacity,
        });
        let absent = self.absent.keys().filter_map(|id| {
            let entry = roster.members.get(id)?;
            Some(Weighted { id: *id, zone: entry.zone.as_deref(), capacity: entry.capacity })
        });
        // Whoever waits to be ready again has not given its own place up.
        let waits = view.member(&self.me).is_some_and(|m| m.state == State::Joining);
        let own = roster.members.get(&self.me).filter(|_| waits && !view.ring().contains(&self.me));
        let own =
            own.map(|entry| Weighted { id: self.me, zone: entry.zone.as_deref(), capacity: entry.capacity });
        let nodes = present.chain(absent).chain(own);
        let repair = self.repair.rebuild(roster.constants.reference_capacity, nodes);
        let rings = repair != self.repair;
        self.epoch += u64::from(rings);
        self.repair = repair;
        Change { rings, given_up }
    }

    /// When [`Placement::advance`] changes something.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.absent.values().min().map(|since| *since + self.delay)
    }

    /// Whether a view and a roster are known.
    pub fn is_known(&self) -> bool {
        self.view.is_some() && self.roster.is_some()
    }

    /// Counts changes of either ring.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// N, by the roster.
    pub fn replicas(&self) -> usize {
        self.roster.as_ref().map_or(0, Roster::replicas)
    }

    /// Who should hold a chunk, in order, for healing.
    pub fn owners(&self, chunk: &ChunkId) -> Vec<NodeId> {
        self.repair.owners(chunk.key(), self.replicas())
    }

    /// Who owns a chunk now, in order.
    pub fn present_owners(&self, chunk: &ChunkId) -> Vec<NodeId> {
        self.view.as_ref().map_or_else(Vec::new, |view| view.ring().owners(chunk.key(), self.replicas()))
    }

    /// Whether this node owns the chunk by either ring.
    pub fn is_mine(&self, chunk: &ChunkId) -> bool {
        self.is_owner(chunk) || self.repair.is_owner(chunk.key(), self.replicas(), &self.me)
    }

    /// Whether this node owns the chunk in its present ring.
    pub fn is_owner(&self, chunk: &ChunkId) -> bool {
        let ring = self.view.as_ref().map(|view| view.ring());
        ring.is_some_and(|ring| ring.is_owner(chunk.key(), self.replicas(), &self.me))
    }

    /// How many nodes come before this one clockwise from a chunk, owners not counted; at most `limit`.
    pub fn strays_before(&self, chunk: &ChunkId, limit: usize) -> usize {
        let n = self.replicas();
        let after = self.repair.candidates(chunk.key(), n, n + limit);
        after.iter().skip(n).position(|id| *id == self.me).unwrap_or(limit)
    }

    /// How many owners must vouch for a copy: N by the roster. Of a node that leaves, N as it will be
    /// without those who leave.
    pub fn receipts_needed(&self) -> usize {
        let (Some(view), Some(roster)) = (&self.view, &self.roster) else { return usize::MAX };
        if !self.is_leaving() {
            return roster.replicas();
        }
        let leaves =
            |id: &NodeId| view.member(id).is_some_and(|m| matches!(m.state, State::Leaving | State::Left));
        let staying = roster.members.keys().filter(|id| !leaves(id)).count();
        usize::from(roster.constants.replication_factor).min(staying).max(1)
    }

    /// Whether a member can be asked.
    pub fn is_reachable(&self, node: &NodeId) -> bool {
        let member = self.view.as_ref().and_then(|view| view.member(node));
        *node != self.me && member.is_some_and(|m| m.state.is_reachable())
    }

    /// Whether this node is on its way out.
    pub fn is_leaving(&self) -> bool {
        let own = self.view.as_ref().and_then(|view| view.member(&self.me));
        own.is_some_and(|m| m.state == State::Leaving)
    }

    /// Whether the roster lacks this node.
    pub fn is_removed(&self) -> bool {
        self.roster.as_ref().is_some_and(|roster| !roster.members.contains_key(&self.me))
    }

    /// When one of these last died, if one did and that is less than `grace` ago.
    pub fn grace_after_death(&self, now: Instant, owners: &[NodeId], grace: Duration) -> Option<Instant> {
        let last = owners.iter().filter_map(|id| self.last_death.get(id)).max()?;
        (now.since(*last) < grace).then(|| *last + grace)
    }

    /// Whether too many members are dead to delete anything.
    pub fn breaker(&self) -> bool {
        match (&self.view, &self.roster) {
            (Some(view), Some(roster)) => rules::breaker(roster, view),
            _ => true,
        }
    }

    /// Whether two or more of the members that are dead died within one repair delay.
    pub fn died_together(&self) -> bool {
        let Some(roster) = &self.roster else { return false };
        let dead = self.died.iter().filter(|(id, _)| roster.members.contains_key(id));
        let mut deaths: Vec<Instant> = dead.map(|(_, at)| *at).collect();
        deaths.sort_unstable();
        deaths.windows(2).any(|pair| pair[1].since(pair[0]) < self.delay)
    }
}
