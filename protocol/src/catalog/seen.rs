//! What a node has learnt of: per origin a prefix of sequence numbers and single ones above it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use minicbor::{Decode, Encode};
use sha2::{Digest, Sha256};

use crate::version::{Dot, Origin};

/// Seen sequence numbers of one origin.
///
/// Invariant: `above` holds nothing at or next to `prefix`, so equal sets are equal values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SeenSet {
    #[n(0)]
    prefix: u64,
    #[n(1)]
    above: BTreeSet<u64>,
}

impl SeenSet {
    /// Every number up to and including this one is seen.
    pub const fn prefix(&self) -> u64 {
        self.prefix
    }

    /// The seen numbers that are not part of the prefix.
    pub fn above(&self) -> impl Iterator<Item = u64> {
        self.above.iter().copied()
    }

    /// Whether `sequence` is seen.
    pub fn contains(&self, sequence: u64) -> bool {
        sequence <= self.prefix || self.above.contains(&sequence)
    }

    /// Marks `sequence`; says whether it was new.
    pub fn insert(&mut self, sequence: u64) -> bool {
        if self.contains(sequence) {
            return false;
        }
        self.above.insert(sequence);
        self.absorb();
        true
    }

    /// Marks all that `other` has; says whether any was new.
    pub fn union(&mut self, other: &Self) -> bool {
        let before = (self.prefix, self.above.len());
        if other.prefix > self.prefix {
            self.prefix = other.prefix;
        }
        self.above.extend(&other.above);
        self.absorb();
        before != (self.prefix, self.above.len())
    }

    /// Whether everything `other` has is here too.
    pub fn is_superset(&self, other: &Self) -> bool {
        let gap = other.prefix.saturating_sub(self.prefix);
        let covered = gap <= self.above.len() as u64
            && (gap == 0 || (self.prefix + 1..=other.prefix).all(|s| self.above.contains(&s)));
        covered && other.above.iter().all(|s| self.contains(*s))
    }

    fn absorb(&mut self) {
        self.above = self.above.split_off(&(self.prefix.saturating_add(1)));
        while self.above.remove(&(self.prefix + 1)) {
            self.prefix += 1;
        }
    }
}

/// Seen dots of all origins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Seen(#[n(0)] BTreeMap<Origin, SeenSet>);

impl Seen {
    /// Whether `dot` is seen.
    pub fn contains(&self, dot: &Dot) -> bool {
        self.0.get(&dot.origin).is_some_and(|set| set.contains(dot.sequence))
    }

    /// Marks `dot`; says whether it was new.
    pub fn insert(&mut self, dot: Dot) -> bool {
        self.0.entry(dot.origin).or_default().insert(dot.sequence)
    }

    /// Marks all that `other` has and returns the origins whose sets grew.
    pub fn union(&mut self, other: &Self) -> Vec<Origin> {
        let mut grown = Vec::new();
        for (origin, set) in &other.0 {
            let changed = match self.0.entry(*origin) {
                Entry::Vacant(slot) => {
                    slot.insert(set.clone());
                    true
                }
                Entry::Occupied(mut slot) => slot.get_mut().union(set),
            };
            if changed {
                grown.push(*origin);
            }
        }
        grown
    }

    /// Whether everything `other` has is here too.
    pub fn is_superset(&self, other: &Self) -> bool {
        let none = SeenSet::default();
        other.0.iter().all(|(origin, set)| self.0.get(origin).unwrap_or(&none).is_superset(set))
    }

    /// The set of one origin.
    pub fn origin(&self, origin: &Origin) -> Option<&SeenSet> {
        self.0.get(origin)
    }

    /// Replaces the set of one origin, as read from disk.
    pub fn set_origin(&mut self, origin: Origin, set: SeenSet) {
        self.0.insert(origin, set);
    }

    /// All origins with their sets, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Origin, &SeenSet)> {
        self.0.iter()
    }

    /// The first 16 bytes of a SHA-256 over all of it: equal sets, equal digests.
    pub fn digest(&self) -> [u8; 16] {
        let mut hash = Sha256::new();
        for (origin, set) in &self.0 {
            hash.update(origin.node.as_str().as_bytes());
            hash.update([0]);
            for number in [origin.generation, set.prefix, set.above.len() as u64] {
                hash.update(number.to_be_bytes());
            }
            set.above.iter().for_each(|s| hash.update(s.to_be_bytes()));
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&hash.finalize()[..16]);
        digest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_behaves_like_a_plain_set(ours in prop::collection::btree_set(1u64..40, 0..30),
                                      theirs in prop::collection::btree_set(1u64..40, 0..30)) {
            let build = |numbers: &BTreeSet<u64>| {
                let mut set = SeenSet::default();
                numbers.iter().rev().for_each(|n| { set.insert(*n); });
                set
            };
            let (mut a, b) = (build(&ours), build(&theirs));
            prop_assert!((1..50).all(|n| a.contains(n) == ours.contains(&n)));
            prop_assert_eq!(a.is_superset(&b), ours.is_superset(&theirs));
            prop_assert_eq!(a.union(&b), !ours.is_superset(&theirs));
            prop_assert_eq!(a, build(&ours.union(&theirs).copied().collect()));
        }
    }

    #[test]
    fn a_huge_prefix_costs_nothing_to_compare() {
        let mut far = SeenSet::default();
        far.union(&SeenSet { prefix: u64::MAX - 1, above: BTreeSet::new() });
        assert!(!SeenSet::default().is_superset(&far));
        assert!(far.is_superset(&SeenSet::default()));
    }
}
