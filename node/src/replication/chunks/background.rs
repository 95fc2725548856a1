//! Chunks that move while nobody waits: copies owed, repair, hand-off. Every byte of them waits for the
//! throttle, and they have turns and slots of their own, so that no client waits for one of them.

use kepler_protocol::chunk::{Chunk, ChunkId};
use kepler_protocol::fetch::order;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::replicator::Sent;
use kepler_protocol::version::Dot;
use tracing::{debug, warn};

use super::{Chunks, Unavailable};
use crate::store::ReadError;
use crate::swarm::TransferError;
use crate::telemetry::{Direction, Purpose};
use crate::throttle::Pace;

impl Chunks {
    /// Sends a chunk that is owed to `target`, from here or from wherever it is. What is owed to this
    /// node is fetched.
    ///
    /// # Errors
    /// When no copy can be had, or the target does not take it.
    pub async fn deliver(&self, target: NodeId, id: ChunkId, dots: &[Dot]) -> anyhow::Result<()> {
        let inner = &self.inner;
        if target == inner.me {
            if matches!(inner.store.adopt(id, dots).await, Ok(true)) {
                return Ok(());
            }
            let _share = inner.background.take(inner.unknown_bytes).await;
            let chunk = self.gather(id, &[]).await?;
            return Ok(inner.store.put(chunk, dots).await?);
        }
        if inner.swarm.adopt(target, id, dots).await? {
            return Ok(());
        }
        let held = inner.store.held(vec![id]).await?;
        let size = held.first().copied().flatten().and_then(|held| usize::try_from(held.size).ok());
        let _share = inner.background.take(size.unwrap_or(inner.unknown_bytes)).await;
        let chunk = match inner.store.read(id).await {
            Ok(chunk) => chunk,
            Err(_) => self.gather(id, &[]).await?,
        };
        self.push_background(target, chunk, dots, Pace::Full, false).await?;
        Ok(())
    }

    /// Brings a chunk that is here to `to`, with those of its references that have not ended.
    pub async fn send(&self, id: ChunkId, to: NodeId, pace: Pace) -> Sent {
        let inner = &self.inner;
        let kept = match inner.store.kept_references(id).await {
            Ok(Some(kept)) => kept,
            Ok(None) => return Sent::NotHere,
            Err(error) => {
                warn!(chunk = %id, %error, "could not read references");
                return Sent::Failed;
            }
        };
        // It may lack nothing but references; then nothing has to be read here.
        if !kept.recovered {
            match inner.swarm.adopt(to, id, &kept.dots).await {
                Ok(true) => return Sent::Stored(0),
                Ok(false) => {}
                Err(error) => {
                    debug!(chunk = %id, peer = %to, %error, "could not offer a chunk");
                    return Sent::Failed;
                }
            }
        }
        let _share = inner.background.take(usize::try_from(kept.size).unwrap_or(usize::MAX)).await;
        let chunk = match inner.store.read(id).await {
            Ok(chunk) => chunk,
            Err(ReadError::Missing(_)) => return Sent::NotHere,
            Err(ReadError::Corrupt(corrupt)) => {
                warn!(chunk = %id, error = %corrupt, "a chunk to be sent is rotten");
                return Sent::NotHere;
            }
            Err(error @ ReadError::Io { .. }) => {
                warn!(chunk = %id, %error, "could not read a chunk to be sent");
                return Sent::NotHere;
            }
            Err(error @ ReadError::Database(_)) => {
                warn!(chunk = %id, %error, "could not read a chunk to be sent");
                return Sent::Failed;
            }
        };
        let bytes = chunk.bytes().len() as u64;
        match self.push_background(to, chunk, &kept.dots, pace, kept.recovered).await {
            Ok(sent) => Sent::Stored(if sent { bytes } else { 0 }),
            Err(error) => {
                debug!(chunk = %id, peer = %to, %error, "a chunk was not taken");
                Sent::Failed
            }
        }
    }

    /// Fetches a chunk that should be here from one of `from`, else from whoever has it, and stores it
    /// under the references that are known here. Its size, if it is here now.
    pub async fn restore(&self, id: ChunkId, from: &[NodeId]) -> Option<u64> {
        let _share = self.inner.background.take(self.inner.unknown_bytes).await;
        let chunk = match self.gather(id, from).await {
            Ok(chunk) => chunk,
            Err(error) => {
                debug!(chunk = %id, %error, "a lost chunk was not found");
                return None;
            }
        };
        let bytes = chunk.bytes().len() as u64;
        match self.inner.store.put(chunk, &[]).await {
            Ok(()) => Some(bytes),
            Err(error) => {
                warn!(chunk = %id, %error, "could not store a chunk that was fetched anew");
                None
            }
        }
    }

    /// Gets a chunk from one of `first`, else from the other members, one after another.
    async fn gather(&self, id: ChunkId, first: &[NodeId]) -> Result<Chunk, Unavailable> {
        let inner = &self.inner;
        let wanted = inner.electors.borrow().replicas().map_or(1, |(wanted, _)| wanted);
        let others = order(&self.view(), id.key(), wanted, inner.me, |_| 0.0);
        let others = others.into_iter().filter(|node| !first.contains(node));
        let candidates: Vec<NodeId> =
            first.iter().copied().filter(|n| *n != inner.me).chain(others).collect();
        for peer in candidates {
            let started = inner.store.now();
            let result = inner.swarm.fetch_background(peer, id, Pace::Full).await;
            let moved = result.as_ref().ok().map(|chunk| chunk.bytes().len() as u64);
            match result {
                Ok(chunk) => {
                    self.count(Direction::In, Purpose::Background, moved, started);
                    return Ok(chunk);
                }
                Err(TransferError::Missing) => {}
                Err(error) => {
                    self.count(Direction::In, Purpose::Background, None, started);
                    debug!(chunk = %id, %peer, %error, "fetching a chunk failed");
                }
            }
        }
        Err(Unavailable { id, nowhere: false })
    }

    async fn push_background(
        &self,
        target: NodeId,
        chunk: Chunk,
        dots: &[Dot],
        pace: Pace,
        recovered: bool,
    ) -> Result<bool, TransferError> {
        let inner = &self.inner;
        let (bytes, started) = (chunk.bytes().len() as u64, inner.store.now());
        let result = inner.swarm.push_background(target, chunk, dots, pace, recovered).await;
        let moved = result.as_ref().ok().map(|sent| if *sent { bytes } else { 0 });
        self.count(Direction::Out, Purpose::Background, moved, started);
        result
    }
}
