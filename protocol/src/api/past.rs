//! The shapes of what was: versions that do not survive, and the last hour of the members.

use serde::{Deserialize, Serialize};

use super::Event;
use crate::chunk::ChunkId;
use crate::name::Name;
use crate::node_id::NodeId;

/// `GET /v1/earlier/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earlier {
    /// The name.
    pub name: Name,
    /// Versions that were replaced or deleted and are still remembered, the last to go first.
    pub versions: Vec<EarlierVersion>,
}

/// A version that does not survive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlierVersion {
    /// Version token.
    pub version: String,
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
    /// When a member first learnt that it was replaced or deleted, RFC 3339.
    pub gone_at: String,
    /// Whether somebody said just now that its root is still there: it can be read and brought back.
    pub held: bool,
}

/// `GET /v1/recent`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recent {
    /// The answering node.
    pub node: NodeId,
    /// How far samples lie apart.
    pub interval_secs: u64,
    /// What the answering node measured, the oldest first.
    pub samples: Vec<Sample>,
    /// Sums over all members that answered, where they were asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cluster: Option<Vec<Sample>>,
    /// What happened, the oldest first.
    pub events: Vec<PastEvent>,
    /// Members that were asked and did not answer.
    #[serde(default)]
    pub silent: Vec<NodeId>,
}

/// What was measured at one time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// RFC 3339.
    pub at: String,
    /// Bytes a second that clients sent, on the mean since the sample before.
    pub received: u64,
    /// Bytes a second of files and chunks that clients were sent.
    pub sent: u64,
    /// Copies owed to other members.
    pub queue: u64,
    /// Chunks that an owner lacks.
    pub under_replicated: u64,
    /// Chunks to be sent or on the way.
    pub moving: u64,
}

/// An event of `GET /v1/events` that has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastEvent {
    /// Who tells it.
    pub node: NodeId,
    /// By that node's clock, RFC 3339.
    pub at: String,
    /// Its place among the events of that node since it started, from 1.
    pub number: u64,
    /// What happened.
    pub event: Event,
}
