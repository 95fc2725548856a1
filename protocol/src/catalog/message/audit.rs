//! What is said while names are compared by fingerprints.

use minicbor::{Decode, Encode};

use super::NamePart;
use crate::name::Name;
use crate::version::Dot;

/// The most ranges in one [`Audit`].
pub const MAX_RANGES: usize = 16;

/// Compares live versions, range of names by range of names.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Audit {
    /// Hashed with every version, so that nobody can prepare sets with one fingerprint.
    #[n(0)]
    pub salt: u64,
    /// The digest of what the asker has seen: only who has seen the same can be compared with.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub seen: [u8; 16],
    /// The first range begins after this name, or with the first.
    #[n(2)]
    pub after: Option<Name>,
    /// The ranges, one after the other; 1 to [`MAX_RANGES`].
    #[n(3)]
    pub ranges: Vec<Range>,
}

/// What the asker holds up to a name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Range {
    /// The last name of the range; absent where it goes to the last of all.
    #[n(0)]
    pub until: Option<Name>,
    /// [`Fingerprint::digest`](crate::catalog::fingerprint::Fingerprint::digest) of it.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub digest: [u8; 16],
}

/// Asks for the names of a range that differ.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Recall {
    /// The range begins after this name.
    #[n(0)]
    pub after: Option<Name>,
    /// Its last name.
    #[n(1)]
    pub until: Option<Name>,
    /// The live versions that the asker holds in it.
    #[n(2)]
    pub holds: Vec<Dot>,
}

/// The answer to [`Recall`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Recalled {
    /// Names of which the sender holds live versions that the asker did not name.
    #[n(0)]
    pub names: Vec<NamePart>,
    /// Versions that the asker named and the sender has seen and does not hold.
    #[n(1)]
    pub gone: Vec<Dot>,
    /// Not all fitted: the asker goes on after this name.
    #[n(2)]
    pub next: Option<Name>,
}

/// What a member has of versions that another asks about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Testimony {
    /// They survive there.
    #[n(0)]
    pub held: Vec<Dot>,
    /// They are seen there and do not survive.
    #[n(1)]
    pub gone: Vec<Dot>,
}
