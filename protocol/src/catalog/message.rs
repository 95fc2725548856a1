//! What catalogs say to each other: requests and responses, and their limits on the wire.
//!
//! Whoever builds a message cuts it to size, far below [`MAX_MESSAGE_BYTES`]. Fields
//! that a reader does not know are ignored. Decoding checks every count that is used later, so a
//! decoded message is safe to act upon.

use minicbor::{Decode, Encode};

mod audit;
mod exchange;

use super::seen::{Seen, SeenSet};
use crate::name::Name;
use crate::version::{Dot, MAX_CONTENT_TYPE_BYTES, Version};

pub use audit::{Audit, MAX_RANGES, Range, Recall, Recalled, Testimony};
pub use exchange::{
    Check, Claim, Compare, Compared, Cursor, Division, MAX_CHECKED, MAX_COMPARED, NamePart, Page, Pull,
};

/// The longest encoded request or response that is accepted. Nobody builds one of more than 1 MiB.
pub const MAX_MESSAGE_BYTES: usize = crate::wire::MAX_CALL_BYTES;

/// The greatest sequence number that is accepted: what lies beyond was never drawn.
pub const MAX_SEQUENCE: u64 = 1 << 53;

/// What one node asks of another.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// Which versions of a name survive?
    #[n(0)]
    Read(#[n(0)] Read),
    /// Keep these versions. With a roster number the answer is an acknowledgement that counts.
    #[n(1)]
    Push(#[n(0)] Push),
    /// Reserve a name for a conditional write.
    #[n(2)]
    Reserve(#[n(0)] Reserve),
    /// Exchange the reservation for the version.
    #[n(3)]
    Vote(#[n(0)] Vote),
    /// Give a reservation up.
    #[n(4)]
    Release(#[n(0)] Release),
    /// Send a page of what I have not seen.
    #[n(5)]
    Pull(#[n(0)] Pull),
    /// Keep these versions and pass them on.
    #[n(6)]
    Relay(#[n(0)] Relay),
    /// Which of my survivors do you know to be superseded?
    #[n(7)]
    Check(#[n(0)] Check),
    /// Where do we differ in what we have seen?
    #[n(8)]
    Compare(#[n(0)] Compare),
    /// Do you hold the same live versions of these names?
    #[n(9)]
    Audit(#[n(0)] Audit),
    /// Which live versions do you hold of these names?
    #[n(10)]
    Recall(#[n(0)] Recall),
    /// What became of these versions?
    #[n(11)]
    Testify(#[n(0)] Check),
}

/// Reads a name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Read {
    /// The asker's roster.
    #[n(0)]
    pub roster: u64,
    /// The name.
    #[n(1)]
    pub name: Name,
    /// Survivors that the asker holds: they need not be sent.
    #[n(2)]
    pub known: Vec<Dot>,
    /// Survivors that the replica was found to lack: read repair.
    #[n(3)]
    pub offers: Vec<Version>,
}

/// Offers versions.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Push {
    /// The roster over which acknowledgements are counted; absent where none is counted.
    #[n(0)]
    pub roster: Option<u64>,
    /// The versions.
    #[n(1)]
    pub versions: Vec<Version>,
}

/// What a conditional write is based on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Base {
    /// This version survives.
    #[n(0)]
    Version(#[n(0)] Dot),
    /// No live version.
    #[n(1)]
    Absent,
}

/// Reserves a name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Reserve {
    /// The asker's roster.
    #[n(0)]
    pub roster: u64,
    /// The name.
    #[n(1)]
    pub name: Name,
    /// The attempt: the dot that the version will have.
    #[n(2)]
    pub attempt: Dot,
    /// What must hold.
    #[n(3)]
    pub base: Base,
    /// The base, for a replica that missed it.
    #[n(4)]
    pub offers: Vec<Version>,
}

/// Asks for a vote.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Vote {
    /// The asker's roster.
    #[n(0)]
    pub roster: u64,
    /// The version; its dot is the attempt.
    #[n(1)]
    pub version: Version,
}

/// Gives a reservation up.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Release {
    /// The name.
    #[n(0)]
    pub name: Name,
    /// The attempt.
    #[n(1)]
    pub attempt: Dot,
}

/// Relays versions.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Relay {
    /// The versions.
    #[n(0)]
    pub versions: Vec<Version>,
    /// The receiver passes them to the members after it, in the circle of node ids, up to this one.
    #[n(1)]
    pub until: crate::node_id::NodeId,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Response {
    /// To [`Request::Read`].
    #[n(0)]
    Read(#[n(0)] Survivors),
    /// To [`Request::Push`]: durable, but for what is refused.
    #[n(1)]
    Pushed(#[n(0)] Pushed),
    /// The name is reserved for the attempt.
    #[n(2)]
    Reserved,
    /// Another attempt's reservation stands.
    #[n(3)]
    Held,
    /// The base does not survive here: what does.
    #[n(4)]
    Gone(#[n(0)] Survivors),
    /// The reservation was exchanged for the version, now or before.
    #[n(5)]
    Voted,
    /// No reservation of the attempt stands; the version is kept all the same.
    #[n(6)]
    Unvoted,
    /// There is nothing to say.
    #[n(7)]
    Done,
    /// To [`Request::Pull`].
    #[n(8)]
    Page(#[n(0)] Page),
    /// The replica is not ready: counts for no majority.
    #[n(9)]
    NotReady(#[n(0)] String),
    /// The asker's roster is older than this one.
    #[n(10)]
    Behind(#[n(0)] u64),
    /// The asker's roster is newer than this one, the replica's.
    #[n(11)]
    Ahead(#[n(0)] u64),
    /// The request makes no sense, or a version has a known dot with other content.
    #[n(12)]
    Invalid(#[n(0)] String),
    /// To [`Request::Check`]: those that are seen here and do not survive.
    #[n(13)]
    Superseded(#[n(0)] Vec<Dot>),
    /// To [`Request::Compare`].
    #[n(14)]
    Compared(#[n(0)] Compared),
    /// To [`Request::Audit`]: the ranges that differ, by their places in the request.
    #[n(15)]
    Audited(#[n(0)] Vec<u8>),
    /// To [`Request::Recall`].
    #[n(16)]
    Recalled(#[n(0)] Recalled),
    /// To [`Request::Testify`].
    #[n(17)]
    Testified(#[n(0)] Testimony),
}

/// What survives of a name at one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Survivors {
    /// All published survivors.
    #[n(0)]
    pub holds: Vec<Dot>,
    /// Those that the asker did not name as known, as many as fit.
    #[n(1)]
    pub versions: Vec<Version>,
    /// Those that the asker named and something supersedes.
    #[n(2)]
    pub superseded: Vec<Dot>,
}

/// What became of pushed versions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Pushed {
    /// Versions whose dots are known with other content.
    #[n(0)]
    pub refused: Vec<Dot>,
}

/// What one message carries of versions, in encoded bytes; it leaves room for the dots beside them.
const VERSION_BYTES: usize = 512 << 10;

struct Counter(usize);

impl minicbor::encode::Write for Counter {
    type Error = std::convert::Infallible;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        self.0 += bytes.len();
        Ok(())
    }
}

/// How many bytes a value takes on the wire.
pub(super) fn encoded_len(value: &impl Encode<()>) -> usize {
    let mut counter = Counter(0);
    minicbor::encode(value, &mut counter).expect("counting cannot fail");
    counter.0
}

/// As many of `versions` as one message carries.
pub(super) fn cut_versions(versions: impl IntoIterator<Item = Version>) -> Vec<Version> {
    let mut room = VERSION_BYTES;
    let mut cut = Vec::new();
    for version in versions {
        let bytes = encoded_len(&version);
        if bytes > room {
            break;
        }
        room -= bytes;
        cut.push(version);
    }
    cut
}

/// Bytes that are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("catalog message: {0}")]
pub struct InvalidMessage(String);

fn invalid(why: impl ToString) -> InvalidMessage {
    InvalidMessage(why.to_string())
}

/// Whether a version that came from elsewhere can be one.
pub(super) fn is_plausible(version: &Version) -> bool {
    let dot_ok = |dot: &Dot| (1..=MAX_SEQUENCE).contains(&dot.sequence);
    let type_ok = version.content.as_ref().and_then(|c| c.content_type.as_ref()).is_none_or(|text| {
        text.len() <= MAX_CONTENT_TYPE_BYTES && text.bytes().all(|b| (0x20..0x7f).contains(&b))
    });
    dot_ok(&version.dot)
        && version.count > 0
        && !version.context.contains(&version.dot)
        && version.context.iter().all(dot_ok)
        && type_ok
}

/// The same sets in their one valid form, or `None` if numbers are out of bounds.
fn normal(seen: &Seen) -> Option<Seen> {
    let mut normal = Seen::default();
    for (origin, wire) in seen.iter() {
        let is_off = |(first, last)| first == 0 || first > last || last > MAX_SEQUENCE;
        if wire.prefix() > MAX_SEQUENCE || wire.runs().any(is_off) {
            return None;
        }
        let mut set = SeenSet::default();
        set.union(wire);
        normal.set_origin(*origin, set);
    }
    Some(normal)
}

impl Request {
    /// The bytes for the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("writing to memory cannot fail")
    }

    /// Reads and checks a request.
    ///
    /// # Errors
    ///
    /// If the bytes are too many, are no request, or hold a value that no node sends.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidMessage> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(invalid("too long"));
        }
        minicbor::decode::<Self>(bytes).map_err(invalid)?.checked()
    }

    /// Checks what was decoded as part of something else.
    pub(crate) fn checked(mut self) -> Result<Self, InvalidMessage> {
        let versions: &[Version] = match &mut self {
            Self::Read(Read { offers, .. }) | Self::Reserve(Reserve { offers, .. }) => offers,
            Self::Push(Push { versions, .. }) | Self::Relay(Relay { versions, .. }) => versions,
            Self::Vote(vote) => std::slice::from_ref(&vote.version),
            Self::Pull(pull) => {
                pull.wanted = normal(&pull.wanted).ok_or_else(|| invalid("implausible seen"))?;
                &[]
            }
            Self::Compare(compare) if !compare.is_plausible() => return Err(invalid("implausible buckets")),
            Self::Audit(audit) if !(1..=MAX_RANGES).contains(&audit.ranges.len()) => {
                return Err(invalid("implausible ranges"));
            }
            Self::Release(_)
            | Self::Check(_)
            | Self::Compare(_)
            | Self::Audit(_)
            | Self::Recall(_)
            | Self::Testify(_) => &[],
        };
        if !versions.iter().all(is_plausible) {
            return Err(invalid("implausible version"));
        }
        Ok(self)
    }
}

impl Response {
    /// The bytes for the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("writing to memory cannot fail")
    }

    /// Reads and checks a response.
    ///
    /// # Errors
    ///
    /// If the bytes are too many, are no response, or hold a value that no node sends.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidMessage> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(invalid("too long"));
        }
        minicbor::decode::<Self>(bytes).map_err(invalid)?.checked()
    }

    /// Checks what was decoded as part of something else.
    pub(crate) fn checked(mut self) -> Result<Self, InvalidMessage> {
        let plausible = match &mut self {
            Self::Read(answer) | Self::Gone(answer) => answer.versions.iter().all(is_plausible),
            Self::Recalled(recalled) => recalled.names.iter().all(NamePart::is_plausible),
            Self::Compared(compared) => {
                compared.seen = normal(&compared.seen).ok_or_else(|| invalid("implausible seen"))?;
                compared.is_plausible()
            }
            Self::Page(page) => {
                page.closed.iter().all(|dot| (1..=MAX_SEQUENCE).contains(&dot.sequence))
                    && page.names.iter().all(NamePart::is_plausible)
            }
            _ => true,
        };
        if plausible { Ok(self) } else { Err(invalid("implausible version")) }
    }
}
