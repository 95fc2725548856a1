//! What is said in an exchange: comparing what was seen, then pages of names.

use minicbor::{Decode, Encode};

use super::MAX_SEQUENCE;
use super::is_plausible;
use crate::catalog::census::{Bucket, SPLIT};
use crate::catalog::seen::Seen;
use crate::catalog::storage::Stub;
use crate::identity::DatabaseId;
use crate::name::Name;
use crate::version::{Dot, Version};

/// Compares what two nodes have seen, bucket by bucket.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Compare {
    /// What the asker's buckets add up to, in order; none of them is part of another. At most
    /// [`MAX_COMPARED`].
    #[n(0)]
    pub buckets: Vec<Claim>,
}

/// The most buckets in one [`Compare`].
pub const MAX_COMPARED: usize = 2048;

/// What a bucket adds up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Claim {
    /// The bucket.
    #[n(0)]
    pub bucket: Bucket,
    /// [`Fingerprint::short`](crate::catalog::fingerprint::Fingerprint::short) of its origins.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub digest: [u8; 8],
}

/// The answer to [`Compare`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Compared {
    /// The sender's present database.
    #[n(0)]
    pub database: Option<DatabaseId>,
    /// How many of the request's buckets, from the first, this answers; the rest did not fit. Those
    /// that are mentioned nowhere below are equal.
    #[n(1)]
    pub answered: u32,
    /// Buckets that differ and hold much: what they split into.
    #[n(2)]
    pub splits: Vec<Division>,
    /// Buckets that differ and hold little: the sender's origins in them are in `seen`.
    #[n(3)]
    pub listed: Vec<Bucket>,
    /// What the sender has seen of them.
    #[n(4)]
    pub seen: Seen,
}

/// What a bucket's parts add up to at the sender.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Division {
    /// The bucket.
    #[n(0)]
    pub bucket: Bucket,
    /// Eight bytes for each of its [`SPLIT`] parts, in order.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub digests: Vec<u8>,
}

impl Compare {
    pub(super) fn is_plausible(&self) -> bool {
        let apart = |pair: &[Claim]| pair[0].bucket.is_before(pair[1].bucket);
        self.buckets.len() <= MAX_COMPARED
            && self.buckets.iter().all(|claim| claim.bucket.is_valid())
            && self.buckets.windows(2).all(apart)
    }
}

impl Compared {
    pub(super) fn is_plausible(&self) -> bool {
        self.splits.iter().all(|split| split.bucket.is_divisible() && split.digests.len() == 8 * SPLIT)
            && self.splits.iter().map(|split| &split.bucket).chain(&self.listed).all(|b| b.is_valid())
    }
}

/// Where a page ended. Closed dots come before all names.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Cursor {
    /// After this closed dot.
    #[n(0)]
    Closed(#[n(0)] Dot),
    /// After this name; all closed dots were sent.
    #[n(1)]
    Name(#[n(0)] Name),
    /// Within this name, after the stub with this dot, or at its first stub.
    #[n(2)]
    Within(#[n(0)] Name, #[n(1)] Option<Dot>),
}

/// Asks for a page.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Pull {
    /// What the asker has seen of the origins that are wanted: those of which the comparison found
    /// more here. Of all others nothing is to be sent on their own account.
    #[n(0)]
    pub wanted: Seen,
    /// Where the page before ended.
    #[n(1)]
    pub after: Option<Cursor>,
}

/// Asks which of these versions something supersedes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Check {
    /// Survivors of the asker; at most [`MAX_CHECKED`].
    #[n(0)]
    pub dots: Vec<Dot>,
}

/// The most dots in one [`Check`].
pub const MAX_CHECKED: usize = 4096;

/// A name in a page.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct NamePart {
    /// The name.
    #[n(0)]
    pub name: Name,
    /// All of the sender's published survivors.
    #[n(1)]
    pub holds: Vec<Dot>,
    /// Those that the receiver is not known to have.
    #[n(2)]
    pub versions: Vec<Version>,
    /// All of the sender's stubs.
    #[n(3)]
    pub stubs: Vec<Stub>,
    /// Whether no part of this name follows.
    #[n(4)]
    pub last: bool,
}

/// A page of names.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Page {
    /// The sender's present database.
    #[n(0)]
    pub database: Option<DatabaseId>,
    /// Closed dots that the receiver has not seen.
    #[n(1)]
    pub closed: Vec<Dot>,
    /// Names, in order.
    #[n(2)]
    pub names: Vec<NamePart>,
    /// Where to go on; absent on the last page.
    #[n(3)]
    pub next: Option<Cursor>,
    /// Whether the sender's database can be relied on: only then does the page drop anything.
    #[n(4)]
    pub ready: bool,
}

impl NamePart {
    pub(super) fn is_plausible(&self) -> bool {
        self.versions.iter().all(|v| is_plausible(v) && v.name == self.name)
            && self
                .stubs
                .iter()
                .all(|s| (1..=MAX_SEQUENCE).contains(&s.dot.sequence) && s.name.as_ref() == Some(&self.name))
    }
}
