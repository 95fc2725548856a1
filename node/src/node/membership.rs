//! What the gossip thread says, on its way to those whom it concerns.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kepler_protocol::api;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::replica::Input;
use kepler_protocol::swim::Announcement;
use kepler_protocol::time::UnixMillis;
use kepler_protocol::view::{State, View};
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::peers::{self, Peers};
use crate::gossip;
use crate::replication::catalog::CatalogHandle;
use crate::service::cluster::ClusterService;
use crate::service::unix_millis;
use crate::store::Store;
use crate::swarm;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;

/// How long a stream probe waits.
const PROBE_WITHIN: Duration = Duration::from_secs(1);

/// How long a push-pull of membership waits.
const PUSH_PULL_WITHIN: Duration = Duration::from_secs(5);

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
        // The catalog may have to wait for its disk; whoever else follows the members must not.
        let mut telling = std::pin::pin!(catalog.tell(Input::View(view)));
        let mut told = false;
        loop {
            tokio::select! {
                result = &mut telling, if !told => match result {
                    Ok(()) => told = true,
                    Err(_) => return,
                },
                changed = from.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                () = stop.cancelled() => return,
            }
        }
    }
}

/// Does what the gossip thread asks for. Nothing here waits: a probe is answered whatever the disk does.
pub(super) struct GossipEvents {
    pub(super) inbox: gossip::Inbox,
    pub(super) gossip: gossip::Handle,
    pub(super) swarm: swarm::Handle,
    pub(super) cluster: Arc<ClusterService>,
    pub(super) latest: Arc<Latest>,
    pub(super) events: broadcast::Sender<api::Event>,
    pub(super) tasks: Tasks,
}

impl GossipEvents {
    pub(super) async fn run(mut self) {
        let stop = self.tasks.stop().clone();
        while let Some(Some(event)) = stop.run_until_cancelled(self.inbox.recv()).await {
            self.handle(event);
        }
    }

    fn handle(&self, event: gossip::Event) {
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
                self.latest.announced(node, announcement);
            }
            gossip::Event::MemberChanged { node, previous, state } => {
                info!(peer = %node, ?previous, ?state, "member changed");
                if state == State::Alive {
                    self.cluster.heard_from(node, None);
                }
                let _ = self.events.send(super::member_event(node, state));
            }
            gossip::Event::IdInUse { by } => {
                warn!(%by, "NODE_ID is in use by a live node with another identity: choose another, or stop that node");
            }
            gossip::Event::Refuted { incarnation } => debug!(incarnation, "others doubted this node"),
            gossip::Event::ForeignCluster { node, from } => {
                warn!(peer = %node, %from, "a node with our key belongs to another cluster");
            }
            gossip::Event::Peers(members) => self.latest.peers(members),
        }
    }
}

/// News for the disk that only the latest of counts: it may be slow, and whoever brings them does not wait.
#[derive(Default)]
pub(super) struct Latest {
    /// Of each member, so that there are never more than members.
    announced: Mutex<BTreeMap<NodeId, Announcement>>,
    peers: Mutex<Option<Peers>>,
    come: Notify,
}

impl Latest {
    fn announced(&self, node: NodeId, announcement: Announcement) {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner).insert(node, announcement);
        self.come.notify_one();
    }

    fn peers(&self, peers: Peers) {
        *self.peers.lock().unwrap_or_else(PoisonError::into_inner) = Some(peers);
        self.come.notify_one();
    }

    /// Hands them over as fast as they are taken, until the node stops.
    pub(super) async fn run(self: Arc<Self>, catalog: CatalogHandle, store: Store, stop: CancellationToken) {
        while stop.run_until_cancelled(self.come.notified()).await.is_some() {
            loop {
                let next = self.announced.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
                let Some((from, announcement)) = next else { break };
                let told =
                    stop.run_until_cancelled(catalog.tell(Input::Announced { from, announcement })).await;
                if told.is_none() {
                    return;
                }
            }
            let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(peers) = peers {
                stop.run_until_cancelled(peers::save(&store, peers, UnixMillis(unix_millis()))).await;
            }
        }
    }
}
