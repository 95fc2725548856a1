//! The local health multiplier: how much this node doubts itself.
//!
//! Lifeguard (Dadgar, Phillips, Currey, 2018), section IV-A: a node that misses what it should have
//! received is probably slow itself, and becomes patient with others.

use std::time::Duration;

/// The greatest multiplier.
pub const MAX_HEALTH: u8 = 8;

/// 0 (well) to [`MAX_HEALTH`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Health(u8);

impl Health {
    /// The present multiplier.
    pub const fn value(self) -> u8 {
        self.0
    }

    /// Something that should have come did not, or a timer fired late.
    pub fn worsen(&mut self, by: u8) {
        self.0 = self.0.saturating_add(by).min(MAX_HEALTH);
    }

    /// A probe was answered in time.
    pub fn improve(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }

    /// `duration` times one more than the multiplier, or than a peer's where that is greater.
    pub fn stretch(self, duration: Duration, peer: u8) -> Duration {
        duration * (1 + u32::from(self.0.max(peer.min(MAX_HEALTH))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubt_is_bounded_and_passes() {
        let mut health = Health::default();
        health.worsen(200);
        assert_eq!(health.stretch(Duration::from_secs(1), 255), Duration::from_secs(9));
        (0..20).for_each(|_| health.improve());
        assert_eq!(health.stretch(Duration::from_secs(1), 0), Duration::from_secs(1));
        assert_eq!(health.stretch(Duration::from_secs(1), 2), Duration::from_secs(3));
    }
}
