//! The random names of clusters and of catalog databases.

use std::fmt;

use minicbor::{Decode, Encode};

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
