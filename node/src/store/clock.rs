//! The one clock of a node: monotonic running time that counts suspended time too.
//!
//! [`Clock::now`] counts from the opening of the store and is never compared between processes.
//! [`Clock::running`] goes on where the last process left off: graces, back-off and ages of rows are
//! kept in it, so neither downtime nor a change of the wall clock shortens one. What passed between
//! the last commit and a crash is lost, which only makes waits longer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kepler_protocol::time::{Instant, UnixMillis};
use rustix::time::{ClockId, clock_gettime};

/// Reads `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Duration,
    before: Duration,
}

impl Clock {
    /// A clock that starts now; `before` is how long the store had been open in earlier processes.
    pub(crate) fn start(before: Duration) -> Self {
        Self { origin: boot_time(), before }
    }

    /// Since the store was opened.
    pub(crate) fn now(&self) -> Instant {
        Instant::ZERO + boot_time().saturating_sub(self.origin)
    }

    /// All the time that this store has ever been open.
    pub(crate) fn running(&self) -> Duration {
        self.before + boot_time().saturating_sub(self.origin)
    }

    /// When the running time that the database keeps is reached, by [`Clock::now`]; the opening of the
    /// store if it was before that.
    pub(crate) fn instant_of(&self, running_millis: i64) -> Instant {
        let at = Duration::from_millis(u64::try_from(running_millis).unwrap_or(0));
        Instant::ZERO + at.saturating_sub(self.before)
    }

    /// Running time as the database keeps it.
    pub(crate) fn running_millis(&self) -> i64 {
        to_millis(self.running())
    }
}

fn boot_time() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A duration in whole milliseconds, as the database keeps it.
pub(crate) fn to_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The running time since `then`, both as the database keeps it.
pub(crate) fn elapsed(now: i64, then: i64) -> Duration {
    Duration::from_millis(u64::try_from(now.saturating_sub(then)).unwrap_or(0))
}

/// The wall clock, for people.
pub(crate) fn wall() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The wall clock as the database keeps it.
pub(crate) fn wall_millis() -> i64 {
    i64::try_from(wall().0).unwrap_or(i64::MAX)
}
