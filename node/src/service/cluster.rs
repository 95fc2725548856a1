//! Members and ring, described for people.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kepler_protocol::api;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::time::UnixMillis;
use kepler_protocol::view::View;
use tokio::sync::watch;

use crate::gossip;
use crate::replication::electorate::Electors;
use crate::swarm;

/// How long gossip has to say whom it heard; it answers within moments.
const HEARD_WITHIN: Duration = Duration::from_millis(500);

/// Describes the cluster as this node sees it.
pub struct ClusterService {
    me: NodeId,
    view: watch::Receiver<Arc<View>>,
    swarm: swarm::Handle,
    gossip: gossip::Handle,
    /// `FORGET_AFTER_SECS`.
    forget_after: Duration,
    /// Bytes each member said it uses, and when it was last heard from.
    heard: Mutex<BTreeMap<NodeId, Heard>>,
}

/// What was last heard from a member.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heard {
    /// Bytes of chunks it stores.
    pub used: u64,
    /// By this node's wall clock; for display.
    pub at: Option<UnixMillis>,
}

impl ClusterService {
    /// A describer of what `view` says.
    pub fn new(
        me: NodeId,
        view: watch::Receiver<Arc<View>>,
        swarm: swarm::Handle,
        gossip: gossip::Handle,
        forget_after: Duration,
    ) -> Self {
        Self { me, view, swarm, gossip, forget_after, heard: Mutex::default() }
    }

    /// How long ago each member's last datagram came; empty where gossip does not say so at once.
    pub async fn heard_lately(&self) -> BTreeMap<NodeId, Duration> {
        let heard = tokio::time::timeout(HEARD_WITHIN, self.gossip.heard()).await;
        heard.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Notes that a member was heard from just now.
    pub fn heard_from(&self, node: NodeId, used: Option<u64>) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = heard.entry(node).or_default();
        entry.at = Some(UnixMillis(super::unix_millis()));
        entry.used = used.unwrap_or(entry.used);
    }

    /// Forgets what was heard from nodes that are no members any more.
    pub fn forget_strangers(&self, view: &View) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|node, _| view.member(node).is_some());
    }

    /// Transfers under way.
    pub fn transfers(&self) -> u64 {
        self.swarm.stats().in_flight as u64
    }

    /// `GET /v1/cluster`. `lately`: how long ago members' datagrams came.
    pub fn describe(&self, electors: &Electors, lately: &BTreeMap<NodeId, Duration>) -> api::Cluster {
        let view = self.view.borrow().clone();
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let now = UnixMillis(super::unix_millis());
        let members = view.members().map(|member| {
            let heard = heard.get(&member.id).copied().unwrap_or_default();
            let datagram = lately.get(&member.id).map(|ago| UnixMillis(now.0.saturating_sub(millis(*ago))));
            let last_seen = if member.id == self.me { Some(now) } else { heard.at.max(datagram) };
            api::MemberInfo {
                id: member.id,
                status: member.state,
                incarnation: member.incarnation,
                addr: member.metadata.addr.to_string(),
                gossip_port: member.metadata.gossip_port,
                transfer_port: member.metadata.transfer_port,
                http_port: member.metadata.http_port,
                zone: member.metadata.zone.clone(),
                capacity: member.metadata.capacity,
                used: heard.used,
                version: member.metadata.version.clone(),
                share: view.ring().share(&member.id),
                last_seen: last_seen.map(|at| at.to_string()),
            }
        });
        let roster = electors.roster().map(|roster| api::RosterInfo {
            number: roster.number,
            members: roster.members.keys().copied().collect(),
            replication_factor: u16::from(roster.constants.replication_factor),
            forget_after_secs: self.forget_after.as_secs(),
        });
        api::Cluster { members: members.collect(), ring: ring_info(&view, electors), roster }
    }

    /// `GET /v1/ring`.
    pub fn ring(&self, electors: &Electors) -> api::RingDump {
        let view = self.view.borrow().clone();
        let tokens = view.ring().tokens();
        api::RingDump {
            ring: ring_info(&view, electors),
            replication_factor: electors.replicas().map_or(0, |(wanted, _)| wanted),
            tokens: tokens
                .map(|(token, node)| api::TokenInfo { token: format!("{token:016x}"), node })
                .collect(),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn ring_info(view: &View, electors: &Electors) -> api::RingInfo {
    let version = match electors.roster() {
        None => "kepler-ring-v1".to_owned(),
        Some(roster) => format!(
            "kepler-ring-v1/{}/{}",
            roster.constants.reference_capacity, roster.constants.replication_factor
        ),
    };
    api::RingInfo { version, digest: hex::encode(view.ring().digest()) }
}
