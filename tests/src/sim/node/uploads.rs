//! Writes of clients until their chunks are placed, and `fast` versions until theirs are placed elsewhere.
//!
//! A write's first chunk, which it may share with others, is durable before its second is placed, and both
//! are before the version is published.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use kepler_protocol::api::Durability;
use kepler_protocol::catalog::command::Command;
use kepler_protocol::catalog::storage::{Storage, StorageError};
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::quorum::{self, Placement};
use kepler_protocol::time::Instant;
use kepler_protocol::version::{Content, Dot};

use super::Node;
use super::commands::{Issued, Upload};
use super::message::Question;
use super::requests::Sent;
use super::room::Room;
use crate::sim::client::shared_of;
use crate::sim::process::Clocks;

/// How often unpublished `fast` versions are looked for.
const SWEEP: Duration = Duration::from_secs(3);

/// Between the chunks of a slow upload.
const SLOW: Duration = Duration::from_secs(34);

/// What is placed, and for whom.
enum Placing {
    /// A client's write: its first chunk, which it shares with others.
    Shared { operation: u64, dot: Dot, value: ChunkId, durability: Durability },
    /// A client's write: publish it when it is placed.
    Client { operation: u64, dot: Dot, value: ChunkId },
    /// A `fast` version: settle it when it is placed.
    Fast { dot: Dot, value: ChunkId, shared: bool },
}

impl Placing {
    const fn dot(&self) -> Dot {
        match self {
            Self::Shared { dot, .. } | Self::Client { dot, .. } | Self::Fast { dot, .. } => *dot,
        }
    }
}

/// What is being placed.
pub(super) struct Uploads {
    placements: BTreeMap<u64, (Placing, Placement, ChunkId)>,
    last: u64,
    /// Uploads whose second chunk is still to come.
    slow: VecDeque<(Instant, Placing, ChunkId, Durability)>,
    next_sweep: Instant,
}

impl Uploads {
    /// A process begins: nothing is under way.
    pub(super) fn new(now: Instant) -> Self {
        Self { placements: BTreeMap::new(), last: 0, slow: VecDeque::new(), next_sweep: now + SWEEP }
    }

    /// When [`Node::uploads_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let placements = self.placements.values().filter_map(|(_, p, _)| p.poll_timeout());
        let slow = self.slow.front().map(|(due, ..)| *due);
        placements.chain([self.next_sweep]).chain(slow).min()
    }

    /// The versions whose uploads are not over.
    pub(super) fn dots(&self) -> Vec<Dot> {
        let slow = self.slow.iter().map(|(_, placing, ..)| placing.dot());
        // A `fast` version is in the catalog before its chunks are placed elsewhere, and may be superseded meanwhile.
        let placed = self.placements.values().filter(|(p, ..)| !matches!(p, Placing::Fast { .. }));
        placed.map(|(placing, ..)| placing.dot()).chain(slow).collect()
    }

    /// The `fast` versions that are placed just now.
    fn fast(&self) -> BTreeSet<Dot> {
        let fast = |(placing, ..): &(Placing, Placement, ChunkId)| match placing {
            Placing::Fast { dot, .. } => Some(*dot),
            Placing::Client { .. } | Placing::Shared { .. } => None,
        };
        self.placements.values().filter_map(fast).collect()
    }
}

impl Node {
    /// A client's write has its dot: its chunks are placed, the shared one first.
    pub(super) fn upload(
        &mut self,
        room: &mut Room,
        now: Instant,
        Upload { operation, dot, value, durability }: Upload,
    ) {
        let placing = Placing::Shared { operation, dot, value, durability };
        self.place(room, now, placing, shared_of(&value), durability);
    }

    fn place(
        &mut self,
        room: &mut Room,
        now: Instant,
        placing: Placing,
        value: ChunkId,
        durability: Durability,
    ) {
        let replicas = self.replica.council().replicas();
        let owners = self.roster_owners(&value);
        let preference = quorum::candidates(&self.view, value.key(), replicas, &owners);
        let config = quorum::Config::new(durability, replicas);
        let placement =
            Placement::with_faults(now, config, preference, owners, self.seat.id, self.setup.quorum);
        self.uploads.last += 1;
        self.uploads.placements.insert(self.uploads.last, (placing, placement, value));
        self.step_placement(room, now, self.uploads.last);
    }

    fn step_placement(&mut self, room: &mut Room, now: Instant, id: u64) {
        let folder = !self.setup.no_folder_sync;
        loop {
            let Some((placing, placement, value)) = self.uploads.placements.get_mut(&id) else { return };
            let Some(to) = placement.poll_transmit() else { return };
            let (value, dot) = (*value, placing.dot());
            if to == self.seat.id {
                if room.take(value, &[dot], false, folder, self.setup.heal).0 {
                    placement.handle_ack(now, to);
                } else {
                    placement.handle_failure(now, to);
                }
            } else {
                let deadline = now + Duration::from_secs(5);
                self.request(to, Question::Store(value, dot), deadline, Sent::Store(id));
            }
        }
    }

    /// Takes up what placements came to.
    pub(super) fn end_placements(&mut self, room: &mut Room, clocks: Clocks) -> Result<bool, StorageError> {
        let ended = |(id, (_, placement, _)): (&u64, &(Placing, Placement, ChunkId))| {
            Some((*id, placement.outcome()?.clone()))
        };
        let over: Vec<(u64, quorum::Outcome)> = self.uploads.placements.iter().filter_map(ended).collect();
        let any = !over.is_empty();
        for (id, outcome) in over {
            let Some((placing, _, chunk)) = self.uploads.placements.remove(&id) else { continue };
            let done = matches!(outcome, quorum::Outcome::Done { .. });
            if let quorum::Outcome::Done { owed, .. } = outcome {
                self.owe(room, clocks.now, chunk, placing.dot(), &owed);
            }
            let (command, issued) = match (placing, done) {
                (Placing::Shared { operation, dot, value, durability }, true) => {
                    let placing = Placing::Client { operation, dot, value };
                    if self.setup.slow_uploads && value.digest()[1] < 32 {
                        self.uploads.slow.push_back((clocks.now + SLOW, placing, value, durability));
                        continue;
                    }
                    self.place(room, clocks.now, placing, value, durability);
                    continue;
                }
                (Placing::Fast { dot, value, shared: true }, true) => {
                    let placing = Placing::Fast { dot, value, shared: false };
                    self.place(room, clocks.now, placing, value, Durability::Quorum);
                    continue;
                }
                (Placing::Client { operation, dot, value }, true) => {
                    let content = Some(Content { root: value, size: 1, chunks: 1, content_type: None });
                    let command = Command::Publish {
                        dot,
                        content,
                        created_at: clocks.wall,
                        within: Duration::from_secs(9),
                    };
                    (command, Issued::Last { operation })
                }
                (Placing::Client { operation, dot, .. } | Placing::Shared { operation, dot, .. }, false) => {
                    (Command::Abort { dot }, Issued::Abort { operation })
                }
                (Placing::Fast { dot, .. }, true) => (Command::Settle { dot }, Issued::Nothing),
                (Placing::Fast { .. }, false) => continue,
            };
            self.command(room, clocks.now, command, issued)?;
        }
        Ok(any)
    }

    /// Places the chunks of `fast` versions that nobody else knows yet.
    fn sweep(&mut self, room: &mut Room, now: Instant) -> Result<(), StorageError> {
        self.uploads.next_sweep = now + SWEEP;
        let under_way = self.uploads.fast();
        for survivor in room.db.unpublished(None, 64)? {
            let dot = survivor.version.dot;
            let Some(content) = survivor.version.content else { continue };
            if !under_way.contains(&dot) {
                let value = content.root;
                let placing = Placing::Fast { dot, value, shared: true };
                self.place(room, now, placing, shared_of(&value), Durability::Quorum);
            }
        }
        Ok(())
    }

    /// A node keeps a chunk that it was asked to, or does not.
    pub(super) fn placed(&mut self, room: &mut Room, now: Instant, id: u64, by: NodeId, stored: bool) {
        if let Some((_, placement, _)) = self.uploads.placements.get_mut(&id) {
            if stored {
                placement.handle_ack(now, by);
            } else {
                placement.handle_failure(now, by);
            }
            self.step_placement(room, now, id);
        }
    }

    /// Does what is due.
    pub(super) fn uploads_timeout(&mut self, room: &mut Room, now: Instant) -> Result<(), StorageError> {
        let due: Vec<u64> = self
            .uploads
            .placements
            .iter()
            .filter(|(_, (_, p, _))| p.poll_timeout().is_some_and(|at| at <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            if let Some((_, placement, _)) = self.uploads.placements.get_mut(&id) {
                placement.handle_timeout(now);
            }
            self.step_placement(room, now, id);
        }
        if self.uploads.next_sweep <= now {
            self.sweep(room, now)?;
        }
        while self.uploads.slow.front().is_some_and(|(due, ..)| *due <= now) {
            if let Some((_, placing, value, durability)) = self.uploads.slow.pop_front() {
                self.place(room, now, placing, value, durability);
            }
        }
        Ok(())
    }
}
