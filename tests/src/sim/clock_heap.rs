//! The virtual clock and the heap of what happens next.
//!
//! Events of one instant come in the order in which they were scheduled, so a run is a function of
//! its seed alone. Each event taken is mixed into the trace by whoever handles it.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use kepler_protocol::time::Instant;

struct Entry<E> {
    at: Instant,
    order: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    /// Reversed: the heap yields the greatest, and the earliest is wanted.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// Events to come, and what time it is.
pub struct ClockHeap<E> {
    now: Instant,
    scheduled: u64,
    heap: BinaryHeap<Entry<E>>,
}

impl<E> Default for ClockHeap<E> {
    fn default() -> Self {
        Self { now: Instant::ZERO, scheduled: 0, heap: BinaryHeap::new() }
    }
}

impl<E> ClockHeap<E> {
    /// Virtual time: when the event taken last happened.
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// Schedules an event; one in the past happens now.
    pub fn at(&mut self, at: Instant, event: E) {
        self.scheduled += 1;
        self.heap.push(Entry { at: at.max(self.now), order: self.scheduled, event });
    }

    /// Schedules an event `delay` from now.
    pub fn after(&mut self, delay: Duration, event: E) {
        self.at(self.now + delay, event);
    }

    /// Takes the next event and moves the clock to it, unless it is later than `until`.
    pub fn next(&mut self, until: Instant) -> Option<E> {
        if self.heap.peek()?.at > until {
            return None;
        }
        let entry = self.heap.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }

    /// How many events wait.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

/// A running fingerprint of everything that happened, in order (FNV-1a over 64-bit words).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace(u64);

impl Default for Trace {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Trace {
    /// Mixes a number in.
    pub const fn mix(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    /// Mixes bytes in.
    pub fn mix_bytes(&mut self, bytes: &[u8]) {
        self.mix(bytes.len() as u64);
        for piece in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            self.mix(u64::from_le_bytes(word));
        }
    }

    /// The fingerprint so far.
    pub const fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_the_order_they_were_scheduled() {
        let mut heap = ClockHeap::default();
        let at = Instant::from_micros;
        for (micros, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (1, 'b')] {
            heap.at(at(micros), event);
        }
        let mut taken = String::new();
        while let Some(event) = heap.next(at(4)) {
            taken.push(event);
        }
        assert_eq!((taken.as_str(), heap.now(), heap.len()), ("ab", at(1), 2));
        heap.at(Instant::ZERO, 'x');
        assert_eq!(heap.next(at(9)), Some('x'), "the past happens now");
        assert_eq!(heap.now(), at(1));
    }

    #[test]
    fn traces_tell_orders_apart() {
        let of = |words: &[u64]| {
            let mut trace = Trace::default();
            words.iter().for_each(|w| trace.mix(*w));
            trace
        };
        assert_ne!(of(&[1, 2]), of(&[2, 1]));
        assert_eq!(of(&[1, 2]), of(&[1, 2]));
    }
}
