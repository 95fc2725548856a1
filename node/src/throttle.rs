//! The one bound on background traffic: every byte of it, in either direction, takes a token first.
//!
//! When how much may pass is decided by [`kepler_protocol::throttle`]. Here: tokens are given in the order they
//! were asked for; a change of the cap counts at once, for whoever waits already too. Client traffic never comes here.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kepler_protocol::throttle::Throttle as Machine;
use kepler_protocol::{replicator, time};
use tokio::sync::watch;
use tokio::time::Instant;

pub use kepler_protocol::throttle::MIN_CAP;

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
    /// Where the machine's time begins.
    origin: Instant,
    machine: Mutex<Machine>,
    /// Told of each new cap.
    cap: watch::Sender<u64>,
    /// Held by whoever waits for the bucket of all, or of a tenth, so that turns are in order.
    all: tokio::sync::Mutex<()>,
    tenth: tokio::sync::Mutex<()>,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    total: u64,
    recent: VecDeque<(Instant, u64)>,
}

impl Throttle {
    /// A bound of `cap` bytes a second, at least [`MIN_CAP`].
    pub fn new(cap: u64) -> Self {
        let machine = Machine::new(time::Instant::ZERO, cap);
        let inner = Inner {
            origin: Instant::now(),
            machine: Mutex::new(machine),
            cap: watch::Sender::new(machine.cap()),
            all: tokio::sync::Mutex::default(),
            tenth: tokio::sync::Mutex::default(),
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
        let now = self.now();
        let mut machine = self.machine();
        machine.set_cap(now, cap);
        self.inner.cap.send_replace(machine.cap());
    }

    /// How much of a transfer should pass at once for an even flow, in bytes.
    pub fn piece(&self) -> usize {
        usize::try_from(self.machine().piece()).unwrap_or(usize::MAX)
    }

    /// Waits until `bytes` more may pass.
    pub async fn take(&self, bytes: usize, pace: Pace) {
        if pace == Pace::Tenth {
            let turn = self.inner.tenth.lock().await;
            self.wait(bytes as u64, replicator::Pace::Tenth).await;
            drop(turn);
        }
        let _turn = self.inner.all.lock().await;
        self.wait(bytes as u64, replicator::Pace::Full).await;
        self.note(bytes as u64);
    }

    async fn wait(&self, bytes: u64, bucket: replicator::Pace) {
        let mut caps = self.inner.cap.subscribe();
        let mut left = bytes;
        while left > 0 {
            caps.borrow_and_update();
            let taken = self.machine().take(self.now(), bucket, left);
            match taken {
                Ok(passed) => left -= passed,
                Err(at) => {
                    let at = self.inner.origin + at.since(time::Instant::ZERO);
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => {}
                        _ = caps.changed() => {}
                    }
                }
            }
        }
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.inner.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> time::Instant {
        time::Instant::ZERO + self.inner.origin.elapsed()
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

    const PIECE_BYTES: usize = kepler_protocol::throttle::PIECE_BYTES as usize;

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
