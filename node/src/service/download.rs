//! GET: the head of a name, its manifest, its chunks in order, read ahead of the client.

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::stream::FuturesOrdered;
use futures::{Stream, StreamExt as _};
use kepler_protocol::catalog::command::{Command, Consistency, Outcome, Refusal};
use kepler_protocol::chunk::{ChunkId, Codec};
use kepler_protocol::manifest::{Walk, WalkError};
use kepler_protocol::name::Name;
use kepler_protocol::version::{Content, Dot, Version, head};
use tokio::sync::mpsc;

use super::files::Service;
use super::{ByteStream, OpenFile, ReadError};

/// Chunks fetched ahead of the one that is being sent.
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
            None => Err(ReadError::NotFound(name.to_string())),
        }
    }

    pub(super) async fn open_file(&self, name: &Name, version: Option<Dot>) -> Result<OpenFile, ReadError> {
        let (version, found) = self.head(name, version).await?;
        let content = version.content.clone().ok_or_else(|| ReadError::NotFound(name.to_string()))?;
        let service = self.clone();
        let reader = move |range: Range<u64>| service.read_range(&content, range);
        Ok(OpenFile::new(version, found.survivors.len() - 1, found.consistency, Box::new(reader)))
    }

    /// The verified bytes of `range`. The task behind it ends when the stream is dropped.
    fn read_range(&self, content: &Content, range: Range<u64>) -> ByteStream {
        let (sender, receiver) = mpsc::channel(4);
        let (service, content) = (self.clone(), content.clone());
        self.tasks.spawn(async move {
            if let Err(error) = service.send_range(&content, range, &sender).await {
                // The client may be gone; then nobody needs the reason.
                let _ = sender.send(Err(error)).await;
            }
        });
        Box::pin(Pieces(receiver))
    }

    async fn send_range(
        &self,
        content: &Content,
        range: Range<u64>,
        sender: &mpsc::Sender<Result<Bytes, ReadError>>,
    ) -> Result<(), ReadError> {
        let mut walk = Walk::new(content.root, content.size, range)?;
        let mut ahead = FuturesOrdered::new();
        loop {
            while ahead.len() < READ_AHEAD {
                let Some(leaf) = walk.poll_leaf() else { break };
                let service = self.clone();
                ahead.push_back(self.tasks.spawn(async move {
                    let chunk = service.chunks.fetch(leaf.id).await?;
                    Ok::<_, ReadError>(leaf.slice(&chunk)?)
                }));
            }
            if ahead.len() < READ_AHEAD
                && let Some(node) = walk.poll_wanted()
            {
                let chunk = self.chunks.fetch(node).await?;
                walk.handle_node(&chunk)?;
                continue;
            }
            let Some(next) = ahead.next().await else { return Ok(()) };
            let mut rest = next.map_err(|e| ReadError::Store(e.into()))??;
            while !rest.is_empty() {
                let piece = rest.split_to(rest.len().min(PIECE));
                if sender.send(Ok(piece)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    /// Every chunk of a file with its size: leaves in file order, then manifest nodes.
    pub(super) async fn dag(&self, content: &Content) -> Result<Vec<(ChunkId, u64)>, ReadError> {
        if content.root.codec() == Codec::Raw {
            return Ok(vec![(content.root, content.size)]);
        }
        let mut walk = Walk::new(content.root, content.size, 0..content.size)?;
        let (mut leaves, mut nodes) = (Vec::new(), Vec::new());
        loop {
            while let Some(leaf) = walk.poll_leaf() {
                leaves.push((leaf.id, leaf.size));
            }
            let Some(node) = walk.poll_wanted() else { break };
            let chunk = self.chunks.fetch(node).await?;
            walk.handle_node(&chunk)?;
            nodes.push((node, chunk.bytes().len() as u64));
        }
        leaves.append(&mut nodes);
        Ok(leaves)
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
