//! What a catalog wants sent, and what services and council should know.

use super::command::{CommandId, Outcome};
use super::message::{Request, Response};
use crate::name::Name;
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::version::Dot;

/// A peer could not be asked, or did not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer could not be reached")]
pub struct Unreachable;

/// What is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// A request to a member.
    Request {
        /// The member.
        to: NodeId,
        /// Names the request; hand it back with the answer.
        id: u64,
        /// The request.
        request: Request,
        /// When to give up and report [`Unreachable`].
        deadline: Instant,
    },
    /// The answer to a request.
    Response {
        /// The token that came with the request.
        token: u64,
        /// The answer.
        response: Response,
    },
}

/// What the services and the council should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A command is answered.
    Completed {
        /// The command.
        id: CommandId,
        /// Its answer.
        outcome: Outcome,
    },
    /// A version survives here that did not before: written here (its dot's node is this one) or
    /// learnt.
    Written {
        /// The name.
        name: Name,
        /// The version.
        dot: Dot,
        /// Whether it is a tombstone.
        deleted: bool,
    },
    /// A name has a second live version since just now, concurrent with the first.
    Conflict {
        /// The name.
        name: Name,
    },
    /// More is seen than before: announce [`super::Catalog::seen_digest`] and tell the council.
    SeenChanged,
    /// Whether this node may vote has changed, as the electorate says.
    Ready(std::result::Result<(), String>),
    /// `from` holds a newer roster than this node: the council should fetch it.
    Behind {
        /// Who has it.
        from: NodeId,
        /// Its number.
        number: u64,
    },
    /// All that `peer` knew at its beginning was exchanged.
    Exchanged {
        /// The peer.
        peer: NodeId,
        /// Whether anything was new.
        learnt: bool,
    },
    /// The disk had lost a live version, which was put back, or had brought one back, which was dropped.
    Healed {
        /// The name.
        name: Name,
        /// The version.
        dot: Dot,
        /// Whether it was put back.
        restored: bool,
    },
    /// Somebody offered a known dot with other content, or no version at all; it was not stored.
    Contradiction {
        /// The dot.
        dot: Dot,
    },
}
