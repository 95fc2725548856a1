//! The roads between parts that do not know each other.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kepler_protocol::catalog::storage::{self, Storage};
use kepler_protocol::chunk::{Chunk, ChunkId};
use kepler_protocol::node_id::NodeId;
use kepler_protocol::replica::{Input, Output, Replica};
use kepler_protocol::swim;
use kepler_protocol::time::Instant;
use kepler_protocol::version::Dot;
use kepler_protocol::view::View;
use kepler_protocol::wire::load::Load;
use kepler_protocol::wire::operations::Question;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::gossip;
use crate::replication::catalog::CatalogHandle;
use crate::replication::electorate::Electors;
use crate::replication::healer;
use crate::service::cluster::ClusterService;
use crate::service::operations::Operator;
use crate::store::{self, Resident, Store, Unreadable};
use crate::swarm::{self, Inbound, Refusal};
use crate::tasks::Tasks;
use crate::telemetry::{CipherLabels, Metrics};

/// How long a member has to say what it stores.
const LOAD_WITHIN: Duration = Duration::from_secs(2);

/// Members asked at once what they store.
const LOADS_AT_ONCE: usize = 16;

/// How often gauges are set, and a few members asked what they store.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// The replica in its seat on the store's writer thread.
pub(super) struct Seated(pub(super) Replica);

impl Resident for Seated {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, storage: &mut dyn Storage, now: Instant, input: Input) -> storage::Result<()> {
        self.0.handle(storage, now, input)
    }

    fn handle_timeout(&mut self, storage: &mut dyn Storage, now: Instant) -> storage::Result<()> {
        self.0.handle_timeout(storage, now)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.0.poll_timeout()
    }

    fn before_commit(&mut self, storage: &mut dyn Storage) -> storage::Result<()> {
        self.0.before_commit(storage)
    }

    fn drain(&mut self, out: &mut Vec<Output>) {
        out.extend(std::iter::from_fn(|| self.0.poll_output()));
    }
}

/// The store as peers meet it.
#[derive(Clone)]
pub(super) struct Doors {
    pub(super) store: Store,
    pub(super) metrics: Arc<Metrics>,
    pub(super) healer: healer::Handle,
}

fn refuse(error: &store::WriteError) -> Refusal {
    match error {
        store::WriteError::DiskFull { .. } | store::WriteError::Database(store::DatabaseError::Full) => {
            Refusal::DiskFull
        }
        store::WriteError::Corrupt(_) => Refusal::Corrupt,
        store::WriteError::Size { .. } => Refusal::TooLarge,
        store::WriteError::Io { .. } | store::WriteError::Database(_) => {
            warn!(error = %format!("{:#}", Chain(error)), "could not store a chunk for a peer");
            Refusal::Failed
        }
    }
}

/// Prints an error with its causes.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Doors {
    /// A node that leaves takes nothing that it would take along: a copy that comes between its last look and
    /// its end would count for a client and be gone.
    fn stays(&self) -> Result<(), Refusal> {
        if self.healer.takes_copies() { Ok(()) } else { Err(Refusal::Leaving) }
    }
}

#[async_trait::async_trait]
impl swarm::ChunkStore for Doors {
    async fn receive(&self, id: ChunkId, size: u64) -> Result<Box<dyn swarm::Incoming>, Refusal> {
        self.stays()?;
        let incoming = self.store.receive(id, size).await.map_err(|e| refuse(&e))?;
        Ok(Box::new(Arriving { incoming, doors: self.clone() }))
    }

    async fn adopt(&self, id: ChunkId, dots: Vec<Dot>) -> Result<bool, Refusal> {
        self.stays()?;
        match self.store.adopt(id, &dots).await {
            Ok(here) => Ok(here),
            Err(store::ReadError::Missing(_)) => Ok(false),
            Err(store::ReadError::Corrupt(corrupt)) => {
                warn!(chunk = %id, error = %corrupt, "quarantining chunk");
                self.metrics.disk.quarantined.inc();
                // The peer sends a good copy in its place; if it does not, this node fetches one.
                self.store.quarantine(id, Unreadable::Stays).await.map_err(|e| refuse(&e))?;
                self.healer.report_lost(id);
                Ok(false)
            }
            Err(error) => {
                warn!(chunk = %id, error = %Chain(&error), "could not read a chunk that a peer offers");
                self.healer.report_unreadable(id);
                Err(Refusal::Failed)
            }
        }
    }

    async fn mark_recovered(&self, id: ChunkId) -> Result<(), Refusal> {
        self.store.mark_recovered(id).await.map_err(|error| {
            warn!(chunk = %id, %error, "could not note that references may be lost");
            Refusal::Failed
        })
    }

    async fn read(&self, id: ChunkId) -> Result<Option<Chunk>, Refusal> {
        match self.store.read(id).await {
            Ok(chunk) => Ok(Some(chunk)),
            Err(store::ReadError::Missing(_)) => match self.store.is_lost(id).await {
                Ok(false) => Ok(None),
                // Who says that it has none says that nobody lost anything here.
                Ok(true) => Err(Refusal::Corrupt),
                Err(error) => {
                    warn!(chunk = %id, %error, "could not look whether a chunk was lost here");
                    Err(Refusal::Failed)
                }
            },
            Err(store::ReadError::Corrupt(corrupt)) => {
                warn!(chunk = %id, error = %corrupt, "quarantining chunk");
                self.metrics.disk.quarantined.inc();
                self.store.quarantine(id, Unreadable::Stays).await.map_err(|e| refuse(&e))?;
                self.healer.report_lost(id);
                Err(Refusal::Corrupt)
            }
            Err(error) => {
                warn!(chunk = %id, error = %Chain(&error), "could not read a chunk for a peer");
                self.healer.report_unreadable(id);
                Err(Refusal::Failed)
            }
        }
    }

    async fn store(&self, id: ChunkId, bytes: Bytes, dots: Vec<Dot>) -> Result<(), Refusal> {
        self.stays()?;
        let chunk = Chunk::verify(id, bytes).map_err(|_| Refusal::Corrupt)?;
        self.store.put(chunk, &dots).await.map_err(|e| refuse(&e))
    }

    async fn held(&self, ids: Vec<ChunkId>) -> Result<Vec<bool>, Refusal> {
        match self.store.held(ids).await {
            Ok(held) => Ok(held.iter().map(Option::is_some).collect()),
            Err(error) => {
                warn!(%error, "could not look chunks up for a peer");
                Err(Refusal::Failed)
            }
        }
    }
}

struct Arriving {
    incoming: store::Incoming,
    doors: Doors,
}

#[async_trait::async_trait]
impl swarm::Incoming for Arriving {
    async fn write(&mut self, piece: Bytes) -> Result<(), Refusal> {
        self.incoming.write(piece).await.map_err(|e| refuse(&e))
    }

    async fn finish(self: Box<Self>, dots: Vec<Dot>) -> Result<(), Refusal> {
        // It may have begun before this node was told to leave.
        self.doors.stays()?;
        self.incoming.finish(&dots).await.map_err(|e| refuse(&e))
    }
}

/// Hands peers' calls to whom they are for.
pub(super) async fn inbound(
    mut calls: mpsc::Receiver<Inbound>,
    gossip: gossip::Handle,
    catalog: CatalogHandle,
    healer: healer::Handle,
    store: Store,
    operator: Operator,
    tasks: Tasks,
) {
    let stop = tasks.stop().clone();
    while let Some(Some(call)) = stop.run_until_cancelled(calls.recv()).await {
        match call.service {
            swarm::Service::Gossip => {
                let gossip = gossip.clone();
                tasks.spawn(async move {
                    if let Ok(Some(answer)) = gossip.push_pull(call.body.into()).await {
                        call.reply.send(answer.into());
                    }
                });
            }
            swarm::Service::Catalog => catalog.inbound(call),
            swarm::Service::Replicator => healer.inbound(call),
            swarm::Service::Operations => {
                let operator = operator.clone();
                tasks.spawn(async move {
                    let Ok(question) = minicbor::decode::<Question>(&call.body) else {
                        debug!(peer = %call.from.node, "a question that is not known");
                        return;
                    };
                    if let Some(answer) = operator.answer(question).await {
                        let answer = minicbor::to_vec(&answer).expect("an answer of ours encodes");
                        call.reply.send(answer.into());
                    }
                });
            }
            swarm::Service::Load => {
                let store = store.clone();
                tasks.spawn(async move {
                    if let Ok(usage) = store.usage().await {
                        let answer =
                            minicbor::to_vec(Load { used: usage.bytes }).expect("a load of ours encodes");
                        call.reply.send(answer.into());
                    }
                });
            }
        }
    }
}

/// Keeps what people are told of the members current: asks a few at a time, so that the cost does not
/// grow with the cluster, only the age of what is shown.
pub(super) async fn loads(
    me: NodeId,
    store: Store,
    swarm: swarm::Handle,
    view: watch::Receiver<Arc<View>>,
    cluster: Arc<ClusterService>,
    stop: CancellationToken,
) {
    let mut last = me;
    loop {
        if let Ok(usage) = store.usage().await {
            cluster.heard_from(me, Some(usage.bytes));
        }
        let now = view.borrow().clone();
        cluster.forget_strangers(&now);
        let reachable = now.members().filter(|m| m.state.is_reachable() && m.id != me).map(|m| m.id);
        let asked = following(reachable.collect(), last, LOADS_AT_ONCE);
        last = asked.last().copied().unwrap_or(last);
        futures::future::join_all(asked.into_iter().map(async |node| {
            let answer = swarm.call(node, swarm::Service::Load, Bytes::new(), LOAD_WITHIN).await;
            let load = answer.ok().and_then(|body| minicbor::decode::<Load>(&body).ok());
            if let Some(Load { used }) = load {
                cluster.heard_from(node, Some(used));
            }
        }))
        .await;
        if stop.run_until_cancelled(tokio::time::sleep(MEASURE_EVERY)).await.is_none() {
            return;
        }
    }
}

/// The next `most` nodes after `last` by id, going round.
fn following(mut nodes: Vec<NodeId>, last: NodeId, most: usize) -> Vec<NodeId> {
    nodes.sort();
    let first = nodes.partition_point(|node| *node <= last);
    nodes.rotate_left(first);
    nodes.truncate(most);
    nodes
}

/// Sets the gauges that nobody else sets.
pub(super) async fn measure(
    store: Store,
    gossip: gossip::Handle,
    swarm: swarm::Handle,
    electors: watch::Receiver<Electors>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    // What the gossip thread had dropped when it was last asked.
    let mut dropped = 0;
    loop {
        if let Ok(usage) = store.usage().await {
            metrics.disk.set(usage.chunks, usage.bytes, usage.free);
        }
        if let Ok(queue) = store.queue_status().await {
            metrics.queue.set(queue.depth, queue.oldest.map(|oldest| oldest.as_secs()));
        }
        {
            let electors = electors.borrow();
            metrics.membership.ready.set(i64::from(electors.standing().is_ok()));
            metrics
                .membership
                .roster
                .set(electors.roster().map_or(0, |r| i64::try_from(r.number).unwrap_or(i64::MAX)));
        }
        if let Ok((counters, _)) = gossip.counters().await {
            let swim::Counters { unopened, misaddressed, malformed, replayed, foreign, forged, .. } =
                counters;
            let total = unopened + misaddressed + malformed + replayed + foreign + forged;
            metrics.membership.datagrams_dropped.inc_by(total.saturating_sub(dropped));
            dropped = total;
        }
        let stats = swarm.stats();
        metrics.transfers.in_flight.set(i64::try_from(stats.in_flight).unwrap_or(i64::MAX));
        if let Some(suite) = stats.cipher_suite {
            metrics.transfers.cipher.clear();
            metrics.transfers.cipher.get_or_create(&CipherLabels { suite }).set(1);
        }
        if stop.run_until_cancelled(tokio::time::sleep(MEASURE_EVERY)).await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_asked_in_turn_and_none_is_left_out() {
        let nodes: Vec<NodeId> = ["a", "b", "c", "d", "e"].map(|id| id.parse().unwrap()).to_vec();
        let me: NodeId = "c".parse().unwrap();
        let others: Vec<NodeId> = nodes.iter().copied().filter(|node| *node != me).collect();
        let first = following(others.clone(), me, 3);
        assert_eq!(first, [nodes[3], nodes[4], nodes[0]]);
        assert_eq!(following(others, first[2], 3), [nodes[1], nodes[3], nodes[4]]);
        assert!(following(Vec::new(), me, 3).is_empty());
    }
}
