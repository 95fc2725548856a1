//! Reads whose chunks are looked for: here, then at each owner. A copy begins with the same.
//!
//! Nobody has a chunk only where everybody who was asked says so: silence is no answer.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kepler_protocol::catalog::command::Command;
use kepler_protocol::catalog::storage::StorageError;
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::time::Instant;
use kepler_protocol::version::{Version, head};

use super::Node;
use super::commands::{Issued, Upload};
use super::message::Question;
use super::requests::Sent;
use super::room::Room;
use crate::sim::client::shared_of;
use crate::sim::process::{Answer, Output};

/// A read whose chunks are looked for.
struct Reading {
    purpose: Purpose,
    /// What is still to be found, the first being looked for.
    chunks: Vec<ChunkId>,
    /// Who is still to be asked for the first.
    candidates: VecDeque<NodeId>,
    /// Somebody who may have it did not answer in time.
    silent: bool,
}

/// What chunks are looked for for.
enum Purpose {
    Answer { operation: u64, survivors: Vec<Version>, local: bool },
    Copy(Upload),
}

/// What came of it.
enum Found {
    All,
    /// No member that was asked has this one.
    Nowhere(ChunkId),
    /// Not everybody answered.
    Unsure,
}

/// The reads under way.
#[derive(Default)]
pub(super) struct Reads {
    under_way: BTreeMap<u64, Reading>,
    /// Copies whose bytes were not found.
    failed: VecDeque<Upload>,
    last: u64,
}

impl Node {
    /// The catalog has answered a read: its chunks are still to be found.
    pub(super) fn read(
        &mut self,
        room: &mut Room,
        now: Instant,
        operation: u64,
        survivors: Vec<Version>,
        local: bool,
    ) {
        let root = head(&survivors).and_then(|head| Some(head.content.as_ref()?.root));
        let chunks = root.map(|root| vec![shared_of(&root), root]).unwrap_or_default();
        self.look_for(room, now, Purpose::Answer { operation, survivors, local }, chunks);
    }

    /// A write of what another name holds has its dot: its bytes are looked for before they are placed.
    pub(super) fn copy(&mut self, room: &mut Room, now: Instant, upload: Upload) {
        let chunks = vec![shared_of(&upload.value), upload.value];
        self.look_for(room, now, Purpose::Copy(upload), chunks);
    }

    fn look_for(&mut self, room: &mut Room, now: Instant, purpose: Purpose, chunks: Vec<ChunkId>) {
        let reading = Reading { purpose, chunks, candidates: VecDeque::new(), silent: false };
        self.reads.last += 1;
        let key = self.reads.last;
        self.reads.under_way.insert(key, reading);
        self.look(room, now, key);
    }

    /// Looks for the next chunk of a read here, then at its owners, then at every other member.
    fn look(&mut self, room: &mut Room, now: Instant, key: u64) {
        loop {
            let Some(reading) = self.reads.under_way.get(&key) else { return };
            let Some(chunk) = reading.chunks.first().copied() else {
                self.read_ends(room, now, key, Found::All);
                return;
            };
            if !self.hash(room, now, &chunk) {
                let Some(reading) = self.reads.under_way.get_mut(&key) else { return };
                let others = self.view.ring().preference(chunk.key(), 3);
                reading.candidates = others.into_iter().filter(|id| *id != self.seat.id).collect();
                self.read_on(room, now, key, Some(false));
                return;
            }
            if let Some(reading) = self.reads.under_way.get_mut(&key) {
                reading.chunks.remove(0);
            }
        }
    }

    /// Who was asked for a chunk has it, or not, or has not answered.
    pub(super) fn read_on(&mut self, room: &mut Room, now: Instant, key: u64, found: Option<bool>) {
        let Some(reading) = self.reads.under_way.get_mut(&key) else { return };
        reading.silent |= found.is_none();
        let Some(chunk) = reading.chunks.first().copied() else { return };
        if found == Some(true) {
            reading.chunks.remove(0);
            reading.silent = false;
            self.look(room, now, key);
        } else if let Some(next) = reading.candidates.pop_front() {
            let deadline = now + Duration::from_secs(2);
            self.request(next, Question::Fetch(chunk), deadline, Sent::Read(key));
        } else {
            // Nobody has it only where everybody says so.
            let found = if reading.silent { Found::Unsure } else { Found::Nowhere(chunk) };
            self.read_ends(room, now, key, found);
        }
    }

    fn read_ends(&mut self, room: &mut Room, now: Instant, key: u64, found: Found) {
        let Some(Reading { purpose, .. }) = self.reads.under_way.remove(&key) else { return };
        let (operation, answer) = match (purpose, found) {
            (Purpose::Copy(upload), Found::All) => return self.upload(room, now, upload),
            (Purpose::Copy(upload), Found::Nowhere(_) | Found::Unsure) => {
                self.reads.failed.push_back(upload);
                return;
            }
            (Purpose::Answer { operation, survivors, local }, found) => {
                let lacking = match found {
                    Found::Nowhere(chunk) => Some(chunk),
                    Found::All | Found::Unsure => None,
                };
                (operation, Answer::Read { survivors, local, lacking })
            }
        };
        self.outputs.push_back(Output::Answer { operation, answer });
    }

    /// Gives up the copies whose bytes were not found; whether there were any.
    pub(super) fn end_copies(&mut self, room: &mut Room, now: Instant) -> Result<bool, StorageError> {
        let failed = std::mem::take(&mut self.reads.failed);
        for Upload { operation, dot, .. } in &failed {
            let (command, issued) = (Command::Abort { dot: *dot }, Issued::Abort { operation: *operation });
            self.command(room, now, command, issued)?;
        }
        Ok(!failed.is_empty())
    }
}
