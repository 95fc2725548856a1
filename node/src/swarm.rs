//! The swarm: this node's libp2p connections to other members, and what travels on them.
//!
//! TCP, TLS 1.3 (AES-128-GCM preferred) with the cluster key proved inside, Yamux, and on each stream
//! one request and its answer. Chunks are streamed: their bytes reach the [`ChunkStore`] in pieces
//! while later ones are still on their way, and no more of them are under way than the receiver has
//! slots for. Everything else is an opaque request to a [`Service`].
//!
//! | module | owns |
//! | --- | --- |
//! | `limits` | every bound and deadline |
//! | `transport`, `tls`, `proof`, `muxer` | from a TCP socket to streams of a proved peer |
//! | `membership`, `connection` | who may connect, where members are, opening streams |
//! | `codec`, `transfer`, `calls`, `line` | what is said on a stream, both sides |
//! | `driver`, `handle` | the task that polls libp2p, and the way into it |
//!
//! Invariants:
//! - Only members of the current view that are not dead or left hold connections.
//! - Nothing is allocated by a size that a peer declares; every size is checked first.
//! - Every request is answered: with a result or with a typed refusal, never by a bare end of stream.
//! - Every wait has a deadline.
//!
//! libp2p's own request-response behaviour is deliberately absent: it cannot refuse a chunk before its
//! bytes were sent, drops what exceeds its stream limit, and answers codec errors by closing.

mod calls;
mod codec;
mod connection;
mod counters;
mod driver;
mod error;
mod handle;
mod lane;
mod limits;
mod line;
mod membership;
mod muxer;
mod proof;
mod server;
mod tls;
mod transfer;
mod transport;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use kepler_protocol::chunk::{Chunk, ChunkId};
use kepler_protocol::node_id::NodeId;
use kepler_protocol::version::Dot;
use kepler_protocol::view::View;
use tokio::sync::{mpsc, oneshot, watch};

pub use counters::Stats;
pub use error::{CallError, TransferError};
pub use handle::Handle;
pub use limits::Limits;
pub use transfer::{MAX_DOTS, MAX_IDS};

/// The largest body of a call and of its answer, in bytes.
pub const MAX_BODY_BYTES: usize = kepler_protocol::wire::MAX_CALL_BYTES;

/// The key of a cluster whose operator set none: it keeps nobody out, but leaves one code path.
const NO_CLUSTER_KEY: [u8; 32] = [0; 32];

/// What a swarm is started with.
#[derive(Clone)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// Its Ed25519 secret key.
    pub identity: [u8; 32],
    /// Cluster keys: the first is proved to peers, each is accepted from them. Empty: no secret.
    pub cluster_keys: Vec<[u8; 32]>,
    /// Where to accept connections; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Bounds and deadlines.
    pub limits: Limits,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("node", &self.node)
            .field("cluster_keys", &self.cluster_keys.len())
            .field("listen", &self.listen)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Why a node does not take or give a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The disk is at its reserve.
    #[error("its disk is full")]
    DiskFull,
    /// It has too much to do at the moment.
    #[error("it is busy")]
    Busy,
    /// The bytes are not what their id says.
    #[error("the bytes do not match their id")]
    Corrupt,
    /// More than it takes at once.
    #[error("it is too large")]
    TooLarge,
    /// It did not understand: another version of the software.
    #[error("it does not understand the request")]
    Malformed,
    /// It is leaving the cluster and would have to hand it over at once.
    #[error("it is leaving")]
    Leaving,
    /// It failed in some other way, which its log tells.
    #[error("it failed")]
    Failed,
}

/// Where received chunks go and sent ones come from; the composition root implements it over the store.
#[async_trait]
pub trait ChunkStore: Send + Sync + 'static {
    /// Begins to take a chunk of `size` bytes, at most [`MAX_CHUNK_BYTES`].
    ///
    /// [`MAX_CHUNK_BYTES`]: kepler_protocol::chunk::MAX_CHUNK_BYTES
    ///
    /// # Errors
    /// Whatever speaks against it before a byte was sent; the peer is told.
    async fn receive(&self, id: ChunkId, size: u64) -> Result<Box<dyn Incoming>, Refusal>;

    /// Adds references to a chunk if it is here and intact (its file is hashed again), and says whether.
    ///
    /// # Errors
    /// Reading or recording failed.
    async fn adopt(&self, id: ChunkId, dots: Vec<Dot>) -> Result<bool, Refusal>;

    /// Notes that references of a chunk that is here may have been lost with a database elsewhere.
    ///
    /// # Errors
    /// Recording failed.
    async fn mark_recovered(&self, _id: ChunkId) -> Result<(), Refusal> {
        Ok(())
    }

    /// Reads and verifies a chunk, `None` if it is not here.
    ///
    /// # Errors
    /// It cannot be read, or is corrupt.
    async fn read(&self, id: ChunkId) -> Result<Option<Chunk>, Refusal>;

    /// Takes a small chunk that came whole; makes it and its references durable.
    ///
    /// # Errors
    /// [`Refusal::Corrupt`] if the bytes do not hash to the id, or whatever failed.
    async fn store(&self, id: ChunkId, bytes: Bytes, dots: Vec<Dot>) -> Result<(), Refusal> {
        let mut incoming = self.receive(id, bytes.len() as u64).await?;
        incoming.write(bytes).await?;
        incoming.finish(dots).await
    }

    /// Which of these chunks are here, in the order asked; at most [`MAX_IDS`].
    ///
    /// # Errors
    /// The index cannot be read.
    async fn held(&self, ids: Vec<ChunkId>) -> Result<Vec<bool>, Refusal>;
}

/// A chunk on its way in. Dropping it before [`Incoming::finish`] throws away what was written.
#[async_trait]
pub trait Incoming: Send {
    /// Takes the next piece, of 256 KiB or, at the end, less.
    ///
    /// It should return as soon as a bounded queue to a blocking writer has room, so that hashing and
    /// writing go on while the next piece arrives; not returning holds the sender back.
    ///
    /// # Errors
    /// Writing failed; the peer is told and sends no more.
    async fn write(&mut self, piece: Bytes) -> Result<(), Refusal>;

    /// Makes the chunk and its references durable.
    ///
    /// # Errors
    /// [`Refusal::Corrupt`] if the bytes do not hash to the id, or whatever failed.
    async fn finish(self: Box<Self>, dots: Vec<Dot>) -> Result<(), Refusal>;
}

/// Which part of a node a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// `/kepler/catalog/1`: versions, exchange, voting; deciding the roster.
    Catalog,
    /// `/kepler/gossip/1`: full-state exchange of membership.
    Gossip,
    /// `/kepler/load/1`: what the node stores, for people.
    Load,
    /// `/kepler/replicator/1`: who lacks which chunks, receipts for copies.
    Replicator,
    /// `/kepler/operations/1`: health, and what an operator asks of all nodes through one.
    Operations,
}

impl Service {
    /// Its number on a line.
    const fn code(self) -> u8 {
        match self {
            Self::Catalog => 0,
            Self::Gossip => 1,
            Self::Load => 2,
            Self::Replicator => 3,
            Self::Operations => 4,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        let all = [Self::Catalog, Self::Gossip, Self::Load, Self::Replicator, Self::Operations];
        all.into_iter().find(|service| service.code() == code)
    }
}

/// The other end of a connection: a member that proved its identity key and the cluster key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name in the view at the time it connected.
    pub node: NodeId,
    /// Its Ed25519 public key.
    pub key: [u8; 32],
}

/// A call from a peer.
#[derive(Debug)]
pub struct Inbound {
    /// Who calls.
    pub from: Peer,
    /// What for.
    pub service: Service,
    /// The request, at most [`MAX_BODY_BYTES`].
    pub body: Bytes,
    /// Where the answer goes.
    pub reply: Reply,
}

/// The one answer to a call. Dropped, it tells the peer that the call failed.
#[derive(Debug)]
pub struct Reply {
    answer: oneshot::Sender<Bytes>,
}

impl Reply {
    /// Answers with at most [`MAX_BODY_BYTES`]; what is longer reaches the peer as an error.
    pub fn send(self, body: Bytes) {
        // The peer may have given up meanwhile.
        let _ = self.answer.send(body);
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_closed(&self) -> bool {
        self.answer.is_closed()
    }
}

/// Why a swarm did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on: taken, or not this machine's.
    #[error("listen for other nodes on {addr}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The identity or its certificate cannot be used.
    #[error("prepare TLS: {0}")]
    Tls(String),
}

/// Starts a swarm on the current tokio runtime.
///
/// Returns the way into it, the calls of peers, and the address it listens on. The swarm ends by
/// [`Handle::shutdown`] or when the last handle is dropped.
///
/// # Errors
/// See [`StartError`].
///
/// # Panics
/// Outside a tokio runtime.
pub fn start(
    config: Config,
    view: watch::Receiver<Arc<View>>,
    chunks: Arc<dyn ChunkStore>,
) -> Result<(Handle, mpsc::Receiver<Inbound>, SocketAddr), StartError> {
    driver::start(config, view, chunks)
}
