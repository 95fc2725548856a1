//! The roster: the numbered list of members over which names are voted.

mod admission;
pub mod council;
mod floor;
pub mod message;
mod paxos;
mod readiness;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use minicbor::{Decode, Encode};

use crate::node_id::NodeId;
use crate::ring::{Ring, Weighted};

/// A cluster's random name, drawn by its founder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct ClusterId(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 16]);

/// A catalog database's random name, drawn when it is created or found to be behind what it was.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct DatabaseId(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 16]);

fn hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

/// The bits of a generation that are random; those above name the database.
const GENERATION_BITS: u32 = 40;

impl DatabaseId {
    /// The generation of a log that begins in this database: its upper 24 bits are this id's, its lower
    /// 40 those of `random`. So anybody can tell the logs of a lost database from those of its
    /// successor. Two databases of a node share their upper bits once in 2^24 times: then what the lost
    /// one left open is kept, and nothing else comes of it.
    pub fn generation(&self, random: u64) -> u64 {
        let [a, b, c, ..] = self.0;
        let database = u64::from_be_bytes([0, 0, 0, 0, 0, a, b, c]);
        database << GENERATION_BITS | random & ((1 << GENERATION_BITS) - 1)
    }

    /// Whether a log of this generation may be of this database.
    pub fn began(&self, generation: u64) -> bool {
        self.generation(generation) == generation
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}

impl fmt::Debug for DatabaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}

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
