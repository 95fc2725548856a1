//! The bound on background traffic: when how many bytes may pass.
//!
//! Two token buckets: one of the whole cap, from which every byte takes, and one of a tenth of it, from which bytes of
//! [`Pace::Tenth`] take before. The caller keeps the order of those who ask: only the first of a bucket asks, until it
//! has all it wanted.
//!
//! Invariants: within any stretch of time `t` at most `rate * (t + 1/20 s)` bytes pass a bucket, so no second holds
//! more than the cap and a twentieth, which leaves room for framing; a change of the cap counts at once and gives
//! nobody a second burst.

use std::time::Duration;

use crate::replicator::Pace;
use crate::time::Instant;

/// Bytes of a background transfer that pass at once, at most.
pub const PIECE_BYTES: u64 = 64 << 10;

/// The smallest cap, in bytes a second: below it transfers would outlast their deadlines.
pub const MIN_CAP: u64 = 64 << 10;

/// The part of a second whose bytes may pass at once.
const BURST_PARTS: u64 = 20;

const MICROS: u128 = 1_000_000;

/// Tokens that come at a steady rate, up to a burst.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Bytes a second; at least 1.
    rate: u64,
    /// Bytes; at least 1.
    burst: u64,
    /// Millionths of a byte.
    credit: u128,
    at: Instant,
}

impl Bucket {
    fn new(now: Instant, rate: u64, parts: u64) -> Self {
        let burst = (rate / parts).max(1);
        Self { rate: rate.max(1), burst, credit: u128::from(burst) * MICROS, at: now }
    }

    fn refill(&mut self, now: Instant) {
        let came = now.since(self.at).as_micros() * u128::from(self.rate);
        self.credit = (self.credit + came).min(u128::from(self.burst) * MICROS);
        self.at = self.at.max(now);
    }

    fn set_rate(&mut self, now: Instant, rate: u64, parts: u64) {
        self.refill(now);
        let credit = self.credit;
        *self = Self::new(self.at, rate, parts);
        self.credit = self.credit.min(credit);
    }

    fn take(&mut self, now: Instant, bytes: u64) -> Result<u64, Instant> {
        self.refill(now);
        let wanted = bytes.min(self.burst);
        let price = u128::from(wanted) * MICROS;
        if let Some(left) = self.credit.checked_sub(price) {
            self.credit = left;
            return Ok(wanted);
        }
        let micros = (price - self.credit).div_ceil(u128::from(self.rate));
        Err(self.at + Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
    }
}

/// The machine.
#[derive(Clone, Copy, Debug)]
pub struct Throttle {
    cap: u64,
    /// The part of a second whose bytes may pass at once.
    parts: u64,
    all: Bucket,
    tenth: Bucket,
}

impl Throttle {
    /// A bound of `cap` bytes a second, at least [`MIN_CAP`].
    pub fn new(now: Instant, cap: u64) -> Self {
        Self::with_parts(now, cap, BURST_PARTS)
    }

    /// The same with a planted bug: the bytes of a whole second may pass at once.
    #[doc(hidden)]
    pub fn bursting(now: Instant, cap: u64) -> Self {
        Self::with_parts(now, cap, 1)
    }

    fn with_parts(now: Instant, cap: u64, parts: u64) -> Self {
        let cap = cap.max(MIN_CAP);
        let (all, tenth) = (Bucket::new(now, cap, parts), Bucket::new(now, cap / 10, parts));
        Self { cap, parts, all, tenth }
    }

    /// The cap, in bytes a second.
    pub const fn cap(&self) -> u64 {
        self.cap
    }

    /// Changes the cap; at least [`MIN_CAP`]. Who waits is to ask anew.
    pub fn set_cap(&mut self, now: Instant, cap: u64) {
        self.cap = cap.max(MIN_CAP);
        self.all.set_rate(now, self.cap, self.parts);
        self.tenth.set_rate(now, self.cap / 10, self.parts);
    }

    /// How much of a transfer should pass at once, in bytes: what is paid for in several goes and then sent in one
    /// would leave more unevenly than it was let through.
    pub fn piece(&self) -> u64 {
        PIECE_BYTES.min(self.all.burst)
    }

    /// Takes tokens for some of these bytes from the bucket of this pace: for how many, at least one unless `bytes` is
    /// 0, or when to ask again.
    ///
    /// # Errors
    /// The instant at which there will be enough, if nobody else takes any.
    pub fn take(&mut self, now: Instant, bucket: Pace, bytes: u64) -> Result<u64, Instant> {
        match bucket {
            Pace::Full => self.all.take(now, bytes),
            Pace::Tenth => self.tenth.take(now, bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as much as it gets until `end`: when how much passed.
    fn greedy(throttle: &mut Throttle, from: Instant, end: Instant, bucket: Pace) -> Vec<(Instant, u64)> {
        let (mut now, mut passed) = (from, Vec::new());
        while now < end {
            match throttle.take(now, bucket, throttle.piece()) {
                Ok(bytes) => passed.push((now, bytes)),
                Err(at) => {
                    assert!(at > now, "waiting must end");
                    now = at;
                }
            }
        }
        passed
    }

    fn busiest_second(passed: &[(Instant, u64)]) -> u64 {
        let (mut first, mut sum, mut most) = (0, 0, 0);
        for (at, bytes) in passed {
            sum += bytes;
            while at.since(passed[first].0) > Duration::from_secs(1) {
                sum -= passed[first].1;
                first += 1;
            }
            most = most.max(sum);
        }
        most
    }

    #[test]
    fn no_second_is_above_the_cap_by_more_than_a_tenth_at_any_cap() {
        for cap in [MIN_CAP, 100_003, 1_000_000, 50_000_000, 2_000_000_000] {
            let start = Instant::from_micros(77);
            let mut throttle = Throttle::new(start, cap);
            let passed = greedy(&mut throttle, start, start + Duration::from_secs(3), Pace::Full);
            let busiest = busiest_second(&passed);
            assert!(busiest * 10 <= cap * 11, "{busiest} bytes in a second, with a cap of {cap}");
            let all: u64 = passed.iter().map(|(_, bytes)| bytes).sum();
            assert!(all * 100 >= cap * 3 * 95, "{all} bytes in three seconds waste a cap of {cap}");
        }
    }

    #[test]
    fn changing_the_cap_gives_nobody_a_second_burst() {
        let mut now = Instant::ZERO;
        let mut throttle = Throttle::new(now, 1_000_000);
        let mut passed = Vec::new();
        for step in 0..200 {
            let end = now + Duration::from_millis(20);
            passed.extend(greedy(&mut throttle, now, end, Pace::Full));
            now = end;
            throttle.set_cap(now, if step % 2 == 0 { 900_000 } else { 1_000_000 });
        }
        assert!(busiest_second(&passed) <= 1_100_000, "{}", busiest_second(&passed));
    }

    #[test]
    fn a_tenth_is_a_tenth() {
        let mut throttle = Throttle::new(Instant::ZERO, 1_000_000);
        let passed = greedy(&mut throttle, Instant::ZERO, Instant::from_micros(5_000_000), Pace::Tenth);
        assert!(busiest_second(&passed) <= 110_000);
    }

    #[test]
    fn a_planted_burst_of_a_second_is_seen_by_the_check_above() {
        let mut throttle = Throttle::bursting(Instant::ZERO, 1_000_000);
        let passed = greedy(&mut throttle, Instant::ZERO, Instant::from_micros(2_000_000), Pace::Full);
        assert!(busiest_second(&passed) > 1_900_000);
    }
}
