//! What is said about chunks, beside their bytes.

use kepler_protocol::chunk::{Chunk, ChunkId};
use kepler_protocol::version::Dot;
use minicbor::{Decode, Encode};

use crate::swarm::Refusal;
use crate::swarm::codec::StreamError;
use crate::swarm::error::TransferError;
use crate::throttle::Pace;

/// The most references that one push carries; more go in further offers.
pub const MAX_DOTS: usize = 4096;

/// The most chunks that one question may ask after; more go in further questions.
pub const MAX_IDS: usize = 4096;

/// Bounds [`MAX_DOTS`] dots of the longest node ids.
pub(super) const MAX_REQUEST_BYTES: usize = 512 << 10;

/// Bounds [`MAX_IDS`] answers.
pub(super) const MAX_REPLY_BYTES: usize = 64 << 10;

/// What the opener of a stream wants.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(in crate::swarm) enum Request {
    #[n(0)]
    Push(#[n(0)] Offer),
    #[n(1)]
    Fetch(#[n(0)] Fetch),
    #[n(2)]
    Held(#[n(0)] Held),
    #[n(3)]
    Adopt(#[n(0)] Adopt),
}

/// References to a chunk that the other side may have.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(in crate::swarm) struct Adopt {
    #[n(0)]
    pub id: ChunkId,
    #[n(1)]
    pub dots: Vec<Dot>,
}

/// A chunk that the opener would send.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(in crate::swarm) struct Offer {
    #[n(0)]
    pub id: ChunkId,
    #[n(1)]
    pub size: u64,
    #[n(2)]
    pub dots: Vec<Dot>,
    /// Whether nobody waits for it: both sides bound it then.
    #[n(3)]
    #[cbor(default)]
    pub background: bool,
    /// Whether the sender may have lost references of it with a database, so that it is not to be
    /// collected for want of one.
    #[n(4)]
    #[cbor(default)]
    pub recovered: bool,
}

impl Offer {
    pub(in crate::swarm) fn new(chunk: &Chunk, dots: &[Dot], how: How) -> Self {
        let (id, size, dots) = (chunk.id(), chunk.bytes().len() as u64, dots.to_vec());
        Self { id, size, dots, background: how.pace.is_some(), recovered: how.recovered }
    }
}

/// A chunk that the opener would have.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(in crate::swarm) struct Fetch {
    #[n(0)]
    pub id: ChunkId,
    /// Whether nobody waits for it: both sides bound it then.
    #[n(1)]
    #[cbor(default)]
    pub background: bool,
}

/// Chunks that the opener asks after.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(in crate::swarm) struct Held {
    #[n(0)]
    pub ids: Vec<ChunkId>,
}

/// What the other side says.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(in crate::swarm) enum Reply {
    /// The chunk is here and its references are recorded: send nothing.
    #[n(0)]
    Have,
    /// Send the bytes.
    #[n(1)]
    Send,
    /// The chunk and its references are durable.
    #[n(2)]
    Stored,
    /// The bytes follow.
    #[n(3)]
    Found(#[n(0)] u64),
    /// The chunk is not here.
    #[n(4)]
    Missing,
    /// Which chunks are here, in the order asked.
    #[n(5)]
    Present(#[n(0)] Vec<bool>),
    /// None of these; a [`Refusal`] by number.
    #[n(6)]
    Refused(#[n(0)] u8),
}

impl Refusal {
    /// Its number on the wire.
    pub(in crate::swarm) const fn code(self) -> u8 {
        match self {
            Self::DiskFull => 1,
            Self::Busy => 2,
            Self::Corrupt => 3,
            Self::TooLarge => 4,
            Self::Malformed => 5,
            Self::Leaving => 7,
            Self::Failed => 6,
        }
    }

    /// What a number means; those of later versions are failures.
    pub(in crate::swarm) const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::DiskFull,
            2 => Self::Busy,
            3 => Self::Corrupt,
            4 => Self::TooLarge,
            5 => Self::Malformed,
            7 => Self::Leaving,
            _ => Self::Failed,
        }
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal.code())
    }
}

impl Reply {
    /// What an answer means that is not one of those hoped for.
    pub(in crate::swarm) fn into_error(self) -> TransferError {
        match self {
            Self::Missing => TransferError::Missing,
            Self::Refused(code) => Refusal::from_code(code).into(),
            _ => TransferError::Unreachable("it answered out of turn".into()),
        }
    }
}

impl From<Refusal> for TransferError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Corrupt => Self::Corrupt,
            other => Self::Refused(other),
        }
    }
}

impl From<StreamError> for TransferError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::TimedOut(_) => Self::TimedOut,
            other => Self::Unreachable(other.to_string()),
        }
    }
}

/// How a chunk is pushed.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::swarm) struct How {
    /// As background traffic, so fast.
    pub pace: Option<Pace>,
    /// References of it may have been lost.
    pub recovered: bool,
}
