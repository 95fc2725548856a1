//! Delivers the rows of the replication queue.
//!
//! A row is deleted only after its target has acknowledged the chunk durably. Each target has its
//! own lane, so that a dead one holds up nobody else; when it turns alive its rows are due at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use kepler_protocol::api;
use kepler_protocol::catalog::command::Command;
use kepler_protocol::hint::{Aim, aim};
use kepler_protocol::node_id::NodeId;
use kepler_protocol::time::Instant;
use kepler_protocol::view::View;
use tokio::sync::{Notify, broadcast, watch};
use tracing::{debug, warn};

use super::catalog::CatalogHandle;
use super::chunks::Chunks;
use super::electorate::Electors;
use crate::store::{DatabaseError, DueRow, QueueRow, Store};
use crate::tasks::Tasks;
use crate::telemetry::Metrics;

/// Rows of one target that are read from the queue at a time.
const BATCH: usize = 256;

/// Chunks on their way to one target at the same time.
const IN_FLIGHT: usize = 4;

/// Versions published in one round.
const SETTLE_BATCH: usize = 256;

/// How often rows are looked for whose target the roster does not know.
const RE_AIM_EVERY: Duration = Duration::from_secs(30);

/// How long a member that turned alive is tried without back-off: it may take a moment longer to see this
/// node alive, and refuses it until then. What failed while it was away says nothing of now.
const WELCOME: Duration = Duration::from_secs(15);

/// How often the queue is looked at when nothing announces work.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Delivers what is owed.
pub struct Sender {
    /// The queue.
    pub store: Store,
    /// The way to chunks and peers.
    pub chunks: Chunks,
    /// Told when a `fast` version's chunks are where they belong.
    pub catalog: CatalogHandle,
    /// Who votes: how many copies are a majority.
    pub electors: watch::Receiver<Electors>,
    /// Who is here.
    pub view: watch::Receiver<Arc<View>>,
    /// Told when rows were added.
    pub grew: Arc<Notify>,
    /// What happens, for people.
    pub events: broadcast::Sender<api::Event>,
    /// What was delivered and what not.
    pub metrics: Arc<Metrics>,
    /// Where lanes are spawned.
    pub tasks: Tasks,
}

impl Sender {
    /// Runs until the node stops.
    pub async fn run(mut self) {
        let stop = self.tasks.stop().clone();
        let mut alive = BTreeSet::new();
        let mut returned: BTreeMap<NodeId, Instant> = BTreeMap::new();
        let mut lanes: BTreeMap<NodeId, tokio::task::JoinHandle<()>> = BTreeMap::new();
        let mut re_aimed: Option<(u64, Instant)> = None;
        while !stop.is_cancelled() {
            let view = self.view.borrow_and_update().clone();
            let now_alive: BTreeSet<NodeId> =
                view.members().filter(|m| m.state.is_on_ring()).map(|m| m.id).collect();
            let at = self.store.now();
            returned.extend(now_alive.difference(&alive).map(|node| (*node, at)));
            returned.retain(|node, since| now_alive.contains(node) && at.since(*since) < WELCOME);
            alive = now_alive;
            lanes.retain(|_, lane| !lane.is_finished());
            for node in returned.keys().filter(|node| !lanes.contains_key(node)) {
                if let Err(error) = self.store.retry_now(*node).await {
                    warn!(peer = %node, %error, "could not make owed copies due");
                }
            }
            let (now, number) = (self.store.now(), self.electors.borrow().roster().map_or(0, |r| r.number));
            if re_aimed.is_none_or(|(by, at)| by != number || now.since(at) >= RE_AIM_EVERY) {
                re_aimed = Some((number, now));
                self.re_aim_strangers().await;
            }
            // This node too: what it should have and lacks is fetched.
            for target in &alive {
                if lanes.contains_key(target) {
                    continue;
                }
                match self.store.due(*target, BATCH).await {
                    Ok(rows) if rows.is_empty() => {}
                    Ok(rows) => {
                        let rows = match self.re_aim(rows).await {
                            Ok(rows) => rows,
                            Err(error) => {
                                warn!(peer = %target, %error, "could not re-aim owed copies");
                                continue;
                            }
                        };
                        lanes.insert(*target, self.tasks.spawn(self.lane(*target, rows)));
                    }
                    Err(error) => warn!(peer = %target, %error, "could not read the replication queue"),
                }
            }
            self.settle().await;
            tokio::select! {
                () = self.grew.notified() => {}
                _ = self.view.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Gives the rows of nodes that the roster does not know to the owners there are.
    async fn re_aim_strangers(&self) {
        let Some(roster) = self.electors.borrow().roster().cloned() else { return };
        let targets = match self.store.queue_status().await {
            Ok(queue) => queue.targets,
            Err(error) => return warn!(%error, "could not read the replication queue"),
        };
        for target in targets.into_keys().filter(|target| !roster.members.contains_key(target)) {
            if let Err(error) = self.re_aim_all(target).await {
                warn!(peer = %target, %error, "could not re-aim what is owed to a node that is gone");
            }
        }
    }

    async fn re_aim_all(&self, target: NodeId) -> Result<(), DatabaseError> {
        self.store.retry_now(target).await?;
        while !self.tasks.stop().is_cancelled() {
            let rows = self.store.due(target, BATCH).await?;
            if rows.is_empty() || !self.re_aim(rows).await?.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Re-aims those rows whose target is no owner, and returns the others.
    async fn re_aim(&self, rows: Vec<DueRow>) -> Result<Vec<DueRow>, DatabaseError> {
        let electors = self.electors.borrow().clone();
        let (mut kept, mut moved, mut copies) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            match aim(row.target, &electors.owners(row.chunk.key())) {
                Aim::Keep => kept.push(row),
                Aim::Instead(owners) => {
                    let dots = &row.dots;
                    copies.extend(owners.into_iter().flat_map(|target| {
                        dots.iter().map(move |dot| QueueRow { chunk: row.chunk, target, dot: *dot })
                    }));
                    moved.push(row);
                }
            }
        }
        if !moved.is_empty() {
            debug!(rows = moved.len(), "owed copies go to the owners of today");
            self.store.enqueue(copies).await?;
            self.store.delivered(moved).await?;
            self.grew.notify_one();
        }
        Ok(kept)
    }

    /// Delivers one batch to one target, until the node stops: what is not answered for stays queued.
    fn lane(&self, target: NodeId, rows: Vec<DueRow>) -> impl Future<Output = ()> + Send + 'static {
        let stop = self.tasks.stop().clone();
        let (store, chunks, events, grew) =
            (self.store.clone(), self.chunks.clone(), self.events.clone(), self.grew.clone());
        let metrics = self.metrics.clone();
        let running = async move {
            let attempts = futures::stream::iter(rows).map(|row| {
                let chunks = chunks.clone();
                async move {
                    let result = chunks.deliver(target, row.chunk, &row.dots).await;
                    (row, result)
                }
            });
            let mut attempts = std::pin::pin!(attempts.buffer_unordered(IN_FLIGHT));
            let mut delivered = 0;
            while let Some((row, result)) = attempts.next().await {
                let recorded = match result {
                    Ok(()) => {
                        delivered += 1;
                        metrics.queue.delivered.inc();
                        store.delivered(vec![row]).await.map(drop)
                    }
                    Err(error) => {
                        metrics.queue.failed.inc();
                        debug!(peer = %target, chunk = %row.chunk, error = format!("{error:#}"), "not delivered");
                        store.failed(vec![row]).await
                    }
                };
                if let Err(error) = recorded {
                    warn!(peer = %target, %error, "could not record a delivery");
                }
            }
            if delivered > 0 {
                let _ = events.send(api::Event::Delivered { node: target, chunks: delivered });
            }
            grew.notify_one();
        };
        async move {
            let _ = stop.run_until_cancelled(running).await;
        }
    }

    /// Publishes `fast` versions whose every chunk has a majority of its owners.
    async fn settle(&self) {
        let Some((wanted, majority)) = self.electors.borrow().replicas() else { return };
        // Rows for all owners were queued before the version was stored: what is not owed any more
        // was acknowledged.
        let settled = match self.store.settled(wanted.saturating_sub(majority), SETTLE_BATCH).await {
            Ok(settled) => settled,
            Err(error) => return warn!(%error, "could not look for versions to publish"),
        };
        for dot in settled {
            if let Err(error) = self.catalog.command(Command::Settle { dot }).await {
                debug!(version = %dot, %error, "settling failed; it is tried again");
            }
        }
    }
}
