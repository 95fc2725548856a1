//! Names: a file's path in the store.
//!
//! Invariant: a [`Name`] is UTF-8 of 1 to 1,024 bytes without control characters and without
//! empty, `.` or `..` segments. Nothing else about it has meaning: folders are only prefixes.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// The longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 1024;

/// A file's path in the store; cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name's position on the ring of home replicas: the first 8 bytes, big-endian, of
    /// SHA-256("kepler-name-v1", 0x00, name).
    pub fn key(&self) -> u64 {
        let digest =
            Sha256::new().chain_update(b"kepler-name-v1\0").chain_update(self.0.as_bytes()).finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        u64::from_be_bytes(first)
    }
}

/// Why a text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// It has no bytes.
    #[error("the name is empty: give at least one character")]
    Empty,
    /// It is longer than [`MAX_NAME_BYTES`].
    #[error("the name has {0} bytes: shorten it to at most 1,024")]
    TooLong(usize),
    /// It has a control character.
    #[error("the name contains the control character U+{0:04X}: remove it")]
    Control(u32),
    /// A segment between slashes is empty, `.` or `..`.
    #[error("the name has an empty, \".\" or \"..\" segment: remove it")]
    Segment,
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        if text.len() > MAX_NAME_BYTES {
            return Err(InvalidName::TooLong(text.len()));
        }
        if let Some(control) = text.chars().find(|c| c.is_control()) {
            return Err(InvalidName::Control(u32::from(control)));
        }
        if text.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(InvalidName::Segment);
        }
        Ok(Self(text.into()))
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl<C> minicbor::Encode<C> for Name {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.str(&self.0)?;
        Ok(())
    }
}

impl<'b, C> minicbor::Decode<'b, C> for Name {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        d.str()?.parse().map_err(|_| minicbor::decode::Error::message("not a name"))
    }
}

impl serde::Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_once_at_the_edge() {
        for good in ["a", "a/b.txt", "日本/語", "...", "a b+c%", &"x".repeat(1024)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        let cases = [
            ("", InvalidName::Empty),
            ("/a", InvalidName::Segment),
            ("a/", InvalidName::Segment),
            ("a//b", InvalidName::Segment),
            ("a/../b", InvalidName::Segment),
            (".", InvalidName::Segment),
            ("a\nb", InvalidName::Control(10)),
            ("a\u{85}b", InvalidName::Control(0x85)),
        ];
        for (bad, why) in cases {
            assert_eq!(bad.parse::<Name>(), Err(why), "{bad:?}");
        }
        assert_eq!("é".repeat(513).parse::<Name>(), Err(InvalidName::TooLong(1026)));
    }
}
