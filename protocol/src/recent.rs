//! The recent past of one node, for people: what it measured and what happened to it.
//!
//! Samples are taken every [`EVERY`] and kept for an hour. Of events the latest are kept, and what happens
//! often (writes, chunks that move) pushes out only its like: a storm of uploads leaves the last death in the log.
//! All of it is bounded, lives in memory and decides nothing; a restart begins anew.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::api::{self, Event};
use crate::time::{Instant, UnixMillis};

/// How far samples lie apart.
pub const EVERY: Duration = Duration::from_secs(10);

/// The most samples kept: an hour of them.
pub const MOST_SAMPLES: usize = 360;

/// The most events kept of those that happen often.
pub const MOST_OFTEN: usize = 200;

/// The most events kept of the others.
pub const MOST_SELDOM: usize = 300;

/// The most members of a list that an event is kept with.
const MOST_LISTED: usize = 64;

/// What a node reads off its counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes of files that came from clients since it started.
    pub received: u64,
    /// Bytes of files that went to clients since it started.
    pub sent: u64,
    /// Copies owed now.
    pub queue: u64,
    /// Chunks that an owner lacks and that this node is the first to have.
    pub under_replicated: u64,
    /// Chunks to be sent or on the way.
    pub moving: u64,
}

/// What was measured at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Sample {
    /// When, by the node's wall clock.
    #[n(0)]
    pub at: UnixMillis,
    /// Bytes a second from clients, since the sample before.
    #[n(1)]
    pub received: u64,
    /// Bytes a second to clients.
    #[n(2)]
    pub sent: u64,
    /// Copies owed.
    #[n(3)]
    pub queue: u64,
    /// Chunks that lack a copy.
    #[n(4)]
    pub under_replicated: u64,
    /// Chunks to be sent or on the way.
    #[n(5)]
    pub moving: u64,
}

impl From<Sample> for api::Sample {
    fn from(sample: Sample) -> Self {
        let Sample { at, received, sent, queue, under_replicated, moving } = sample;
        Self { at: at.to_string(), received, sent, queue, under_replicated, moving }
    }
}

/// An event and when it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// By the node's wall clock.
    pub at: UnixMillis,
    /// Its place among the events of this process, from 1.
    pub number: u64,
    /// What happened.
    pub event: Event,
}

/// The machine: takes counts and events, and tells what it remembers.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    samples: VecDeque<Sample>,
    often: VecDeque<Happened>,
    seldom: VecDeque<Happened>,
    last: Option<(Instant, Counts)>,
    due: Instant,
    number: u64,
}

impl Recent {
    /// When it is to be given counts.
    pub const fn poll_timeout(&self) -> Instant {
        self.due
    }

    /// Takes a sample. The first counts give none: a rate needs two.
    pub fn handle_counts(&mut self, now: Instant, at: UnixMillis, counts: Counts) {
        self.due = now + EVERY;
        let Some((then, before)) = self.last.replace((now, counts)) else { return };
        let micros = (now - then).as_micros();
        if micros == 0 {
            return;
        }
        let rate = |after: u64, before: u64| {
            let bytes = u128::from(after.saturating_sub(before));
            u64::try_from(bytes * 1_000_000 / micros).unwrap_or(u64::MAX)
        };
        let sample = Sample {
            at,
            received: rate(counts.received, before.received),
            sent: rate(counts.sent, before.sent),
            queue: counts.queue,
            under_replicated: counts.under_replicated,
            moving: counts.moving,
        };
        push(&mut self.samples, sample, MOST_SAMPLES);
    }

    /// Remembers an event.
    pub fn handle_event(&mut self, at: UnixMillis, mut event: Event) {
        self.number += 1;
        if let Event::Roster { members, .. } = &mut event {
            members.truncate(MOST_LISTED);
        }
        let often = matches!(event, Event::Written { .. } | Event::Moved { .. });
        let happened = Happened { at, number: self.number, event };
        if often {
            push(&mut self.often, happened, MOST_OFTEN);
        } else {
            push(&mut self.seldom, happened, MOST_SELDOM);
        }
    }

    /// What was measured after `since`, the oldest first.
    pub fn samples(&self, since: UnixMillis) -> Vec<Sample> {
        self.samples.iter().filter(|sample| sample.at > since).copied().collect()
    }

    /// What happened after `since`, the oldest first.
    pub fn events(&self, since: UnixMillis) -> Vec<&Happened> {
        let mut found: Vec<&Happened> =
            self.often.iter().chain(&self.seldom).filter(|happened| happened.at > since).collect();
        found.sort_by_key(|happened| happened.number);
        found
    }
}

fn push<T>(ring: &mut VecDeque<T>, item: T, most: usize) {
    if ring.len() >= most {
        ring.pop_front();
    }
    ring.push_back(item);
}

/// The samples of several members added up, in slots of [`EVERY`] by their wall clocks. A member's timer and a slot's
/// border drift apart: of two samples of one member in a slot the later counts, and a single empty slot
/// between two others has what the one before it had.
pub fn sum<'a>(members: impl IntoIterator<Item = &'a [Sample]>) -> Vec<Sample> {
    let width = u64::try_from(EVERY.as_millis()).expect("ten seconds are few milliseconds");
    let mut sums: BTreeMap<u64, Sample> = BTreeMap::new();
    for samples in members {
        let mut slots: BTreeMap<u64, Sample> = samples.iter().map(|s| (s.at.0 / width, *s)).collect();
        let gaps: Vec<(u64, Sample)> = slots
            .iter()
            .filter_map(|(slot, sample)| {
                let next = slot.checked_add(1)?;
                (!slots.contains_key(&next) && slots.contains_key(&next.checked_add(1)?))
                    .then_some((next, *sample))
            })
            .collect();
        slots.extend(gaps);
        for (slot, sample) in slots {
            let sum = sums.entry(slot).or_default();
            sum.at = UnixMillis(slot.saturating_mul(width));
            sum.received = sum.received.saturating_add(sample.received);
            sum.sent = sum.sent.saturating_add(sample.sent);
            sum.queue = sum.queue.saturating_add(sample.queue);
            sum.under_replicated = sum.under_replicated.saturating_add(sample.under_replicated);
            sum.moving = sum.moving.saturating_add(sample.moving);
        }
    }
    let surplus = sums.len().saturating_sub(MOST_SAMPLES);
    sums.into_values().skip(surplus).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Status;

    const START: u64 = 1_772_366_400_000;

    fn at(seconds: u64) -> (Instant, UnixMillis) {
        (Instant::from_micros(seconds * 1_000_000), UnixMillis(START + seconds * 1000))
    }

    fn written(i: u64) -> Event {
        Event::Written { name: "a".parse().unwrap(), version: format!("n.0.{i}"), deleted: false }
    }

    fn member() -> Event {
        Event::Member { node: "b".parse().unwrap(), status: Status::Dead }
    }

    #[test]
    fn a_rate_is_what_came_since_the_sample_before() {
        let mut recent = Recent::default();
        for (seconds, received) in [(0, 5_000), (10, 7_000), (15, 7_500), (15, 9_000), (25, 100)] {
            let (now, wall) = at(seconds);
            recent.handle_counts(now, wall, Counts { received, queue: seconds, ..Counts::default() });
            assert_eq!(recent.poll_timeout(), now + EVERY);
        }
        let found: Vec<(u64, u64)> =
            recent.samples(UnixMillis(0)).iter().map(|s| (s.received, s.queue)).collect();
        // Counters that began anew are no flood.
        assert_eq!(found, [(200, 10), (100, 15), (0, 25)]);
        assert_eq!(recent.samples(UnixMillis(START + 15_000)).len(), 1);
    }

    #[test]
    fn an_hour_is_kept_and_no_more() {
        let mut recent = Recent::default();
        for i in 0..=1_000 {
            let (now, wall) = at(i * 10);
            recent.handle_counts(now, wall, Counts { moving: i, ..Counts::default() });
        }
        let samples = recent.samples(UnixMillis(0));
        assert_eq!(samples.len(), MOST_SAMPLES);
        assert_eq!((samples[0].moving, samples[MOST_SAMPLES - 1].moving), (641, 1_000));
    }

    #[test]
    fn a_storm_of_writes_leaves_what_is_seldom_and_all_in_its_order() {
        let mut recent = Recent::default();
        recent.handle_event(UnixMillis(1), member());
        for i in 0..10_000 {
            recent.handle_event(UnixMillis(2), written(i));
        }
        recent.handle_event(UnixMillis(3), member());
        let numbers: Vec<u64> = recent.events(UnixMillis(0)).iter().map(|h| h.number).collect();
        assert_eq!(numbers.len(), MOST_OFTEN + 2);
        assert_eq!((numbers[0], numbers[1], numbers[MOST_OFTEN + 1]), (1, 9_802, 10_002));
        assert!(numbers.is_sorted());
        for _ in 0..1_000 {
            recent.handle_event(UnixMillis(4), member());
        }
        assert_eq!(recent.events(UnixMillis(0)).len(), MOST_OFTEN + MOST_SELDOM);
        assert_eq!(recent.events(UnixMillis(3)).len(), MOST_SELDOM);
    }

    #[test]
    fn a_list_of_a_thousand_members_is_not_kept_whole() {
        let mut recent = Recent::default();
        let members = (0..1_000).map(|i| format!("n{i}").parse().unwrap()).collect();
        recent.handle_event(UnixMillis(1), Event::Roster { number: 1, members });
        let Event::Roster { members, .. } = &recent.events(UnixMillis(0))[0].event else { panic!() };
        assert_eq!(members.len(), MOST_LISTED);
    }

    #[test]
    fn sums_are_of_slots_whatever_the_drift() {
        let sample = |at: u64, queue| Sample { at: UnixMillis(at), queue, ..Sample::default() };
        // The first drifts over a border: two samples in slot 1, none in slot 2.
        let a = [sample(9_990, 1), sample(10_001, 2), sample(19_999, 3), sample(30_001, 4)];
        // The second was down for long.
        let b = [sample(5_000, 10), sample(31_000, 20)];
        let found: Vec<(u64, u64)> = sum([&a[..], &b[..]]).iter().map(|s| (s.at.0, s.queue)).collect();
        assert_eq!(found, [(0, 11), (10_000, 3), (20_000, 3), (30_000, 24)]);
        let wild = [sample(0, u64::MAX), sample(u64::MAX, u64::MAX)];
        assert_eq!(sum([&wild[..], &wild[..]])[0].queue, u64::MAX);
        assert!(sum([&[][..]]).is_empty());
    }
}
