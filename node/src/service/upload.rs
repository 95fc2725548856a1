//! PUT, copy and move: bytes or chunks in, a version out.
//!
//! A version is published only after every chunk and manifest node has its acknowledgements, so a
//! reader never sees a file that is not there. Memory is bounded by the chunks in flight.

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use kepler_protocol::api::{self, Durability};
use kepler_protocol::catalog::command::{Command, Outcome, Precondition, Refusal};
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::chunker::{Chunker, Leaf};
use kepler_protocol::manifest::{Builder, Finished};
use kepler_protocol::name::Name;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::quorum::Tally;
use kepler_protocol::time::UnixMillis;
use kepler_protocol::version::{Content, Dot, Version};
use tracing::warn;

use super::files::Service;
use super::{Body, BodyError, PutRequest, ReadError, WriteError};
use crate::replication::catalog::Stopped;
use crate::replication::chunks::{PlaceError, Placed, Source, Unavailable};
use crate::store::QueueRow;

/// Chunks of one upload that are hashed, written and sent at the same time.
const CHUNKS_IN_FLIGHT: usize = 6;

/// What an upload has reached so far.
#[derive(Debug, Default)]
struct Reached {
    tally: Tally,
    owed: Vec<(ChunkId, NodeId)>,
}

impl Reached {
    fn add(&mut self, placed: &Placed) {
        self.tally.add(&placed.acked, &placed.owed);
        self.owed.extend(placed.owed.iter().map(|node| (placed.id, *node)));
    }
}

impl Service {
    pub(super) async fn upload(&self, request: PutRequest, body: Body) -> Result<api::Receipt, WriteError> {
        let dot = self.begin(&request.name, request.precondition, request.durability).await?;
        let guard = AbortOnDrop { service: self.clone(), dot: Some(dot) };
        let mut reached = Reached::default();
        let stored = self.store_body(dot, request.durability, body, &mut reached).await;
        let content = match stored {
            Ok(content) => Content { content_type: request.content_type, ..content },
            Err(error) => {
                guard.abort().await;
                return Err(error);
            }
        };
        self.publish(guard, request.durability, content, reached).await
    }

    /// Copies the head of `from` to `to`: an upload in which every chunk is a hit.
    pub(super) async fn copy_head(
        &self,
        request: &api::CopyRequest,
    ) -> Result<(api::Receipt, Dot), WriteError> {
        let (source, _) = self.head(&request.from, None).await?;
        let content = source.content.clone().ok_or_else(|| WriteError::NotFound(request.from.to_string()))?;
        let dot = self.begin(&request.to, Precondition::None, request.durability).await?;
        let guard = AbortOnDrop { service: self.clone(), dot: Some(dot) };
        let mut reached = Reached::default();
        if let Err(error) = self.store_hits(dot, request.durability, &content, &mut reached).await {
            guard.abort().await;
            return Err(error);
        }
        let receipt = self.publish(guard, request.durability, content, reached).await?;
        Ok((receipt, source.dot))
    }

    async fn begin(
        &self,
        name: &Name,
        precondition: Precondition,
        durability: Durability,
    ) -> Result<Dot, WriteError> {
        let command = Command::Begin { name: name.clone(), precondition, durability };
        match self.catalog.command(command).await? {
            Outcome::Begun { dot } => Ok(dot),
            other => Err(refused(other, name)),
        }
    }

    async fn store_body(
        &self,
        dot: Dot,
        durability: Durability,
        body: Body,
        reached: &mut Reached,
    ) -> Result<Content, WriteError> {
        let mut cutter = Cutter { body, chunker: Some(Chunker::new(self.chunk_size)), piece: Bytes::new() };
        let mut builder = Builder::default();
        let mut in_flight = FuturesOrdered::new();
        let mut ended = false;
        while !ended || !in_flight.is_empty() {
            while in_flight.len() < CHUNKS_IN_FLIGHT && !ended {
                let leaf = match cutter.next().await? {
                    Some(leaf) => leaf,
                    None => {
                        ended = true;
                        break;
                    }
                };
                let service = self.clone();
                in_flight.push_back(self.tasks.spawn(async move {
                    let hashed = tokio::task::spawn_blocking(move || leaf.into_chunk()).await;
                    let chunk = hashed.map_err(|e| WriteError::Store(e.into()))?;
                    let bytes = chunk.bytes().len();
                    Ok((service.chunks.place(Source::Chunk(chunk), dot, durability).await?, bytes))
                }));
            }
            if let Some(finished) = in_flight.next().await {
                let placed: Result<(Placed, usize), WriteError> =
                    finished.map_err(|e| WriteError::Store(e.into()))?;
                let (placed, bytes) = placed?;
                reached.add(&placed);
                let full = builder.push(placed.id, bytes).map_err(|e| WriteError::Store(e.into()))?;
                for node in full {
                    reached.add(&self.chunks.place(Source::Chunk(node), dot, durability).await?);
                }
            }
        }
        let Finished { root, size, leaves, nodes } = builder.finish();
        for node in nodes {
            reached.add(&self.chunks.place(Source::Chunk(node), dot, durability).await?);
        }
        Ok(Content { root, size, chunks: leaves, content_type: None })
    }

    async fn store_hits(
        &self,
        dot: Dot,
        durability: Durability,
        content: &Content,
        reached: &mut Reached,
    ) -> Result<(), WriteError> {
        let ids: Vec<ChunkId> = self.dag(content).await?.into_iter().map(|(id, _)| id).collect();
        let mut places = futures::stream::iter(ids)
            .map(|id| self.chunks.place(Source::Id(id), dot, durability))
            .buffer_unordered(CHUNKS_IN_FLIGHT);
        while let Some(placed) = places.next().await {
            reached.add(&placed?);
        }
        Ok(())
    }

    /// Queues what is still owed, publishes the version and writes the receipt.
    async fn publish(
        &self,
        mut guard: AbortOnDrop,
        durability: Durability,
        content: Content,
        mut reached: Reached,
    ) -> Result<api::Receipt, WriteError> {
        let Some(dot) = guard.dot else { return Err(WriteError::NotFound("the write".to_owned())) };
        let rows: Vec<QueueRow> = reached
            .owed
            .iter()
            .map(|(chunk, target)| QueueRow { chunk: *chunk, target: *target, dot })
            .collect();
        if !rows.is_empty() {
            if let Err(error) = self.store.enqueue(rows).await {
                guard.abort().await;
                return Err(WriteError::Store(error.into()));
            }
            self.queue_grew.notify_one();
        }
        let command =
            Command::Publish { dot, content: Some(content), created_at: UnixMillis(super::unix_millis()) };
        // From here on the catalog owns the dot: it closes it itself if it refuses.
        guard.dot = None;
        match self.catalog.command(command).await? {
            Outcome::Published { version, acked, wanted } => {
                if durability == Durability::Fast && reached.owed.is_empty() {
                    self.settle(dot).await;
                }
                reached.tally.add(&acked, &[]);
                Ok(receipt(&version, durability, reached.tally.into_replicas(wanted)))
            }
            other => Err(refused(other, &"the file")),
        }
    }

    /// Tells the catalog that the chunks of a `fast` version are where they belong.
    pub(crate) async fn settle(&self, dot: Dot) {
        if let Err(error) = self.catalog.command(Command::Settle { dot }).await {
            warn!(version = %dot, %error, "settling a fast version failed; it is tried again");
        }
    }
}

/// Cuts a body into leaves.
struct Cutter {
    body: Body,
    /// Until the body has ended.
    chunker: Option<Chunker>,
    piece: Bytes,
}

impl Cutter {
    async fn next(&mut self) -> Result<Option<Leaf>, BodyError> {
        loop {
            let Some(chunker) = &mut self.chunker else { return Ok(None) };
            if let Some(leaf) = chunker.cut(&mut self.piece) {
                return Ok(Some(leaf));
            }
            match self.body.next().await {
                Some(piece) => self.piece = piece?,
                None => return Ok(self.chunker.take().and_then(Chunker::finish)),
            }
        }
    }
}

/// Gives a begun write up if its future is dropped: a client that breaks off leaves nothing open.
struct AbortOnDrop {
    service: Service,
    dot: Option<Dot>,
}

impl AbortOnDrop {
    async fn abort(mut self) {
        if let Some(dot) = self.dot.take() {
            abort(&self.service, dot).await;
        }
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(dot) = self.dot.take() {
            let service = self.service.clone();
            self.service.tasks.spawn(async move { abort(&service, dot).await });
        }
    }
}

async fn abort(service: &Service, dot: Dot) {
    if let Err(error) = service.catalog.command(Command::Abort { dot }).await {
        warn!(version = %dot, %error, "closing an upload that failed; the next start closes it");
    }
}

fn receipt(version: &Version, durability: Durability, replicas: api::Replicas) -> api::Receipt {
    let content = version.content.as_ref().expect("an upload publishes a file");
    api::Receipt {
        name: version.name.clone(),
        cid: content.root,
        size: content.size,
        chunks: content.chunks,
        version: version.dot.to_string(),
        created_at: version.created_at.to_string(),
        durability,
        replicas,
    }
}

/// Why the catalog did not do what a write asked.
pub(super) fn refused(outcome: Outcome, name: &impl ToString) -> WriteError {
    match outcome {
        Outcome::Refused(Refusal::NotReady(reason)) => WriteError::NotReady(reason),
        Outcome::Refused(Refusal::NoQuorum { answered, needed }) => WriteError::NoQuorum { answered, needed },
        Outcome::Refused(Refusal::PreconditionFailed { head }) => WriteError::PreconditionFailed { head },
        Outcome::Refused(Refusal::Unknown { dot, answered, needed }) => {
            WriteError::Unknown { version: dot, answered, needed }
        }
        Outcome::Refused(Refusal::NotFound) => WriteError::NotFound(name.to_string()),
        Outcome::Refused(Refusal::TooManyConflicts) => WriteError::TooManyConflicts(name.to_string()),
        Outcome::Refused(Refusal::NotBegun) => {
            WriteError::NotReady("it restarted its catalog while the write was under way".to_owned())
        }
        outcome @ (Outcome::Begun { .. }
        | Outcome::Published { .. }
        | Outcome::Read { .. }
        | Outcome::Done) => WriteError::Store(anyhow::anyhow!("the catalog answered {outcome:?}")),
    }
}

impl From<crate::store::WriteError> for WriteError {
    fn from(error: crate::store::WriteError) -> Self {
        match error {
            crate::store::WriteError::DiskFull { free, reserve } => Self::DiskFull { free, reserve },
            other => Self::Store(other.into()),
        }
    }
}

impl From<PlaceError> for WriteError {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::NotReady(reason) => Self::NotReady(reason),
            PlaceError::NoQuorum { answered, needed } => Self::NoQuorum { answered, needed },
            PlaceError::Store(error) => error.into(),
            PlaceError::Transfer(error) => Self::Store(error.into()),
            PlaceError::Fetch(unavailable) => Self::Read(unavailable.into()),
        }
    }
}

impl From<Unavailable> for ReadError {
    fn from(Unavailable(id): Unavailable) -> Self {
        Self::ChunkUnavailable(id)
    }
}

impl From<Stopped> for WriteError {
    fn from(_: Stopped) -> Self {
        Self::NotReady("it is stopping".to_owned())
    }
}

impl From<Stopped> for ReadError {
    fn from(_: Stopped) -> Self {
        Self::NotReady("it is stopping".to_owned())
    }
}
