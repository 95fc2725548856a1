//! Suspicions: the wait between suspect and dead, shortened by independent confirmations.
//!
//! Lifeguard, section IV-B: with C of K confirmations the timeout is
//! `max(min, max - (max - min) * log(C + 1) / log(K + 1))`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::config::CONFIRMATIONS;
use super::member::Slot;
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::wire::gossip::MAX_ACCUSERS;

#[derive(Debug)]
struct Suspicion {
    started: Instant,
    deadline: Instant,
    least: Duration,
    most: Duration,
    wanted: usize,
    accusers: Vec<NodeId>,
}

impl Suspicion {
    fn timeout(&self) -> Duration {
        if self.wanted == 0 {
            return self.least;
        }
        let confirmed = (self.accusers.len() - 1).min(self.wanted) as f64;
        let share = (confirmed + 1.0).ln() / (self.wanted as f64 + 1.0).ln();
        self.least.max(self.most.saturating_sub((self.most - self.least).mul_f64(share)))
    }
}

/// All suspicions under way.
#[derive(Debug, Default)]
pub(super) struct Suspicions {
    open: BTreeMap<Slot, Suspicion>,
    deadlines: BTreeSet<(Instant, Slot)>,
}

impl Suspicions {
    /// Begins one, unless it is under way; `others` can confirm it.
    pub fn start(
        &mut self,
        now: Instant,
        slot: Slot,
        accusers: &[NodeId],
        (least, most): (Duration, Duration),
        others: usize,
    ) {
        if self.open.contains_key(&slot) {
            return;
        }
        let mut suspicion = Suspicion {
            started: now,
            deadline: now,
            least,
            most,
            wanted: CONFIRMATIONS.min(others),
            accusers: accusers.iter().copied().take(MAX_ACCUSERS).collect(),
        };
        suspicion.deadline = now + suspicion.timeout();
        self.deadlines.insert((suspicion.deadline, slot));
        self.open.insert(slot, suspicion);
    }

    /// Adds accusers; says whether one was new and counted.
    pub fn confirm(&mut self, slot: Slot, accusers: &[NodeId]) -> bool {
        let Some(suspicion) = self.open.get_mut(&slot) else { return false };
        let before = suspicion.accusers.len();
        for accuser in accusers {
            if suspicion.accusers.len() < MAX_ACCUSERS && !suspicion.accusers.contains(accuser) {
                suspicion.accusers.push(*accuser);
            }
        }
        if suspicion.accusers.len() == before {
            return false;
        }
        self.deadlines.remove(&(suspicion.deadline, slot));
        suspicion.deadline = suspicion.deadline.min(suspicion.started + suspicion.timeout());
        self.deadlines.insert((suspicion.deadline, slot));
        true
    }

    /// Who stands behind one.
    pub fn accusers(&self, slot: Slot) -> &[NodeId] {
        self.open.get(&slot).map_or(&[], |s| &s.accusers)
    }

    /// Ends one: refuted, or decided.
    pub fn end(&mut self, slot: Slot) {
        if let Some(suspicion) = self.open.remove(&slot) {
            self.deadlines.remove(&(suspicion.deadline, slot));
        }
    }

    /// Gives every suspicion `by` more time: this node was away and cannot know what it missed.
    pub fn postpone_all(&mut self, by: Duration) {
        self.deadlines.clear();
        for (slot, suspicion) in &mut self.open {
            suspicion.started += by;
            suspicion.deadline += by;
            self.deadlines.insert((suspicion.deadline, *slot));
        }
    }

    /// Gives one suspicion until `deadline`.
    pub fn postpone(&mut self, slot: Slot, deadline: Instant) {
        if let Some(suspicion) = self.open.get_mut(&slot) {
            self.deadlines.remove(&(suspicion.deadline, slot));
            suspicion.deadline = deadline;
            self.deadlines.insert((deadline, slot));
        }
    }

    /// One whose time is up.
    pub fn due(&self, now: Instant) -> Option<Slot> {
        self.deadlines.first().filter(|(at, _)| *at <= now).map(|(_, slot)| *slot)
    }

    /// When the next one's time is up.
    pub fn next(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn independent_confirmations_shorten_the_wait_and_repeats_do_not() {
        let ids: Vec<NodeId> = ["a", "b", "c", "d", "e"].map(|s| s.parse().unwrap()).to_vec();
        let (least, most) = (Duration::from_secs(2), Duration::from_secs(8));
        let mut suspicions = Suspicions::default();
        suspicions.start(Instant::ZERO, 1, &ids[..1], (least, most), 40);
        assert_eq!(suspicions.next(), Some(Instant::ZERO + most));
        assert!(!suspicions.confirm(1, &ids[..1]));
        let mut last = most;
        for id in &ids[1..4] {
            assert!(suspicions.confirm(1, &[*id]));
            let next = suspicions.next().unwrap() - Instant::ZERO;
            assert!(next < last);
            last = next;
        }
        assert_eq!(last, least);
        assert!(!suspicions.confirm(1, &ids[4..]), "enough is enough");
        assert_eq!(suspicions.due(Instant::ZERO + least), Some(1));
        suspicions.postpone_all(Duration::from_secs(1));
        assert_eq!(suspicions.due(Instant::ZERO + least), None);
        suspicions.end(1);
        assert_eq!(suspicions.next(), None);
    }

    #[test]
    fn where_nobody_can_confirm_the_least_wait_applies() {
        let mut suspicions = Suspicions::default();
        let bounds = (Duration::from_secs(2), Duration::from_secs(8));
        suspicions.start(Instant::ZERO, 1, &["a".parse().unwrap()], bounds, 0);
        assert_eq!(suspicions.next(), Some(Instant::ZERO + bounds.0));
    }
}
