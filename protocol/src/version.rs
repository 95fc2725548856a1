//! Versions: one write of a name each, and who supersedes whom.
//!
//! A version is named by its [`Dot`] and says in its context exactly which dots it supersedes.
//! What nothing known supersedes survives; the surviving version with the greatest [`Stamp`] that
//! is not a tombstone is the head. Wall-clock time is carried for people and decides nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};

use crate::chunk::ChunkId;
use crate::name::Name;
use crate::node_id::NodeId;
use crate::time::UnixMillis;

/// The most dots a context holds: a name with more survivors is refused further concurrent writes.
pub const MAX_CONTEXT: usize = 1024;

/// The longest content type kept, in bytes.
pub const MAX_CONTENT_TYPE_BYTES: usize = 255;

/// One log of writes: a node and the random generation it drew at its first upload after a start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Origin {
    /// The node that writes the log.
    #[n(0)]
    pub node: NodeId,
    /// 64 random bits: two logs of one node never share them.
    #[n(1)]
    pub generation: u64,
}

/// The unique name of one version: a log and a sequence number in it, counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Dot {
    /// The log.
    #[n(0)]
    pub origin: Origin,
    /// The place in the log, from 1.
    #[n(1)]
    pub sequence: u64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:016x}", self.node, self.generation)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Dot {
    /// `<node id>.<generation, hex>.<sequence>`: the version token of the HTTP API.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.origin, self.sequence)
    }
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no version token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a version: expected <node id>.<generation>.<sequence>, as ETag and `version` give it")]
pub struct InvalidDot;

impl FromStr for Dot {
    type Err = InvalidDot;

    /// Accepts the canonical form only, so that a version has one token.
    fn from_str(text: &str) -> Result<Self, InvalidDot> {
        // Node ids may hold dots, so the text is read from its end.
        let mut parts = text.rsplitn(3, '.');
        let (Some(sequence), Some(generation), Some(node)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidDot);
        };
        let dot = Self {
            origin: Origin {
                node: node.parse().map_err(|_| InvalidDot)?,
                generation: u64::from_str_radix(generation, 16).map_err(|_| InvalidDot)?,
            },
            sequence: sequence.parse().map_err(|_| InvalidDot)?,
        };
        if dot.sequence > 0 && dot.to_string() == text { Ok(dot) } else { Err(InvalidDot) }
    }
}

/// The exact dots that a version supersedes; at most [`MAX_CONTEXT`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context(BTreeSet<Dot>);

impl Context {
    /// A context of these dots, or `None` if there are more than [`MAX_CONTEXT`].
    pub fn new(dots: impl IntoIterator<Item = Dot>) -> Option<Self> {
        let dots: BTreeSet<Dot> = dots.into_iter().take(MAX_CONTEXT + 1).collect();
        (dots.len() <= MAX_CONTEXT).then_some(Self(dots))
    }

    /// Whether `dot` is superseded.
    pub fn contains(&self, dot: &Dot) -> bool {
        self.0.contains(dot)
    }

    /// The dots, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Dot> {
        self.0.iter()
    }

    /// Whether nothing is superseded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many dots are superseded.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl<C> Encode<C> for Context {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.array(self.0.len() as u64)?;
        self.0.iter().try_for_each(|dot| dot.encode(e, ctx))
    }
}

impl<'b, C> Decode<'b, C> for Context {
    fn decode(d: &mut minicbor::Decoder<'b>, ctx: &mut C) -> Result<Self, minicbor::decode::Error> {
        let mut dots = BTreeSet::new();
        for dot in d.array_iter_with::<C, Dot>(ctx)? {
            dots.insert(dot?);
            if dots.len() > MAX_CONTEXT {
                return Err(minicbor::decode::Error::message("context has too many dots"));
            }
        }
        Ok(Self(dots))
    }
}

/// What a version that is not a tombstone says of the file.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Content {
    /// The root of the file's DAG: its CID.
    #[n(0)]
    pub root: ChunkId,
    /// The file's size in bytes.
    #[n(1)]
    pub size: u64,
    /// How many leaves it was cut into.
    #[n(2)]
    pub chunks: u64,
    /// The MIME type the writer gave; at most [`MAX_CONTENT_TYPE_BYTES`] of visible ASCII.
    #[n(3)]
    pub content_type: Option<String>,
}

/// One write of a name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Version {
    /// The name written.
    #[n(0)]
    pub name: Name,
    /// The write's unique name.
    #[n(1)]
    pub dot: Dot,
    /// What it supersedes.
    #[n(2)]
    pub context: Context,
    /// 1 + the greatest count in its context.
    #[n(3)]
    pub count: u64,
    /// The file, or `None` in a tombstone.
    #[n(4)]
    pub content: Option<Content>,
    /// When it was written, by the writer's wall clock; for display only.
    #[n(5)]
    pub created_at: UnixMillis,
}

impl Version {
    /// What orders concurrent versions.
    pub fn stamp(&self) -> Stamp {
        Stamp { count: self.count, dot: self.dot }
    }

    /// Whether this version says that the name is deleted.
    pub fn is_tombstone(&self) -> bool {
        self.content.is_none()
    }
}

/// The order of concurrent versions: count, then origin, then sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// 1 + the greatest count in the version's context.
    pub count: u64,
    /// Breaks ties.
    pub dot: Dot,
}

/// The version that reads return: the survivor with the greatest stamp that is not a tombstone.
pub fn head<'a>(survivors: impl IntoIterator<Item = &'a Version>) -> Option<&'a Version> {
    survivors.into_iter().filter(|v| !v.is_tombstone()).max_by_key(|v| v.stamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz;

    #[test]
    fn version_tokens_have_one_spelling() {
        let token = "eu.node-a.00000000000000ff.12";
        let dot: Dot = token.parse().unwrap();
        assert_eq!(dot.origin.node.as_str(), "eu.node-a");
        assert_eq!((dot.origin.generation, dot.sequence), (255, 12));
        assert_eq!(dot.to_string(), token);
        for bad in [
            "",
            "a.1",
            "a.ff.1",
            "a.00000000000000FF.1",
            "a.00000000000000ff.01",
            "a.00000000000000ff.0",
            "A.00000000000000ff.1",
        ] {
            assert_eq!(bad.parse::<Dot>(), Err(InvalidDot), "{bad}");
        }
    }

    #[test]
    fn no_text_makes_the_parser_of_version_tokens_panic_or_take_two_spellings() {
        let tokens = ["eu.node-a.00000000000000ff.12", "a.ffffffffffffffff.18446744073709551615"];
        fuzz::bears_anything(&tokens.map(Vec::from), 1 << 20, 5_000, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            if let Ok(dot) = text.parse::<Dot>() {
                assert_eq!(dot.to_string(), text);
            }
        });
    }
}
