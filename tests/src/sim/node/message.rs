//! What simulated nodes say to each other on streams, as bytes where the machines have a wire form.

use kepler_protocol::chunk::ChunkId;
use kepler_protocol::version::Dot;

/// A question to a peer, as bytes where the machines have a wire form.
#[derive(Clone, Debug)]
pub enum Question {
    /// To the replica, with the key that the transport has proved.
    Replica([u8; 32], Vec<u8>),
    /// To the store: keep this chunk for an upload.
    Store(ChunkId, Dot),
    /// To the store: keep this copy.
    Push {
        /// The chunk.
        chunk: ChunkId,
        /// Its references.
        dots: Vec<Dot>,
        /// Whether there may be others.
        recovered: bool,
    },
    /// To the store: have you this chunk?
    Fetch(ChunkId),
    /// To the replicator.
    Heal(Vec<u8>),
    /// To membership: are you there?
    Probe,
    /// To membership: what I know; what do you?
    Exchange(Vec<u8>),
}

/// A question to whoever has this identity key, or to anybody at the address.
#[derive(Clone, Debug)]
pub struct Addressed {
    pub(super) key: Option<[u8; 32]>,
    pub(super) request: Question,
}

/// An answer to a peer.
#[derive(Clone, Debug)]
pub enum Reply {
    /// From the replica.
    Replica(Vec<u8>),
    /// From the store: whether the chunk is durable.
    Stored(bool),
    /// From the store.
    Pushed {
        /// Whether the copy is durable.
        stored: bool,
        /// Whether it was there before.
        held: bool,
    },
    /// From the store: whether its bytes come with this.
    Fetched(bool),
    /// From the replicator.
    Heal(Vec<u8>),
    /// From membership: yes.
    Here,
    /// From membership.
    Exchanged(Vec<u8>),
}
