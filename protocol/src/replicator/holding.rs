//! What the disk holds, as the executor shows it to the replicator, and what is to be noted of it.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::chunk::ChunkId;
use crate::node_id::NodeId;
use crate::version::Dot;

/// The most holdings in a page.
pub const PAGE: usize = 1024;

/// A chunk that the store has a row for and that is not marked *gone*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its size in bytes.
    pub size: u64,
    /// Whether its file is in its folder.
    pub file: bool,
    /// Whether something may still refer to it: a reference that has not [ended](super::rules::Reference),
    /// or references that were lost with a database (`recovered`).
    pub kept: bool,
    /// [`digest_of`] its references that have not ended.
    pub references: u64,
    /// For how much running time it is noted as [`Note::unreferenced`].
    pub unreferenced_for: Option<Duration>,
    /// Whether it is noted as [`Note::surplus`].
    pub surplus: Option<Surplus>,
}

/// A copy noted as surplus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surplus {
    /// Who owned the chunk when it was noted.
    pub owners: Vec<NodeId>,
    /// For how much running time it is.
    pub held_for: Duration,
}

/// Holdings in the order of the store, which may be any that does not change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// At most [`PAGE`].
    pub holdings: Vec<Holding>,
    /// Whether there may be more after the last.
    pub more: bool,
}

/// What is to be kept on disk about chunks, in one transaction, before the next page is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// Copies that this node does not own, with who does: their grace begins, anew if it had begun.
    pub surplus: Vec<(ChunkId, Vec<NodeId>)>,
    /// Copies that are surplus no more.
    pub wanted: Vec<ChunkId>,
    /// Chunks all of whose references have ended: their grace begins.
    pub unreferenced: Vec<ChunkId>,
    /// Chunks with a reference again. (Whoever records a reference clears the mark too.)
    pub referenced: Vec<ChunkId>,
}

impl Note {
    /// Whether there is nothing to note.
    pub fn is_empty(&self) -> bool {
        self.surplus.is_empty()
            && self.wanted.is_empty()
            && self.unreferenced.is_empty()
            && self.referenced.is_empty()
    }
}

/// A digest of references that does not depend on their order: the sum, mod 2^64, of the first eight
/// bytes, big-endian, of the SHA-256 of each dot's token. No references give zero.
pub fn digest_of<'a>(dots: impl IntoIterator<Item = &'a Dot>) -> u64 {
    dots.into_iter().fold(0, |sum: u64, dot| {
        let hash = Sha256::digest(dot.to_string());
        let mut first = [0; 8];
        first.copy_from_slice(&hash[..8]);
        sum.wrapping_add(u64::from_be_bytes(first))
    })
}
