//! What a replicator is told and what it wants done.

use std::sync::Arc;
use std::time::Duration;

use super::holding::{Note, Page};
use super::message::{Answer, Holds, Item, Question};
use super::rules::{Claim, Kept};
use crate::chunk::ChunkId;
use crate::node_id::NodeId;
use crate::roster::Roster;
use crate::version::Dot;
use crate::view::View;

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
    /// The disk failed to give a chunk that is here, and failed again.
    Unreadable(ChunkId),
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

/// What a replicator wants done; see the table in the [module](super).
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
    /// Set a copy aside that cannot be read, unless it can be by now; then [`Input::Lost`].
    SetAside {
        /// The chunk.
        chunk: ChunkId,
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
