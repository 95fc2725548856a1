//! The roster: the numbered list of members over which names are voted.

mod admission;
pub mod change;
pub mod council;
mod floor;
pub mod message;
pub mod paxos;
mod readiness;
#[cfg(test)]
mod tests;

use minicbor::{Decode, Encode};
use std::collections::BTreeMap;

use crate::identity::{ClusterId, DatabaseId};
use crate::node_id::NodeId;
use crate::ring::{Ring, Weighted};

/// What the founder fixed for the cluster's life; part of the ring version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Constants {
    /// The cluster's name.
    #[n(0)]
    pub cluster: ClusterId,
    /// The founder's capacity in bytes: a node of this capacity has 512 tokens.
    #[n(1)]
    pub reference_capacity: u64,
    /// N, where the roster has as many members.
    #[n(2)]
    pub replication_factor: u8,
}

/// A member as the roster binds it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Entry {
    /// Ed25519 public key.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub key: [u8; 32],
    /// The database its promises are in.
    #[n(1)]
    pub database: DatabaseId,
    /// Failure zone.
    #[n(2)]
    pub zone: Option<String>,
    /// Bytes it offers.
    #[n(3)]
    pub capacity: u64,
}

/// One decided list. Number n+1 differs from n by one member.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Roster {
    /// Counts decided lists from 1.
    #[n(0)]
    pub number: u64,
    /// The cluster's constants.
    #[n(1)]
    pub constants: Constants,
    /// The members.
    #[n(2)]
    pub members: BTreeMap<NodeId, Entry>,
}

impl Roster {
    /// N: the replication factor, or the number of members where that is less.
    pub fn replicas(&self) -> usize {
        usize::from(self.constants.replication_factor).min(self.members.len())
    }

    /// The least number of home replicas that is a majority: floor(N/2) + 1.
    pub fn majority(&self) -> usize {
        self.replicas() / 2 + 1
    }

    /// The ring over all members of the roster, dead ones included.
    pub fn ring(&self) -> Ring {
        Ring::build(
            self.constants.reference_capacity,
            self.members.iter().map(|(id, entry)| Weighted {
                id: *id,
                zone: entry.zone.as_deref(),
                capacity: entry.capacity,
            }),
        )
    }
}
