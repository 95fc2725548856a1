//! PUT, copy and move: bytes or chunks in, a version out.
//!
//! A version is published only after every chunk and manifest node has its acknowledgements, so a
//! reader never sees a file that is not there. Memory is bounded by the chunks in flight.

mod begun;
mod body;

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{FuturesOrdered, FuturesUnordered};
use kepler_protocol::api::{self, Durability};
use kepler_protocol::catalog::command::{Command, Outcome, Precondition};
use kepler_protocol::chunk::{Chunk, ChunkId, Codec};
use kepler_protocol::manifest::{Builder, Finished, Node};
use kepler_protocol::name::Name;
use kepler_protocol::quorum::Tally;
use kepler_protocol::time::UnixMillis;
use kepler_protocol::version::{Content, Dot, Version};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use self::begun::{Begun, forget_owed};
use self::body::{Cutter, Timing};
use super::download::Dag;
use super::files::Service;
use super::refusal::refused;
use super::{Body, Copy, CopySource, PutRequest, ReadError, WriteError};
use crate::replication::catalog::CommandError;
use crate::replication::chunks::{PLACEMENT_DEADLINE, PlaceError, Placed, Source, Unavailable};
use crate::store::QueueRow;

/// Chunks of one upload that are hashed, written and sent at the same time, as far as all uploads'
/// bytes in flight allow.
const CHUNKS_IN_FLIGHT: usize = 6;

/// Chunks up to this many bytes are hashed where they are: handing them over would take longer.
const HASH_INLINE_BYTES: usize = 64 << 10;

/// What the catalog has for publishing at least, however long the chunks took.
const PUBLISH_WITHIN: Duration = Duration::from_millis(1_000);

/// How long everybody has to say that a chunk is gone, once it could not be copied.
const LOOK_WITHIN: Duration = Duration::from_millis(500);

/// Copies owed that are gathered before they are queued: memory does not grow with the file.
const OWED_BATCH: usize = 1_024;

/// What an upload has reached so far.
#[derive(Debug, Default)]
struct Reached {
    tally: Tally,
    /// Owed and not queued yet.
    owed: Vec<QueueRow>,
    /// Whether anything was queued.
    queued: bool,
}

impl Service {
    pub(super) async fn upload(&self, request: PutRequest, body: Body) -> Result<api::Receipt, WriteError> {
        let guard = self.begin(&request.name, request.precondition, request.durability).await?;
        let mut reached = Reached::default();
        let mut timing = Timing::default();
        let stored = self.store_body(guard.dot, request.durability, body, &mut reached, &mut timing).await;
        let stored = match stored {
            Ok(stored) => {
                Stored { content: Content { content_type: request.content_type, ..stored.content }, ..stored }
            }
            Err(error) => {
                guard.abort().await;
                return Err(error);
            }
        };
        self.publish(guard, request.durability, stored, reached, timing).await
    }

    /// Copies what survives under a name, or what a CID names: an upload in which every chunk is a hit.
    ///
    /// Each chunk has its new reference, where it is durable, before the version is published: whatever
    /// ends of the source meanwhile, nothing of the copy is collected.
    pub(super) async fn write_copy(&self, copy: Copy) -> Result<api::Receipt, WriteError> {
        let Copy { from, to, precondition, durability } = copy;
        let (content, source) = match from {
            CopySource::Name(name, version) => {
                let (source, _) = self.head(&name, version).await?;
                let content = source.content.ok_or_else(|| WriteError::NotFound(name.to_string()))?;
                (content, Some(source.dot))
            }
            CopySource::Content { root, content_type } => (self.content_of(root, content_type).await?, None),
        };
        let guard = self.begin(&to, precondition, durability).await?;
        let mut reached = Reached::default();
        let stored = self.store_hits(guard.dot, durability, content, source, &mut reached).await;
        let stored = match stored {
            Ok(stored) => stored,
            Err(error) => {
                guard.abort().await;
                return Err(error);
            }
        };
        self.publish(guard, durability, stored, reached, Timing::default()).await
    }

    /// What a root names. Its leaves are counted when they are come by.
    async fn content_of(&self, root: ChunkId, content_type: Option<String>) -> Result<Content, WriteError> {
        let chunk = self.chunks.fetch(root, None).await.map_err(|unavailable| match unavailable {
            Unavailable { id, nowhere: true } => WriteError::Collected(id),
            unavailable => WriteError::Read(unavailable.into()),
        })?;
        let size = match root.codec() {
            Codec::Raw => chunk.bytes().len() as u64,
            Codec::DagPb => {
                Node::decode(chunk.bytes()).map_err(|e| ReadError::Manifest(e.to_string()))?.size()
            }
        };
        Ok(Content { root, size, chunks: 0, content_type })
    }

    /// Opens a write. In a task of its own: where the client goes away before the dot is known here,
    /// the guard is dropped with the task's result, and the dot is closed.
    async fn begin(
        &self,
        name: &Name,
        precondition: Precondition,
        durability: Durability,
    ) -> Result<Begun, WriteError> {
        let command = Command::Begin { name: name.clone(), precondition, durability };
        let (service, name) = (self.clone(), name.clone());
        let beginning = self.tasks.spawn(async move {
            match service.catalog.command(command).await? {
                Outcome::Begun { dot } => Ok(Begun::new(service, dot)),
                other => Err(refused(other, &name)),
            }
        });
        beginning.await.map_err(|e| WriteError::Store(e.into()))?
    }

    async fn store_body(
        &self,
        dot: Dot,
        durability: Durability,
        body: Body,
        reached: &mut Reached,
        timing: &mut Timing,
    ) -> Result<Stored, WriteError> {
        let mut cutter = Cutter::new(body, self.chunk_size);
        let mut builder = Builder::default();
        let mut in_flight = FuturesOrdered::new();
        // Both at once, so that a refusal does not wait for a client that sends slowly.
        loop {
            tokio::select! {
                leaf = cutter.next(), if !timing.has_ended() && in_flight.len() < CHUNKS_IN_FLIGHT => {
                    let Some(leaf) = leaf? else {
                        timing.end(self.store.now());
                        continue;
                    };
                    let share = self.chunks.uploads().take(leaf.len()).await;
                    let service = self.clone();
                    // Dropping the handle ends the task: nothing goes on for an upload that failed.
                    in_flight.push_back(AbortOnDropHandle::new(self.tasks.spawn(async move {
                        let _share = share;
                        let chunk = if leaf.len() <= HASH_INLINE_BYTES {
                            leaf.into_chunk()
                        } else {
                            let hashed = tokio::task::spawn_blocking(move || leaf.into_chunk()).await;
                            hashed.map_err(|e| WriteError::Store(e.into()))?
                        };
                        let bytes = chunk.bytes().len();
                        let placing =
                            service.chunks.place(Source::Chunk(chunk), dot, durability, PLACEMENT_DEADLINE);
                        Ok((placing.await?, bytes))
                    })));
                }
                Some(finished) = in_flight.next(), if !in_flight.is_empty() => {
                    let placed: Result<(Placed, usize), WriteError> =
                        finished.map_err(|e| WriteError::Store(e.into()))?;
                    let (placed, bytes) = placed?;
                    self.reach(reached, dot, &placed).await?;
                    let full = builder.push(placed.id, bytes).map_err(|e| WriteError::Store(e.into()))?;
                    for node in full {
                        self.place_node(node, dot, durability, reached, timing).await?;
                    }
                }
                else => break,
            }
        }
        let Finished { root, size, leaves, nodes } = builder.finish();
        let links = root_links(root, nodes.last());
        for node in nodes {
            self.place_node(node, dot, durability, reached, timing).await?;
        }
        Ok(Stored { content: Content { root, size, chunks: leaves, content_type: None }, links })
    }

    async fn place_node(
        &self,
        node: Chunk,
        dot: Dot,
        durability: Durability,
        reached: &mut Reached,
        timing: &Timing,
    ) -> Result<(), WriteError> {
        let within = timing.left(self.store.now()).unwrap_or(PLACEMENT_DEADLINE);
        let placed = self.chunks.place(Source::Chunk(node), dot, durability, within).await?;
        self.reach(reached, dot, &placed).await
    }

    async fn store_hits(
        &self,
        dot: Dot,
        durability: Durability,
        content: Content,
        source: Option<Dot>,
        reached: &mut Reached,
    ) -> Result<Stored, WriteError> {
        let mut dag = Dag::new(&content, source)?;
        let mut in_flight = FuturesUnordered::new();
        let mut leaves = 0;
        loop {
            while in_flight.len() < CHUNKS_IN_FLIGHT {
                let next = match self.next_of(&mut dag).await {
                    Err(ReadError::ChunkUnavailable(id)) => {
                        return Err(self.or_collected(id, ReadError::ChunkUnavailable(id).into()).await);
                    }
                    next => next?,
                };
                let Some((id, _)) = next else { break };
                leaves += u64::from(id.codec() == Codec::Raw);
                let service = self.clone();
                in_flight.push(AbortOnDropHandle::new(self.tasks.spawn(async move {
                    let source = Source::Id(id);
                    match service.chunks.place(source, dot, durability, PLACEMENT_DEADLINE).await {
                        Err(error @ (PlaceError::NoQuorum { .. } | PlaceError::Fetch(_))) => {
                            Err(service.or_collected(id, error.into()).await)
                        }
                        placed => placed.map_err(WriteError::from),
                    }
                })));
            }
            let Some(finished) = in_flight.next().await else { break };
            let placed = finished.map_err(|e| WriteError::Store(e.into()))??;
            self.reach(reached, dot, &placed).await?;
        }
        let links = dag.into_root_links();
        Ok(Stored { content: Content { chunks: leaves, ..content }, links })
    }

    /// What made a copy of a chunk fail, or, where no member that answers at once has one, that.
    async fn or_collected(&self, id: ChunkId, error: WriteError) -> WriteError {
        let looked = tokio::time::timeout(LOOK_WITHIN, self.chunks.fetch(id, None)).await;
        match looked {
            Ok(Err(Unavailable { nowhere: true, .. })) => WriteError::Collected(id),
            Ok(Err(unavailable)) => WriteError::Read(unavailable.into()),
            Ok(Ok(_)) | Err(_) => error,
        }
    }

    /// Counts a placed chunk, and queues what is owed by now if that is much.
    async fn reach(&self, reached: &mut Reached, dot: Dot, placed: &Placed) -> Result<(), WriteError> {
        reached.tally.add(&placed.acked, &placed.owed);
        let rows = placed.owed.iter().map(|target| QueueRow { chunk: placed.id, target: *target, dot });
        reached.owed.extend(rows);
        if reached.owed.len() >= OWED_BATCH { self.queue(reached).await } else { Ok(()) }
    }

    async fn queue(&self, reached: &mut Reached) -> Result<(), WriteError> {
        if reached.owed.is_empty() {
            return Ok(());
        }
        reached.queued = true;
        let rows = std::mem::take(&mut reached.owed);
        self.store.enqueue(rows).await?;
        self.queue_grew.notify_one();
        Ok(())
    }

    /// Queues what is still owed, publishes the version and writes the receipt.
    ///
    /// In a task of its own: once it has begun, a client that goes away changes nothing.
    async fn publish(
        &self,
        guard: Begun,
        durability: Durability,
        stored: Stored,
        reached: Reached,
        timing: Timing,
    ) -> Result<api::Receipt, WriteError> {
        let service = self.clone();
        let publishing = self
            .tasks
            .spawn(async move { service.publish_now(guard, durability, stored, reached, timing).await });
        publishing.await.map_err(|e| WriteError::Store(e.into()))?
    }

    async fn publish_now(
        &self,
        guard: Begun,
        durability: Durability,
        Stored { content, links }: Stored,
        mut reached: Reached,
        timing: Timing,
    ) -> Result<api::Receipt, WriteError> {
        if let Err(error) = self.queue(&mut reached).await {
            guard.abort().await;
            return Err(error);
        }
        let within = timing.left(self.store.now()).unwrap_or(PLACEMENT_DEADLINE).max(PUBLISH_WITHIN);
        let created_at = UnixMillis(super::unix_millis());
        // From here on the catalog owns the dot: it closes it itself if it refuses.
        let dot = guard.hand_over();
        let command = Command::Publish { dot, content: Some(content), created_at, within };
        match self.catalog.command(command).await {
            Ok(Outcome::Published { version, acked, wanted }) => {
                if durability == Durability::Fast && !reached.queued {
                    self.settle(dot).await;
                }
                // Those of a file of one chunk were noted with the version.
                if links.len() > 1
                    && let Err(error) = self.store.note_links(dot, &links).await
                {
                    warn!(version = %dot, %error, "could not note a file's direct links");
                }
                reached.tally.add(&acked, &[]);
                Ok(receipt(&version, durability, reached.tally.into_replicas(wanted)))
            }
            Ok(other) => {
                let error = refused(other, &"the file");
                // What may surface keeps its copies on their way; what was refused needs none.
                if reached.queued && !matches!(error, WriteError::Unknown { .. }) {
                    forget_owed(self, dot).await;
                }
                Err(error)
            }
            // The command was taken and the catalog is gone: whether it was done will show.
            Err(CommandError::Lost) => Err(WriteError::Unknown { version: dot, answered: 0, needed: 1 }),
            Err(error) => {
                // Never taken: the next start closes the dot.
                Err(error.into())
            }
        }
    }

    /// Tells the catalog that the chunks of a `fast` version are where they belong.
    pub(crate) async fn settle(&self, dot: Dot) {
        if let Err(error) = self.catalog.command(Command::Settle { dot }).await {
            warn!(version = %dot, %error, "settling a fast version failed; it is tried again");
        }
    }
}

/// What was stored under a dot.
struct Stored {
    content: Content,
    /// The root's direct links, for people who read the database.
    links: Vec<ChunkId>,
}

fn root_links(root: ChunkId, node: Option<&Chunk>) -> Vec<ChunkId> {
    let node = node.filter(|node| node.id() == root).and_then(|node| Node::decode(node.bytes()).ok());
    node.map_or_else(|| vec![root], |node| node.links().iter().map(|link| link.id).collect())
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
