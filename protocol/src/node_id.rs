//! Node ids: the operator's names for nodes.
//!
//! Invariant: a [`NodeId`] matches `[a-z0-9][a-z0-9._-]{0,62}`. It is a label; what proves a
//! node is its identity key.

use std::fmt;
use std::str::FromStr;

const MAX_LEN: usize = 63;

/// The operator's name for a node (`NODE_ID`), unique in the cluster; inline and `Copy`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    // Unused bytes are zero, so the derived order is the order of the text.
    bytes: [u8; MAX_LEN],
    len: u8,
}

impl NodeId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).expect("parsed from ASCII")
    }
}

/// A text that is no node id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no node id: use 1 to 63 of a-z 0-9 . _ - and begin with a letter or digit")]
pub struct InvalidNodeId(String);

impl FromStr for NodeId {
    type Err = InvalidNodeId;

    fn from_str(text: &str) -> Result<Self, InvalidNodeId> {
        let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let valid = text.len() <= MAX_LEN
            && text.as_bytes().first().is_some_and(plain)
            && text.bytes().all(|b| plain(&b) || b"._-".contains(&b));
        if !valid {
            return Err(InvalidNodeId(text.chars().take(80).collect()));
        }
        let mut bytes = [0; MAX_LEN];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { bytes, len: text.len() as u8 })
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<C> minicbor::Encode<C> for NodeId {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.str(self.as_str())?;
        Ok(())
    }
}

impl<'b, C> minicbor::Decode<'b, C> for NodeId {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        d.str()?.parse().map_err(|_| minicbor::decode::Error::message("not a node id"))
    }
}

impl serde::Serialize for NodeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for NodeId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked_once_at_the_edge() {
        for good in ["a", "node-a", "0", "eu.west_1-b", &"x".repeat(63)] {
            assert_eq!(good.parse::<NodeId>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", ".a", "A", "a b", "ä", "a/b", &"x".repeat(64)] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_sort_like_their_text() {
        let mut ids: Vec<NodeId> = ["b", "a-1", "a", "a.1", "aa"].map(|s| s.parse().unwrap()).to_vec();
        ids.sort();
        let mut texts = ["b", "a-1", "a", "a.1", "aa"];
        texts.sort_unstable();
        assert_eq!(ids.iter().map(NodeId::as_str).collect::<Vec<_>>(), texts);
    }
}
