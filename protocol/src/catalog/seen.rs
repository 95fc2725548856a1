//! What a node has learnt of: per origin a prefix of sequence numbers and single ones above it.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use crate::version::{Dot, Origin};

/// Seen sequence numbers of one origin.
///
/// What lies above the prefix is kept as runs, for there may be millions of it while one upload is
/// open that began before. Invariant: runs neither touch each other nor the prefix, so equal sets are
/// equal values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SeenSet {
    #[n(0)]
    prefix: u64,
    /// The last number of each run, by its first.
    #[n(1)]
    runs: BTreeMap<u64, u64>,
}

impl SeenSet {
    /// Every number up to and including this one is seen.
    pub const fn prefix(&self) -> u64 {
        self.prefix
    }

    /// The runs of seen numbers that are not part of the prefix: their first and last numbers.
    pub fn runs(&self) -> impl Iterator<Item = (u64, u64)> {
        self.runs.iter().map(|(first, last)| (*first, *last))
    }

    /// Whether nothing is seen.
    pub fn is_empty(&self) -> bool {
        self.prefix == 0 && self.runs.is_empty()
    }

    /// Whether `sequence` is seen.
    pub fn contains(&self, sequence: u64) -> bool {
        sequence <= self.prefix
            || self.runs.range(..=sequence).next_back().is_some_and(|(_, last)| *last >= sequence)
    }

    /// Marks `sequence`; says whether it was new.
    pub fn insert(&mut self, sequence: u64) -> bool {
        let is_new = !self.contains(sequence);
        if is_new {
            self.insert_run(sequence, sequence);
        }
        is_new
    }

    /// Marks all that `other` has; says whether any was new.
    pub fn union(&mut self, other: &Self) -> bool {
        if self.is_superset(other) {
            return false;
        }
        if other.prefix > self.prefix {
            self.insert_run(self.prefix + 1, other.prefix);
        }
        other.runs().for_each(|(first, last)| self.insert_run(first, last));
        true
    }

    /// Whether everything `other` has is here too.
    pub fn is_superset(&self, other: &Self) -> bool {
        // What follows the prefix is not seen, so no run can make up for a shorter prefix.
        other.prefix <= self.prefix
            && other.runs().all(|(first, last)| {
                last <= self.prefix
                    || self.runs.range(..=first).next_back().is_some_and(|(_, end)| *end >= last)
            })
    }

    /// Marks `first` to `last`, both included.
    fn insert_run(&mut self, mut first: u64, mut last: u64) {
        if last <= self.prefix {
            return;
        }
        // Every run that it meets or touches becomes part of it.
        while let Some((start, end)) = self.runs.range(..=last.saturating_add(1)).next_back()
            && end.saturating_add(1) >= first
        {
            let (start, end) = (*start, *end);
            self.runs.remove(&start);
            (first, last) = (first.min(start), last.max(end));
        }
        if first <= self.prefix.saturating_add(1) {
            self.prefix = last;
        } else {
            self.runs.insert(first, last);
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

    /// Marks all that `other` has.
    pub fn union(&mut self, other: &Self) {
        other.iter().for_each(|(origin, set)| self.union_origin(origin, set));
    }

    /// Marks all that `set` has of an origin.
    pub fn union_origin(&mut self, origin: &Origin, set: &SeenSet) {
        self.0.entry(*origin).or_default().union(set);
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
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
    fn numbers_above_a_gap_cost_nothing_each() {
        let mut set = SeenSet::default();
        (2..100_000).for_each(|number| assert!(set.insert(number)));
        assert_eq!(set.runs().collect::<Vec<_>>(), [(2, 99_999)]);
        assert!(minicbor::to_vec(&set).unwrap().len() < 20);
        assert!(set.insert(1) && set.prefix() == 99_999 && set.runs().next().is_none());
    }

    #[test]
    fn a_huge_prefix_costs_nothing_to_compare() {
        let mut far = SeenSet::default();
        far.union(&SeenSet { prefix: u64::MAX - 1, runs: BTreeMap::new() });
        assert!(!SeenSet::default().is_superset(&far));
        assert!(far.is_superset(&SeenSet::default()));
    }
}
