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
use kepler_protocol::node_id::NodeId;
use kepler_protocol::view::View;
use tokio::sync::{Notify, broadcast, watch};
use tracing::{debug, warn};

use super::catalog::CatalogHandle;
use super::chunks::Chunks;
use super::electorate::Electors;
use crate::store::{DueRow, Store};
use crate::tasks::Tasks;

/// Rows of one target that are read from the queue at a time.
const BATCH: usize = 256;

/// Chunks on their way to one target at the same time.
const IN_FLIGHT: usize = 4;

/// Versions looked at in one round of publishing.
const SETTLE_BATCH: usize = 256;

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
    /// Where lanes are spawned.
    pub tasks: Tasks,
}

impl Sender {
    /// Runs until the node stops.
    pub async fn run(mut self) {
        let stop = self.tasks.stop().clone();
        let mut alive = BTreeSet::new();
        let mut lanes: BTreeMap<NodeId, tokio::task::JoinHandle<()>> = BTreeMap::new();
        while !stop.is_cancelled() {
            let view = self.view.borrow_and_update().clone();
            let now_alive: BTreeSet<NodeId> =
                view.members().filter(|m| m.state.is_on_ring()).map(|m| m.id).collect();
            for returned in now_alive.difference(&alive) {
                if let Err(error) = self.store.retry_now(*returned).await {
                    warn!(peer = %returned, %error, "could not make owed copies due");
                }
            }
            alive = now_alive;
            lanes.retain(|_, lane| !lane.is_finished());
            for target in alive.iter().filter(|target| **target != self.chunks.me()) {
                if lanes.contains_key(target) {
                    continue;
                }
                match self.store.due(*target, BATCH).await {
                    Ok(rows) if rows.is_empty() => {}
                    Ok(rows) => {
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

    /// Delivers one batch to one target.
    fn lane(&self, target: NodeId, rows: Vec<DueRow>) -> impl Future<Output = ()> + Send + 'static {
        let (store, chunks, events, grew) =
            (self.store.clone(), self.chunks.clone(), self.events.clone(), self.grew.clone());
        async move {
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
                        store.delivered(vec![row]).await.map(drop)
                    }
                    Err(error) => {
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
        }
    }

    /// Publishes `fast` versions whose every chunk has a majority of its owners.
    async fn settle(&self) {
        let Some((wanted, majority)) = self.electors.borrow().replicas() else { return };
        let pending = match self.store.unpublished(SETTLE_BATCH).await {
            Ok(pending) => pending,
            Err(error) => return warn!(%error, "could not look for versions to publish"),
        };
        for dot in pending {
            match self.store.owed(dot).await {
                // Rows for all owners were queued before the version was stored: what is not owed
                // any more was acknowledged.
                Ok(owed) if owed.iter().all(|chunk| chunk.targets.len() + majority <= wanted) => {
                    if let Err(error) = self.catalog.command(Command::Settle { dot }).await {
                        debug!(version = %dot, %error, "settling failed; it is tried again");
                    }
                }
                Ok(_) => {}
                Err(error) => warn!(version = %dot, %error, "could not read what is owed"),
            }
        }
    }
}
