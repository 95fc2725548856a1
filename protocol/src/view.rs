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

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_STATES: [State; 6] =
        [State::Joining, State::Alive, State::Suspect, State::Dead, State::Leaving, State::Left];

    fn member(id: &str, state: State) -> Member {
        let metadata = Metadata {
            key: [7; 32],
            addr: [127, 0, 0, 1].into(),
            gossip_port: 4000,
            transfer_port: 4001,
            http_port: 4002,
            zone: None,
            capacity: 1 << 30,
            version: "0.1.0".into(),
        };
        Member { id: id.parse().unwrap(), state, incarnation: 1, metadata }
    }

    #[test]
    fn only_members_that_are_alive_or_suspect_own_chunks() {
        let members = ALL_STATES.map(|state| member(&format!("{state:?}").to_lowercase(), state));
        let view = View::new(3, 1 << 30, members);
        assert_eq!((view.epoch(), view.members().count()), (3, 6));
        let owners: Vec<String> = view.ring().nodes().map(|node| node.to_string()).collect();
        assert_eq!(owners, ["alive", "suspect"]);
        assert_eq!(view.ring().owners(42, 3).len(), 2);
        assert_eq!(view.member(&"dead".parse().unwrap()).unwrap().state, State::Dead);
        assert!(view.member(&"unknown".parse().unwrap()).is_none());
    }

    #[test]
    fn a_suspicion_moves_nothing_and_a_death_does() {
        let view = |state| View::new(1, 1 << 30, [member("a", State::Alive), member("b", state)]);
        let before = view(State::Alive);
        assert!(before.ring() == view(State::Suspect).ring());
        for state in [State::Joining, State::Dead, State::Leaving, State::Left] {
            assert!(before.ring() != view(state).ring(), "{state:?}");
        }
    }

    #[test]
    fn equal_members_make_equal_rings_in_whatever_order_they_were_learnt() {
        let mut members: Vec<Member> = (0..9).map(|i| member(&format!("node-{i}"), State::Alive)).collect();
        let ordered = View::new(1, 1 << 30, members.clone());
        for seed in 0..10 {
            fastrand::Rng::with_seed(seed).shuffle(&mut members);
            let shuffled = View::new(2, 1 << 30, members.clone());
            assert_eq!(ordered.ring().digest(), shuffled.ring().digest(), "seed {seed}");
        }
    }

    #[test]
    fn zone_and_capacity_reach_the_ring() {
        let mut large = member("a", State::Alive);
        large.metadata.capacity = 2 << 30;
        let view = View::new(1, 1 << 30, [large, member("b", State::Alive)]);
        assert_eq!(view.ring().tokens().count(), 1024 + 512);
        let mut zoned = [member("a", State::Alive), member("b", State::Alive), member("c", State::Alive)];
        zoned[0].metadata.zone = Some("eu".into());
        zoned[1].metadata.zone = Some("eu".into());
        let view = View::new(1, 1 << 30, zoned);
        let c = "c".parse().unwrap();
        assert!((0..100).all(|key: u64| view.ring().is_owner(key << 57, 2, &c)), "the other zone");
    }

    #[test]
    fn states_and_metadata_survive_encoding_and_ignore_what_they_do_not_know() {
        for state in ALL_STATES {
            assert_eq!(minicbor::decode::<State>(&minicbor::to_vec(state).unwrap()).unwrap(), state);
        }
        let metadata = member("a", State::Alive).metadata;
        let mut bytes = minicbor::to_vec(&metadata).unwrap();
        assert_eq!(minicbor::decode::<Metadata>(&bytes).unwrap(), metadata);
        // One field more in the map: 99 => true.
        assert_eq!(bytes[0] & 0xe0, 0xa0);
        bytes[0] += 1;
        bytes.extend([0x18, 99, 0xf5]);
        assert_eq!(minicbor::decode::<Metadata>(&bytes).unwrap(), metadata);
    }
}
