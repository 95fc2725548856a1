//! Comparing what two nodes hold, at a cost in proportion to what differs.
//!
//! Of the chunks that two nodes both should hold, each counts what it holds by prefixes of their keys:
//! a tree of fan-out 16 and [`MAX_DEPTH`] levels, of which the leaves are kept and the rest is their
//! sum. Equal roots cost one small message. Where they differ the asker descends, and lists the chunks
//! of the leaves that differ. (Merkle trees for replica synchronization: DeCandia et al., *Dynamo*,
//! 2007, section 4.7; sums in place of hashes of hashes, so that one pass in any order makes all of
//! them: Bellare and Micciancio, *Incremental hashing*, 1997.)
//!
//! Nothing secret and nothing final rests on a fingerprint: whoever could forge one is a member, and
//! what it would hide, a scrub and a deletion still find out chunk by chunk.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use sha2::{Digest, Sha256};

use crate::chunk::ChunkId;

/// Levels below the root.
pub const MAX_DEPTH: u8 = 3;

/// The first hexadecimal digits of a chunk's key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(map)]
pub struct Prefix {
    /// How many digits.
    #[n(0)]
    depth: u8,
    /// The digits, as a number.
    #[n(1)]
    digits: u16,
}

impl Prefix {
    /// The range of all chunks.
    pub const ROOT: Self = Self { depth: 0, digits: 0 };

    /// The prefix of a key, of so many digits, [`MAX_DEPTH`] at most.
    pub fn of(key: u64, depth: u8) -> Self {
        let depth = depth.min(MAX_DEPTH);
        let digits = if depth == 0 { 0 } else { (key >> (64 - 4 * u32::from(depth))) as u16 };
        Self { depth, digits }
    }

    /// How many digits.
    pub const fn depth(&self) -> u8 {
        self.depth
    }

    /// The prefix of the first `depth` digits.
    fn shortened(self, depth: u8) -> Self {
        let depth = depth.min(self.depth);
        Self { depth, digits: self.digits >> (4 * u32::from(self.depth - depth)) }
    }
}

/// What is held in a range: how many chunks, and the sum of their hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Fingerprint {
    /// How many chunks.
    #[n(0)]
    pub count: u64,
    /// The sum, mod 2^128, of a hash of each chunk's id and references; its upper half.
    #[n(1)]
    high: u64,
    /// The lower half.
    #[n(2)]
    low: u64,
}

impl Fingerprint {
    fn add(&mut self, count: u64, hash: u128) {
        let sum = (u128::from(self.high) << 64 | u128::from(self.low)).wrapping_add(hash);
        (self.high, self.low) = ((sum >> 64) as u64, sum as u64);
        self.count = self.count.wrapping_add(count);
    }

    fn sum(&self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.low)
    }
}

fn hash_of(chunk: &ChunkId, references: u64) -> u128 {
    let hash = Sha256::new()
        .chain_update([chunk.codec() as u8])
        .chain_update(chunk.digest())
        .chain_update(references.to_be_bytes())
        .finalize();
    let mut first = [0; 16];
    first.copy_from_slice(&hash[..16]);
    u128::from_be_bytes(first)
}

/// The leaves of one tree: what this node holds of what it and one other should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    leaves: BTreeMap<u16, Fingerprint>,
}

impl Summary {
    /// Counts a chunk, with the digest of the references that are known to it.
    pub fn add(&mut self, chunk: &ChunkId, references: u64) {
        let leaf = Prefix::of(chunk.key(), MAX_DEPTH);
        self.leaves.entry(leaf.digits).or_default().add(1, hash_of(chunk, references));
    }

    /// What is held under a prefix.
    pub fn fingerprint(&self, prefix: Prefix) -> Fingerprint {
        let shift = 4 * u32::from(MAX_DEPTH - prefix.depth.min(MAX_DEPTH));
        let first = u32::from(prefix.digits) << shift;
        let last = (first + (1u32 << shift) - 1).min(u32::from(u16::MAX));
        let mut sum = Fingerprint::default();
        if let Ok(first) = u16::try_from(first) {
            for (_, leaf) in self.leaves.range(first..=last as u16) {
                sum.add(leaf.count, leaf.sum());
            }
        }
        sum
    }

    /// The children of a prefix under which anything is held.
    pub fn children(&self, prefix: Prefix) -> Vec<Prefix> {
        let depth = prefix.depth + 1;
        let mut children: Vec<Prefix> = self
            .leaves
            .keys()
            .map(|digits| Prefix { depth: MAX_DEPTH, digits: *digits }.shortened(depth))
            .filter(|child| child.shortened(prefix.depth) == prefix)
            .collect();
        children.dedup();
        children
    }
}
