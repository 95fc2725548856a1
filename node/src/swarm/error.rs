//! Why a call has no answer, and why a chunk did not move.

use super::Refusal;

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No member, no connection, or it broke before the answer came. Whether the peer acted is unknown.
    #[error("the node is not reachable: {0}")]
    Unreachable(String),
    /// No answer before the deadline. Whether the peer acted is unknown.
    #[error("the node did not answer in time")]
    TimedOut,
    /// The request is larger than [`MAX_BODY_BYTES`](super::MAX_BODY_BYTES); nothing was sent.
    #[error("the request has {0} bytes, more than a call may have")]
    TooLarge(usize),
    /// The peer answered that it does not answer.
    #[error("the node did not answer: {0}")]
    Refused(Refusal),
}

/// Why a chunk did not move.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// The peer does not have it.
    #[error("the node does not have the chunk")]
    Missing,
    /// What arrived, or what the peer has, is not what the id says.
    #[error("the bytes are not those of the chunk")]
    Corrupt,
    /// The peer does not take or give it.
    #[error("the node refused: {0}")]
    Refused(Refusal),
    /// No member, no connection, or it broke.
    #[error("the node is not reachable: {0}")]
    Unreachable(String),
    /// Nothing moved for too long, or all of it took too long.
    #[error("the transfer took too long")]
    TimedOut,
}
