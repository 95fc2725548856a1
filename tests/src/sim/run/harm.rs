//! What goes wrong in a run: injects the faults of the plan, undoes them, and remembers what they took.
//!
//! The network is always what the faults that last just now say, however they overlap.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kepler_protocol::chunk::ChunkId;
use kepler_protocol::time::Instant;

use super::{Options, Run, UNDO};
use crate::sim::faults::{Damage, Fault};
use crate::sim::network::Place;
use crate::sim::process::{Durable, Process, Word};
use crate::sim::rng;

/// What is wrong just now, and what was lost.
#[derive(Default)]
pub(super) struct Harm {
    /// The faults of the plan that last.
    active: BTreeSet<usize>,
    /// Nodes whose database is an older copy and that have not started on it yet.
    restored: BTreeSet<Place>,
    /// For how long nodes that leave stay away.
    pub(super) leaving: BTreeMap<Place, Duration>,
    /// When a node last lost state that had been durable.
    pub(super) lost: BTreeMap<Place, Instant>,
    /// When a copy on a node was last made rotten or lost.
    pub(super) rotten: BTreeMap<(Place, ChunkId), Instant>,
    /// How many copies were made so.
    pub(super) rotted: u64,
    /// Who was seen leaving, and how often one of them stayed after all.
    pub(super) leavers: BTreeSet<Place>,
    pub(super) stayed: u64,
    /// How many faults were injected.
    pub(super) injected: u64,
}

impl Harm {
    /// Nothing lasts any more.
    pub(super) fn heal(&mut self) {
        self.active.clear();
    }
}

impl<P: Process> Run<P> {
    /// Starts a node. On an older copy of its database only where everybody can contradict it: a copy
    /// that nobody up can contradict is the operator's risk, who is to start blank instead.
    pub(super) fn start(&mut self, place: Place) {
        let alone =
            (0..self.plan.options.nodes).any(|other| !self.world.is_responsive(other) && other != place);
        let cut = self
            .harm
            .active
            .iter()
            .any(|index| matches!(self.plan.faults[*index].1, Fault::Cut { .. } | Fault::Lossy { .. }));
        if self.harm.restored.remove(&place) && (alone || cut) {
            self.world.nodes[place].durable.lose_database();
        }
        self.world.start(place);
    }

    fn later(&mut self, index: usize, time: Duration) {
        let at = self.world.now() + time;
        self.world.mark(at, UNDO + index as u64);
        self.harm.active.insert(index);
    }

    pub(super) fn inject(&mut self, index: usize) {
        self.harm.injected += 1;
        let fault = self.plan.faults[index].1.clone();
        match fault {
            Fault::Kill { place, power, down } => {
                self.world.kill(place, power);
                self.later(index, down);
            }
            Fault::LoseDatabase { place, down } => {
                self.world.kill(place, false);
                self.world.nodes[place].durable.lose_database();
                self.harm.lost.insert(place, self.world.now());
                self.later(index, down);
            }
            Fault::RestoreDatabase { place, down } => {
                self.world.kill(place, false);
                self.world.nodes[place].durable.restore();
                self.harm.restored.insert(place);
                self.harm.lost.insert(place, self.world.now());
                self.later(index, down);
            }
            Fault::EmptyDisk { place, down } => {
                self.world.kill(place, false);
                self.world.wipe(place);
                self.harm.lost.insert(place, self.world.now());
                self.later(index, down);
            }
            Fault::CommitFails { place, down } => {
                self.world.nodes[place].durable.fail_commit();
                self.later(index, down);
            }
            Fault::Freeze { place, time } => {
                self.world.freeze(place);
                self.later(index, time);
            }
            Fault::Cut { time, .. } | Fault::Lossy { time, .. } => {
                self.later(index, time);
                self.lay_network();
            }
            Fault::Clock { place, wall } => {
                let moved = rng::word(self.plan.options.clocks, "jump", index as u64) % 4_000_000_000_000;
                self.world.nodes[place].wall =
                    if self.plan.options.clocks == 0 { wall } else { moved as i64 };
            }
            Fault::DiskErrors { place, count } => self.world.nodes[place].durable.disk().failing += count,
            Fault::Rot { place, pick, count, damage } => self.rot(place, pick, count, damage),
            Fault::Stay { place } => {
                if self.world.is_up(place) {
                    self.world.operate(place, Word::Stay);
                }
            }
            Fault::DiskFull { place, time } => {
                self.world.nodes[place].durable.disk().full = true;
                self.later(index, time);
            }
            Fault::SlowDisk { place, commit, time } => {
                self.world.nodes[place].durable.set_commit_time(commit);
                self.later(index, time);
            }
            Fault::Leave { place, away } => {
                if self.world.is_up(place) && self.may_leave(place) {
                    self.harm.leaving.insert(place, away);
                    self.world.operate(place, Word::Leave);
                }
            }
            Fault::Forget { place, by } => self.world.operate(by, Word::Forget(place)),
            Fault::Cap { place, cap } => self.world.operate(place, Word::Cap(cap)),
            Fault::Backup { place } => self.world.nodes[place].durable.back_up(),
        }
    }

    /// Makes whole copies on a node bad.
    fn rot(&mut self, place: Place, pick: u64, count: u32, damage: Damage) {
        let mut random = fastrand::Rng::with_seed(pick);
        let paths = self.world.nodes[place].durable.disk().paths();
        let chunks = paths.iter().filter_map(|path| path.strip_prefix("chunks/")?.parse().ok());
        let mut chunks: Vec<ChunkId> =
            chunks.filter(|chunk| self.world.nodes[place].durable.holds(chunk)).collect();
        random.shuffle(&mut chunks);
        chunks.retain(|chunk| self.stays_elsewhere(place, chunk));
        for chunk in chunks.into_iter().take(count as usize) {
            let path = format!("chunks/{chunk}");
            let disk = self.world.nodes[place].durable.disk();
            let hit = match damage {
                Damage::Flip => disk.rot(&path),
                Damage::Vanish => disk.vanish(&path),
                Damage::Unreadable => disk.wear(&path),
            };
            self.harm.rotted += u64::from(hit);
            self.harm.rotten.insert((place, chunk), self.world.now());
        }
    }

    /// Whether another node has a good copy that nothing takes from it: it loses no disk in this run, and is down or
    /// believes that it owns the chunk. One that lets go of what it does not own relies on copies hashed up to a
    /// minute before, which may have rotted since.
    fn stays_elsewhere(&self, place: Place, chunk: &ChunkId) -> bool {
        let loses = |at: Place| {
            self.plan.faults.iter().any(|(_, fault)| match fault {
                Fault::LoseDatabase { place, .. }
                | Fault::RestoreDatabase { place, .. }
                | Fault::EmptyDisk { place, .. } => *place == at,
                _ => false,
            })
        };
        let keeps = |at: Place| {
            let process = self.world.nodes[at].process.as_ref();
            process.is_none_or(|process| process.owners(chunk).contains(&at))
        };
        (0..self.plan.options.nodes)
            .any(|at| at != place && self.world.nodes[at].durable.holds(chunk) && keeps(at) && !loses(at))
    }

    /// Whether a copy on a node was made rotten or lost, and not longer ago than this.
    pub(super) fn has_rotted(&self, place: Place, chunk: &ChunkId, since: Instant) -> bool {
        self.harm.rotten.get(&(place, *chunk)).is_some_and(|at| *at >= since)
    }

    /// Where who leaves drains, two members stay who do not.
    fn may_leave(&self, place: Place) -> bool {
        let stays = |at: &Place| {
            let process = self.world.nodes[*at].process.as_ref();
            *at != place && !self.harm.leaving.contains_key(at) && process.is_none_or(|p| !p.is_leaving())
        };
        let Options { heal, budget, .. } = self.plan.options;
        !heal || budget.crowd || self.rosters.members.iter().filter(|at| stays(at)).count() >= 2
    }

    pub(super) fn undo(&mut self, index: usize) {
        self.harm.active.remove(&index);
        match self.plan.faults[index].1.clone() {
            Fault::Kill { place, .. }
            | Fault::LoseDatabase { place, .. }
            | Fault::RestoreDatabase { place, .. }
            | Fault::EmptyDisk { place, .. }
            | Fault::CommitFails { place, .. } => self.start(place),
            Fault::Freeze { place, .. } => self.world.thaw(place),
            Fault::Cut { .. } | Fault::Lossy { .. } => self.lay_network(),
            Fault::DiskFull { place, .. } => self.world.nodes[place].durable.disk().full = false,
            Fault::SlowDisk { place, .. } => {
                self.world.nodes[place].durable.set_commit_time(Duration::from_millis(1));
            }
            Fault::Clock { .. }
            | Fault::DiskErrors { .. }
            | Fault::Rot { .. }
            | Fault::Backup { .. }
            | Fault::Cap { .. }
            | Fault::Leave { .. }
            | Fault::Stay { .. }
            | Fault::Forget { .. } => {}
        }
    }

    /// Makes the network what the faults that last say.
    fn lay_network(&mut self) {
        let count = self.plan.options.nodes;
        self.world.network.heal();
        for index in &self.harm.active {
            match self.plan.faults[*index].1 {
                Fault::Cut { hears, datagrams, streams, .. } => {
                    for from in 0..count {
                        for to in (0..count).filter(|to| hears >> (from * count + to) & 1 == 0) {
                            self.world.network.change(from, to, |link| {
                                link.datagrams &= !datagrams;
                                link.streams &= !streams;
                            });
                        }
                    }
                }
                Fault::Lossy { place, loss, duplication, delay, .. } => {
                    for other in 0..count {
                        for (from, to) in [(place, other), (other, place)] {
                            self.world.network.change(from, to, |link| {
                                (link.loss, link.duplication, link.delay) = (loss, duplication, delay);
                            });
                        }
                    }
                }
                _ => {}
            }
        }
    }
}
