//! The one bound on background traffic: every byte of it, in either direction, takes a token first.
//!
//! Invariants: within any stretch of time `t` at most `cap * (t + 1/20 s)` bytes pass, so no second
//! holds more than the cap and a twentieth, which leaves room for framing; tokens are given in the
//! order they were asked for; a change of the cap counts at once, for whoever waits already too.
//! Client traffic never comes here.
//!
//! The bucket is written here rather than taken from a crate: a cap that changes while others wait and
//! pieces larger than the burst at the smallest caps are what rate limiters do not offer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Bytes of a background transfer that pass at once.
pub const PIECE_BYTES: usize = 64 << 10;

/// The smallest cap, in bytes a second: below it transfers would outlast their deadlines.
pub const MIN_CAP: u64 = 64 << 10;

/// The part of a second whose bytes may pass at once.
const BURST_PARTS: f64 = 20.0;

/// What is remembered to tell how much was used.
const REMEMBERED: Duration = Duration::from_secs(2);

/// How fast a background transfer may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pace {
    /// As fast as the cap allows.
    #[default]
    Full,
    /// At a tenth of it: much is to be repaired at once, and other things are more urgent.
    Tenth,
}

/// The bound; cheap to clone.
#[derive(Clone)]
pub struct Throttle {
    inner: Arc<Inner>,
}

struct Inner {
    cap: watch::Sender<u64>,
    all: tokio::sync::Mutex<Bucket>,
    tenth: tokio::sync::Mutex<Bucket>,
    used: Mutex<Used>,
}

/// Bytes that may pass now; at most those of a twentieth of a second, and less than none after a
/// piece larger than that.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    const fn new(now: Instant) -> Self {
        Self { tokens: 0.0, at: now }
    }

    /// Takes `bytes` at `rate` bytes a second, or says how long to wait before asking again.
    fn take(&mut self, now: Instant, bytes: usize, rate: f64) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * rate).min(rate / BURST_PARTS);
        self.at = now;
        // What is larger than a full bucket goes into debt, which those after it wait off.
        let wanted = (bytes as f64).min(rate / BURST_PARTS);
        if self.tokens >= wanted {
            self.tokens -= bytes as f64;
            return Ok(());
        }
        let wait = Duration::from_secs_f64((wanted - self.tokens) / rate);
        Err(wait.max(Duration::from_millis(1)))
    }
}

#[derive(Debug, Default)]
struct Used {
    total: u64,
    recent: VecDeque<(Instant, u64)>,
}

impl Throttle {
    /// A bound of `cap` bytes a second, at least [`MIN_CAP`].
    pub fn new(cap: u64) -> Self {
        let inner = Inner {
            cap: watch::Sender::new(cap.max(MIN_CAP)),
            all: tokio::sync::Mutex::new(Bucket::new(Instant::now())),
            tenth: tokio::sync::Mutex::new(Bucket::new(Instant::now())),
            used: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The cap, in bytes a second.
    pub fn cap(&self) -> u64 {
        *self.inner.cap.borrow()
    }

    /// Changes the cap; at least [`MIN_CAP`].
    pub fn set_cap(&self, cap: u64) {
        self.inner.cap.send_replace(cap.max(MIN_CAP));
    }

    /// Waits until `bytes` more may pass, at most [`PIECE_BYTES`] at a time for an even flow.
    pub async fn take(&self, bytes: usize, pace: Pace) {
        if pace == Pace::Tenth {
            self.draw(&self.inner.tenth, bytes, 10.0).await;
        }
        self.draw(&self.inner.all, bytes, 1.0).await;
        self.note(bytes as u64);
    }

    /// Bytes taken within the last second.
    pub fn used(&self) -> u64 {
        let mut used = self.inner.used.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        used.forget(now);
        let recent = used.recent.iter().rev();
        let last = recent.take_while(|(at, _)| now.saturating_duration_since(*at) <= Duration::from_secs(1));
        last.map(|(_, bytes)| bytes).sum()
    }

    /// Bytes taken since the start.
    pub fn total(&self) -> u64 {
        self.inner.used.lock().unwrap_or_else(PoisonError::into_inner).total
    }

    /// Takes tokens from one bucket. Whoever waits holds the bucket, so that turns are in order.
    async fn draw(&self, bucket: &tokio::sync::Mutex<Bucket>, bytes: usize, share: f64) {
        let mut bucket = bucket.lock().await;
        let mut cap = self.inner.cap.subscribe();
        loop {
            let rate = *cap.borrow_and_update() as f64 / share;
            let Err(wait) = bucket.take(Instant::now(), bytes, rate) else { return };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = cap.changed() => {}
            }
        }
    }

    fn note(&self, bytes: u64) {
        let mut used = self.inner.used.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        used.forget(now);
        used.total += bytes;
        match used.recent.back_mut() {
            // Ten milliseconds are one entry, so that the memory is bounded whatever the cap.
            Some((at, sum)) if now.saturating_duration_since(*at) < Duration::from_millis(10) => {
                *sum += bytes
            }
            _ => used.recent.push_back((now, bytes)),
        }
    }
}

impl Used {
    fn forget(&mut self, now: Instant) {
        while self.recent.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > REMEMBERED) {
            self.recent.pop_front();
        }
    }
}

impl std::fmt::Debug for Throttle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Throttle({} bytes/s)", self.cap())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When each piece of `total` bytes passes, from the start, if all are asked for at once.
    fn flow(rate: f64, total: usize) -> Vec<(Duration, usize)> {
        let start = Instant::now();
        let (mut bucket, mut now, mut passed, mut left) = (Bucket::new(start), start, Vec::new(), total);
        while left > 0 {
            let piece = left.min(PIECE_BYTES);
            match bucket.take(now, piece, rate) {
                Ok(()) => {
                    passed.push((now - start, piece));
                    left -= piece;
                }
                Err(wait) => now += wait,
            }
        }
        passed
    }

    #[test]
    fn no_second_is_above_the_cap_by_more_than_a_tenth_and_none_is_wasted() {
        for (rate, total) in [(2e6, 20_000_000), (50e6, 200_000_000), (1e9, 2_000_000_000)] {
            let passed = flow(rate, total);
            let took = passed.last().unwrap().0.as_secs_f64();
            let ideal = total as f64 / rate;
            assert!((ideal * 0.95..ideal * 1.05).contains(&took), "{rate}: {took} s, not {ideal}");
            let (mut first, mut sum) = (0, 0);
            for (at, bytes) in &passed {
                sum += bytes;
                while *at - passed[first].0 >= Duration::from_secs(1) {
                    sum -= passed[first].1;
                    first += 1;
                }
                assert!(sum as f64 <= rate * 1.08, "{rate}: {sum} bytes in the second before {at:?}");
            }
        }
    }

    #[test]
    fn an_idle_hour_saves_up_a_twentieth_of_a_second_and_no_more() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let later = start + Duration::from_secs(3600);
        let mut passed = 0;
        while bucket.take(later, 10_000, 2e6).is_ok() {
            passed += 10_000;
        }
        assert_eq!(passed, 100_000);
    }

    #[tokio::test]
    async fn a_new_cap_counts_for_whoever_waits_already() {
        let throttle = Throttle::new(MIN_CAP);
        let waiting = tokio::spawn({
            let throttle = throttle.clone();
            async move {
                for _ in 0..20 {
                    throttle.take(PIECE_BYTES, Pace::Full).await;
                }
            }
        });
        let started = Instant::now();
        tokio::time::sleep(Duration::from_millis(20)).await;
        throttle.set_cap(1 << 30);
        waiting.await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(5), "20 s at the first cap: {:?}", started.elapsed());
        assert_eq!((throttle.total(), throttle.cap()), (20 * PIECE_BYTES as u64, 1 << 30));
        assert!(throttle.used() > 0);
    }

    #[tokio::test]
    async fn a_tenth_leaves_the_rest_to_others() {
        let throttle = Throttle::new(4 << 20);
        let slow = tokio::spawn({
            let throttle = throttle.clone();
            async move { throttle.take(4 << 20, Pace::Tenth).await }
        });
        // The slow one has its bytes only after the debt of those before is paid off in its own bucket.
        let _ = slow.await;
        let behind = throttle.clone();
        let next = tokio::spawn(async move { behind.take(PIECE_BYTES, Pace::Tenth).await });
        let started = Instant::now();
        throttle.set_cap(64 << 20);
        throttle.take(PIECE_BYTES, Pace::Full).await;
        assert!(
            started.elapsed() < Duration::from_secs(1),
            "full pace waits for no tenth: {:?}",
            started.elapsed()
        );
        next.abort();
    }
}
