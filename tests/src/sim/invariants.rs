//! What must hold, and what was found not to.
//!
//! The ledger sees every version that reaches any disk, step by step. What clients can see is
//! judged by [`history::checker`](crate::history::checker) at the end of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kepler_protocol::time::Instant;
use kepler_protocol::version::{Dot, Version};

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The run's seed.
    pub seed: u64,
    /// Which invariant.
    pub invariant: &'static str,
    /// When it was found, in virtual time.
    pub at: Instant,
    /// What happened, for a person.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, {} at {} us: {}", self.seed, self.invariant, self.at.as_micros(), self.detail)
    }
}

/// Every version that ever reached a disk, and every violation found.
#[derive(Debug, Default)]
pub struct Ledger {
    /// By dot.
    pub stored: BTreeMap<Dot, Version>,
    /// Dots that some version supersedes.
    pub superseded: BTreeSet<Dot>,
    /// When each of them first did.
    pub stored_at: BTreeMap<Dot, Instant>,
    /// In the order found.
    pub violations: Vec<Violation>,
}

impl Ledger {
    /// Notes that a version reached a disk. I22: it is the one that its dot has always named.
    pub fn stored(&mut self, seed: u64, at: Instant, version: Version) {
        self.superseded.extend(version.context.iter());
        self.stored_at.entry(version.dot).or_insert(at);
        let known = self.stored.entry(version.dot).or_insert_with(|| version.clone());
        if *known != version && !self.violations.iter().any(|v| v.invariant == "I22") {
            let detail = format!("{} names two versions: {known:?} and {version:?}", version.dot);
            self.violations.push(Violation { seed, invariant: "I22", at, detail });
        }
    }
}
