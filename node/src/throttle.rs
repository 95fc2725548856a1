//! The one bound on background traffic: every byte of it, in either direction, takes a token first.
//!
//! Invariants: within any stretch of time `t` at most `cap * (t + 1/20 s)` bytes pass, so no second
//! holds more than the cap and a twentieth, which leaves room for framing; tokens are given in the
//! order they were asked for; a change of the cap counts at once, for whoever waits already too.
//! Client traffic never comes here.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota};
use tokio::sync::watch;
use tokio::time::Instant;

/// Bytes of a background transfer that pass at once.
pub const PIECE_BYTES: usize = 64 << 10;

/// The smallest cap, in bytes a second: below it transfers would outlast their deadlines.
pub const MIN_CAP: u64 = 64 << 10;

/// The part of a second whose bytes may pass at once.
const BURST_PARTS: u32 = 20;

/// Bytes that one token stands for: caps are counted in 32 bits.
const TOKEN_BYTES: usize = 1 << 10;

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
    all: Bucket,
    tenth: Bucket,
    used: Mutex<Used>,
}

/// One bucket, of a share of the cap.
struct Bucket {
    /// Replaced when the cap changes.
    limiter: watch::Sender<Arc<Limiter>>,
    /// Held by whoever waits, so that turns are in order.
    turn: tokio::sync::Mutex<()>,
}

struct Limiter {
    tokens: DefaultDirectRateLimiter,
    burst: NonZeroU32,
}

impl Limiter {
    /// `rate` bytes a second.
    fn new(rate: u64) -> Arc<Self> {
        let tokens = u32::try_from(rate / TOKEN_BYTES as u64).unwrap_or(u32::MAX);
        let tokens = NonZeroU32::new(tokens).unwrap_or(NonZeroU32::MIN);
        let burst = NonZeroU32::new(tokens.get() / BURST_PARTS).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(tokens).allow_burst(burst);
        Arc::new(Self { tokens: DefaultDirectRateLimiter::direct(quota), burst })
    }
}

impl Bucket {
    fn new(rate: u64) -> Self {
        Self { limiter: watch::Sender::new(Limiter::new(rate)), turn: tokio::sync::Mutex::default() }
    }

    fn set_rate(&self, rate: u64) {
        self.limiter.send_replace(Limiter::new(rate));
    }

    async fn take(&self, bytes: usize) {
        let _turn = self.turn.lock().await;
        let mut limiters = self.limiter.subscribe();
        let mut left = u32::try_from(bytes.div_ceil(TOKEN_BYTES)).unwrap_or(u32::MAX);
        while let Some(wanted) = NonZeroU32::new(left) {
            let limiter = limiters.borrow_and_update().clone();
            let now = wanted.min(limiter.burst);
            tokio::select! {
                passed = limiter.tokens.until_n_ready(now) => {
                    passed.expect("no more than a burst is asked for");
                    left -= now.get();
                }
                _ = limiters.changed() => {}
            }
        }
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
            all: Bucket::new(cap.max(MIN_CAP)),
            tenth: Bucket::new(cap.max(MIN_CAP) / 10),
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
        let cap = cap.max(MIN_CAP);
        self.inner.cap.send_replace(cap);
        self.inner.all.set_rate(cap);
        self.inner.tenth.set_rate(cap / 10);
    }

    /// Waits until `bytes` more may pass, at most [`PIECE_BYTES`] at a time for an even flow.
    pub async fn take(&self, bytes: usize, pace: Pace) {
        if pace == Pace::Tenth {
            self.inner.tenth.take(bytes).await;
        }
        self.inner.all.take(bytes).await;
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

    #[tokio::test]
    async fn no_second_is_above_the_cap_by_more_than_a_tenth_and_none_is_wasted() {
        let (cap, total) = (2_000_000, 5_000_000);
        let throttle = Throttle::new(cap);
        let start = Instant::now();
        let (mut passed, mut left) = (Vec::new(), total);
        while left > 0 {
            let piece = left.min(PIECE_BYTES);
            throttle.take(piece, Pace::Full).await;
            passed.push((start.elapsed(), piece));
            left -= piece;
        }
        let (took, ideal) = (start.elapsed().as_secs_f64(), total as f64 / cap as f64);
        assert!((ideal * 0.95..ideal * 1.5).contains(&took), "{took} s, not {ideal}");
        for (i, (from, _)) in passed.iter().enumerate() {
            // A piece passes over a while: the first of a second began before it.
            let second = passed[i + 1..].iter().take_while(|(at, _)| *at - *from < Duration::from_secs(1));
            let sum: usize = second.map(|(_, piece)| piece).sum();
            assert!(sum as f64 <= cap as f64 * 1.1, "{sum} bytes in the second after {from:?}");
        }
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
