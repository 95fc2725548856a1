//! What the services ask of the catalog, and what they are answered.

use crate::api::Durability;
use crate::name::Name;
use crate::node_id::NodeId;
use crate::time::UnixMillis;
use crate::version::{Content, Dot, Version};

/// Names one command until it is answered; drawn by the caller, never reused in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u64);

/// What must hold of a name for a write to happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing: the write is not fenced.
    #[default]
    None,
    /// `If-Match`: the head has this dot.
    Head(Dot),
    /// `If-None-Match: *`: no live version.
    Absent,
}

/// A request of the services. Every command is answered by exactly one [`Outcome`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Reserves a dot for a write of `name` and begins to read the name from a majority.
    /// Answered by [`Outcome::Begun`] or [`Outcome::Refused`] as soon as the dot is durable.
    Begin {
        /// The name to be written.
        name: Name,
        /// What must hold.
        precondition: Precondition,
        /// What the write must reach.
        durability: Durability,
    },
    /// Publishes what a begun write has stored, once its chunks have their acknowledgements.
    /// A `fast` version is stored here alone until [`Command::Settle`]. Answered by
    /// [`Outcome::Published`] or [`Outcome::Refused`].
    Publish {
        /// The begun write.
        dot: Dot,
        /// What was stored; `None` deletes the name.
        content: Option<Content>,
        /// The wall clock, for display.
        created_at: UnixMillis,
        /// How long it may take: what the chunks have left of the time until a refusal. Never more
        /// than the catalog's own write timeout.
        within: std::time::Duration,
    },
    /// Gives a begun write up and closes its dot. Answered by [`Outcome::Done`].
    Abort {
        /// The begun write.
        dot: Dot,
    },
    /// Every chunk of a `fast` version has a majority of its owners: publish it to the home
    /// replicas. Answered by [`Outcome::Done`]; harmless to repeat.
    Settle {
        /// The version.
        dot: Dot,
    },
    /// Writes a tombstone. With `version`, supersedes that version alone. Answered by
    /// [`Outcome::Published`] or [`Outcome::Refused`].
    Delete {
        /// The name to delete.
        name: Name,
        /// Only this version of it.
        version: Option<Dot>,
        /// What must hold.
        precondition: Precondition,
        /// What the tombstone must reach.
        durability: Durability,
        /// The wall clock, for display.
        created_at: UnixMillis,
    },
    /// Reads the survivors of a name from a majority. Answered by [`Outcome::Read`] or
    /// [`Outcome::Refused`] with [`Refusal::NoQuorum`] or [`Refusal::NotReady`].
    Read {
        /// The name.
        name: Name,
    },
}

/// How much an answer to a read can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// A majority of the home replicas answered.
    Majority,
    /// None answered in time; a survivor was known here.
    Local,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The write may go on under this dot.
    Begun {
        /// Its name.
        dot: Dot,
    },
    /// The version is durable as the write asked.
    Published {
        /// The version.
        version: Version,
        /// Home replicas that acknowledged it, or this node alone for `fast`.
        acked: Vec<NodeId>,
        /// How many home replicas there are.
        wanted: usize,
    },
    /// The survivors of a name, tombstones included; empty where a majority knows none.
    Read {
        /// By dot.
        survivors: Vec<Version>,
        /// Who answered.
        consistency: Consistency,
    },
    /// There is nothing to say.
    Done,
    /// It was not done.
    Refused(Refusal),
}

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This node is not admitted or not ready.
    #[error("this node is not ready: {0}")]
    NotReady(String),
    /// Too few home replicas answered; nothing was published and the dot is closed.
    #[error("{answered} of the {needed} needed replicas answered")]
    NoQuorum {
        /// Who answered, this node included where it is a home replica.
        answered: usize,
        /// The majority, or N for `all`.
        needed: usize,
    },
    /// The base of a conditional write is gone.
    #[error("the file was changed meanwhile")]
    PreconditionFailed {
        /// The head now, if there is one.
        head: Option<Dot>,
    },
    /// Published, but not known to have reached its durability: it may surface.
    #[error("the write may or may not have been kept: {answered} of the {needed} needed replicas answered")]
    Unknown {
        /// The version.
        dot: Dot,
        /// Who acknowledged it.
        answered: usize,
        /// Who was needed.
        needed: usize,
    },
    /// There is no such live name or version.
    #[error("there is no such file")]
    NotFound,
    /// The name has too many concurrent versions.
    #[error("the name has too many concurrent versions: delete or overwrite some first")]
    TooManyConflicts,
    /// There is no such begun write: it was aborted, or this node restarted.
    #[error("no such write is under way")]
    NotBegun,
}
