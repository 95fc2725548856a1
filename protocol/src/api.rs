//! The JSON shapes of the HTTP API, shared by the gateway and its clients.
//!
//! Times are RFC 3339 strings. Fields may be added; a client ignores what it does not know.

mod operations;
mod past;

use serde::{Deserialize, Serialize};

use crate::chunk::ChunkId;
use crate::name::Name;
use crate::node_id::NodeId;
pub use crate::view::State as Status;
pub use operations::*;
pub use past::*;

/// What a write must have reached before it is answered with success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Durable on the receiving node; the rest follows.
    Fast,
    /// Durable on a majority of the owners, and on every owner that answers in time.
    #[default]
    Quorum,
    /// Durable on every owner.
    All,
}

/// The answer to a successful PUT, copy or move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The name written.
    pub name: Name,
    /// The file's root CID.
    pub cid: ChunkId,
    /// Bytes.
    pub size: u64,
    /// Leaves.
    pub chunks: u64,
    /// `<node id>.<generation>.<sequence>`; in quotes, the `ETag`.
    pub version: String,
    /// RFC 3339.
    pub created_at: String,
    /// What the write has reached by its durability.
    pub durability: Durability,
    /// Who holds it, and what is still owed.
    pub replicas: Replicas,
}

/// Who holds a write durably, and what is still owed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replicas {
    /// N.
    pub wanted: usize,
    /// The least number of durable copies over all chunks and the version.
    pub acked: usize,
    /// Who acknowledged anything.
    pub nodes: Vec<NodeId>,
    /// What is still queued, and for whom.
    pub queued: Vec<Queued>,
}

/// Chunks waiting for one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// The node that is owed the chunks.
    pub node: NodeId,
    /// How many.
    pub chunks: u64,
}

/// One page of `GET /v1/files`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Files, by name.
    pub files: Vec<FileEntry>,
    /// Common prefixes up to the delimiter, where one was given.
    #[serde(default)]
    pub prefixes: Vec<String>,
    /// Pass as `after` to go on; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}

/// A file in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// The name.
    pub name: Name,
    /// Root CID of the head.
    pub cid: ChunkId,
    /// Bytes.
    pub size: u64,
    /// MIME type, if the writer gave one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content_type: Option<String>,
    /// RFC 3339.
    pub created_at: String,
    /// Version token of the head in quotes.
    pub etag: String,
    /// Surviving versions beside the head that are not tombstones.
    pub conflicts: usize,
}

/// `GET /v1/stat/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// The name.
    pub name: Name,
    /// Surviving versions, head first.
    pub versions: Vec<VersionInfo>,
    /// The chunks of the head: leaves and manifest nodes, in file order, manifest nodes last.
    pub chunks: Vec<ChunkInfo>,
    /// `majority`, or `local` where no majority of home replicas answered.
    pub consistency: String,
}

/// A surviving version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// Version token.
    pub version: String,
    /// Whether reads return it.
    pub head: bool,
    /// Root CID.
    pub cid: ChunkId,
    /// Bytes.
    pub size: u64,
    /// Leaves.
    pub chunks: u64,
    /// MIME type, if the writer gave one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content_type: Option<String>,
    /// RFC 3339.
    pub created_at: String,
    /// Version tokens it supersedes.
    pub supersedes: Vec<String>,
}

/// A chunk of a file and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkInfo {
    /// The chunk's CID.
    pub cid: ChunkId,
    /// Bytes; null where no holder answered.
    pub size: Option<u64>,
    /// Where it belongs, by the ring of the answering node.
    pub owners: Vec<NodeId>,
    /// Who said just now that it holds the chunk.
    pub holders: Vec<NodeId>,
    /// When the answering node last hashed its own copy, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub verified_at: Option<String>,
}

/// `POST /v1/copy` and `POST /v1/move`: what is read is named by either `from` or `cid`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRequest {
    /// The name to read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<Name>,
    /// Token of the surviving version of `from` to read instead of the head; a copy alone takes it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<String>,
    /// The root CID that a version had which is superseded or deleted by now; a copy alone takes it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cid: Option<ChunkId>,
    /// With `cid`: the MIME type of the copy.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content_type: Option<String>,
    /// The name to write.
    pub to: Name,
    /// What must be reached before the answer.
    #[serde(default)]
    pub durability: Durability,
}

/// `GET /v1/cluster`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Every member the answering node knows, itself included.
    pub members: Vec<MemberInfo>,
    /// The ring by the answering node's view.
    pub ring: RingInfo,
    /// The agreed list over which names are voted; absent before admission.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub roster: Option<RosterInfo>,
}

/// A member as the answering node sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Node id.
    pub id: NodeId,
    /// State.
    pub status: Status,
    /// The member's own counter.
    pub incarnation: u64,
    /// Host or IP address.
    pub addr: String,
    /// UDP.
    pub gossip_port: u16,
    /// TCP.
    pub transfer_port: u16,
    /// TCP.
    pub http_port: u16,
    /// Failure zone, if given.
    pub zone: Option<String>,
    /// Bytes it offers.
    pub capacity: u64,
    /// Bytes it uses.
    pub used: u64,
    /// Software version.
    pub version: String,
    /// Share of the ring's keys it is first owner of, 0 to 1.
    pub share: f64,
    /// When it was last heard from, RFC 3339; null for never.
    pub last_seen: Option<String>,
}

/// Which ring the answering node sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingInfo {
    /// Algorithm and constants; nodes with others are not admitted.
    pub version: String,
    /// Digest of the present view; informational.
    pub digest: String,
}

/// The agreed, numbered list of members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterInfo {
    /// Its number.
    pub number: u64,
    /// Who is on it.
    pub members: Vec<NodeId>,
    /// How many copies of everything its members keep.
    #[serde(default)]
    pub replication_factor: u16,
    /// Seconds without a word after which the answering node lets a dead member be taken off it.
    #[serde(default)]
    pub forget_after_secs: u64,
}

/// `POST /v1/links`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Path and query that `GET` and `HEAD` take without a token.
    pub url: String,
    /// For how long.
    pub expires_in_secs: u64,
}

/// `GET /v1/ring`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingDump {
    /// Version and digest.
    pub ring: RingInfo,
    /// N.
    pub replication_factor: usize,
    /// Every token, ascending.
    pub tokens: Vec<TokenInfo>,
}

/// A token on the ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// 16 hex digits.
    pub token: String,
    /// Whose it is.
    pub node: NodeId,
}

/// `GET /v1/status`: what the answering node itself holds and does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Node id.
    pub id: NodeId,
    /// Software version.
    pub version: String,
    /// Seconds since start.
    pub uptime_secs: u64,
    /// Whether it is admitted and its catalog caught up.
    pub ready: bool,
    /// What it waits for while it is not ready.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waiting_for: Option<String>,
    /// Its storage.
    pub storage: StorageStatus,
    /// Copies it owes to other nodes.
    pub queue: QueueStatus,
    /// Live names.
    pub files: u64,
    /// Transfers under way.
    pub transfers: u64,
    /// What it does about its chunks.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub healing: Option<NodeHealth>,
    /// Its background traffic.
    #[serde(default)]
    pub bandwidth: Bandwidth,
}

/// Disk use of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageStatus {
    /// Chunks stored.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes free on the disk.
    pub free: u64,
    /// Bytes kept free: writes that would go below are refused.
    pub reserve: u64,
}

/// The replication queue of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Rows waiting.
    pub depth: u64,
    /// Seconds its oldest row has waited.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub oldest_secs: Option<u64>,
    /// Rows by target.
    pub targets: Vec<Queued>,
}

/// One event of `GET /v1/events`; the server-sent event's name is its `type`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// A member changed its state.
    Member {
        /// Whose state.
        node: NodeId,
        /// The new state.
        status: Status,
    },
    /// A version survives on the answering node that did not before, whichever node wrote it.
    Written {
        /// The name.
        name: Name,
        /// Version token.
        version: String,
        /// Whether it is a tombstone.
        deleted: bool,
    },
    /// Queued copies reached a node.
    Delivered {
        /// The receiver.
        node: NodeId,
        /// How many chunks.
        chunks: u64,
    },
    /// A chunk failed its hash and was set aside.
    Quarantined {
        /// The chunk.
        cid: ChunkId,
    },
    /// The roster changed.
    Roster {
        /// Its number.
        number: u64,
        /// Who is on it.
        members: Vec<NodeId>,
    },
    /// The answering node became ready, or ceased to be.
    Ready {
        /// Whether it is.
        ready: bool,
    },
    /// The answering node began to bring chunks to a node that lacks them.
    RepairStarted {
        /// The node that lacks them.
        node: NodeId,
        /// How many.
        chunks: u64,
    },
    /// It has brought them.
    Repaired {
        /// The receiver.
        node: NodeId,
        /// How many.
        chunks: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// A chunk was sent to an owner; at most ten a second are told.
    Moved {
        /// The chunk.
        cid: ChunkId,
        /// The sender.
        from: NodeId,
        /// The receiver.
        to: NodeId,
        /// Its bytes.
        bytes: u64,
    },
    /// Surplus copies were deleted here, all owners having promised to keep theirs.
    Released {
        /// How many.
        chunks: u64,
    },
    /// Chunks that nothing refers to any more were deleted here.
    Collected {
        /// How many.
        chunks: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// A pass over all chunks of the answering node ended.
    Scrubbed {
        /// Chunks hashed.
        checked: u64,
        /// Those that failed.
        bad: u64,
    },
    /// A name has concurrent versions since just now.
    Conflict {
        /// The name.
        name: Name,
    },
    /// A node drains, so that it can leave.
    Leaving {
        /// The node.
        node: NodeId,
        /// Chunks that are not yet safe elsewhere.
        left_chunks: u64,
    },
    /// The word for the cluster's health changed, as the answering node sees it.
    Health {
        /// The new word.
        status: HealthStatus,
    },
}

impl Event {
    /// Its `type`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Member { .. } => "member",
            Self::Written { .. } => "written",
            Self::Delivered { .. } => "delivered",
            Self::Quarantined { .. } => "quarantined",
            Self::Roster { .. } => "roster",
            Self::Ready { .. } => "ready",
            Self::RepairStarted { .. } => "repair_started",
            Self::Repaired { .. } => "repaired",
            Self::Moved { .. } => "moved",
            Self::Released { .. } => "released",
            Self::Collected { .. } => "collected",
            Self::Scrubbed { .. } => "scrubbed",
            Self::Conflict { .. } => "conflict",
            Self::Leaving { .. } => "leaving",
            Self::Health { .. } => "health",
        }
    }
}

/// An error body: `application/problem+json` (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A stable name of the kind of error, such as `no-quorum`.
    #[serde(rename = "type")]
    pub kind: String,
    /// A short title.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong and what to do.
    pub detail: String,
    /// How many replicas answered, where that is why.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub answered: Option<usize>,
    /// How many were needed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub needed: Option<usize>,
}
