//! A census of what is seen: origins in buckets, so that two nodes find those in which they differ.
//!
//! An origin belongs to a bucket by the hash of its name, so that both sides cut alike. Buckets are
//! ranges of that hash; each splits into 32. Origins that are complete everywhere, which is nearly
//! all of them, cost one fingerprint together.

use std::collections::{BTreeMap, BTreeSet};

use minicbor::{Decode, Encode};
use sha2::{Digest, Sha256};

use super::fingerprint::Fingerprint;
use super::seen::{Seen, SeenSet};
use crate::version::Origin;

/// Into how many buckets one splits, as a power of two.
const SPLIT_BITS: u32 = 5;

/// Into how many buckets one splits.
pub const SPLIT: usize = 1 << SPLIT_BITS;

/// No bucket splits that was split so often: its origins are listed.
const MAX_DEPTH: u8 = 12;

/// Origins whose hash begins with given bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Bucket {
    /// The first hash that belongs to it.
    #[n(0)]
    first: u64,
    /// How often the whole was split to get it.
    #[n(1)]
    depth: u8,
}

impl Bucket {
    /// All origins.
    pub const WHOLE: Self = Self { depth: 0, first: 0 };

    const fn bits(depth: u8) -> u32 {
        depth as u32 * SPLIT_BITS
    }

    const fn last(self) -> u64 {
        self.first | (u64::MAX >> Self::bits(self.depth))
    }

    /// Whether it is one that splitting leads to.
    pub const fn is_valid(self) -> bool {
        self.depth <= MAX_DEPTH
            && (self.depth == 0 && self.first == 0
                || self.depth > 0 && self.first & (u64::MAX >> Self::bits(self.depth)) == 0)
    }

    /// Whether an origin belongs to one of these buckets, none of which is part of another.
    pub fn any_has(buckets: &BTreeSet<Self>, origin: &Origin) -> bool {
        let place = place(origin);
        let before = buckets.range(..=Self { first: place, depth: u8::MAX }).next_back();
        before.is_some_and(|bucket| place <= bucket.last())
    }

    /// Whether `other` comes after it and shares nothing with it.
    pub const fn is_before(self, other: Self) -> bool {
        self.last() < other.first
    }

    /// Whether it can be split.
    pub const fn is_divisible(self) -> bool {
        self.depth < MAX_DEPTH
    }

    /// What it splits into.
    pub fn children(self) -> impl Iterator<Item = Self> {
        let depth = (self.depth + 1).min(MAX_DEPTH);
        (0..SPLIT as u64)
            .map(move |child| Self { depth, first: self.first | child << (64 - Self::bits(depth)) })
    }
}

/// The hashes of all origins with what is seen of them.
#[derive(Clone, Debug, Default)]
pub struct Census {
    origins: BTreeMap<(u64, Origin), [u8; 32]>,
    whole: Fingerprint,
}

impl Census {
    /// The census of all that is seen.
    pub fn of(seen: &Seen) -> Self {
        let mut census = Self::default();
        seen.iter().for_each(|(origin, set)| census.update(origin, set));
        census
    }

    /// What is seen of an origin is now `set`.
    pub fn update(&mut self, origin: &Origin, set: &SeenSet) {
        let key = (place(origin), *origin);
        let old = match set.is_empty() {
            true => self.origins.remove(&key),
            false => self.origins.insert(key, hash(origin, set)),
        };
        if let Some(old) = old {
            self.whole.remove(&old);
        }
        if let Some(new) = self.origins.get(&key) {
            self.whole.add(new);
        }
    }

    /// The digest of all that is seen.
    pub fn digest(&self) -> [u8; 16] {
        self.whole.digest()
    }

    /// The fingerprint of a bucket.
    pub fn fingerprint(&self, bucket: Bucket) -> Fingerprint {
        if bucket == Bucket::WHOLE {
            return self.whole;
        }
        let mut sum = Fingerprint::default();
        self.range(bucket).for_each(|(_, hash)| sum.add(hash));
        sum
    }

    /// The fingerprints of what a bucket splits into.
    pub fn split(&self, bucket: Bucket) -> Vec<[u8; 8]> {
        bucket.children().map(|child| self.fingerprint(child).short()).collect()
    }

    /// The origins of a bucket.
    pub fn origins(&self, bucket: Bucket) -> impl Iterator<Item = &Origin> {
        self.range(bucket).map(|((_, origin), _)| origin)
    }

    fn range(&self, bucket: Bucket) -> impl Iterator<Item = (&(u64, Origin), &[u8; 32])> {
        let least = Origin { node: "0".parse().expect("the least node id"), generation: 0 };
        let last = bucket.last();
        self.origins.range((bucket.first, least)..).take_while(move |((place, _), _)| *place <= last)
    }
}

/// Where an origin belongs.
fn place(origin: &Origin) -> u64 {
    let mut hash = Sha256::new();
    hash.update(origin.node.as_str().as_bytes());
    hash.update([0]);
    hash.update(origin.generation.to_be_bytes());
    u64::from_be_bytes(hash.finalize()[..8].try_into().expect("a hash has more"))
}

fn hash(origin: &Origin, set: &SeenSet) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(origin.node.as_str().as_bytes());
    hash.update([0]);
    for number in [origin.generation, set.prefix()].into_iter().chain(set.runs().flat_map(|(a, z)| [a, z])) {
        hash.update(number.to_be_bytes());
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(number: u64) -> Origin {
        Origin { node: format!("n{}", number % 7).parse().unwrap(), generation: number }
    }

    #[test]
    fn buckets_part_the_whole_and_add_up_to_it() {
        let mut seen = Seen::default();
        for number in 0..5_000 {
            seen.insert(crate::version::Dot { origin: origin(number), sequence: 1 + number % 3 });
        }
        let census = Census::of(&seen);
        let mut stack = vec![Bucket::WHOLE];
        while let Some(bucket) = stack.pop() {
            assert!(bucket.is_valid());
            let count = census.origins(bucket).count();
            assert_eq!(census.fingerprint(bucket).count(), count as u64);
            if count > 10 {
                let mut sum = Fingerprint::default();
                bucket.children().for_each(|child| sum.merge(&census.fingerprint(child)));
                assert_eq!(sum, census.fingerprint(bucket));
                stack.extend(bucket.children());
            }
        }
    }

    #[test]
    fn it_follows_what_changes() {
        let (mut seen, mut census) = (Seen::default(), Census::default());
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..500 {
            let dot = crate::version::Dot { origin: origin(rng.u64(..20)), sequence: rng.u64(1..30) };
            seen.insert(dot);
            census.update(&dot.origin, seen.origin(&dot.origin).unwrap());
        }
        assert_eq!(census.digest(), Census::of(&seen).digest());
        seen.set_origin(origin(999), SeenSet::default());
        assert_eq!(census.digest(), Census::of(&seen).digest(), "an empty set is as good as none");
    }

    #[test]
    fn only_buckets_that_splitting_leads_to_are_valid() {
        let mut bucket = Bucket::WHOLE;
        for _ in 0..MAX_DEPTH {
            assert!(bucket.is_divisible());
            bucket = bucket.children().last().unwrap();
            assert!(bucket.is_valid());
        }
        assert!(!bucket.is_divisible());
        assert!(!Bucket { depth: 1, first: 1 }.is_valid());
        assert!(!Bucket { depth: 0, first: 1 }.is_valid());
        assert!(!Bucket { depth: 13, first: 0 }.is_valid());
    }
}
