//! The rules by which a copy may be deleted and vouched for: pure predicates.
//!
//! The store evaluates them *inside* the one transaction that then marks the chunk *gone* or records
//! the promise, on facts read in that transaction. Whatever the machine believed when it asked for
//! the step is only a reason to try.
//!
//! Why no two nodes delete against each other: whoever releases has receipts of all N owners, each
//! given after hashing its copy and sent less than [`RECEIPT_VALID`] after the question; whoever gave
//! one releases and collects nothing for [`PROMISE`], which is longer, and gives none for a chunk that
//! is marked. So at the instant of a release N other copies exist, none of which can be released or
//! collected before the release is over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Faults;
use crate::catalog::seen::Seen;
use crate::chunk::ChunkId;
use crate::identity::DatabaseId;
use crate::node_id::NodeId;
use crate::roster::Roster;
use crate::time::Instant;
use crate::version::{Dot, Origin};
use crate::view::{State, View};

/// For how long an owner that gave a receipt keeps the chunk, whatever happens; again from the start
/// after a restart.
pub const PROMISE: Duration = Duration::from_secs(120);

/// For how long a receipt may be acted upon, counted from *sending* the question.
pub const RECEIPT_VALID: Duration = Duration::from_secs(60);

/// What a reference is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reference {
    /// A surviving version has the dot.
    Live,
    /// Nothing is known of the dot: an upload under way, or a version that is still to come.
    Unseen,
    /// The dot was seen and no version that has it survives, or it was declared ended.
    Ended,
}

impl Reference {
    /// Judges a reference. `survives`: a surviving version, published or not, has the dot.
    /// `declared`: its origin belongs to a database that the roster dropped, and the floor of that
    /// roster lacks the dot.
    pub fn judge(dot: &Dot, seen: &Seen, survives: bool, declared: bool, faults: Faults) -> Self {
        if survives {
            Self::Live
        } else if seen.contains(dot) || declared || faults.unseen_is_ended {
            Self::Ended
        } else {
            Self::Unseen
        }
    }
}

/// Databases of members, as rosters bind them.
pub type Databases = BTreeMap<NodeId, DatabaseId>;

/// The databases that a roster binds.
pub fn databases(roster: &Roster) -> Databases {
    roster.members.iter().map(|(node, entry)| (*node, entry.database)).collect()
}

/// Nodes a database of which was dropped by a roster, with the database that they have now.
pub type Dropped = BTreeMap<NodeId, Option<DatabaseId>>;

/// What was dropped once the databases bound are `after`: what was known to be, and what `before` bound
/// that `after` does not.
pub fn dropped(known: &Dropped, before: &Databases, after: &Databases) -> Dropped {
    let lost = before.iter().filter(|(node, database)| after.get(*node) != Some(*database));
    let nodes = known.keys().chain(lost.map(|(node, _)| node));
    nodes.map(|node| (*node, after.get(node).copied())).collect()
}

/// Which databases a node has seen rosters bind and drop: durable, in the database that it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// By the roster that was last noted.
    pub databases: Databases,
    /// Those that were dropped by then.
    pub dropped: Dropped,
}

impl Bound {
    /// What is to be noted of a roster, if that is anything new. `ready`: this node has seen all that the others
    /// know of the logs that end with it; before that nothing is noted, for what is still to come is not lost.
    pub fn follow(&self, roster: &Roster, ready: bool) -> Option<Self> {
        let databases = databases(roster);
        if !ready || self.databases == databases {
            return None;
        }
        let dropped = match self.databases.is_empty() {
            // What came before the first roster that is noted is over, whatever it was: else a node that lost its own
            // database would keep for ever what others know to be lost.
            true => databases.iter().map(|(node, database)| (*node, Some(*database))).collect(),
            false => dropped(&self.dropped, &self.databases, &databases),
        };
        Some(Self { databases, dropped })
    }

    /// Whether what nobody saw of a log is ended.
    pub fn is_ended(&self, origin: &Origin, faults: Faults) -> bool {
        let any = faults.successor_is_dropped && self.dropped.contains_key(&origin.node);
        (any || is_dropped(origin, &self.dropped)) && !faults.lost_logs_live
    }
}

/// Whether the dots of a log that the floor lacks are ended for collection: a database of its node was
/// dropped, and the log does not belong to the one that the node has now.
pub fn is_dropped(origin: &Origin, dropped: &Dropped) -> bool {
    let began_in = |now: &Option<DatabaseId>| now.is_some_and(|database| database.began(origin.generation));
    dropped.get(&origin.node).is_some_and(|now| !began_in(now))
}

/// Why a copy stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Kept {
    /// It is being deleted already, or is not here.
    #[error("the chunk is marked gone or is not here")]
    Gone,
    /// This node promised to keep it.
    #[error("another node acts on a promise of this one")]
    Promised,
    /// Too many members are dead.
    #[error("too many members are dead")]
    Breaker,
    /// An owner has not vouched for it.
    #[error("not all owners gave a receipt")]
    NoReceipt,
    /// The oldest receipt is too old.
    #[error("the receipts are too old")]
    Stale,
    /// A reference came that the owners were not told of, or one that has not ended.
    #[error("there is a reference that keeps the chunk")]
    Referenced,
    /// The grace is not over.
    #[error("the grace is not over")]
    Grace,
    /// This node's catalog cannot be relied on.
    #[error("this node's catalog is not ready")]
    NotReady,
}

/// What the transaction finds out about a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether its row is here and not marked gone.
    pub here: bool,
    /// Until when it is promised. After a restart each promise on disk counts from the start.
    pub promised_until: Option<Instant>,
    /// Its references.
    pub references: BTreeMap<Dot, Reference>,
    /// Whether references may have been lost with a database.
    pub recovered: bool,
    /// For how much running time it is noted as unreferenced.
    pub unreferenced_for: Option<Duration>,
}

impl Facts {
    fn free(&self, now: Instant, breaker: bool, faults: Faults) -> Result<(), Kept> {
        if !self.here {
            return Err(Kept::Gone);
        }
        if self.promised_until.is_some_and(|until| now < until) && !faults.promise_forgotten {
            return Err(Kept::Promised);
        }
        if breaker && !faults.breaker_ignored { Err(Kept::Breaker) } else { Ok(()) }
    }
}

/// What a release rests on: the machine's account of the receipts it got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The chunk.
    pub chunk: ChunkId,
    /// When the first of the questions was *sent*; of this process.
    pub asked_at: Instant,
    /// All N owners.
    pub owners: BTreeSet<NodeId>,
    /// Who of them gave a receipt.
    pub receipts: BTreeSet<NodeId>,
    /// The references that the questions carried.
    pub references: BTreeSet<Dot>,
}

/// Whether a copy may be marked gone because its owners vouched for theirs. `breaker` is
/// [`breaker`] at `now`.
///
/// # Errors
/// Why it stays.
pub fn release(
    claim: &Claim,
    facts: &Facts,
    now: Instant,
    breaker: bool,
    faults: Faults,
) -> Result<(), Kept> {
    facts.free(now, breaker, faults)?;
    if claim.owners.is_empty() || claim.receipts != claim.owners {
        return Err(Kept::NoReceipt);
    }
    if now.since(claim.asked_at) >= RECEIPT_VALID && !faults.stale_receipts {
        return Err(Kept::Stale);
    }
    let told = |dot: &Dot, worth: &Reference| *worth == Reference::Ended || claim.references.contains(dot);
    let carried = facts.references.iter().all(|(dot, worth)| told(dot, worth));
    if carried || faults.references_left_behind { Ok(()) } else { Err(Kept::Referenced) }
}

/// Whether a copy may be marked gone because nothing refers to it. `ready`: the catalog is ready and
/// its roster's majority answers.
///
/// # Errors
/// Why it stays.
pub fn collect(
    facts: &Facts,
    now: Instant,
    gc_grace: Duration,
    ready: bool,
    breaker: bool,
    faults: Faults,
) -> Result<(), Kept> {
    facts.free(now, breaker, faults)?;
    if !ready && !faults.collect_when_cut_off {
        return Err(Kept::NotReady);
    }
    if facts.recovered || facts.references.values().any(|worth| *worth != Reference::Ended) {
        return Err(Kept::Referenced);
    }
    if facts.unreferenced_for.is_none_or(|waited| waited < gc_grace) && !faults.no_gc_grace {
        return Err(Kept::Grace);
    }
    Ok(())
}

/// Whether a promise may be recorded: the chunk is here, not marked gone. The caller has just hashed
/// the file, and adopts the references in the same transaction.
pub fn promise(here: bool, gone: bool, faults: Faults) -> bool {
    here && (!gone || faults.gone_is_a_hit)
}

/// Whether so much of the roster is dead in a view that nothing may be unlinked (I20): at least two
/// members and more than a third of them. A member that the view does not know counts as dead.
pub fn breaker(roster: &Roster, view: &View) -> bool {
    let is_dead = |id: &&NodeId| view.member(id).is_none_or(|member| member.state == State::Dead);
    let dead = roster.members.keys().filter(is_dead).count();
    dead >= 2 && 3 * dead > roster.members.len()
}
