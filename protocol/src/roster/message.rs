//! What councils say to each other, and the limits of it.
//!
//! Every request and response carries its sender's number, database and mark, so that each can be
//! judged alone. What is decoded here is within the limits below; whether it is believed is up to
//! the [council](super::council).

use std::fmt;

use minicbor::{Decode, Encode};

use super::change::{Change, Decided, MAX_MEMBERS, Malformed};
use super::paxos::{Ballot, Vote};
use super::{Constants, Entry};
use crate::catalog::seen::Seen;
use crate::identity::{ClusterId, DatabaseId};
use crate::node_id::NodeId;

/// The greatest encoded request or response, in bytes.
pub const MAX_MESSAGE_BYTES: usize = crate::wire::MAX_CALL_BYTES;

/// The longest explanation carried, in bytes.
pub const MAX_REASON_BYTES: usize = 512;

/// The algorithm that places names; a node with another is not admitted.
pub const RING_VERSION: u32 = 1;

/// Names one request of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A question to another council.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Request {
    /// The sender's [`Phase`](super::change::Phase) on the wire; 0 without a roster.
    #[n(0)]
    pub number: u64,
    /// The sender's cluster; absent before it is admitted.
    #[n(1)]
    pub cluster: Option<ClusterId>,
    /// The sender's database.
    #[n(2)]
    pub database: DatabaseId,
    /// How many catalog transactions the sender has committed.
    #[n(3)]
    pub mark: u64,
    /// The question.
    #[n(4)]
    pub question: Question,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Question {
    /// Are you there, and what mark of mine do you remember?
    #[n(0)]
    Hello {
        /// Random; the answer repeats it.
        #[n(0)]
        nonce: u64,
    },
    /// Let me in.
    #[n(1)]
    Join {
        /// What to bind the sender to.
        #[n(0)]
        entry: Entry,
        /// The sender's configured replication factor.
        #[n(1)]
        replication_factor: u8,
        /// The sender's [`RING_VERSION`].
        #[n(2)]
        ring_version: u32,
    },
    /// What is newer than the number of this request?
    #[n(2)]
    Learn,
    /// This roster is decided. What had you seen when you adopted it?
    #[n(3)]
    Adopt {
        /// The roster.
        #[n(0)]
        decided: Decided,
        /// Its floor, where the sender knows it.
        #[n(1)]
        floor: Option<Seen>,
    },
    /// Paxos, phase 1, for the roster after `base`.
    #[n(4)]
    Prepare {
        /// The number of the roster whose members decide.
        #[n(0)]
        base: u64,
        /// The proposer's ballot.
        #[n(1)]
        ballot: Ballot,
        /// What it means to propose, so that who objects can say so early.
        #[n(2)]
        change: Change,
    },
    /// Paxos, phase 2.
    #[n(5)]
    Accept {
        /// The number of the roster whose members decide.
        #[n(0)]
        base: u64,
        /// The proposer's ballot.
        #[n(1)]
        ballot: Ballot,
        /// The value.
        #[n(2)]
        change: Change,
        /// Whether the value is the proposer's own, not one it found accepted.
        #[n(3)]
        fresh: bool,
    },
}

/// An answer of another council.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Response {
    /// The sender's [`Phase`](super::change::Phase) on the wire; 0 without a roster.
    #[n(0)]
    pub number: u64,
    /// The constants of the sender's cluster; absent before it is admitted.
    #[n(1)]
    pub constants: Option<Constants>,
    /// How many members the sender's roster has.
    #[n(2)]
    pub members: u32,
    /// The sender's database.
    #[n(3)]
    pub database: DatabaseId,
    /// How many catalog transactions the sender has committed.
    #[n(4)]
    pub mark: u64,
    /// The answer.
    #[n(5)]
    pub answer: Answer,
}

/// What a peer remembers of another's database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Mark {
    /// The database.
    #[n(0)]
    pub database: DatabaseId,
    /// The greatest count of committed transactions it has announced.
    #[n(1)]
    pub count: u64,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Answer {
    /// To [`Question::Hello`].
    #[n(0)]
    Hello {
        /// The nonce of the question.
        #[n(0)]
        nonce: u64,
        /// What the sender remembers of the asker.
        #[n(1)]
        remembered: Option<Mark>,
    },
    /// The sender cannot do it now; ask again or ask another.
    #[n(1)]
    Later {
        /// What it waits for.
        #[n(0)]
        why: String,
    },
    /// The sender will not do it.
    #[n(2)]
    Refused {
        /// Why.
        #[n(0)]
        why: String,
    },
    /// A decided roster, with its floor where it is known.
    #[n(3)]
    Learned {
        /// The roster.
        #[n(0)]
        decided: Decided,
        /// Its floor.
        #[n(1)]
        floor: Option<Seen>,
    },
    /// To [`Question::Adopt`]; `number` of the response says what the sender holds now.
    #[n(4)]
    Adopted {
        /// What the sender had seen when it adopted the roster of the question, if it confirms.
        #[n(0)]
        confirmation: Option<Seen>,
        /// Members of the roster before that the sender has not heard from for the time after
        /// which they are forgotten.
        #[n(1)]
        silent: Vec<NodeId>,
    },
    /// Paxos, phase 1.
    #[n(5)]
    Promise {
        /// The promised ballot.
        #[n(0)]
        ballot: Ballot,
        /// What the sender has accepted.
        #[n(1)]
        accepted: Option<Vote>,
    },
    /// Paxos, phase 2.
    #[n(6)]
    Accepted {
        /// The accepted ballot.
        #[n(0)]
        ballot: Ballot,
    },
    /// The sender has promised a higher ballot.
    #[n(7)]
    Outbid {
        /// The higher one.
        #[n(0)]
        ballot: Ballot,
    },
}

fn encode<T: Encode<()>>(message: &T) -> Vec<u8> {
    minicbor::to_vec(message).expect("writing to a Vec cannot fail")
}

fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, Malformed> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(Malformed("it is longer than any call"));
    }
    minicbor::decode(bytes).map_err(|_| Malformed("not the expected CBOR"))
}

impl Request {
    /// The bytes that cross the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Parses and checks what came over the wire.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let request: Self = decode(bytes)?;
        request.check()?;
        Ok(request)
    }

    /// Checks what was decoded as part of something else.
    pub(crate) fn check(&self) -> Result<(), Malformed> {
        match &self.question {
            Question::Join { entry, .. } => entry.check()?,
            Question::Adopt { decided, .. } => decided.check()?,
            Question::Prepare { change, .. } | Question::Accept { change, .. } => change.check()?,
            Question::Hello { .. } | Question::Learn => {}
        }
        Ok(())
    }
}

impl Response {
    /// The bytes that cross the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Parses and checks what came over the wire.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let response: Self = decode(bytes)?;
        response.check()?;
        Ok(response)
    }

    /// Checks what was decoded as part of something else.
    pub(crate) fn check(&self) -> Result<(), Malformed> {
        match &self.answer {
            Answer::Learned { decided, .. } => decided.check()?,
            Answer::Promise { accepted: Some(vote), .. } => vote.change.check()?,
            Answer::Adopted { silent, .. } if silent.len() > MAX_MEMBERS => {
                return Err(Malformed("more silent members than a roster has"));
            }
            Answer::Later { why } | Answer::Refused { why } if why.len() > MAX_REASON_BYTES => {
                return Err(Malformed("an explanation has at most 512 bytes"));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Cuts an explanation to what fits.
pub(super) fn reason(text: impl fmt::Display) -> String {
    let mut text = text.to_string();
    if text.len() > MAX_REASON_BYTES {
        let cut = (0..=MAX_REASON_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(cut);
    }
    text
}
