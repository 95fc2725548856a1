//! Broadcasts: news that rides on other messages a bounded number of times.
//!
//! Invariant: one entry a subject, the latest. What was sent least often goes first, newest first
//! among equals.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::member::Slot;

/// Whom an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Me,
    Member(Slot),
}

#[derive(Debug)]
struct Entry {
    bytes: Vec<u8>,
    sent: u32,
    number: u64,
}

/// The news that still travels.
#[derive(Debug, Default)]
pub(super) struct Broadcasts {
    entries: BTreeMap<Subject, Entry>,
    order: BTreeSet<(u32, Reverse<u64>, Subject)>,
    numbers: u64,
}

impl Broadcasts {
    /// Replaces what is told about `subject` and begins its transmissions anew.
    pub fn push(&mut self, subject: Subject, bytes: Vec<u8>) {
        self.remove(subject);
        self.numbers += 1;
        let entry = Entry { bytes, sent: 0, number: self.numbers };
        self.order.insert((0, Reverse(entry.number), subject));
        self.entries.insert(subject, entry);
    }

    /// Drops what is told about `subject`.
    pub fn remove(&mut self, subject: Subject) {
        if let Some(entry) = self.entries.remove(&subject) {
            self.order.remove(&(entry.sent, Reverse(entry.number), subject));
        }
    }

    /// Whether something is still told about `subject`.
    pub fn contains(&self, subject: Subject) -> bool {
        self.entries.contains_key(&subject)
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Appends entries to `out` while they fit into `room` bytes in all and `most` in number.
    pub fn fill(&mut self, out: &mut Vec<u8>, room: usize, most: usize, limit: u32, except: Option<Subject>) {
        /// Entries that are looked at and do not fit, before the packet counts as full.
        const MISSES: usize = 8;
        let (mut taken, mut misses) = (Vec::new(), 0);
        for key in &self.order {
            if taken.len() == most || misses == MISSES {
                break;
            }
            if Some(key.2) == except {
                continue;
            }
            let bytes = &self.entries[&key.2].bytes;
            if out.len() + bytes.len() > room {
                misses += 1;
                continue;
            }
            out.extend_from_slice(bytes);
            taken.push(*key);
        }
        for key in taken {
            self.order.remove(&key);
            let (sent, number, subject) = (key.0 + 1, key.1, key.2);
            if sent >= limit {
                self.entries.remove(&subject);
            } else {
                self.entries.get_mut(&subject).expect("was just read").sent = sent;
                self.order.insert((sent, number, subject));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_sent_goes_first_and_everything_rests_after_its_limit() {
        let mut news = Broadcasts::default();
        for slot in 0..5 {
            news.push(Subject::Member(slot), vec![slot as u8; 10]);
        }
        news.push(Subject::Member(0), vec![9; 10]);
        let mut counts = [0; 10];
        for _ in 0..100 {
            let mut out = Vec::new();
            news.fill(&mut out, 25, 64, 6, None);
            assert!(out.len() <= 25);
            out.chunks(10).for_each(|c| counts[usize::from(c[0])] += 1);
        }
        assert!(news.is_empty() && news.order.is_empty());
        assert_eq!(counts, [0, 6, 6, 6, 6, 0, 0, 0, 0, 6]);
    }

    #[test]
    fn what_does_not_fit_does_not_block_what_does() {
        let mut news = Broadcasts::default();
        news.push(Subject::Me, vec![1; 5]);
        news.push(Subject::Member(1), vec![2; 50]);
        let mut out = Vec::new();
        news.fill(&mut out, 10, 64, 6, None);
        assert_eq!(out, [1; 5]);
        news.fill(&mut out, 100, 64, 6, Some(Subject::Member(1)));
        assert_eq!(out, [1; 10]);
    }
}
