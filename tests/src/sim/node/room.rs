//! What a kill leaves of a node: database, files, identity.
//!
//! It decides what is durable, and so what a power cut, a lost database and an older copy of it leave
//! behind. A chunk that it says it has taken has its bytes, its name and its row on disk, unless a bug is
//! planted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kepler_protocol::catalog::memory::MemoryStorage;
use kepler_protocol::catalog::seen::Seen;
use kepler_protocol::catalog::storage::Storage;
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::replicator::Faults;
use kepler_protocol::replicator::memory::Shelf;
use kepler_protocol::replicator::rules::{Bound, Reference};
use kepler_protocol::swim;
use kepler_protocol::version::{Dot, Version};

use super::queue::Queue;
use super::witness::Witness;
use crate::sim::disk::{Data, Disk};
use crate::sim::process::{Deleted, Durable};

/// The size of every simulated chunk.
pub const CHUNK_BYTES: u64 = 256 << 10;

/// What a kill leaves of a node.
pub struct Room {
    pub(super) db: MemoryStorage,
    backup: MemoryStorage,
    pub(super) disk: Disk,
    pub(super) secret: [u8; 32],
    /// Kept with the identity, so that it outlives the database.
    pub(super) epoch: u64,
    pub(super) peers: Vec<Arc<swim::Record>>,
    pub(super) commit: Duration,
    pub(super) fails: bool,
    pub(super) stored: Vec<Version>,
    pub(super) shelf: Shelf,
    backup_shelf: Shelf,
    /// Kept in the database: what uploads still owe, and whether this node was told to leave.
    pub(super) queue: Queue,
    backup_queue: Queue,
    pub(super) leaving: bool,
    /// Kept in the database: which databases of members were bound and dropped.
    pub(super) bound: Bound,
    backup_bound: Bound,
    pub(super) witness: Witness,
}

impl Room {
    /// An empty disk, of a node with this identity.
    pub(super) fn blank(secret: [u8; 32]) -> Self {
        Self {
            db: MemoryStorage::new(),
            backup: MemoryStorage::new(),
            disk: Disk::default(),
            secret,
            epoch: 0,
            peers: Vec::new(),
            commit: Duration::from_millis(1),
            fails: false,
            stored: Vec::new(),
            shelf: Shelf::default(),
            backup_shelf: Shelf::default(),
            queue: Queue::default(),
            backup_queue: Queue::default(),
            leaving: false,
            bound: Bound::default(),
            backup_bound: Bound::default(),
            witness: Witness::default(),
        }
    }

    pub(super) fn keep(&mut self, chunk: ChunkId, folder: bool) -> bool {
        let path = path_of(&chunk);
        let temporary = format!("{path}.tmp");
        let whole = self.disk.read(&path) == Ok(Data::Whole(chunk));
        let written = whole
            || self.disk.write(&temporary, chunk).is_ok()
                && self.disk.sync_file(&temporary).is_ok()
                && self.disk.rename(&temporary, &path).is_ok();
        written && (!folder || self.disk.sync_dir("chunks").is_ok())
    }

    /// Whether a chunk has a file, whatever is in it.
    pub(super) fn is_named(&self, chunk: &ChunkId) -> bool {
        self.disk.peek(&path_of(chunk)).is_some()
    }

    /// Stores a chunk with its references: whether it is durable, and whether it was here before.
    pub(super) fn take(
        &mut self,
        chunk: ChunkId,
        dots: &[Dot],
        recovered: bool,
        folder: bool,
        faults: Faults,
    ) -> (bool, bool) {
        let gone = self.shelf.row(&chunk).is_some_and(|row| row.gone);
        let held = self.shelf.has(&chunk) && self.is_whole(&chunk);
        let stored = if gone { faults.gone_is_a_hit } else { self.keep(chunk, folder) };
        (stored && self.shelf.enter(chunk, CHUNK_BYTES, dots, recovered, faults), held)
    }

    /// The version under a dot, wherever it is.
    pub(super) fn version(&self, dot: &Dot) -> Option<Version> {
        self.db.survivor(dot).ok().flatten().map(|survivor| survivor.version)
    }

    /// Whether a chunk's file is whole.
    pub(super) fn is_whole(&self, chunk: &ChunkId) -> bool {
        self.disk.peek(&path_of(chunk)) == Some(Data::Whole(*chunk))
    }

    /// The chunks whose files are whole.
    pub(super) fn whole_files(&self) -> Vec<ChunkId> {
        let paths = self.disk.paths();
        let chunks = paths.iter().filter_map(|path| path.strip_prefix("chunks/")?.parse().ok());
        chunks.filter(|chunk| self.is_whole(chunk)).collect()
    }

    /// Sets a copy aside that is rotten or gone: its row goes, what it was kept for stays. Whether it was one.
    pub(super) fn set_aside(&mut self, chunk: &ChunkId, faults: Faults) -> bool {
        if !self.shelf.has(chunk) || self.is_whole(chunk) || self.is_unreadable(chunk) {
            return false;
        }
        self.give_up(chunk, faults);
        true
    }

    /// Sets a copy aside, whatever it is like.
    pub(super) fn give_up(&mut self, chunk: &ChunkId, faults: Faults) {
        self.shelf.set_aside(chunk, faults);
        self.witness.set_aside += 1;
        // A file that stays all the same is written over when the chunk is fetched.
        let _ = self.disk.unlink(&path_of(chunk));
    }

    /// Whether the disk does not give a chunk's file.
    pub(super) fn is_unreadable(&self, chunk: &ChunkId) -> bool {
        self.disk.peek(&path_of(chunk)) == Some(Data::Unreadable)
    }

    /// Removes a chunk that was marked gone: file, folder entry, row.
    pub(super) fn unlink(&mut self, chunk: &ChunkId) -> bool {
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
    fn rebuild_shelf(&mut self) {
        let files: Vec<(ChunkId, u64)> = self.whole_files().into_iter().map(|c| (c, CHUNK_BYTES)).collect();
        self.shelf = Shelf::default();
        self.shelf.rebuild(files);
        self.witness.surplus.clear();
        self.witness.unreferenced.clear();
        // Promises were in it: to lose a database is to lose them.
        self.witness.promised.clear();
    }

    /// What a reference is worth, by what this database knows and a catalog has seen.
    pub(super) fn worth(&self, seen: &Seen, dot: &Dot, faults: Faults) -> Reference {
        let survives = self.db.survivor(dot).ok().flatten().is_some();
        Reference::judge(dot, seen, survives, self.bound.is_ended(&dot.origin, faults), faults)
    }
}

pub(super) fn path_of(chunk: &ChunkId) -> String {
    format!("chunks/{chunk}")
}

impl Durable for Room {
    fn power_cut(&mut self, random: &mut fastrand::Rng) {
        self.disk.crash(random);
    }

    fn disk(&mut self) -> &mut Disk {
        &mut self.disk
    }

    fn back_up(&mut self) {
        self.backup = self.db.clone();
        self.backup_shelf = self.shelf.clone();
        self.backup_queue = self.queue.clone();
        self.backup_bound = self.bound.clone();
        self.witness.back_up();
    }

    fn restore(&mut self) {
        self.db = std::mem::take(&mut self.backup);
        self.shelf = std::mem::take(&mut self.backup_shelf);
        self.queue = std::mem::take(&mut self.backup_queue);
        self.bound = std::mem::take(&mut self.backup_bound);
        self.leaving = false;
        self.witness.restore();
    }

    fn lose_database(&mut self) {
        self.db = MemoryStorage::new();
        self.peers.clear();
        self.leaving = false;
        self.queue = Queue::default();
        self.bound = Bound::default();
        self.rebuild_shelf();
    }

    fn fail_commit(&mut self) {
        self.fails = true;
    }

    fn set_commit_time(&mut self, commit: Duration) {
        self.commit = commit;
    }

    fn take_stored(&mut self) -> Vec<Version> {
        std::mem::take(&mut self.stored)
    }

    fn knows(&self, version: &Version) -> bool {
        self.version(&version.dot).is_some()
            || self.db.stub(&version.dot).ok().flatten().is_some()
            || self.db.seen().is_ok_and(|seen| seen.contains(&version.dot))
    }

    fn holds(&self, chunk: &ChunkId) -> bool {
        self.disk.durable(&path_of(chunk)) == Some(Data::Whole(*chunk)) && self.shelf.has(chunk)
    }

    fn references(&self, chunk: &ChunkId) -> BTreeSet<Dot> {
        self.shelf.row(chunk).map(|row| row.dots.clone()).unwrap_or_default()
    }

    fn shelved(&self) -> Vec<ChunkId> {
        self.shelf.rows().map(|(chunk, _)| *chunk).collect()
    }

    fn take_deleted(&mut self) -> Vec<Deleted> {
        std::mem::take(&mut self.witness.deleted)
    }

    fn take_broken(&mut self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut self.witness.broken)
    }

    fn known(&self) -> Vec<Version> {
        self.db.all_survivors().map(|s| s.version.clone()).collect()
    }

    fn busiest(&self) -> u64 {
        self.witness.busiest
    }

    fn delivered(&self) -> u64 {
        self.witness.delivered
    }

    fn owed(&self) -> usize {
        self.queue.len()
    }

    fn forgotten(&self) -> u64 {
        self.witness.forgotten
    }

    fn set_aside(&self) -> u64 {
        self.witness.set_aside
    }

    fn pushed(&self) -> u64 {
        self.witness.pushed
    }

    fn survivors(&self) -> Vec<Version> {
        self.db.all_survivors().filter(|s| s.published).map(|s| s.version.clone()).collect()
    }
}
