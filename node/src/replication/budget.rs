//! A bound on the bytes of chunks that are in memory for one purpose, over all transfers of the node.
//!
//! Invariant: the shares that live at once stand for at most the budget, but that a chunk larger than
//! the whole budget takes all of it and goes alone. Shares are given in the order they were asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Bytes that one permit stands for.
const UNIT: usize = 1 << 10;

/// A number of bytes that transfers share; cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget {
    units: Arc<Semaphore>,
    most: u32,
    wanted: Arc<Wanted>,
}

/// Who waits for a share.
#[derive(Debug, Default)]
struct Wanted {
    waiting: AtomicUsize,
    come: Notify,
}

/// Counted as waiting until it is dropped.
struct Waiting<'a>(&'a Wanted);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A part of a [`Budget`]; given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    _permit: OwnedSemaphorePermit,
}

impl Budget {
    /// A budget of `bytes`, at least 1 KiB.
    pub fn new(bytes: usize) -> Self {
        let most =
            u32::try_from((bytes / UNIT).max(1)).unwrap_or(u32::MAX).min(Semaphore::MAX_PERMITS as u32);
        Self { units: Arc::new(Semaphore::new(most as usize)), most, wanted: Arc::default() }
    }

    /// Waits for room for `bytes`. Whoever holds a share has a deadline of its own, so this ends.
    pub async fn take(&self, bytes: usize) -> Share {
        if let Some(share) = self.try_take(bytes) {
            return share;
        }
        self.wanted.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.wanted);
        self.wanted.come.notify_waiters();
        let permit = self.units.clone().acquire_many_owned(self.share_of(bytes)).await;
        Share { _permit: permit.expect("a budget is never closed") }
    }

    /// Room for `bytes` if there is any now.
    pub fn try_take(&self, bytes: usize) -> Option<Share> {
        let permit = self.units.clone().try_acquire_many_owned(self.share_of(bytes)).ok()?;
        Some(Share { _permit: permit })
    }

    /// Waits until somebody waits for a share: whoever holds one that it does not use gives it back then.
    pub async fn wanted(&self) {
        loop {
            let come = self.wanted.come.notified();
            if self.wanted.waiting.load(Ordering::Relaxed) > 0 {
                return;
            }
            come.await;
        }
    }

    fn share_of(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_stand_for_more_than_the_budget() {
        let budget = Budget::new(10 << 20);
        let first = budget.try_take(4 << 20);
        let second = budget.try_take(4 << 20);
        assert!(first.is_some() && second.is_some());
        assert!(budget.try_take(4 << 20).is_none(), "8 of 10 MiB are taken");
        drop(first);
        assert!(budget.try_take(6 << 20).is_some());
    }

    #[tokio::test]
    async fn whoever_holds_a_share_learns_that_another_waits_for_it() {
        let budget = Budget::new(1 << 20);
        let held = budget.take(1 << 20).await;
        let nobody = tokio::time::timeout(std::time::Duration::from_millis(20), budget.wanted()).await;
        assert!(nobody.is_err(), "nobody waits");
        let other = budget.clone();
        let waiting = tokio::spawn(async move { other.take(1).await });
        budget.wanted().await;
        drop(held);
        drop(waiting.await.expect("a share"));
        let nobody = tokio::time::timeout(std::time::Duration::from_millis(20), budget.wanted()).await;
        assert!(nobody.is_err(), "nobody waits any more");
    }

    #[test]
    fn a_chunk_larger_than_the_budget_goes_alone() {
        let budget = Budget::new(4 << 20);
        let large = budget.try_take(64 << 20);
        assert!(large.is_some());
        assert!(budget.try_take(1).is_none());
        drop(large);
        assert!(budget.try_take(1).is_some());
    }
}
