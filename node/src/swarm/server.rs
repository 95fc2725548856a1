//! What every inbound stream needs, and the slots and buffers that bound them.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::counters::Counters;
use super::limits::{BUDGET_UNIT_BYTES, Limits, PIECE_BYTES};
use super::{ChunkStore, Inbound, Refusal};

/// What every inbound stream needs: the store, the node, and the slots that bound them.
pub(super) struct Server {
    pub limits: Limits,
    pub chunks: Arc<dyn ChunkStore>,
    pub inbound: mpsc::Sender<Inbound>,
    pub receive_slots: Arc<Semaphore>,
    pub serve_slots: Arc<Semaphore>,
    pub background_receive_slots: Arc<Semaphore>,
    pub background_serve_slots: Arc<Semaphore>,
    pub call_budget: Arc<Semaphore>,
    pub pieces: Pieces,
    pub counters: Arc<Counters>,
    pub tasks: TaskTracker,
    /// From now on whoever asks for a slot is told that this node is busy.
    pub stop: CancellationToken,
}

impl Server {
    pub(super) fn new(
        limits: Limits,
        chunks: Arc<dyn ChunkStore>,
        inbound: mpsc::Sender<Inbound>,
        counters: Arc<Counters>,
        stop: CancellationToken,
    ) -> Self {
        let semaphore = |permits: usize| Arc::new(Semaphore::new(permits.clamp(1, Semaphore::MAX_PERMITS)));
        Self {
            chunks,
            inbound,
            receive_slots: semaphore(limits.receive_slots),
            serve_slots: semaphore(limits.serve_slots),
            background_receive_slots: semaphore(limits.background_receive_slots),
            background_serve_slots: semaphore(limits.background_serve_slots),
            call_budget: semaphore(limits.call_bytes.max(super::MAX_BODY_BYTES) / BUDGET_UNIT_BYTES + 1),
            pieces: Pieces::new(limits.receive_slots * 4),
            limits,
            counters,
            tasks: TaskTracker::new(),
            stop,
        }
    }

    /// One of these slots, or `None` if none came free in time.
    pub(super) async fn slot(&self, slots: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        self.acquire(slots, 1).await
    }

    /// A share of the memory for call bodies, or `None` if none came free in time.
    pub(super) async fn share(&self, units: u32) -> Option<OwnedSemaphorePermit> {
        self.acquire(&self.call_budget, units).await
    }

    async fn acquire(&self, slots: &Arc<Semaphore>, permits: u32) -> Option<OwnedSemaphorePermit> {
        if self.stop.is_cancelled() {
            return None;
        }
        let acquired = slots.clone().acquire_many_owned(permits);
        tokio::time::timeout(self.limits.slot_wait, acquired).await.ok()?.ok()
    }

    /// Waits for the store, but not for ever.
    pub(super) async fn ask<T>(&self, asked: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        let patience: Duration = self.limits.answer;
        tokio::time::timeout(patience, asked).await.unwrap_or(Err(Refusal::Busy))
    }
}

/// Buffers of one piece each that are used again, so that none has to be cleared twice.
#[derive(Clone)]
pub(super) struct Pieces {
    idle: Arc<Mutex<Vec<Vec<u8>>>>,
    most: usize,
}

impl Pieces {
    fn new(most: usize) -> Self {
        Self { idle: Arc::default(), most }
    }

    /// A buffer of [`PIECE_BYTES`] with arbitrary content.
    pub(super) fn take(&self) -> Vec<u8> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.unwrap_or_else(|| vec![0; PIECE_BYTES])
    }

    /// The first `length` bytes of a buffer; it comes back when the last of them is dropped.
    pub(super) fn freeze(&self, buffer: Vec<u8>, length: usize) -> Bytes {
        Bytes::from_owner(Piece { buffer, length, home: self.clone() })
    }
}

struct Piece {
    buffer: Vec<u8>,
    length: usize,
    home: Pieces,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut idle = self.home.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.home.most {
            idle.push(std::mem::take(&mut self.buffer));
        }
    }
}
