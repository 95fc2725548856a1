//! GET: the head of a name, its manifest, its chunks in order, read ahead of the client.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::FuturesOrdered;
use futures::{Stream, StreamExt as _};
use kepler_protocol::catalog::command::{Command, Consistency, Outcome, Refusal};
use kepler_protocol::chunk::{Chunk, ChunkId, Codec};
use kepler_protocol::manifest::{Node, Walk, WalkError};
use kepler_protocol::name::Name;
use kepler_protocol::version::{Content, Dot, Version, head};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::files::Service;
use super::outlet::{Outlet, Passed};
use super::{ByteStream, OpenChunk, OpenFile, ReadError};
use crate::replication::budget::Share;
use crate::replication::chunks::Unavailable;

/// Chunks of one reader fetched at once: the one it waits for, and others ahead of it as far as the
/// bytes fetched ahead of all readers allow.
const READ_AHEAD: usize = 4;

/// How long a reader waits for room for its next chunk; others who do not read let go of theirs meanwhile.
const TURN_WITHIN: Duration = Duration::from_secs(30);

/// What a chunk counts for that is not fetched yet.
const UNKNOWN_BYTES: usize = 4 << 20;

/// The survivors of a name that are files, and how far they can be relied on.
pub(super) struct Found {
    pub(super) survivors: Vec<Version>,
    pub(super) consistency: Consistency,
}

impl Service {
    pub(super) async fn find(&self, name: &Name) -> Result<Found, ReadError> {
        match self.catalog.command(Command::Read { name: name.clone() }).await? {
            Outcome::Read { mut survivors, consistency } => {
                survivors.retain(|v| !v.is_tombstone());
                if survivors.is_empty() {
                    return Err(ReadError::NotFound(name.to_string()));
                }
                Ok(Found { survivors, consistency })
            }
            Outcome::Refused(Refusal::NotReady(reason)) => Err(ReadError::NotReady(reason)),
            Outcome::Refused(Refusal::NoQuorum { answered, needed }) => {
                Err(ReadError::NoQuorum { answered, needed })
            }
            Outcome::Refused(Refusal::NotFound) => Err(ReadError::NotFound(name.to_string())),
            other => Err(ReadError::Store(anyhow::anyhow!("the catalog answered a read with {other:?}"))),
        }
    }

    /// The head of a name, or one of its survivors.
    pub(super) async fn head(
        &self,
        name: &Name,
        version: Option<Dot>,
    ) -> Result<(Version, Found), ReadError> {
        let found = self.find(name).await?;
        let wanted = match version {
            None => head(&found.survivors),
            Some(dot) => found.survivors.iter().find(|v| v.dot == dot),
        };
        match wanted {
            Some(version) => Ok((version.clone(), found)),
            None => Err(ReadError::NotFound(match version {
                None => name.to_string(),
                Some(dot) => format!("{name} in version {dot}, which neither survives nor is remembered"),
            })),
        }
    }

    pub(super) async fn open_file(&self, name: &Name, version: Option<Dot>) -> Result<OpenFile, ReadError> {
        let (version, found) = match (self.head(name, version).await, version) {
            (Err(ReadError::NotFound(what)), Some(dot)) => {
                let version = self.remembered(name, dot).await.ok_or_else(|| ReadError::NotFound(what))?;
                let found = Found { survivors: vec![version.clone()], consistency: Consistency::Local };
                (version, found)
            }
            (found, _) => found?,
        };
        let content = version.content.clone().ok_or_else(|| ReadError::NotFound(name.to_string()))?;
        let service = self.clone();
        let dot = version.dot;
        let reader = move |range: Range<u64>| service.read_range(&content, dot, range);
        Ok(OpenFile::new(version, found.survivors.len() - 1, found.consistency, Box::new(reader)))
    }

    /// The verified bytes of `range`.
    fn read_range(&self, content: &Content, dot: Dot, mut range: Range<u64>) -> ByteStream {
        let (service, content) = (self.clone(), content.clone());
        self.stream(|outlet| async move {
            let mut ahead = READ_AHEAD;
            while let Some(next) = service.send_range(&content, dot, range.clone(), ahead, &outlet).await? {
                if !outlet.goes_on().await {
                    break;
                }
                // Whoever is slow needs nothing ahead: it would only be fetched again.
                (range.start, ahead) = (next, 1);
            }
            Ok(())
        })
    }

    /// What `send` gives the client. The task behind it, and what it fetches ahead, ends when the stream is dropped.
    fn stream<F>(&self, send: impl FnOnce(Arc<Outlet>) -> F) -> ByteStream
    where
        F: Future<Output = Result<(), ReadError>> + Send + 'static,
    {
        let (outlet, pieces) = Outlet::new(&self.chunks);
        let outlet = Arc::new(outlet);
        let sending = send(Arc::clone(&outlet));
        self.tasks.spawn(async move {
            let sent = tokio::select! {
                sent = sending => sent,
                () = outlet.gone() => return,
            };
            if let Err(error) = sent {
                outlet.fail(error).await;
            }
        });
        Box::pin(Pieces(pieces))
    }

    /// Gives the client the bytes of `range`, or those before the offset that is returned: then it takes no
    /// more for now, and nothing is held for it.
    async fn send_range(
        &self,
        content: &Content,
        dot: Dot,
        range: Range<u64>,
        most_ahead: usize,
        outlet: &Outlet,
    ) -> Result<Option<u64>, ReadError> {
        let mut at = range.start;
        let mut walk = Walk::new(content.root, content.size, range)?;
        let mut ahead = FuturesOrdered::new();
        let mut next_leaf = None;
        loop {
            while ahead.len() < most_ahead {
                let Some(leaf) = next_leaf.take().or_else(|| walk.poll_leaf()) else { break };
                let share = match self.chunks.reading().try_take(bytes_of(leaf.size)) {
                    Some(share) => share,
                    // Whoever holds nothing waits for its turn; the others go on with what they have.
                    None if ahead.is_empty() => self.turn(leaf.size).await?,
                    None => {
                        next_leaf = Some(leaf);
                        break;
                    }
                };
                let service = self.clone();
                ahead.push_back(AbortOnDropHandle::new(self.tasks.spawn(async move {
                    let chunk = service.chunks.fetch(leaf.id, Some(dot)).await?;
                    Ok::<_, ReadError>((leaf.slice(&chunk)?, share))
                })));
            }
            if next_leaf.is_none()
                && ahead.len() < most_ahead
                && let Some(node) = walk.poll_wanted()
            {
                let chunk = self.chunks.fetch(node, Some(dot)).await?;
                walk.handle_node(&chunk)?;
                continue;
            }
            let Some(next) = ahead.next().await else { return Ok(None) };
            let (bytes, _share) = next.map_err(|e| ReadError::Store(e.into()))??;
            match outlet.pass(&bytes).await {
                Passed::All => at += bytes.len() as u64,
                Passed::Some(passed) => return Ok(Some(at + passed as u64)),
                Passed::Gone => return Ok(None),
            }
        }
    }

    /// Room for a chunk that is held for a reader, once it is its turn.
    async fn turn(&self, bytes: u64) -> Result<Share, ReadError> {
        let turn = self.chunks.reading().take(bytes_of(bytes));
        let crowded = || ReadError::NotReady("too many downloads are waiting for memory".to_owned());
        tokio::time::timeout(TURN_WITHIN, turn).await.map_err(|_| crowded())
    }

    /// A chunk, held until it is sent or its client is too slow for another that waits.
    pub(super) async fn open_chunk(&self, id: ChunkId) -> Result<OpenChunk, ReadError> {
        let share = self.turn(self.chunk_size.bytes().max(UNKNOWN_BYTES) as u64).await?;
        let chunk = self.fetch_chunk(id).await?;
        let size = chunk.bytes().len() as u64;
        let service = self.clone();
        let reader = move |range| service.read_chunk(chunk, share, range);
        Ok(OpenChunk::new(size, Box::new(reader)))
    }

    async fn fetch_chunk(&self, id: ChunkId) -> Result<Chunk, ReadError> {
        self.chunks.fetch(id, None).await.map_err(|unavailable| match unavailable {
            // Only where everybody who could have it has said that he has not.
            Unavailable { id, nowhere: true } => ReadError::NotFound(format!("with the id {id}")),
            unavailable => unavailable.into(),
        })
    }

    fn read_chunk(&self, chunk: Chunk, share: Share, mut range: Range<u64>) -> ByteStream {
        let service = self.clone();
        self.stream(|outlet| async move {
            let id = chunk.id();
            let mut held = (chunk, share);
            // The range lies within the chunk, whose length is a usize.
            while let Passed::Some(passed) =
                outlet.pass(&held.0.bytes()[range.start as usize..range.end as usize]).await
            {
                range.start += passed as u64;
                let size = held.0.bytes().len() as u64;
                drop(held);
                if !outlet.goes_on().await {
                    break;
                }
                let share = service.turn(size).await?;
                held = (service.fetch_chunk(id).await?, share);
            }
            Ok(())
        })
    }

    /// The next chunk of a file: leaves in file order, manifest nodes as they are come upon.
    pub(super) async fn next_of(&self, dag: &mut Dag) -> Result<Option<(ChunkId, u64)>, ReadError> {
        if let Some(only) = dag.only.take() {
            return Ok(Some(only));
        }
        if let Some(leaf) = dag.walk.poll_leaf() {
            return Ok(Some((leaf.id, leaf.size)));
        }
        let Some(id) = dag.walk.poll_wanted() else { return Ok(None) };
        let node = self.chunks.fetch(id, dag.dot).await?;
        dag.walk.handle_node(&node)?;
        if id == dag.root
            && let Ok(node) = Node::decode(node.bytes())
        {
            dag.root_links = node.links().iter().map(|link| link.id).collect();
        }
        Ok(Some((id, node.bytes().len() as u64)))
    }
}

/// Every chunk of a file, one after another; memory does not grow with the file.
pub(super) struct Dag {
    root: ChunkId,
    dot: Option<Dot>,
    walk: Walk,
    /// The one chunk of a file that has no manifest.
    only: Option<(ChunkId, u64)>,
    root_links: Vec<ChunkId>,
}

impl Dag {
    /// The chunks of `content`, which `dot` refers to, if a version does.
    pub(super) fn new(content: &Content, dot: Option<Dot>) -> Result<Self, ReadError> {
        let root = content.root;
        let only = (root.codec() == Codec::Raw).then_some((root, content.size));
        let end = if only.is_some() { 0 } else { content.size };
        let walk = Walk::new(root, content.size, 0..end)?;
        Ok(Self { root, dot, walk, only, root_links: vec![root] })
    }

    /// The root's direct links, once the root has come by.
    pub(super) fn into_root_links(self) -> Vec<ChunkId> {
        self.root_links
    }
}

fn bytes_of(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

impl From<WalkError> for ReadError {
    fn from(error: WalkError) -> Self {
        Self::Manifest(error.to_string())
    }
}

/// A channel as a stream that is `Sync`, which HTTP bodies must be.
struct Pieces(mpsc::Receiver<Result<Bytes, ReadError>>);

impl Stream for Pieces {
    type Item = Result<Bytes, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}
