//! Chunks by name: placing them on their owners and fetching them from wherever they are.
//!
//! Whom to try and when enough have acknowledged is decided by [`Placement`]; this file carries
//! it out. Every byte that leaves here is verified against its id.

mod background;
mod fetch;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use kepler_protocol::api::{self, Durability};
use kepler_protocol::chunk::{Chunk, ChunkId};
use kepler_protocol::node_id::NodeId;
use kepler_protocol::quorum::{self, Placement};
use kepler_protocol::time::Instant;
use kepler_protocol::version::Dot;
use kepler_protocol::view::View;
use tokio::sync::{Semaphore, broadcast, watch};
use tokio::task::AbortHandle;
use tracing::debug;

use super::budget::Budget;
use super::electorate::Electors;
use crate::store::{self, Store};
use crate::swarm::{self, TransferError};
use crate::tasks::Tasks;
use crate::telemetry::{Direction, Metrics, Purpose};

/// Within this a placement has succeeded or is refused.
pub const PLACEMENT_DEADLINE: Duration = Duration::from_secs(9);

/// Bytes of chunks that uploads have under way at once, over all clients.
const UPLOAD_BYTES: usize = 32 << 20;

/// Bytes of chunks held for readers, over all clients: what each is given now, and what is fetched ahead.
const READING_BYTES: usize = 64 << 20;

/// Bytes of pieces on their way to clients, over all of them; whoever has no share goes on with small ones.
const PIECES_BYTES: usize = 64 << 20;

/// Bytes of chunks still on their way to stragglers after the answer was given.
const STRAGGLING_BYTES: usize = 16 << 20;

/// Bytes of chunks on their way to whom they are owed, over all targets.
const BACKGROUND_BYTES: usize = 16 << 20;

/// What a chunk of unknown size counts for in a budget, in bytes, at least: other nodes may cut larger ones.
const UNKNOWN_BYTES: usize = 4 << 20;

/// Repairs that readers queue at the same time; further ones are left to the next reader.
const REPAIRS_AT_ONCE: usize = 64;

/// How long a straggler is sent to after the answer; the queue owes it the chunk in any case.
const STRAGGLE_FOR: Duration = Duration::from_secs(10);

/// Why a chunk did not reach its durability.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// This node knows no roster yet.
    #[error("this node is not ready: {0}")]
    NotReady(String),
    /// Too few nodes acknowledged it in time.
    #[error("{answered} of the {needed} needed replicas answered")]
    NoQuorum {
        /// How many acknowledged.
        answered: usize,
        /// How many were needed.
        needed: usize,
    },
    /// This node's own copy failed, and that is why.
    #[error(transparent)]
    Store(#[from] store::WriteError),
    /// A peer did not take its copy.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// A chunk that should be somewhere is nowhere.
    #[error(transparent)]
    Fetch(#[from] Unavailable),
}

/// No reachable member has an intact copy of a chunk.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("no node that answers has an intact copy of chunk {id}")]
pub struct Unavailable {
    /// The chunk.
    pub id: ChunkId,
    /// Every member of the roster, this node included, answered that it has none and keeps no reference to it:
    /// it was collected, or never stored. Where copies are rotten or lost it is not nowhere.
    pub nowhere: bool,
}

/// Where a chunk went.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The chunk.
    pub id: ChunkId,
    /// Who holds it durably.
    pub acked: Vec<NodeId>,
    /// Owners who do not, yet.
    pub owed: Vec<NodeId>,
}

/// What is to be placed: bytes in hand, or a chunk that somebody should hold already.
#[derive(Clone, Debug)]
pub enum Source {
    /// The bytes.
    Chunk(Chunk),
    /// Only the id: bytes are fetched if a target lacks them.
    Id(ChunkId),
}

impl Source {
    fn id(&self) -> ChunkId {
        match self {
            Self::Chunk(chunk) => chunk.id(),
            Self::Id(id) => *id,
        }
    }
}

/// The way to chunks, here and elsewhere; cheap to clone.
#[derive(Clone)]
pub struct Chunks {
    inner: Arc<Inner>,
}

struct Inner {
    me: NodeId,
    ack_grace: Duration,
    unknown_bytes: usize,
    store: Store,
    swarm: swarm::Handle,
    view: watch::Receiver<Arc<View>>,
    electors: watch::Receiver<Electors>,
    metrics: Arc<Metrics>,
    events: broadcast::Sender<api::Event>,
    tasks: Tasks,
    /// Smoothed seconds that fetches from each member took.
    latency: Mutex<BTreeMap<NodeId, f64>>,
    uploads: Budget,
    reading: Budget,
    pieces: Budget,
    stragglers: Budget,
    background: Budget,
    /// Repairs that readers are queueing.
    repairs: Arc<Semaphore>,
}

/// A copy under way to a peer is given up with whoever waits for it.
struct CutOnDrop(AbortHandle);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the way to chunks is made of.
pub struct Parts {
    /// This node.
    pub me: NodeId,
    /// `ACK_GRACE_MS`.
    pub ack_grace: Duration,
    /// `CHUNK_SIZE_MB`, in bytes: what a chunk that is not here may have.
    pub chunk_bytes: usize,
    /// The disk.
    pub store: Store,
    /// The other nodes.
    pub swarm: swarm::Handle,
    /// Who is here.
    pub view: watch::Receiver<Arc<View>>,
    /// Who votes.
    pub electors: watch::Receiver<Electors>,
    /// What moved.
    pub metrics: Arc<Metrics>,
    /// What happens, for people.
    pub events: broadcast::Sender<api::Event>,
    /// Where tasks are spawned.
    pub tasks: Tasks,
}

impl Chunks {
    /// The way to chunks of one node.
    pub fn new(parts: Parts) -> Self {
        let Parts { me, ack_grace, chunk_bytes, store, swarm, view, electors, metrics, events, tasks } =
            parts;
        let inner = Inner {
            me,
            ack_grace,
            unknown_bytes: chunk_bytes.max(UNKNOWN_BYTES),
            store,
            swarm,
            view,
            electors,
            metrics,
            events,
            tasks,
            latency: Mutex::default(),
            uploads: Budget::new(UPLOAD_BYTES),
            reading: Budget::new(READING_BYTES),
            pieces: Budget::new(PIECES_BYTES),
            stragglers: Budget::new(STRAGGLING_BYTES),
            background: Budget::new(BACKGROUND_BYTES),
            repairs: Arc::new(Semaphore::new(REPAIRS_AT_ONCE)),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The present view.
    pub fn view(&self) -> Arc<View> {
        self.inner.view.borrow().clone()
    }

    /// What uploads share.
    pub fn uploads(&self) -> &Budget {
        &self.inner.uploads
    }

    /// What chunks that are held for readers share.
    pub fn reading(&self) -> &Budget {
        &self.inner.reading
    }

    /// What pieces on their way to clients share.
    pub fn pieces(&self) -> &Budget {
        &self.inner.pieces
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.inner.me
    }

    /// Brings a chunk to its owners under `dot`, as `durability` asks, within `within` and
    /// [`PLACEMENT_DEADLINE`].
    ///
    /// Copies to peers that are still under way then are given up if it failed, and go on for a
    /// while if it succeeded and there is memory for them. A copy to this node's disk goes on in any
    /// case: cut off, it would leave a file without its row.
    ///
    /// # Errors
    /// [`PlaceError::NoQuorum`] if too few acknowledged in time, or what made this node's own copy
    /// fail if that is why.
    pub async fn place(
        &self,
        source: Source,
        dot: Dot,
        durability: Durability,
        within: Duration,
    ) -> Result<Placed, PlaceError> {
        let id = source.id();
        let inner = &self.inner;
        let electors = inner.electors.borrow().clone();
        let (wanted, majority) =
            electors.replicas().ok_or_else(|| PlaceError::NotReady(electors.reason()))?;
        let owners = electors.owners(id.key());
        let candidates = quorum::candidates(&self.view(), id.key(), wanted, &owners);
        let config = quorum::Config {
            majority,
            ack_grace: inner.ack_grace,
            deadline: within.min(PLACEMENT_DEADLINE),
            ..quorum::Config::new(durability, wanted)
        };
        let mut machine = Placement::new(inner.store.now(), config, candidates, owners, inner.me);
        let mut attempts = FuturesUnordered::new();
        let mut local_failure = None;
        loop {
            while let Some(target) = machine.poll_transmit() {
                let (chunks, source) = (self.clone(), source.clone());
                let attempt = inner.tasks.spawn(async move { chunks.copy_to(target, source, dot).await });
                let cut = (target != inner.me).then(|| CutOnDrop(attempt.abort_handle()));
                attempts.push(async move {
                    let result = attempt.await;
                    drop(cut);
                    (target, result)
                });
            }
            match machine.outcome() {
                Some(quorum::Outcome::Done { acked, owed }) => {
                    let placed = Placed { id, acked: acked.clone(), owed: owed.clone() };
                    if let Source::Chunk(chunk) = &source {
                        self.spare(attempts, chunk.bytes().len());
                    }
                    return Ok(placed);
                }
                Some(quorum::Outcome::Failed { answered, needed }) => {
                    return Err(local_failure
                        .unwrap_or(PlaceError::NoQuorum { answered: *answered, needed: *needed }));
                }
                None => {}
            }
            let timer = machine.poll_timeout().map_or(PLACEMENT_DEADLINE, |at| at - inner.store.now());
            tokio::select! {
                Some((target, result)) = attempts.next() => {
                    let now = inner.store.now();
                    match result {
                        Ok(Ok(())) => machine.handle_ack(now, target),
                        Ok(Err(error)) => {
                            debug!(peer = %target, chunk = %id, %error, "a copy failed");
                            if target == inner.me {
                                local_failure = Some(error);
                            }
                            machine.handle_failure(now, target);
                        }
                        Err(_) => machine.handle_failure(now, target),
                    }
                }
                () = tokio::time::sleep(timer) => machine.handle_timeout(inner.store.now()),
            }
        }
    }

    /// Lets copies to stragglers go on, as far as memory allows; the rest is for the queue alone.
    fn spare<T: Send + 'static>(
        &self,
        mut attempts: FuturesUnordered<impl Future<Output = T> + Send + 'static>,
        bytes: usize,
    ) {
        if attempts.is_empty() {
            return;
        }
        let Some(share) = self.inner.stragglers.try_take(bytes) else { return };
        let stop = self.inner.tasks.stop().clone();
        self.inner.tasks.spawn(async move {
            let _share = share;
            let finishing = stop.run_until_cancelled(async { while attempts.next().await.is_some() {} });
            let _ = tokio::time::timeout(STRAGGLE_FOR, finishing).await;
        });
    }

    async fn copy_to(&self, target: NodeId, source: Source, dot: Dot) -> Result<(), PlaceError> {
        let inner = &self.inner;
        if target == inner.me {
            let chunk = match source {
                Source::Chunk(chunk) => chunk,
                Source::Id(id) => {
                    if matches!(inner.store.adopt(id, &[dot]).await, Ok(true)) {
                        return Ok(());
                    }
                    self.fetch(id, None).await?
                }
            };
            return inner.store.put(chunk, &[dot]).await.map_err(PlaceError::from);
        }
        let chunk = match source {
            Source::Chunk(chunk) => chunk,
            Source::Id(id) => {
                if matches!(inner.swarm.adopt(target, id, &[dot]).await, Ok(true)) {
                    return Ok(());
                }
                self.fetch(id, None).await?
            }
        };
        self.push(target, chunk, &[dot]).await.map_err(PlaceError::from)
    }

    async fn push(&self, target: NodeId, chunk: Chunk, dots: &[Dot]) -> Result<(), TransferError> {
        let inner = &self.inner;
        let (bytes, started) = (chunk.bytes().len() as u64, inner.store.now());
        let result = inner.swarm.push(target, chunk, dots).await;
        self.count(Direction::Out, Purpose::Client, result.is_ok().then_some(bytes), started);
        result
    }

    /// Counts a transfer: how many bytes it moved, or `None` where it failed.
    fn count(&self, direction: Direction, purpose: Purpose, moved: Option<u64>, started: Instant) {
        let transfers = &self.inner.metrics.transfers;
        match moved {
            Some(bytes) => {
                transfers.moved(direction, purpose, bytes, (self.inner.store.now() - started).as_secs_f64());
            }
            None => transfers.failed(direction, purpose),
        }
    }

    /// Tells people that a copy here was set aside.
    pub fn note_quarantined(&self, id: ChunkId) {
        self.inner.metrics.disk.quarantined.inc();
        let _ = self.inner.events.send(api::Event::Quarantined { cid: id });
    }

    /// Who of the reachable members holds each of `ids`, this node included, in the order of `ids`.
    pub async fn holders(&self, ids: &[ChunkId]) -> Result<Vec<Vec<NodeId>>, store::ReadError> {
        let mut holders = vec![Vec::new(); ids.len()];
        let here = self.inner.store.held(ids.to_vec()).await?;
        for (list, held) in holders.iter_mut().zip(&here) {
            if held.is_some() {
                list.push(self.inner.me);
            }
        }
        let view = self.view();
        let peers = view.members().filter(|m| m.state.is_reachable() && m.id != self.inner.me);
        let mut answers: FuturesUnordered<_> =
            peers.map(|m| async { (m.id, self.inner.swarm.held(m.id, ids.to_vec()).await) }).collect();
        while let Some((peer, answer)) = answers.next().await {
            for (list, held) in holders.iter_mut().zip(answer.unwrap_or_default()) {
                if held {
                    list.push(peer);
                }
            }
        }
        holders.iter_mut().for_each(|list| list.sort());
        Ok(holders)
    }
}
