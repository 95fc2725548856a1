//! The roads between parts that do not know each other.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kepler_protocol::api;
use kepler_protocol::catalog::storage::{self, Storage};
use kepler_protocol::chunk::{Chunk, ChunkId};
use kepler_protocol::replica::{Input, Output, Replica};
use kepler_protocol::time::Instant;
use kepler_protocol::version::Dot;
use kepler_protocol::view::View;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::peers;
use crate::gossip;
use crate::replication::catalog::CatalogHandle;
use crate::replication::electorate::Electors;
use crate::service::cluster::ClusterService;
use crate::service::unix_millis;
use crate::store::{self, Resident, Store};
use crate::swarm::{self, Inbound, Refusal};
use crate::tasks::Tasks;
use crate::telemetry::Metrics;

/// How long a stream probe waits.
const PROBE_WITHIN: Duration = Duration::from_secs(1);

/// How long a push-pull of membership waits.
const PUSH_PULL_WITHIN: Duration = Duration::from_secs(5);

/// How often gauges are set.
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
pub(super) struct Doors(pub(super) Store);

fn refuse(error: &store::WriteError) -> Refusal {
    match error {
        store::WriteError::DiskFull { .. } => Refusal::DiskFull,
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

#[async_trait::async_trait]
impl swarm::ChunkStore for Doors {
    async fn receive(&self, id: ChunkId, size: u64) -> Result<Box<dyn swarm::Incoming>, Refusal> {
        let incoming = self.0.receive(id, size).await.map_err(|e| refuse(&e))?;
        Ok(Box::new(Arriving(incoming)))
    }

    async fn adopt(&self, id: ChunkId, dots: Vec<Dot>) -> Result<bool, Refusal> {
        match self.0.adopt(id, &dots).await {
            Ok(here) => Ok(here),
            Err(store::ReadError::Missing(_)) => Ok(false),
            Err(store::ReadError::Corrupt(corrupt)) => {
                warn!(chunk = %id, error = %corrupt, "quarantining chunk");
                // The peer sends a good copy in its place.
                self.0.quarantine(id).await.map_err(|e| refuse(&e))?;
                Ok(false)
            }
            Err(error) => {
                warn!(chunk = %id, error = %Chain(&error), "could not read a chunk that a peer offers");
                Err(Refusal::Failed)
            }
        }
    }

    async fn read(&self, id: ChunkId) -> Result<Option<Chunk>, Refusal> {
        match self.0.read(id).await {
            Ok(chunk) => Ok(Some(chunk)),
            Err(store::ReadError::Missing(_)) => Ok(None),
            Err(store::ReadError::Corrupt(corrupt)) => {
                warn!(chunk = %id, error = %corrupt, "quarantining chunk");
                self.0.quarantine(id).await.map_err(|e| refuse(&e))?;
                Err(Refusal::Corrupt)
            }
            Err(error) => {
                warn!(chunk = %id, error = %Chain(&error), "could not read a chunk for a peer");
                Err(Refusal::Failed)
            }
        }
    }

    async fn held(&self, ids: Vec<ChunkId>) -> Result<Vec<bool>, Refusal> {
        match self.0.held(ids).await {
            Ok(held) => Ok(held.iter().map(Option::is_some).collect()),
            Err(error) => {
                warn!(%error, "could not look chunks up for a peer");
                Err(Refusal::Failed)
            }
        }
    }
}

struct Arriving(store::Incoming);

#[async_trait::async_trait]
impl swarm::Incoming for Arriving {
    async fn write(&mut self, piece: Bytes) -> Result<(), Refusal> {
        self.0.write(piece).await.map_err(|e| refuse(&e))
    }

    async fn finish(self: Box<Self>, dots: Vec<Dot>) -> Result<(), Refusal> {
        self.0.finish(&dots).await.map_err(|e| refuse(&e))
    }
}

/// Passes each new view on to the swarm, the services and the replica.
pub(super) async fn views(
    mut from: watch::Receiver<Arc<View>>,
    to: watch::Sender<Arc<View>>,
    catalog: CatalogHandle,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    loop {
        let view = from.borrow_and_update().clone();
        let mut counts = std::collections::BTreeMap::new();
        for member in view.members() {
            *counts.entry(member.state).or_insert(0) += 1;
        }
        metrics.membership.set_members(counts);
        to.send_replace(view.clone());
        if catalog.tell(Input::View(view)).await.is_err() {
            return;
        }
        tokio::select! {
            changed = from.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// Does what the gossip thread asks for.
pub(super) struct GossipEvents {
    pub(super) inbox: gossip::Inbox,
    pub(super) gossip: gossip::Handle,
    pub(super) swarm: swarm::Handle,
    pub(super) catalog: CatalogHandle,
    pub(super) cluster: Arc<ClusterService>,
    pub(super) store: Store,
    pub(super) events: broadcast::Sender<api::Event>,
    pub(super) tasks: Tasks,
}

impl GossipEvents {
    pub(super) async fn run(mut self) {
        let stop = self.tasks.stop().clone();
        while let Some(Some(event)) = stop.run_until_cancelled(self.inbox.recv()).await {
            self.handle(event).await;
        }
    }

    async fn handle(&self, event: gossip::Event) {
        let (gossip, swarm) = (self.gossip.clone(), self.swarm.clone());
        match event {
            gossip::Event::PushPull { to, payload } => {
                self.tasks.spawn(async move {
                    let answer =
                        swarm.call(to, swarm::Service::Gossip, payload.into(), PUSH_PULL_WITHIN).await;
                    match answer {
                        Ok(answer) => drop(gossip.push_pull_answer(answer.into()).await),
                        Err(error) => debug!(peer = %to, %error, "no full exchange of membership"),
                    }
                });
            }
            gossip::Event::StreamProbe { to, token } => {
                self.tasks.spawn(async move {
                    let ok = swarm.ping(to, PROBE_WITHIN).await;
                    let _ = gossip.stream_probed(token, ok).await;
                });
            }
            gossip::Event::Announced { node, announcement } => {
                self.cluster.heard_from(node, None);
                let _ = self.catalog.tell(Input::Announced { from: node, announcement }).await;
            }
            gossip::Event::MemberChanged { node, previous, state } => {
                info!(peer = %node, ?previous, ?state, "member changed");
                let _ = self.events.send(super::member_event(node, state));
            }
            gossip::Event::IdInUse { by } => {
                warn!(%by, "NODE_ID is in use by a live node with another identity: choose another, or stop that node");
            }
            gossip::Event::Refuted { incarnation } => debug!(incarnation, "others doubted this node"),
            gossip::Event::ForeignCluster { node, from } => {
                warn!(peer = %node, %from, "a node with our key belongs to another cluster");
            }
            gossip::Event::Peers(members) => {
                let now = kepler_protocol::time::UnixMillis(unix_millis());
                peers::save(&self.store, members, now).await;
            }
        }
    }
}

/// Hands peers' calls to whom they are for.
pub(super) async fn inbound(
    mut calls: mpsc::Receiver<Inbound>,
    gossip: gossip::Handle,
    catalog: CatalogHandle,
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
            swarm::Service::Catalog | swarm::Service::Council => catalog.inbound(call).await,
        }
    }
}

/// Sets the gauges that nobody else sets.
pub(super) async fn measure(
    store: Store,
    gossip: gossip::Handle,
    electors: watch::Receiver<Electors>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
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
        let _ = gossip.counters().await;
        if stop.run_until_cancelled(tokio::time::sleep(MEASURE_EVERY)).await.is_none() {
            return;
        }
    }
}
