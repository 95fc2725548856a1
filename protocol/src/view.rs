//! The view: an immutable snapshot of who is here and where chunks belong.
//!
//! Membership builds a new [`View`] whenever a member's state or metadata changes and publishes it
//! under the next epoch. Every other part reads views and changes none. The ring inside follows the
//! view: `alive` and `suspect` members own chunks, all others own nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::node_id::NodeId;
use crate::ring::{Ring, Weighted};

/// What a member is doing, as the membership protocol sees it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode,
)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub enum State {
    /// Not admitted or not ready: owns nothing, votes on nothing.
    #[n(0)]
    Joining,
    /// On the ring.
    #[n(1)]
    Alive,
    /// Silent, but still on the ring.
    #[n(2)]
    Suspect,
    /// Off the ring; its chunks are re-replicated.
    #[n(3)]
    Dead,
    /// Draining its chunks to the new owners.
    #[n(4)]
    Leaving,
    /// Gone for good.
    #[n(5)]
    Left,
}

impl State {
    /// Whether a member in this state owns chunks.
    pub const fn is_on_ring(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }

    /// Whether it is worth asking a member in this state for anything.
    pub const fn is_reachable(self) -> bool {
        !matches!(self, Self::Dead | Self::Left)
    }
}

/// What a member says of itself; signed by its identity key when gossiped.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Metadata {
    /// Ed25519 public key: the member's identity.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub key: [u8; 32],
    /// Where it is reached.
    #[n(1)]
    pub addr: IpAddr,
    /// UDP.
    #[n(2)]
    pub gossip_port: u16,
    /// TCP.
    #[n(3)]
    pub transfer_port: u16,
    /// TCP.
    #[n(4)]
    pub http_port: u16,
    /// Failure zone; at most 63 bytes.
    #[n(5)]
    pub zone: Option<String>,
    /// Bytes it offers.
    #[n(6)]
    pub capacity: u64,
    /// Software version; at most 31 bytes.
    #[n(7)]
    pub version: String,
}

/// A member as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub id: NodeId,
    /// Its state.
    pub state: State,
    /// Its own counter; only it may raise it.
    pub incarnation: u64,
    /// What it says of itself.
    pub metadata: Metadata,
}

/// An immutable snapshot of members and ring.
#[derive(Clone, Debug)]
pub struct View {
    epoch: u64,
    members: BTreeMap<NodeId, Member>,
    ring: Ring,
}

impl View {
    /// A snapshot. `reference_capacity` is the cluster's constant, in bytes.
    pub fn new(epoch: u64, reference_capacity: u64, members: impl IntoIterator<Item = Member>) -> Self {
        let members: BTreeMap<NodeId, Member> = members.into_iter().map(|m| (m.id, m)).collect();
        let ring = Ring::build(
            reference_capacity,
            members.values().filter(|m| m.state.is_on_ring()).map(|m| Weighted {
                id: m.id,
                zone: m.metadata.zone.as_deref(),
                capacity: m.metadata.capacity,
            }),
        );
        Self { epoch, members, ring }
    }

    /// A snapshot in which nobody owns anything: the cluster's constants are not known yet.
    pub fn without_ring(epoch: u64, members: impl IntoIterator<Item = Member>) -> Self {
        let members = members.into_iter().map(|m| (m.id, m)).collect();
        Self { epoch, members, ring: Ring::default() }
    }

    /// Counts views of one process; a later view has a greater epoch.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// All members, by id, this node among them.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// One member.
    pub fn member(&self, id: &NodeId) -> Option<&Member> {
        self.members.get(id)
    }

    /// Where chunks belong.
    pub const fn ring(&self) -> &Ring {
        &self.ring
    }
}
