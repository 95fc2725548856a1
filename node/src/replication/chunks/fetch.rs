//! Fetching: a chunk from this disk, else from the member that answers best, verified.
//!
//! What a reader finds missing or rotten is owed from then on; the reader does not wait for that.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use kepler_protocol::chunk::{Chunk, ChunkId};
use kepler_protocol::fetch::order;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::roster::Roster;
use kepler_protocol::version::Dot;
use tracing::{debug, warn};

use super::{Chunks, Unavailable};
use crate::store::{self, QueueRow, Unreadable};
use crate::swarm::TransferError;
use crate::telemetry::{Direction, Purpose};

/// How long the best replica has before a second one is asked beside it.
const HEDGE_AFTER: Duration = Duration::from_millis(400);

/// When nobody who was asked has given a byte for so long, nobody will: they are up and frozen, or cut
/// off. Two of these, for a manifest node and a leaf, are what a reader waits at most for a first byte.
const GIVE_UP_AFTER: Duration = Duration::from_millis(4_500);

impl Chunks {
    /// A chunk from here or from another member, verified.
    ///
    /// Owners are asked first, those that answered fastest first among them; then the nodes onward
    /// clockwise, then every reachable member. A slow one is hedged by the next. Where `reader` names
    /// the version that is read, owners that turn out not to have the chunk are owed it from then on.
    ///
    /// # Errors
    /// [`Unavailable`] if nobody who answers has an intact copy.
    pub async fn fetch(&self, id: ChunkId, reader: Option<Dot>) -> Result<Chunk, Unavailable> {
        let local = self.read_local(id).await;
        if let Local::Intact(chunk) = local {
            return Ok(chunk);
        }
        let me = self.inner.me;
        let mut lacking = Lacking::default();
        match local {
            Local::Missing => lacking.missing.push(me),
            Local::Intact(_) | Local::Lost | Local::Unreadable | Local::Quarantined => {
                lacking.damaged.push(me)
            }
        }
        let found = self.fetch_remote(id, &mut lacking).await;
        if let Ok(chunk) = &found {
            if matches!(local, Local::Quarantined) {
                lacking.damaged.clear();
                // The references survived the quarantine; the bytes come back under them.
                if let Err(error) = self.inner.store.put(chunk.clone(), &[]).await {
                    warn!(chunk = %id, %error, "could not replace a quarantined chunk");
                }
            }
            if let Some(dot) = reader {
                self.owe(id, dot, &lacking);
            }
        }
        found
    }

    /// Queues a chunk for the owners among `lacking`. Nobody waits for it, and where much is being
    /// queued already the next reader finds out again.
    fn owe(&self, id: ChunkId, dot: Dot, lacking: &Lacking) {
        let owners = self.inner.electors.borrow().owners(id.key());
        let rows: Vec<QueueRow> = owners
            .into_iter()
            .filter(|owner| lacking.missing.contains(owner) || lacking.damaged.contains(owner))
            .map(|target| QueueRow { chunk: id, target, dot })
            .collect();
        if rows.is_empty() {
            return;
        }
        let Ok(permit) = self.inner.repairs.clone().try_acquire_owned() else { return };
        let store = self.inner.store.clone();
        self.inner.tasks.spawn(async move {
            let _permit = permit;
            if let Err(error) = store.enqueue(rows).await {
                warn!(chunk = %id, %error, "could not queue a repair");
            }
        });
    }

    async fn read_local(&self, id: ChunkId) -> Local {
        match self.inner.store.read(id).await {
            Ok(chunk) => Local::Intact(chunk),
            Err(store::ReadError::Missing(_)) => match self.inner.store.is_lost(id).await {
                Ok(false) => Local::Missing,
                Ok(true) => Local::Lost,
                Err(error) => {
                    warn!(chunk = %id, %error, "could not look whether a chunk was lost here");
                    Local::Unreadable
                }
            },
            Err(store::ReadError::Corrupt(corrupt)) => {
                warn!(chunk = %id, error = %corrupt, "quarantining chunk");
                self.note_quarantined(id);
                if let Err(error) = self.inner.store.quarantine(id, Unreadable::Stays).await {
                    warn!(chunk = %id, %error, "could not quarantine");
                }
                Local::Quarantined
            }
            Err(error) => {
                // To this reader it is as good as missing; but nobody may say that it is not here. It is owed to this
                // node like one that is missing, and written anew.
                warn!(chunk = %id, %error, "reading a chunk failed");
                Local::Unreadable
            }
        }
    }

    /// Adds to `lacking` who answered that it has no intact copy.
    async fn fetch_remote(&self, id: ChunkId, lacking: &mut Lacking) -> Result<Chunk, Unavailable> {
        let mut candidates = self.candidates(id).into_iter();
        let mut attempts = FuturesUnordered::new();
        let mut asked = Vec::new();
        let given = |asked: &[NodeId]| asked.iter().map(|peer| self.inner.swarm.given_by(*peer)).sum::<u64>();
        let mut before = 0;
        let mut patience = std::pin::pin!(tokio::time::sleep(GIVE_UP_AFTER));
        loop {
            if let Some(peer) = candidates.next() {
                before += self.inner.swarm.given_by(peer);
                asked.push(peer);
                attempts.push(self.fetch_from(peer, id));
            } else if attempts.is_empty() {
                let electors = self.inner.electors.borrow();
                let everybody =
                    |roster: &Arc<Roster>| roster.members.keys().all(|m| lacking.missing.contains(m));
                return Err(Unavailable { id, nowhere: electors.roster().is_some_and(everybody) });
            }
            tokio::select! {
                Some((peer, result)) = attempts.next() => match result {
                    Ok(chunk) => return Ok(chunk),
                    Err(error) => {
                        debug!(chunk = %id, %peer, %error, "fetching a chunk failed");
                        match error {
                            TransferError::Missing => lacking.missing.push(peer),
                            TransferError::Corrupt => lacking.damaged.push(peer),
                            TransferError::Refused(_)
                            | TransferError::Unreachable(_)
                            | TransferError::TimedOut => {}
                        }
                    }
                },
                () = tokio::time::sleep(HEDGE_AFTER), if candidates.len() > 0 => {}
                () = patience.as_mut() => {
                    let now = given(&asked);
                    if now == before && candidates.len() == 0 {
                        return Err(Unavailable { id, nowhere: false });
                    }
                    before = now;
                    patience.as_mut().reset(tokio::time::Instant::now() + GIVE_UP_AFTER);
                }
            }
        }
    }

    async fn fetch_from(&self, peer: NodeId, id: ChunkId) -> (NodeId, Result<Chunk, TransferError>) {
        let started = self.inner.store.now();
        let result = self.inner.swarm.fetch(peer, id).await;
        let moved = result.as_ref().ok().map(|chunk| chunk.bytes().len() as u64);
        self.count(Direction::In, Purpose::Client, moved, started);
        let seconds = (self.inner.store.now() - started).as_secs_f64();
        let mut latency = self.inner.latency.lock().unwrap_or_else(PoisonError::into_inner);
        let smoothed = latency.entry(peer).or_insert(seconds);
        // A failure counts as a slow answer, so that it is asked later next time.
        let sample = if result.is_ok() { seconds } else { seconds + 1.0 };
        *smoothed += 0.2 * (sample - *smoothed);
        (peer, result)
    }

    /// Whom to ask for a chunk, best first, without this node.
    fn candidates(&self, id: ChunkId) -> Vec<NodeId> {
        let wanted = self.inner.electors.borrow().replicas().map_or(1, |(wanted, _)| wanted);
        let latency = self.inner.latency.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = |node: &NodeId| latency.get(node).copied().unwrap_or(0.0);
        order(&self.view(), id.key(), wanted, self.inner.me, seconds)
    }
}

/// Who has no intact copy of a chunk.
#[derive(Debug, Default)]
struct Lacking {
    /// They said that they have none.
    missing: Vec<NodeId>,
    /// They have one that is rotten or cannot be read, or had one and should have it still.
    damaged: Vec<NodeId>,
}

enum Local {
    Intact(Chunk),
    /// It was never here, or nothing refers to it any more.
    Missing,
    /// It should be here: it is being fetched anew.
    Lost,
    Unreadable,
    Quarantined,
}
