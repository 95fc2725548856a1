//! [`Service`]: the one implementation of [`Files`] that serves clients.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kepler_protocol::api;
use kepler_protocol::catalog::command::{Command, Consistency, Outcome, Precondition};
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::chunker::ChunkSize;
use kepler_protocol::name::Name;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::relocation::{self, Relocation};
use kepler_protocol::time::Instant;
use kepler_protocol::version::{Dot, Version};
use tokio::sync::{Notify, broadcast, watch};

use super::cluster::ClusterService;
use super::operations::Operator;
use super::refusal::refused;
use super::{
    Body, Copy, CopySource, Files, ListQuery, LocateError, OpenChunk, OpenFile, OperatorError, PutRequest,
    ReadError, VerifyStream, WriteError,
};
use crate::replication::catalog::CatalogHandle;
use crate::replication::chunks::Chunks;
use crate::replication::electorate::Electors;
use crate::store::{Listed, Store};
use crate::tasks::Tasks;

/// Chunks of one file that `stat` asks the members about at a time.
const STAT_BATCH: usize = 1024;

/// The most leaves of a file whose chunks `stat` lists: the answer is built in memory.
const MAX_STAT_CHUNKS: u64 = 65_536;

/// What clients are served with; cheap to clone.
#[derive(Clone)]
pub struct Service {
    pub(super) store: Store,
    pub(super) catalog: CatalogHandle,
    pub(super) chunks: Chunks,
    pub(super) electors: watch::Receiver<Electors>,
    pub(super) cluster: Arc<ClusterService>,
    pub(super) operator: Operator,
    pub(super) chunk_size: ChunkSize,
    pub(super) tasks: Tasks,
    pub(super) started: Instant,
    pub(super) events: broadcast::Sender<api::Event>,
    /// Told when rows were added to the replication queue.
    pub(super) queue_grew: Arc<Notify>,
}

/// What a [`Service`] is made of.
pub struct Parts {
    /// The disk.
    pub store: Store,
    /// Names.
    pub catalog: CatalogHandle,
    /// Chunks.
    pub chunks: Chunks,
    /// The roster, as it changes.
    pub electors: watch::Receiver<Electors>,
    /// Members and ring, for people.
    pub cluster: Arc<ClusterService>,
    /// Health and the operator's verbs.
    pub operator: Operator,
    /// `CHUNK_SIZE_MB`.
    pub chunk_size: ChunkSize,
    /// Where tasks are spawned.
    pub tasks: Tasks,
    /// What happens, for people.
    pub events: broadcast::Sender<api::Event>,
    /// Told when rows were added to the replication queue.
    pub queue_grew: Arc<Notify>,
}

impl Service {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            store,
            catalog,
            chunks,
            electors,
            cluster,
            operator,
            chunk_size,
            tasks,
            events,
            queue_grew,
        } = parts;
        let started = store.now();
        Self {
            store,
            catalog,
            chunks,
            electors,
            cluster,
            operator,
            chunk_size,
            tasks,
            started,
            events,
            queue_grew,
        }
    }

    /// Refuses listings of a newcomer: it would show a cluster with fewer files than there are. Whoever knew
    /// them once lists what it knows, whoever is away. Reads of names need no more than a majority that is ready.
    fn lists(&self) -> Result<(), ReadError> {
        let electors = self.electors.borrow();
        if electors.was_caught_up() { Ok(()) } else { Err(ReadError::NotReady(electors.reason())) }
    }

    /// Copies; where a chunk of the source cannot be had, the error names the source.
    async fn write_named_copy(&self, copy: Copy) -> Result<api::Receipt, WriteError> {
        let source = match &copy.from {
            CopySource::Name(name, _) => Some(name.clone()),
            CopySource::Content { .. } => None,
        };
        self.write_copy(copy).await.map_err(|error| match (error, source) {
            (WriteError::Read(error), Some(source)) => error.of_file(&source).into(),
            (error, _) => error,
        })
    }

    fn me(&self) -> NodeId {
        self.chunks.me()
    }
}

#[async_trait::async_trait]
impl Files for Service {
    async fn put(&self, request: PutRequest, body: Body) -> Result<api::Receipt, WriteError> {
        self.upload(request, body).await
    }

    async fn open(&self, name: &Name, version: Option<Dot>) -> Result<OpenFile, ReadError> {
        self.open_file(name, version).await
    }

    async fn delete(
        &self,
        name: &Name,
        version: Option<Dot>,
        precondition: Precondition,
        durability: api::Durability,
    ) -> Result<(), WriteError> {
        let command = Command::Delete {
            name: name.clone(),
            version,
            precondition,
            durability,
            created_at: kepler_protocol::time::UnixMillis(super::unix_millis()),
        };
        match self.catalog.command(command).await? {
            Outcome::Published { .. } => Ok(()),
            other => Err(refused(other, name)),
        }
    }

    async fn copy(&self, copy: Copy) -> Result<api::Receipt, WriteError> {
        self.write_named_copy(copy).await
    }

    async fn rename(
        &self,
        from: Name,
        to: Name,
        durability: api::Durability,
    ) -> Result<api::Receipt, WriteError> {
        let found = self.find(&from).await?;
        let faults = relocation::Faults::default();
        let relocation =
            Relocation::new(&found.survivors, from == to, durability, faults).map_err(|why| match why {
                relocation::Refusal::NotFound => WriteError::NotFound(from.to_string()),
                relocation::Refusal::Conflicted => WriteError::Conflicted(from.to_string()),
            })?;
        let (dot, durability) = (relocation.version().dot, relocation.durability());
        let source = CopySource::Name(from.clone(), Some(dot));
        let copy = Copy { from: source, to: to.clone(), precondition: Precondition::None, durability };
        let receipt = self.write_named_copy(copy).await?;
        let Some(copied) = relocation.ended() else { return Ok(receipt) };
        match self.delete(&from, Some(copied), Precondition::None, durability).await {
            Ok(()) | Err(WriteError::NotFound(_)) => Ok(receipt),
            Err(error) => Err(WriteError::HalfMoved {
                version: receipt.version,
                from: from.to_string(),
                to: to.to_string(),
                cause: error.to_string(),
            }),
        }
    }

    async fn stat(&self, name: &Name) -> Result<api::Stat, ReadError> {
        let (head, found) = self.head(name, None).await?;
        let dag = self.chunks_of(&head, MAX_STAT_CHUNKS).await?;
        let view = self.chunks.view();
        let wanted = self.electors.borrow().replicas().map_or(1, |(wanted, _)| wanted);
        let mut chunks = Vec::with_capacity(dag.len());
        for batch in dag.chunks(STAT_BATCH) {
            let ids: Vec<ChunkId> = batch.iter().map(|(id, _)| *id).collect();
            let holders = self.chunks.holders(&ids).await.map_err(|e| ReadError::Store(e.into()))?;
            let here = self.store.held(ids).await.map_err(|e| ReadError::Store(e.into()))?;
            for (((id, size), holders), here) in batch.iter().zip(holders).zip(here) {
                chunks.push(api::ChunkInfo {
                    cid: *id,
                    size: Some(*size),
                    owners: view.ring().owners(id.key(), wanted),
                    holders,
                    verified_at: here.and_then(|held| held.verified_at).map(|at| at.to_string()),
                });
            }
        }
        let mut versions: Vec<api::VersionInfo> =
            found.survivors.iter().filter_map(|v| version_info(v, v.dot == head.dot)).collect();
        versions.sort_by_key(|v| !v.head);
        let consistency = match found.consistency {
            Consistency::Majority => "majority",
            Consistency::Local => "local",
        };
        Ok(api::Stat { name: name.clone(), versions, chunks, consistency: consistency.to_owned() })
    }

    async fn earlier(&self, name: &Name) -> Result<api::Earlier, ReadError> {
        self.earlier_versions(name).await
    }

    async fn recent(&self, all: bool, past: Duration) -> api::Recent {
        self.operator.recent(all, past).await
    }

    async fn list(&self, query: ListQuery) -> Result<api::Listing, ReadError> {
        self.lists()?;
        let page = self
            .store
            .list(query.prefix, query.delimiter, query.after, query.limit)
            .await
            .map_err(|e| ReadError::Store(e.into()))?;
        let files = page.files.into_iter().filter_map(|Listed { head: version, conflicts, .. }| {
            let content = version.content?;
            Some(api::FileEntry {
                name: version.name,
                cid: content.root,
                size: content.size,
                content_type: content.content_type,
                created_at: version.created_at.to_string(),
                etag: format!("\"{}\"", version.dot),
                conflicts,
            })
        });
        Ok(api::Listing { files: files.collect(), prefixes: page.prefixes, next: page.next })
    }

    async fn chunk(&self, id: ChunkId) -> Result<OpenChunk, ReadError> {
        self.open_chunk(id).await
    }

    async fn locate(&self, name: &Name, if_down: Option<NodeId>) -> Result<api::Located, LocateError> {
        self.located(name, if_down).await
    }

    async fn health(&self) -> api::Health {
        self.operator.health().await
    }

    async fn scrub(&self, request: api::ScrubRequest) -> api::Accepted {
        self.operator.scrub(request).await
    }

    async fn repair(&self, request: api::RepairRequest) -> api::Accepted {
        self.operator.repair(request).await
    }

    async fn leave(&self) -> Result<api::Accepted, OperatorError> {
        self.operator.leave().await
    }

    async fn stay(&self) -> Result<api::Accepted, OperatorError> {
        self.operator.stay().await
    }

    async fn forget(&self, nodes: BTreeSet<NodeId>, lost: bool) -> Result<api::Accepted, OperatorError> {
        self.operator.forget(&nodes, lost).await
    }

    fn verify(&self, all: bool) -> Result<VerifyStream, OperatorError> {
        self.verification(all)
    }

    async fn cluster(&self) -> api::Cluster {
        let heard = self.cluster.heard_lately().await;
        self.cluster.describe(&self.electors.borrow(), &heard)
    }

    fn ring(&self) -> api::RingDump {
        self.cluster.ring(&self.electors.borrow())
    }

    async fn status(&self) -> Result<api::NodeStatus, ReadError> {
        let internal = |e: anyhow::Error| ReadError::Store(e);
        let usage = self.store.usage().await.map_err(|e| internal(e.into()))?;
        let queue = self.store.queue_status().await.map_err(|e| internal(e.into()))?;
        let waiting_for = self.readiness().err();
        Ok(api::NodeStatus {
            id: self.me(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_secs: (self.store.now() - self.started).as_secs(),
            ready: waiting_for.is_none(),
            waiting_for,
            storage: api::StorageStatus {
                chunks: usage.chunks,
                bytes: usage.bytes,
                free: usage.free,
                reserve: usage.reserve,
            },
            queue: api::QueueStatus {
                depth: queue.depth,
                oldest_secs: queue.oldest.map(|oldest| oldest.as_secs()),
                targets: queue
                    .targets
                    .into_iter()
                    .map(|(node, chunks)| api::Queued { node, chunks })
                    .collect(),
            },
            files: usage.files,
            transfers: self.cluster.transfers(),
            healing: self.operator.healing().health().await.ok(),
            bandwidth: self.operator.healing().bandwidth(),
        })
    }

    fn readiness(&self) -> Result<(), String> {
        if self.catalog.is_stuck() {
            return Err("its disk is full".into());
        }
        self.electors.borrow().standing().clone()
    }

    fn events(&self) -> broadcast::Receiver<api::Event> {
        self.events.subscribe()
    }
}

fn version_info(version: &Version, head: bool) -> Option<api::VersionInfo> {
    let content = version.content.as_ref()?;
    Some(api::VersionInfo {
        version: version.dot.to_string(),
        head,
        cid: content.root,
        size: content.size,
        chunks: content.chunks,
        content_type: content.content_type.clone(),
        created_at: version.created_at.to_string(),
        supersedes: version.context.iter().map(Dot::to_string).collect(),
    })
}
