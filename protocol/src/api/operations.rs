//! The shapes of health, placement and the operator's verbs.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::chunk::ChunkId;
use crate::name::Name;
use crate::node_id::NodeId;

/// How a cluster is, in one word; the greater, the worse. What each means decides [`crate::health`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthStatus {
    /// Everything is where it belongs, as often as it should be.
    #[default]
    Ok,
    /// Something is away or behind; nothing is lost by one more failure.
    Degraded,
    /// One more failure may lose data.
    AtRisk,
    /// Some data cannot be read or some names cannot be written now.
    Unavailable,
}

/// `GET /v1/health`: the cluster, as the answering node learns it from all members. Sums are over the
/// members that answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// One word.
    pub status: HealthStatus,
    /// Why, in sentences, the worst first. Where the status is `ok`: what is going on, if anything.
    pub reasons: Vec<String>,
    /// Each member of the roster or the view that is not gone for good.
    pub nodes: Vec<NodeHealth>,
    /// Chunks that an owner lacks.
    pub under_replicated: u64,
    /// Chunks of which one reachable copy is known, where there should be more.
    pub single_copy: u64,
    /// Referenced chunks of which no reachable intact copy is known, each once, however many owners look for it.
    pub missing: u64,
    /// Copies on nodes that do not own them.
    pub surplus: u64,
    /// Chunks waiting to be sent or on their way to an owner.
    pub moving: u64,
    /// Their bytes.
    pub moving_bytes: u64,
    /// Copies owed to other nodes, on disk.
    pub queue_depth: u64,
    /// Seconds that the oldest of them has waited.
    #[serde(default)]
    pub queue_oldest_secs: Option<u64>,
}

/// What one node knows of its own chunks, and what it does about them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct NodeHealth {
    /// The node.
    #[n(0)]
    pub node: NodeId,
    /// Whether it answered; if not, all else here is empty.
    #[n(1)]
    pub answered: bool,
    /// Chunks held here that an owner lacks, and that this node is the first live holder of.
    #[n(2)]
    #[serde(default)]
    pub under_replicated: u64,
    /// Those of them of which no other copy is known.
    #[n(3)]
    #[serde(default)]
    pub single_copy: u64,
    /// Chunks that should be here and are nowhere.
    #[n(4)]
    #[serde(default)]
    pub missing: u64,
    /// Chunks held here that belong elsewhere.
    #[n(5)]
    #[serde(default)]
    pub surplus: u64,
    /// Chunks that this node is to send or is sending.
    #[n(6)]
    #[serde(default)]
    pub moving: u64,
    /// Their bytes.
    #[n(7)]
    #[serde(default)]
    pub moving_bytes: u64,
    /// Copies it owes, on disk.
    #[n(8)]
    #[serde(default)]
    pub queue_depth: u64,
    /// Seconds that the oldest of them has waited.
    #[n(9)]
    #[serde(default)]
    pub queue_oldest_secs: Option<u64>,
    /// Re-hashing its disk.
    #[n(10)]
    #[serde(default)]
    pub scrub: ScrubStatus,
    /// Whether an operator paused its repair.
    #[n(11)]
    #[serde(default)]
    pub paused: bool,
    /// Whether so many members are dead in its view that it unlinks nothing.
    #[n(12)]
    #[serde(default)]
    pub breaker: bool,
    /// What it waits for; at most 16.
    #[n(13)]
    #[serde(default)]
    pub waiting: Vec<Waiting>,
    /// Which chunks `missing` counts, the first [`MAX_LISTED`] of them. Between nodes only: who sums up
    /// counts a chunk once.
    #[n(14)]
    #[serde(skip)]
    pub lost: Vec<ChunkId>,
    /// Likewise, which chunks are being fetched anew; `under_replicated` counts them too.
    #[n(15)]
    #[serde(skip)]
    pub fetching: Vec<ChunkId>,
}

/// The most chunks that a list in [`NodeHealth`] has.
pub const MAX_LISTED: usize = 1024;

impl NodeHealth {
    /// A node that did not answer.
    pub fn silent(node: NodeId) -> Self {
        Self { answered: false, ..Self::idle(node) }
    }

    /// A node with nothing to do.
    pub fn idle(node: NodeId) -> Self {
        Self {
            node,
            answered: true,
            under_replicated: 0,
            single_copy: 0,
            missing: 0,
            surplus: 0,
            moving: 0,
            moving_bytes: 0,
            queue_depth: 0,
            queue_oldest_secs: None,
            scrub: ScrubStatus::default(),
            paused: false,
            breaker: false,
            waiting: Vec::new(),
            lost: Vec::new(),
            fetching: Vec::new(),
        }
    }
}

/// The last or present pass over all chunks of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct ScrubStatus {
    /// When the last whole pass ended, RFC 3339.
    #[n(0)]
    #[serde(default)]
    pub at: Option<String>,
    /// Chunks hashed by it, or so far by the one that runs.
    #[n(1)]
    pub checked: u64,
    /// Those of them that failed.
    #[n(2)]
    pub bad: u64,
    /// Whether a pass runs.
    #[n(3)]
    pub running: bool,
    /// How far it is, 0 to 1.
    #[n(4)]
    #[serde(default)]
    pub progress: f64,
    /// Whether an operator paused it.
    #[n(5)]
    #[serde(default)]
    pub paused: bool,
}

/// Something that a node waits for before it goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Waiting {
    /// What, in a few words; at most 256 bytes.
    #[n(0)]
    pub what: String,
    /// For how long still, in seconds, where that is known.
    #[n(1)]
    #[serde(default)]
    pub until_secs: Option<u64>,
}

/// Background traffic of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Bandwidth {
    /// The cap on all background bytes that this node sends.
    #[n(0)]
    pub cap_bytes_per_second: u64,
    /// What was used within the last second or so.
    #[n(1)]
    pub used_bytes_per_second: u64,
}

/// What to do with something that goes on by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub enum Action {
    /// Do it now, or hurry.
    #[n(0)]
    Start,
    /// Stop until told otherwise; forgotten at the next start of the node.
    #[n(1)]
    Pause,
    /// Go on after a pause.
    #[n(2)]
    Resume,
}

/// `POST /v1/scrub`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrubRequest {
    /// What to do.
    pub action: Action,
    /// On every member that answers, not only on the answering node.
    #[serde(default)]
    pub all: bool,
}

/// `POST /v1/repair`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepairRequest {
    /// What to do.
    pub action: Action,
    /// The new cap on background traffic in MB/s, [`BANDWIDTH_MBPS`]; until the node's next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_mbps: Option<f64>,
    /// On every member that answers, not only on the answering node.
    #[serde(default)]
    pub all: bool,
}

/// The caps that may be asked for, in MB/s.
pub const BANDWIDTH_MBPS: std::ops::RangeInclusive<f64> = 0.1..=1_000_000.0;

/// The answer to an operator's verb, 202: it is begun, not done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Who was asked.
    pub nodes: Vec<Answered>,
}

/// What a node said to an operator's verb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// The node.
    pub node: NodeId,
    /// Whether it does it.
    pub accepted: bool,
    /// If not, why.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
}

/// `GET /v1/locate/{name}`: where the chunks of a file belong and why, and who has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Located {
    /// The name.
    pub name: Name,
    /// Version token of the head.
    pub version: String,
    /// N.
    pub replication_factor: usize,
    /// The node that was asked about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub if_down: Option<NodeId>,
    /// Leaves in file order, then manifest nodes.
    pub chunks: Vec<LocatedChunk>,
}

/// Where a chunk belongs and why, and who has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocatedChunk {
    /// The chunk's CID.
    pub cid: ChunkId,
    /// Bytes.
    pub size: u64,
    /// Its place on the ring: 16 hex digits.
    pub key: String,
    /// How many tokens are passed clockwise until the owners are found.
    pub tokens_walked: u64,
    /// The first token of each node that is met on the way, in that order.
    pub walk: Vec<WalkStep>,
    /// The nodes that take it, in preference order.
    pub owners: Vec<NodeId>,
    /// Who said just now that it holds the chunk.
    pub holders: Vec<Holder>,
    /// The owners if the node in question were down.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub owners_if_down: Option<Vec<NodeId>>,
}

/// A node met on the way round the ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalkStep {
    /// Its first token after the key: 16 hex digits.
    pub token: String,
    /// The node.
    pub node: NodeId,
    /// Its zone, if it has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub zone: Option<String>,
    /// Whether it is an owner.
    pub owner: bool,
    /// Why it is, or why it is passed over.
    pub why: String,
}

/// A node that holds a chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The node.
    pub node: NodeId,
    /// When it last hashed its copy, RFC 3339; null if it did not say.
    #[serde(default)]
    pub verified_at: Option<String>,
}

/// One line of `GET /v1/verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum VerifyLine {
    /// What each node hashed so far; every second or so.
    Progress {
        /// Distinct chunks compared.
        chunks: u64,
        /// Copies hashed.
        copies: u64,
        /// Bytes hashed.
        bytes: u64,
    },
    /// A copy that is not what its name says, or that is gone.
    BadCopy {
        /// The chunk.
        cid: ChunkId,
        /// Where.
        node: NodeId,
        /// What is wrong.
        problem: String,
    },
    /// A chunk with fewer intact copies than there should be (`all=1`).
    UnderReplicated {
        /// The chunk.
        cid: ChunkId,
        /// Intact copies on nodes that answered.
        intact: u64,
        /// N.
        wanted: u64,
        /// The owners that have no intact copy.
        lacking: Vec<NodeId>,
    },
    /// A chunk that is known and of which no intact copy was found (`all=1`).
    Missing {
        /// The chunk.
        cid: ChunkId,
    },
    /// A file that cannot be read whole (`all=1`).
    Damaged {
        /// The file.
        name: Name,
        /// Its version.
        version: String,
        /// A chunk that it lacks.
        cid: ChunkId,
    },
    /// A node that could not be asked, or stopped answering: its copies do not count.
    Silent {
        /// The node.
        node: NodeId,
        /// What happened.
        problem: String,
    },
    /// The end: without this line, the verification was not finished.
    Total(VerifyTotal),
}

/// The last line of `GET /v1/verify`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyTotal {
    /// Whether nothing is wrong.
    pub ok: bool,
    /// Nodes that hashed all they have.
    pub nodes: Vec<NodeId>,
    /// Distinct chunks.
    pub chunks: u64,
    /// Copies hashed.
    pub copies: u64,
    /// Bytes hashed.
    pub bytes: u64,
    /// Copies that are rotten or gone.
    pub bad_copies: u64,
    /// Chunks that an owner lacks.
    pub under_replicated: u64,
    /// Chunks with one intact copy, where there should be more.
    pub single_copy: u64,
    /// Chunks without an intact copy.
    pub missing: u64,
    /// Copies on nodes that do not own them.
    pub surplus: u64,
    /// Surviving versions looked at.
    pub files: u64,
    /// Those that cannot be read whole.
    pub damaged: u64,
    /// Nodes that could not be asked.
    pub silent: u64,
}
