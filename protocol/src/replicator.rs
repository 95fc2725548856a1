//! The replicator: what a node does, by itself, so that every chunk has N copies where they belong.
//!
//! One [`Replicator`] a node. It is told who is here ([`Input::View`]), who counts
//! ([`Input::Roster`]) and whether its catalog can be relied on ([`Input::Ready`]), asks the
//! executor to show it what the disk holds, page by page, and to carry out what follows. It never
//! does IO, holds nothing that must survive the process, and may forget all at any time: what it was
//! about to do is found again by the next pass.
//!
//! # Driving it
//!
//! [`Replicator::handle`] takes an input; after it, and after [`Replicator::handle_timeout`] at
//! [`Replicator::poll_timeout`], carry out [`Replicator::poll_action`] until there is none, and tell
//! people of [`Replicator::poll_event`]. Actions may be carried out concurrently and in any order,
//! with one exception: a [`Action::Note`] is durable before a later [`Action::Page`] is read. Every
//! action with an id is answered by one [`Input::Done`] (or [`Input::Answer`], for [`Action::Ask`]),
//! failed ones too; an answer too many is ignored. The machine bounds how many it has under way.
//!
//! | action | answered by | the executor |
//! | --- | --- | --- |
//! | [`Action::Page`] | [`Done::Page`] | reads rows after a chunk, in the store's own order, not marked gone |
//! | [`Action::Note`] | nothing | writes grace marks, in one transaction |
//! | [`Action::Ask`] | [`Input::Answer`] | sends a [`Question`] to a peer; [`Unreachable`] after the deadline |
//! | [`Action::Answer`] | nothing | answers a peer's question |
//! | [`Action::Look`] | [`Done::Looked`] | looks up chunks and the digests of their references |
//! | [`Action::Promise`] | [`Done::Promised`] | hashes the file, then in one transaction: [`rules::promise`], adopt the references, record the promise for [`rules::PROMISE`] from the commit on |
//! | [`Action::References`] | [`Done::References`] | reads the references that have not ended |
//! | [`Action::Send`] | [`Done::Sent`] | pushes a chunk with its references (only these, where it is held), paced by the throttle |
//! | [`Action::Fetch`] | [`Done::Fetched`] | fetches a chunk from one of these, else from anyone; paced |
//! | [`Action::Release`] | [`Done::Released`] | in one transaction: [`rules::release`], mark gone; then unlink, folder fsync, drop the row |
//! | [`Action::Collect`] | [`Done::Collected`] | the same for each chunk by [`rules::collect`] |
//! | [`Action::Scrub`] | [`Done::Scrubbed`] | hashes chunks after the durable cursor, quarantines bad ones, moves the cursor |
//!
//! # The parts
//!
//! | part | decides |
//! | --- | --- |
//! | [`placement`] | where chunks should be for healing: the ring with the newly dead still on it |
//! | [`inventory`] | what a peer lacks of what both should hold |
//! | [`plan`] | who sends it, when, and in which order |
//! | [`surplus`] | whose receipts a superfluous copy needs |
//! | [`rules`] | what the store's transactions check before they mark, promise or collect |
//! | [`scrub`] | when which chunks are hashed again |
//! | [`health`] | what people are told |
//!
//! # Invariants
//!
//! A copy goes only against receipts of all N owners or because all its references have ended (I7,
//! I8); nothing goes while too many members are dead (I20); every queue here has a cap, and what does
//! not fit is found again by a later pass.

pub mod health;
pub mod holding;
pub mod inventory;
pub mod message;
pub mod placement;
pub mod plan;
pub mod rules;
pub mod scrub;
pub mod surplus;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::chunk::ChunkId;
use crate::node_id::NodeId;
use crate::roster::Roster;
use crate::time::Instant;
use crate::version::Dot;
use crate::view::View;

use health::Health;
use holding::{Note, Page};
use message::{Answer, Holds, Item, Question};
use rules::{Claim, Kept};

/// Settings; durations are running time.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// `REPAIR_DELAY_SECS`: how long a dead member keeps its place before its chunks are copied.
    pub repair_delay: Duration,
    /// `HANDOFF_GRACE_SECS`: how long a superfluous copy is kept.
    pub handoff_grace: Duration,
    /// `GC_GRACE_SECS`: how long a chunk is kept after its last reference ended.
    pub gc_grace: Duration,
    /// `INVENTORY_INTERVAL_SECS`: between two passes over the disk.
    pub inventory_interval: Duration,
    /// `SCRUB_INTERVAL_SECS`: for one pass of re-hashing.
    pub scrub_interval: Duration,
    /// Planted bugs.
    #[doc(hidden)]
    pub faults: Faults,
}

impl Config {
    /// The defaults.
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            repair_delay: Duration::from_secs(30),
            handoff_grace: Duration::from_secs(600),
            gc_grace: Duration::from_secs(3600),
            inventory_interval: Duration::from_secs(600),
            scrub_interval: Duration::from_secs(604_800),
            faults: Faults::default(),
        }
    }
}

/// Planted bugs, each one changed line, to show that a harness finds them.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A reference whose dot was never seen counts as ended.
    pub unseen_is_ended: bool,
    /// A release may rest on receipts of any age.
    pub stale_receipts: bool,
    /// Who has given a promise deletes its own copy all the same: circular receipts.
    pub promise_forgotten: bool,
    /// Questions for receipts carry no references, and a release does not look for them.
    pub references_left_behind: bool,
    /// Collection does not wait.
    pub no_gc_grace: bool,
    /// A node whose catalog is not ready collects.
    pub collect_when_cut_off: bool,
    /// Deletes while too many members are dead.
    pub breaker_ignored: bool,
    /// A chunk marked gone is promised.
    pub gone_is_a_hit: bool,
    /// Owners that are believed to hold a copy are not asked for a receipt.
    pub surplus_counted: bool,
    /// Copies are made as soon as a member is dead.
    pub no_repair_delay: bool,
    /// The grace of a superfluous copy is not begun anew when an owner dies.
    pub grace_not_reset: bool,
    /// Only the first holder ever sends.
    pub healer_not_replaced: bool,
    /// Chunks whose references have all ended are offered like any other.
    pub offers_the_dead: bool,
}

/// Names an action until it is done; never reused by a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActionId(pub u64);

/// What a replicator is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// Who is here has changed.
    View(Arc<View>),
    /// A decided roster was adopted.
    Roster(Roster),
    /// Whether the catalog is ready: as the council's standing.
    Ready(bool),
    /// A peer asks; answered by one [`Action::Answer`].
    Question {
        /// Who, as the transport proved.
        from: NodeId,
        /// Comes back with the answer.
        token: u64,
        /// What.
        question: Question,
    },
    /// A peer answered, or did not.
    Answer {
        /// The [`Action::Ask`].
        id: ActionId,
        /// The answer.
        result: Result<Answer, Unreachable>,
    },
    /// An action was carried out.
    Done {
        /// The action.
        id: ActionId,
        /// What came of it.
        done: Done,
    },
    /// Somebody found that this node's copy is gone or rotten, and set it aside: fetch it.
    Lost(ChunkId),
    /// An operator asks.
    Command(Command),
}

/// A peer did not answer in time, or the connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreachable;

/// What an operator may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Begin a pass over the disk now.
    Repair,
    /// Send, fetch and delete nothing until [`Command::ResumeRepair`] or [`Command::Repair`].
    PauseRepair,
    /// Go on.
    ResumeRepair,
    /// Hash all chunks now, as fast as the disk gives.
    Scrub,
    /// Hash nothing until [`Command::ResumeScrub`] or [`Command::Scrub`].
    PauseScrub,
    /// Go on.
    ResumeScrub,
}

/// How fast a chunk is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pace {
    /// Up to the cap of the throttle.
    Full,
    /// Up to a tenth of it, together with all others of this pace.
    Tenth,
}

/// What a replicator wants done; see the table in the [module](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read what the disk holds.
    Page {
        /// The action.
        id: ActionId,
        /// The last chunk of the page before; none for the first.
        after: Option<ChunkId>,
    },
    /// Keep these marks.
    Note(Note),
    /// Ask a peer.
    Ask {
        /// The action.
        id: ActionId,
        /// The peer.
        to: NodeId,
        /// What.
        question: Question,
        /// After so long report [`Unreachable`].
        deadline: Duration,
    },
    /// Answer a peer.
    Answer {
        /// The question's.
        token: u64,
        /// What.
        answer: Answer,
    },
    /// Look which of these chunks are here.
    Look {
        /// The action.
        id: ActionId,
        /// With the references that the asker knows.
        items: Vec<Item>,
    },
    /// Promise to keep a chunk.
    Promise {
        /// The action.
        id: ActionId,
        /// The chunk.
        chunk: ChunkId,
        /// To be adopted.
        dots: Vec<Dot>,
    },
    /// Read the references of a chunk.
    References {
        /// The action.
        id: ActionId,
        /// The chunk.
        chunk: ChunkId,
    },
    /// Send a chunk.
    Send {
        /// The action.
        id: ActionId,
        /// The chunk.
        chunk: ChunkId,
        /// To whom.
        to: NodeId,
        /// How fast.
        pace: Pace,
    },
    /// Fetch a chunk.
    Fetch {
        /// The action.
        id: ActionId,
        /// The chunk.
        chunk: ChunkId,
        /// Who should have it, most likely first.
        from: Vec<NodeId>,
    },
    /// Delete a copy that its owners vouched for.
    Release {
        /// The action.
        id: ActionId,
        /// What it rests on.
        claim: Claim,
    },
    /// Delete chunks that nothing refers to.
    Collect {
        /// The action.
        id: ActionId,
        /// The chunks.
        chunks: Vec<ChunkId>,
    },
    /// Hash chunks again.
    Scrub {
        /// The action.
        id: ActionId,
        /// Where to go on: from the first chunk, or after where the last one ended (kept on disk).
        restart: bool,
        /// How many at most.
        limit: usize,
    },
}

/// What came of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// Of [`Action::Page`]; `None` if the store failed.
    Page(Option<Page>),
    /// Of [`Action::Look`]: one for each, [`Holds::Lacks`] where the chunk is not here, is marked gone,
    /// or has no file. ([`Holds::NotMine`] is said by the machine.)
    Looked(Vec<Holds>),
    /// Of [`Action::Promise`].
    Promised(bool),
    /// Of [`Action::References`]; `None` if the chunk is not here or the store failed.
    References(Option<Vec<Dot>>),
    /// Of [`Action::Send`].
    Sent(Sent),
    /// Of [`Action::Fetch`]: its size, if it is here now.
    Fetched(Option<u64>),
    /// Of [`Action::Release`]: the bytes freed, or why it stays.
    Released(Result<u64, Kept>),
    /// Of [`Action::Collect`]: what was freed.
    Collected {
        /// Chunks.
        chunks: u64,
        /// Bytes.
        bytes: u64,
    },
    /// Of [`Action::Scrub`].
    Scrubbed(Scrubbed),
}

/// What came of a sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is durable there with its references; so many bytes went over the wire, none where it was held.
    Stored(u64),
    /// It is not here any more, or not intact: the latter was set aside and [`Input::Lost`] is told.
    NotHere,
    /// It did not get there.
    Failed,
}

/// What a step of the scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Chunks hashed.
    pub checked: u64,
    /// Rotten ones, set aside.
    pub bad: Vec<ChunkId>,
    /// Whether that was the last.
    pub finished: bool,
}

/// What people are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Chunks of a member that is gone are being copied, so many as known so far.
    RepairStarted {
        /// Who is gone.
        node: NodeId,
    },
    /// A copy was made.
    Moved {
        /// The chunk.
        chunk: ChunkId,
        /// Where.
        to: NodeId,
        /// Its bytes.
        bytes: u64,
    },
    /// Nothing is left to be sent.
    Repaired {
        /// Chunks sent since there was nothing.
        chunks: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// A superfluous copy was deleted.
    Released {
        /// The chunk.
        chunk: ChunkId,
        /// Its bytes.
        bytes: u64,
    },
    /// Chunks that nothing refers to were deleted.
    Collected {
        /// How many.
        chunks: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// A pass of the scrub is over.
    Scrubbed {
        /// Chunks hashed.
        checked: u64,
        /// Rotten ones.
        bad: u64,
    },
    /// This node is leaving, and so many chunks are left here.
    Leaving {
        /// How many.
        left: u64,
    },
    /// This node was leaving and every chunk has its copies elsewhere: it may say that it left.
    Drained,
}

/// The machine.
#[derive(Debug)]
pub struct Replicator {
    config: Config,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
}

impl Replicator {
    /// A machine that knows nothing yet. It does nothing before it is told a view and a roster.
    pub fn new(now: Instant, config: Config) -> Self {
        let _ = now;
        Self { config, actions: VecDeque::new(), events: VecDeque::new() }
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Instant, input: Input) {
        let _ = (now, input);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// When [`Replicator::handle_timeout`] is due, if ever.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The next thing to be done.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next thing to tell people.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether so many members are dead, as of the last view and roster told, that nothing may be
    /// deleted: for the executor's transactions ([`rules::release`], [`rules::collect`]).
    pub fn breaker(&self) -> bool {
        true
    }

    /// How what this node holds is, in numbers.
    pub fn health(&self, now: Instant) -> Health {
        let _ = (now, &self.config);
        Health::default()
    }
}
