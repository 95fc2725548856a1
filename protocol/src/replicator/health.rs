//! What a node can say of the health of what it holds, in numbers.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::chunk::ChunkId;

/// What this node knows to be amiss, and what it does about it. Numbers are of the last complete pass
/// over the disk and of the work that came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Chunks that an owner lacks and for which this node is the first that can send them.
    pub under_replicated: u64,
    /// Of these, chunks of which no other owner has a copy.
    pub single_copy: u64,
    /// Chunks that should be here and whose file is gone or rotten, and that nobody was found to have
    /// in at least two attempts.
    pub missing: BTreeSet<ChunkId>,
    /// The same of which nobody can say so yet: they are being fetched anew.
    pub fetching: BTreeSet<ChunkId>,
    /// Copies here that others own.
    pub surplus: u64,
    /// Copies being sent.
    pub moving: u64,
    /// Their bytes, as far as known.
    pub moving_bytes: u64,
    /// Whether so many members are dead that nothing is deleted.
    pub breaker: bool,
    /// Whether an operator paused repair.
    pub paused: bool,
    /// Whether repair runs at a tenth of the cap, as members died together.
    pub slow: bool,
    /// The scrub.
    pub scrub: Scrub,
    /// What is waited for, and for how much longer, as far as known.
    pub waiting: Vec<Waiting>,
}

/// How far the scrub is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrub {
    /// Whether it is neither paused nor between two passes.
    pub running: bool,
    /// Whether an operator paused it.
    pub paused: bool,
    /// Chunks checked in this pass.
    pub checked: u64,
    /// Of them, chunks that were rotten.
    pub bad: u64,
    /// Passes completed by this process.
    pub passes: u64,
}

/// Something that is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// In words, for people.
    pub what: String,
    /// For how much longer, if that is known.
    pub remaining: Option<Duration>,
}
