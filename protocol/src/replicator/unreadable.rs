//! Copies that the disk fails to give: how many of them are given up, and how fast.
//!
//! A sector that cannot be read is as bad as a bit that flipped, and mended the same way: the copy is set aside and
//! fetched anew, which has the disk write it elsewhere. But a disk that dies, a cable that is loose or a file
//! system that shut down gives nothing at all; there every copy would be set aside within minutes, of which many
//! may be whole. So only [`BURST`] are given up at once, and one more every [`EVERY`]; the others stay, vouched for by
//! nobody, and are looked at again by the scrub.

use std::time::Duration;

use crate::time::Instant;

/// Copies given up at once at most.
pub const BURST: u32 = 16;

/// One more may be given up after so long.
pub const EVERY: Duration = Duration::from_secs(60);

/// How many may be given up now.
#[derive(Debug)]
pub struct Unreadable {
    left: u32,
    since: Instant,
    /// Copies found unreadable and kept since one could be given up last.
    kept: u64,
}

impl Unreadable {
    /// A process begins.
    pub const fn new(now: Instant) -> Self {
        Self { left: BURST, since: now, kept: 0 }
    }

    /// A copy could not be read, twice: whether it is given up.
    pub fn found(&mut self, now: Instant) -> bool {
        let earned = now.since(self.since).as_secs() / EVERY.as_secs();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(earned).min(BURST);
        self.since = if self.left == BURST { now } else { self.since + EVERY * earned };
        let may = self.left > 0;
        if may {
            self.left -= 1;
        }
        self.kept = if may { 0 } else { self.kept + 1 };
        may
    }

    /// Whether so many copies could not be read that the disk itself is in doubt.
    pub const fn in_doubt(&self) -> bool {
        self.kept > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_bad_sectors_are_given_up_at_once_and_a_dying_disk_slowly() {
        let mut now = Instant::ZERO + Duration::from_secs(5);
        let mut unreadable = Unreadable::new(now);
        let given_up = (0..1000).filter(|_| unreadable.found(now)).count();
        assert_eq!(given_up, BURST as usize);
        assert!(unreadable.in_doubt());
        // An hour of reading errors, ten a second.
        let mut given_up = 0;
        for _ in 0..36_000 {
            now += Duration::from_millis(100);
            given_up += u32::from(unreadable.found(now));
        }
        assert_eq!(given_up, 60);
        now += EVERY * 100;
        assert_eq!(
            (0..1000).filter(|_| unreadable.found(now)).count(),
            BURST as usize,
            "and no more was saved up"
        );
    }
}
