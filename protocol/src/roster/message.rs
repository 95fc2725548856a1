//! What councils say to each other, and the limits of it.
//!
//! Every request and response carries its sender's number, database and mark, so that each can be
//! judged alone. What is decoded here is within the limits below; whether it is believed is up to
//! the [council](super::council).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use minicbor::{Decode, Encode};

use super::{Constants, Entry, Roster};
use crate::catalog::seen::Seen;
use crate::identity::{ClusterId, DatabaseId};
use crate::node_id::NodeId;

/// The greatest encoded request or response, in bytes.
pub const MAX_MESSAGE_BYTES: usize = crate::wire::MAX_CALL_BYTES;

/// The most members a roster may have.
pub const MAX_MEMBERS: usize = 4096;

/// The longest name of a failure zone, in bytes.
pub const MAX_ZONE_BYTES: usize = 63;

/// The longest explanation carried, in bytes.
pub const MAX_REASON_BYTES: usize = 512;

/// The algorithm that places names; a node with another is not admitted.
pub const RING_VERSION: u32 = 1;

/// Names one request of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A roster's number together with whether its floor is known: what requests on names carry.
///
/// Ordered: who learns the floor of a roster is ahead of who only holds the roster. A replica that
/// does not know the floor is thus behind a coordinator that counts one list alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Phase {
    /// The roster's number.
    pub number: u64,
    /// Whether its floor is known.
    pub floor: bool,
}

impl Phase {
    /// As one number: twice the roster's, plus one if the floor is known.
    pub const fn to_wire(self) -> u64 {
        self.number.saturating_mul(2).saturating_add(self.floor as u64)
    }

    /// The reverse of [`Phase::to_wire`].
    pub const fn from_wire(wire: u64) -> Self {
        Self { number: wire / 2, floor: wire % 2 == 1 }
    }
}

/// Paxos ballot: the counter, then the proposer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(map)]
pub struct Ballot {
    /// Raised above every ballot the proposer has met.
    #[n(0)]
    pub counter: u64,
    /// The proposer: no two share a ballot.
    #[n(1)]
    pub node: NodeId,
}

/// Why a roster differs from the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Reason {
    /// The founder's first roster.
    #[n(0)]
    Founded,
    /// A newcomer, or a member with a new key, database, zone or capacity.
    #[n(1)]
    Admitted,
    /// The member said that it left.
    #[n(2)]
    Left,
    /// Nobody heard of the member for the time after which it is forgotten.
    #[n(3)]
    Dead,
    /// An operator forgot it.
    #[n(4)]
    Forgotten,
    /// A majority was lost for good, and an operator made the survivors the roster.
    #[n(5)]
    Lost,
}

/// The one member in which roster n+1 differs from n: the value that Paxos decides.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Change {
    /// The member.
    #[n(0)]
    pub node: NodeId,
    /// What it is bound to, or `None` where it is removed.
    #[n(1)]
    pub entry: Option<Entry>,
    /// Why.
    #[n(2)]
    pub reason: Reason,
}

/// An accepted value with its ballot.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Vote {
    /// The ballot it was accepted in.
    #[n(0)]
    pub ballot: Ballot,
    /// The value.
    #[n(1)]
    pub change: Change,
}

/// A decided roster and what it changed, so that the one before it follows from it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Decided {
    /// The roster.
    #[n(0)]
    pub roster: Roster,
    /// The member in which it differs from the roster before.
    #[n(1)]
    pub changed: NodeId,
    /// That member's entry in the roster before; absent if it had none.
    #[n(2)]
    pub before: Option<Entry>,
    /// Why.
    #[n(3)]
    pub reason: Reason,
    /// Further members that an operator gave up with the first, with their entries.
    #[cbor(n(4), default)]
    pub lost: BTreeMap<NodeId, Entry>,
}

/// By how much an operator's word raises the number of a roster whose majority is lost.
pub const LOST_STEP: u64 = 1 << 32;

impl Decided {
    /// What follows `roster` when `change` is decided.
    pub fn after(roster: &Roster, change: &Change) -> Self {
        let mut next = roster.clone();
        next.number = roster.number.saturating_add(1);
        let before = match &change.entry {
            Some(entry) => next.members.insert(change.node, entry.clone()),
            None => next.members.remove(&change.node),
        };
        Self { roster: next, changed: change.node, before, reason: change.reason, lost: BTreeMap::new() }
    }

    /// What follows `roster` where an operator gives up `lost`; `None` if none of them is a member.
    pub fn without(roster: &Roster, lost: &BTreeSet<NodeId>) -> Option<Self> {
        let mut next = roster.clone();
        next.number = roster.number.saturating_add(LOST_STEP);
        let mut gone: BTreeMap<NodeId, Entry> =
            lost.iter().filter_map(|node| next.members.remove_entry(node)).collect();
        let (changed, entry) = gone.pop_first()?;
        Some(Self { roster: next, changed, before: Some(entry), reason: Reason::Lost, lost: gone })
    }

    /// The members that were removed on an operator's word or their own: nobody waits for them.
    pub fn gone(&self) -> impl Iterator<Item = NodeId> {
        let on_its_word = matches!(self.reason, Reason::Left | Reason::Forgotten | Reason::Lost);
        let removed = on_its_word && !self.roster.members.contains_key(&self.changed);
        removed.then_some(self.changed).into_iter().chain(self.lost.keys().copied())
    }

    /// The roster before this one; without members before the first.
    pub fn previous(&self) -> Roster {
        let mut previous = self.roster.clone();
        let step = if self.reason == Reason::Lost { LOST_STEP } else { 1 };
        previous.number = self.roster.number.saturating_sub(step);
        previous.members.extend(self.lost.iter().map(|(node, entry)| (*node, entry.clone())));
        match &self.before {
            Some(entry) => previous.members.insert(self.changed, entry.clone()),
            None => previous.members.remove(&self.changed),
        };
        previous
    }

    fn check(&self) -> Result<(), Malformed> {
        let members = &self.roster.members;
        if self.roster.number == 0 || members.is_empty() || members.len() > MAX_MEMBERS {
            return Err(Malformed("a roster has a number and 1 to 4,096 members"));
        }
        if self.roster.constants.replication_factor == 0 {
            return Err(Malformed("the replication factor is at least 1"));
        }
        if !self.lost.is_empty() && self.reason != Reason::Lost || self.lost.len() > MAX_MEMBERS {
            return Err(Malformed("only an operator removes several members at once"));
        }
        members.values().chain(&self.before).chain(self.lost.values()).try_for_each(check_entry)
    }
}

/// A question to another council.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Request {
    /// The sender's [`Phase`] on the wire; 0 without a roster.
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
    /// The sender's [`Phase`] on the wire; 0 without a roster.
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

/// Bytes that are no message of a council.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed council message: {0}")]
pub struct Malformed(&'static str);

fn check_entry(entry: &Entry) -> Result<(), Malformed> {
    match &entry.zone {
        Some(zone) if zone.is_empty() || zone.len() > MAX_ZONE_BYTES => {
            Err(Malformed("a zone has 1 to 63 bytes"))
        }
        _ => Ok(()),
    }
}

fn check_change(change: &Change) -> Result<(), Malformed> {
    change.entry.iter().try_for_each(check_entry)
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
            Question::Join { entry, .. } => check_entry(entry)?,
            Question::Adopt { decided, .. } => decided.check()?,
            Question::Prepare { change, .. } | Question::Accept { change, .. } => check_change(change)?,
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
            Answer::Promise { accepted: Some(vote), .. } => check_change(&vote.change)?,
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
