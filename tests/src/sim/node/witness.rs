//! What a run of a process measures by itself, whatever the planted bugs believe: time that a process
//! ran, graces, promises, deaths, and what was sent within a second.
//!
//! Marks live and die with the database that they are about, so that a restored one is judged by its own.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kepler_protocol::chunk::ChunkId;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::replicator::holding::Note;
use kepler_protocol::time::Instant;

use crate::sim::process::Deleted;

type Marks = BTreeMap<ChunkId, Duration>;

/// With who owned the chunk then.
type Graces = BTreeMap<ChunkId, (Duration, Vec<NodeId>)>;

/// How much more than the cap may pass in a second, in percent.
const OVER: u64 = 10;

/// What a run of the process measures by itself, whatever the planted bugs believe.
#[derive(Default)]
pub struct Witness {
    /// Time in which a process ran.
    pub(super) uptime: Duration,
    told: Instant,
    wall: u64,
    /// Since when, in uptime, a chunk has been noted as superfluous, or as unreferenced.
    pub(super) surplus: Graces,
    pub(super) unreferenced: Marks,
    /// When, in uptime, a chunk was promised last.
    pub(super) promised: Marks,
    /// Of a database that was put aside.
    backup: (Graces, Marks),
    /// When members were last seen dying.
    pub(super) deaths: BTreeMap<NodeId, Duration>,
    /// What was deleted since this was asked last.
    pub deleted: Vec<Deleted>,
    /// What must not be, and was.
    pub broken: Vec<(&'static str, String)>,
    /// Copies set aside.
    pub set_aside: u64,
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
    pub(super) fn cap(&mut self, now: Instant, cap: u64) {
        self.caps.push_back((now, cap));
    }

    /// I18: no second holds more than the cap and a tenth.
    pub(super) fn sends(&mut self, now: Instant, bytes: u64, me: NodeId) {
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

    /// Graces begin and end. I8: none begins anew for the same owners.
    pub(super) fn noted(&mut self, me: NodeId, note: &Note) {
        for (chunk, owners) in &note.surplus {
            let before = self.surplus.insert(*chunk, (self.uptime, owners.clone()));
            self.break_if(before.is_some_and(|(_, before)| before == *owners), "I8", || {
                format!("{me} began the grace of {chunk} anew, for the same owners")
            });
        }
        for chunk in &note.wanted {
            self.surplus.remove(chunk);
        }
        for chunk in &note.unreferenced {
            self.unreferenced.entry(*chunk).or_insert(self.uptime);
        }
        for chunk in &note.referenced {
            self.unreferenced.remove(chunk);
        }
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

    pub(super) fn break_if(&mut self, broken: bool, invariant: &'static str, why: impl FnOnce() -> String) {
        if broken && self.broken.len() < 16 {
            self.broken.push((invariant, why()));
        }
    }
}
