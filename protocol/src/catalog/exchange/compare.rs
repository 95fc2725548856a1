//! Finding the origins of which a peer has seen more: bucket by bucket, then origin by origin.
//!
//! The asker says what its buckets add up to; where that differs the peer splits a bucket that holds
//! much and lists one that holds little. All is compared with what the asker had seen when the
//! exchange began, so that a bucket found equal tells exactly what the peer has seen in it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::census::{Bucket, Census, SPLIT};
use super::super::fingerprint::Fingerprint;
use super::super::message::{Claim, Compare, Compared, Division, MAX_COMPARED, Pull, encoded_len};
use super::super::seen::{Seen, SeenSet};
use super::super::{Catalog, SharedSeen, Step};
use crate::identity::DatabaseId;
use crate::version::Origin;

/// A bucket of no more origins is listed, not split.
const LISTED: u64 = 16;

/// What one answer carries of splits and lists, in encoded bytes.
const ANSWER_BYTES: usize = 256 << 10;

/// What one question carries of sets of origins that are wanted, in encoded bytes.
const WANTED_BYTES: usize = 256 << 10;

/// The most buckets that wait to be compared, and the most answers that one comparison takes: more
/// than any cluster has origins. Whoever sends more is not listened to.
const MAX_OPEN: usize = 1 << 20;
const MAX_ANSWERS: u32 = 1 << 14;

/// A peer's answer that cannot be right.
#[derive(Debug)]
pub(super) struct Absurd;

/// What this node had seen, what the peer has, and what is still to be compared.
#[derive(Debug)]
pub(super) struct Comparison {
    ours: SharedSeen,
    census: Arc<Census>,
    /// What the peer has seen: correct for what was compared.
    theirs: Seen,
    /// Origins of which the peer has seen more.
    wanted: BTreeSet<Origin>,
    open: BTreeSet<Bucket>,
    asked: Vec<Bucket>,
    answers: u32,
    database: Option<DatabaseId>,
}

impl Comparison {
    pub fn new(ours: SharedSeen, census: Arc<Census>) -> Self {
        Self {
            theirs: Seen::clone(&ours),
            ours,
            census,
            wanted: BTreeSet::new(),
            open: BTreeSet::from([Bucket::WHOLE]),
            asked: Vec::new(),
            answers: 0,
            database: None,
        }
    }

    /// What is to be asked next; nothing once all is compared.
    pub fn next(&mut self) -> Option<Compare> {
        self.asked = self.open.iter().take(MAX_COMPARED).copied().collect();
        let claim =
            |bucket: &Bucket| Claim { bucket: *bucket, digest: self.census.fingerprint(*bucket).short() };
        (!self.asked.is_empty()).then(|| Compare { buckets: self.asked.iter().map(claim).collect() })
    }

    /// Takes the peer's answer.
    pub fn take(&mut self, answer: Compared) -> Result<(), Absurd> {
        let answered = answer.answered as usize;
        let same_database = self.answers == 0 || self.database == answer.database;
        self.answers += 1;
        self.database = answer.database;
        if !same_database || answered == 0 || answered > self.asked.len() || self.answers > MAX_ANSWERS {
            return Err(Absurd);
        }
        let asked: BTreeSet<Bucket> = self.asked.drain(..answered).collect();
        self.open.retain(|bucket| !asked.contains(bucket));
        if !answer.splits.iter().map(|s| &s.bucket).chain(&answer.listed).all(|b| asked.contains(b)) {
            return Err(Absurd);
        }
        for split in &answer.splits {
            let ours = self.census.split(split.bucket).into_iter();
            let parts = split.bucket.children().zip(ours.zip(split.digests.chunks(8)));
            self.open.extend(parts.filter(|(_, (ours, theirs))| ours[..] != **theirs).map(|(part, _)| part));
        }
        if self.open.len() > MAX_OPEN {
            return Err(Absurd);
        }
        for origin in answer.listed.iter().flat_map(|bucket| self.census.origins(*bucket)) {
            self.theirs.set_origin(*origin, SeenSet::default());
        }
        let (listed, none) = (answer.listed.iter().copied().collect(), SeenSet::default());
        for (origin, set) in answer.seen.iter().filter(|(origin, _)| Bucket::any_has(&listed, origin)) {
            if !self.ours.origin(origin).unwrap_or(&none).is_superset(set) {
                self.wanted.insert(*origin);
            }
            self.theirs.set_origin(*origin, set.clone());
        }
        Ok(())
    }

    /// All that the peer had seen, the origins of which it had seen more, and its database.
    pub fn finish(self) -> (SharedSeen, BTreeSet<Origin>, Option<DatabaseId>) {
        (Arc::new(self.theirs), self.wanted, self.database)
    }
}

impl Catalog {
    /// Where this node's buckets differ from a peer's.
    pub(in super::super) fn compare(&self, step: &Step<'_>, compare: &Compare) -> Compared {
        let census = self.knowledge.census();
        let database = self.own_database(step);
        let mut answer =
            Compared { database, answered: 0, splits: Vec::new(), listed: Vec::new(), seen: Seen::default() };
        let nothing = Fingerprint::default().short();
        let mut room = ANSWER_BYTES;
        for Claim { bucket, digest } in &compare.buckets {
            let ours = census.fingerprint(*bucket);
            let mut cost = 0;
            if ours.short() != *digest {
                let set = |origin: &Origin| Some((*origin, self.knowledge.seen().origin(origin)?.clone()));
                let little = ours.count() <= LISTED || *digest == nothing || !bucket.is_divisible();
                let list: Vec<(Origin, SeenSet)> =
                    if little { census.origins(*bucket).filter_map(set).collect() } else { Vec::new() };
                let bytes = encoded_len(&list);
                if little && (bytes <= room || !bucket.is_divisible() && answer.answered == 0) {
                    list.into_iter().for_each(|(origin, set)| answer.seen.set_origin(origin, set));
                    answer.listed.push(*bucket);
                    cost = bytes + 12;
                } else if bucket.is_divisible() && room >= 8 * SPLIT + 16 {
                    let digests = census.split(*bucket).concat();
                    answer.splits.push(Division { bucket: *bucket, digests });
                    cost = 8 * SPLIT + 16;
                } else {
                    break;
                }
            }
            room = room.saturating_sub(cost);
            answer.answered += 1;
        }
        answer
    }

    /// What is asked of the `wanted` origins, as many as fit; the others are left for another exchange.
    pub(super) fn wish(&self, wanted: &mut BTreeSet<Origin>) -> Pull {
        let mut pull = Pull { wanted: Seen::default(), after: None };
        let mut room = WANTED_BYTES;
        let none = SeenSet::default();
        wanted.retain(|origin| {
            let set = self.knowledge.seen().origin(origin).unwrap_or(&none);
            let bytes = encoded_len(&(*origin, set.clone()));
            let fits = bytes <= room;
            if fits {
                room -= bytes;
                pull.wanted.set_origin(*origin, set.clone());
            }
            fits
        });
        pull
    }
}
