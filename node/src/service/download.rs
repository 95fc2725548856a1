//! GET: the head of a name, its manifest, its chunks in order, read ahead of the client.

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::stream::FuturesOrdered;
use futures::{Stream, StreamExt as _};
use kepler_protocol::catalog::command::{Command, Consistency, Outcome, Refusal};
use kepler_protocol::chunk::{ChunkId, Codec};
use kepler_protocol::manifest::{Node, Walk, WalkError};
use kepler_protocol::name::Name;
use kepler_protocol::version::{Content, Dot, Version, head};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::files::Service;
use super::{ByteStream, OpenFile, ReadError};

/// Chunks of one reader fetched at once: the one it waits for, and others ahead of it as far as the
/// bytes fetched ahead of all readers allow.
const READ_AHEAD: usize = 4;

/// Bytes handed to the gateway at a time.
const PIECE: usize = 256 << 10;

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

    /// The verified bytes of `range`. The task behind it, and what it fetches ahead, ends when the
    /// stream is dropped.
    fn read_range(&self, content: &Content, dot: Dot, range: Range<u64>) -> ByteStream {
        let (sender, receiver) = mpsc::channel(1);
        let (service, content) = (self.clone(), content.clone());
        self.tasks.spawn(async move {
            let sent = tokio::select! {
                sent = service.send_range(&content, dot, range, &sender) => sent,
                () = sender.closed() => return,
            };
            if let Err(error) = sent {
                // The client may be gone; then nobody needs the reason.
                let _ = sender.send(Err(error)).await;
            }
        });
        Box::pin(Pieces(receiver))
    }

    async fn send_range(
        &self,
        content: &Content,
        dot: Dot,
        range: Range<u64>,
        sender: &mpsc::Sender<Result<Bytes, ReadError>>,
    ) -> Result<(), ReadError> {
        let mut walk = Walk::new(content.root, content.size, range)?;
        let mut ahead = FuturesOrdered::new();
        let mut next_leaf = None;
        loop {
            while ahead.len() < READ_AHEAD {
                let Some(leaf) = next_leaf.take().or_else(|| walk.poll_leaf()) else { break };
                let share =
                    self.chunks.read_ahead().try_take(usize::try_from(leaf.size).unwrap_or(usize::MAX));
                if share.is_none() && !ahead.is_empty() {
                    next_leaf = Some(leaf);
                    break;
                }
                let service = self.clone();
                ahead.push_back(AbortOnDropHandle::new(self.tasks.spawn(async move {
                    let chunk = service.chunks.fetch(leaf.id, Some(dot)).await?;
                    Ok::<_, ReadError>((leaf.slice(&chunk)?, share))
                })));
            }
            if next_leaf.is_none()
                && ahead.len() < READ_AHEAD
                && let Some(node) = walk.poll_wanted()
            {
                let chunk = self.chunks.fetch(node, Some(dot)).await?;
                walk.handle_node(&chunk)?;
                continue;
            }
            let Some(next) = ahead.next().await else { return Ok(()) };
            // The share is kept until the last piece is with the gateway.
            let (mut rest, _share) = next.map_err(|e| ReadError::Store(e.into()))??;
            while !rest.is_empty() {
                let piece = rest.split_to(rest.len().min(PIECE));
                if sender.send(Ok(piece)).await.is_err() {
                    return Ok(());
                }
            }
        }
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
