//! When which chunks are hashed again: all of them once in an interval, a few at a time.

use std::time::Duration;

use super::health::Scrub as Health;
use crate::time::Instant;

/// Chunks of one step.
const STEP: usize = 16;

/// The longest time between two steps, and after a failed one.
const SLOWEST: Duration = Duration::from_secs(60);

/// The paced pass over all chunks.
#[derive(Debug)]
pub struct Scrub {
    interval: Duration,
    next: Instant,
    pass_began: Instant,
    /// Chunks that the store holds, as of the last pass over it.
    total: u64,
    hurried: bool,
    restart: bool,
    under_way: bool,
    health: Health,
}

impl Scrub {
    /// Goes on where an earlier process stopped.
    pub fn new(now: Instant, interval: Duration) -> Self {
        Self {
            interval,
            next: now + Self::gap_of(interval, 0),
            pass_began: now,
            total: 0,
            hurried: false,
            restart: false,
            under_way: false,
            health: Health { running: true, ..Health::default() },
        }
    }

    fn gap_of(interval: Duration, total: u64) -> Duration {
        let steps = (total / STEP as u64 + 1).min(u64::from(u32::MAX));
        (interval / steps as u32).min(SLOWEST)
    }

    /// So many chunks are held.
    pub fn counted(&mut self, now: Instant, total: u64) {
        self.total = total;
        if self.health.running {
            self.next = self.next.min(now + Self::gap_of(self.interval, total));
        }
    }

    /// Whether to restart, and how many chunks to hash, if it is time to.
    pub fn next(&mut self, now: Instant) -> Option<(bool, usize)> {
        if self.under_way || self.health.paused || now < self.next {
            return None;
        }
        if !self.health.running {
            (self.health.running, self.health.checked, self.health.bad) = (true, 0, 0);
            self.pass_began = now;
        }
        self.under_way = true;
        Some((std::mem::take(&mut self.restart), STEP))
    }

    /// A step is over; what the pass came to, if that was its last.
    pub fn stepped(&mut self, now: Instant, checked: u64, bad: u64, finished: bool) -> Option<(u64, u64)> {
        self.under_way = false;
        self.health.checked += checked;
        self.health.bad += bad;
        if !finished {
            let gap = Self::gap_of(self.interval, self.total);
            self.next = now + if self.hurried && checked > 0 { Duration::ZERO } else { gap };
            return None;
        }
        self.health.running = false;
        self.health.passes += 1;
        self.hurried = false;
        self.next = (self.pass_began + self.interval).max(now + Duration::from_secs(1));
        Some((self.health.checked, self.health.bad))
    }

    /// All of it now.
    pub fn hurry(&mut self, now: Instant) {
        (self.hurried, self.restart, self.health.paused) = (true, true, false);
        (self.health.running, self.health.checked, self.health.bad) = (true, 0, 0);
        (self.pass_began, self.next) = (now, now);
    }

    /// Nothing until [`Scrub::hurry`] or with `false`.
    pub fn pause(&mut self, paused: bool) {
        self.health.paused = paused;
    }

    /// When there is something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.under_way && !self.health.paused).then_some(self.next)
    }

    /// How far it is.
    pub const fn health(&self) -> Health {
        self.health
    }
}
