//! The services: put, get, range, list, delete, copy, move, stat. The only door for gateways.
//!
//! Services know nothing of HTTP. They take validated types and answer with validated types or
//! with one small error enum per operation.

pub mod cluster;
mod download;
pub mod files;
pub mod healing;
mod locate;
pub mod memory;
pub mod operations;
mod outlet;
mod past;
mod refusal;
mod upload;
mod verify;

use std::collections::BTreeSet;
use std::ops::Range;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use kepler_protocol::api;
use kepler_protocol::catalog::command::{Consistency, Precondition};
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::name::Name;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::version::{Dot, Version};
use tokio::sync::broadcast;

pub use self::locate::LocateError;
pub use self::operations::{OperatorError, VerifyStream};

/// Bytes on their way to a client, verified.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, ReadError>> + Send + Sync>>;

/// Bytes on their way in. An error means that the client broke off, was too slow or sent too much.
pub type Body = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>;

/// Why an upload's bytes ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client went away.
    #[error("the upload broke off: {0}")]
    Broken(String),
    /// Nothing came for longer than the idle deadline.
    #[error("the upload sent nothing for {0:?}")]
    Idle(Duration),
    /// Bytes came, but too few for how long they were waited for.
    #[error("the upload sent only {received} bytes in {waited:?}")]
    Slow {
        /// Bytes received.
        received: u64,
        /// How long was waited for them.
        waited: Duration,
    },
    /// More bytes than a file may have.
    #[error("the file is larger than {0} bytes")]
    TooLarge(u64),
}

/// A file to be stored.
#[derive(Clone, Debug)]
pub struct PutRequest {
    /// Its name.
    pub name: Name,
    /// What must be reached before the answer.
    pub durability: api::Durability,
    /// What must hold.
    pub precondition: Precondition,
    /// The MIME type the client gave.
    pub content_type: Option<String>,
}

/// Why a write was not done.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// This node is not admitted or not ready.
    #[error("this node is not ready: {0}")]
    NotReady(String),
    /// Too few replicas answered; nothing was published.
    #[error("{answered} of the {needed} needed replicas answered; nothing was changed")]
    NoQuorum {
        /// How many answered.
        answered: usize,
        /// How many were needed.
        needed: usize,
    },
    /// It may or may not have been kept.
    #[error("the write may or may not have been kept: {answered} of the {needed} needed replicas answered")]
    Unknown {
        /// The version that may surface.
        version: Dot,
        /// How many answered.
        answered: usize,
        /// How many were needed.
        needed: usize,
    },
    /// The precondition does not hold.
    #[error("the file is not what the request's precondition says")]
    PreconditionFailed {
        /// The head now, if there is one.
        head: Option<Dot>,
    },
    /// Nothing to delete, copy or move.
    #[error("there is no file {0}")]
    NotFound(String),
    /// A chunk of what is to be copied is on no member any more.
    #[error("chunk {0} is on no node any more: it was collected, so the file cannot come back")]
    Collected(ChunkId),
    /// A name with conflicts is not moved: one of its versions would be left behind, or lost.
    #[error(
        "{0} has conflicts: resolve them first, by a PUT of the right content or a DELETE of the wrong version"
    )]
    Conflicted(String),
    /// The file is under its new name, and still under the old one too.
    #[error("the file is at {to} now, but still at {from} too: {cause}; move it again")]
    HalfMoved {
        /// The version under the new name.
        version: String,
        /// The old name.
        from: String,
        /// The new name.
        to: String,
        /// Why the old name stayed.
        cause: String,
    },
    /// The name has too many concurrent versions.
    #[error("{0} has too many concurrent versions: resolve some first")]
    TooManyConflicts(String),
    /// The disk is at its reserve.
    #[error("the disk is full: {free} bytes are free and {reserve} are kept in reserve")]
    DiskFull {
        /// Bytes free.
        free: u64,
        /// Bytes kept free.
        reserve: u64,
    },
    /// The upload ended early.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// Reading the source of a copy failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A disk or the database failed.
    #[error("storing failed")]
    Store(#[source] anyhow::Error),
}

/// Why a read was not answered, or ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// This node is not admitted or not ready.
    #[error("this node is not ready: {0}")]
    NotReady(String),
    /// A majority knows no such name, or the version asked for is no survivor.
    #[error("there is no file {0}")]
    NotFound(String),
    /// Too few home replicas answered to say whether the name exists.
    #[error("{answered} of the {needed} needed replicas answered")]
    NoQuorum {
        /// How many answered.
        answered: usize,
        /// How many were needed.
        needed: usize,
    },
    /// No live member has an intact copy of a chunk.
    #[error("no node that answers has an intact copy of chunk {0}")]
    ChunkUnavailable(ChunkId),
    /// The same, of a file that was asked for by its name.
    #[error("{name} cannot be read: no node that answers has an intact copy of its chunk {chunk}")]
    FileUnavailable {
        /// The file.
        name: Name,
        /// Its chunk.
        chunk: ChunkId,
    },
    /// The file has more chunks than an answer can list.
    #[error("the file has {chunks} chunks, and at most {most} are listed at once")]
    TooManyChunks {
        /// Its leaves.
        chunks: u64,
        /// The most.
        most: u64,
    },
    /// A manifest node is not what manifests are.
    #[error("the manifest of the file is damaged: {0}")]
    Manifest(String),
    /// A disk or the database failed.
    #[error("reading failed")]
    Store(#[source] anyhow::Error),
}

impl ReadError {
    /// The same, with the name of the file that it happened to.
    fn of_file(self, name: &Name) -> Self {
        match self {
            Self::ChunkUnavailable(chunk) => Self::FileUnavailable { name: name.clone(), chunk },
            other => other,
        }
    }
}

/// A file opened for reading.
pub struct OpenFile {
    /// The version that is read.
    pub version: Version,
    /// Surviving versions beside it that are not tombstones.
    pub conflicts: usize,
    /// Whether a majority was asked.
    pub consistency: Consistency,
    reader: Box<dyn Fn(Range<u64>) -> ByteStream + Send + Sync>,
}

impl OpenFile {
    /// Wraps a reader of byte ranges.
    pub fn new(
        version: Version,
        conflicts: usize,
        consistency: Consistency,
        reader: Box<dyn Fn(Range<u64>) -> ByteStream + Send + Sync>,
    ) -> Self {
        Self { version, conflicts, consistency, reader }
    }

    /// The bytes of `range`, which lies within the file.
    pub fn read(&self, range: Range<u64>) -> ByteStream {
        let name = self.version.name.clone();
        Box::pin((self.reader)(range).map(move |piece| piece.map_err(|error| error.of_file(&name))))
    }
}

/// A chunk opened for reading.
pub struct OpenChunk {
    /// Its bytes.
    pub size: u64,
    reader: Box<dyn FnOnce(Range<u64>) -> ByteStream + Send>,
}

impl OpenChunk {
    /// Wraps a reader of byte ranges.
    pub fn new(size: u64, reader: Box<dyn FnOnce(Range<u64>) -> ByteStream + Send>) -> Self {
        Self { size, reader }
    }

    /// The bytes of `range`, which lies within the chunk.
    pub fn read(self, range: Range<u64>) -> ByteStream {
        (self.reader)(range)
    }
}

/// A name to write from what is there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// What is read.
    pub from: CopySource,
    /// The name to write.
    pub to: Name,
    /// What must hold of `to`.
    pub precondition: Precondition,
    /// What must be reached before the answer.
    pub durability: api::Durability,
}

/// What a copy reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopySource {
    /// The head of a name, or one of its surviving versions.
    Name(Name, Option<Dot>),
    /// What a version had that does not survive, for as long as its chunks are there.
    Content {
        /// Its root.
        root: ChunkId,
        /// MIME type of the copy.
        content_type: Option<String>,
    },
}

/// Which names to list.
#[derive(Clone, Debug)]
pub struct ListQuery {
    /// Only names that begin so.
    pub prefix: String,
    /// Fold what follows the prefix up to and including this text into one prefix.
    pub delimiter: Option<String>,
    /// Only names (or folded prefixes) after this one.
    pub after: Option<String>,
    /// At most so many entries, 1 to 1,000.
    pub limit: usize,
}

/// What a gateway needs of a node. One implementation serves clients; tests of the gateway use another.
#[async_trait::async_trait]
pub trait Files: Send + Sync + 'static {
    /// Stores a file.
    async fn put(&self, request: PutRequest, body: Body) -> Result<api::Receipt, WriteError>;
    /// Opens the head of a name, one of its surviving versions, or one that members remember.
    async fn open(&self, name: &Name, version: Option<Dot>) -> Result<OpenFile, ReadError>;
    /// Deletes a name, or one of its surviving versions.
    async fn delete(
        &self,
        name: &Name,
        version: Option<Dot>,
        precondition: Precondition,
        durability: api::Durability,
    ) -> Result<(), WriteError>;
    /// Writes a name anew from chunks that are there; no bytes move.
    async fn copy(&self, copy: Copy) -> Result<api::Receipt, WriteError>;
    /// Copies the head of `from` to `to`, then deletes the old name.
    async fn rename(
        &self,
        from: Name,
        to: Name,
        durability: api::Durability,
    ) -> Result<api::Receipt, WriteError>;
    /// Everything known of a name.
    async fn stat(&self, name: &Name) -> Result<api::Stat, ReadError>;
    /// Versions of a name that do not survive, as far as members remember them.
    async fn earlier(&self, name: &Name) -> Result<api::Earlier, ReadError>;
    /// What was measured and what happened, here or with `all` everywhere; at most an hour.
    async fn recent(&self, all: bool, past: Duration) -> api::Recent;
    /// A page of names, as this node knows them.
    async fn list(&self, query: ListQuery) -> Result<api::Listing, ReadError>;
    /// A chunk, from wherever it is.
    async fn chunk(&self, id: ChunkId) -> Result<OpenChunk, ReadError>;
    /// Where the chunks of a name's head belong and why, and who has them; with `if_down`, also where
    /// they would belong if that member were down.
    async fn locate(&self, name: &Name, if_down: Option<NodeId>) -> Result<api::Located, LocateError>;
    /// How the cluster is, by what its members say.
    async fn health(&self) -> api::Health;
    /// Hurries, pauses or goes on with scrubbing.
    async fn scrub(&self, request: api::ScrubRequest) -> api::Accepted;
    /// Hurries, pauses or goes on with repair.
    async fn repair(&self, request: api::RepairRequest) -> api::Accepted;
    /// Drains this node, so that it can leave.
    async fn leave(&self) -> Result<api::Accepted, OperatorError>;
    /// Has this node stay after all.
    async fn stay(&self) -> Result<api::Accepted, OperatorError>;
    /// Takes members that will not return from the roster.
    async fn forget(&self, nodes: BTreeSet<NodeId>, lost: bool) -> Result<api::Accepted, OperatorError>;
    /// Hashes everything again, here or everywhere; one at a time.
    fn verify(&self, all: bool) -> Result<VerifyStream, OperatorError>;
    /// The members as this node sees them.
    async fn cluster(&self) -> api::Cluster;
    /// The ring as this node sees it.
    fn ring(&self) -> api::RingDump;
    /// What this node holds and does.
    async fn status(&self) -> Result<api::NodeStatus, ReadError>;
    /// Whether this node is admitted and its catalog caught up, else what it waits for.
    fn readiness(&self) -> Result<(), String>;
    /// What happens from now on; a receiver that lags loses the oldest.
    fn events(&self) -> broadcast::Receiver<api::Event>;
}

/// The wall clock, for display only.
pub(crate) fn unix_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}
