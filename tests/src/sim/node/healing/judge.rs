//! Judges what the replicator decides by what the node itself could know: no copy is made before the repair
//! delay is over, and none deleted before its grace is, against a promise, or while too many are dead.

use std::collections::BTreeSet;
use std::time::Duration;

use kepler_protocol::chunk::ChunkId;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::replicator::rules::{Claim, PROMISE, RECEIPT_VALID};
use kepler_protocol::ring::{Ring, Weighted};
use kepler_protocol::time::Instant;
use kepler_protocol::version::Dot;
use kepler_protocol::view::State;

use crate::sim::node::Node;
use crate::sim::node::room::Room;
use crate::sim::process::Deleted;

impl Node {
    /// A copy is made because somebody died: not before the delay is over.
    pub(super) fn witness_move(&self, room: &mut Room, now: Instant, chunk: &ChunkId, to: NodeId) {
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
    /// I2: what is sent is whole.
    pub(in crate::sim::node) fn witness_sent(&self, room: &mut Room, chunk: &ChunkId) {
        let rotten = !room.is_whole(chunk);
        room.witness.break_if(rotten, "I2", || format!("{} sends {chunk}, which is rotten", self.seat.id));
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

    pub(super) fn witness_release(&self, room: &mut Room, now: Instant, claim: &Claim) {
        self.witness_breaker(room, &claim.chunk);
        let grace = self.healing.config.handoff_grace;
        let me = self.seat.id;
        // Who leaves has no grace.
        let grace = if self.departure.is_leaving() { Duration::ZERO } else { grace };
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

    pub(super) fn witness_collect(&self, room: &mut Room, chunk: &ChunkId) {
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
        if !self.departure.is_leaving() {
            return replicas;
        }
        let leaves =
            |id: &NodeId| view.member(id).is_some_and(|m| matches!(m.state, State::Leaving | State::Left));
        let staying = roster.members.keys().filter(|id| !leaves(id) && **id != self.seat.id).count();
        usize::from(self.setup.replication_factor).min(staying).max(1)
    }
}
