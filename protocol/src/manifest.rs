//! The manifest: the DAG that lists a file's chunks (UnixFS v1, balanced layout).
//!
//! [`Builder`] makes it while the file streams in, [`Walk`] finds the chunks of a byte range in it.
//! Invariants: the root of a file is the one every IPFS tool computes for the same bytes, chunk size
//! and links a node; a file of one leaf is that leaf; both hold a bounded number of links a level,
//! whatever the file's size.
//!
//! | module | owns |
//! | --- | --- |
//! | [`unixfs`] | bytes of one node, written and read strictly |
//! | [`range`] | which nodes and leaves a byte range needs, in file order |

pub mod range;
pub mod unixfs;

use bytes::Bytes;

pub use self::range::{LeafRead, Walk, WalkError};
pub use self::unixfs::{DecodeError, Link, MAX_DEPTH, MAX_LINKS, Node};
use crate::chunk::{Chunk, ChunkId, Codec, MAX_CHUNK_BYTES};

/// Links a node where nobody says otherwise: the IPFS profile `unixfs-v1-2025`.
pub const DEFAULT_LINKS: usize = 1024;

/// Builds a manifest from a file's leaves in order.
///
/// Nodes come out as soon as they are full, so that at most one node's links are held a level.
#[derive(Debug)]
pub struct Builder {
    max_links: usize,
    /// Links of the unfinished node of each level, the leaves' parents first.
    levels: Vec<Vec<Link>>,
    size: u64,
    leaves: u64,
}

/// The end of a file: its name and the last nodes of its manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The file's root: the last of `nodes` or, for a file of one leaf, that leaf.
    pub root: ChunkId,
    /// The file's bytes.
    pub size: u64,
    /// Its leaves.
    pub leaves: u64,
    /// Nodes that had not come out before.
    pub nodes: Vec<Chunk>,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new(DEFAULT_LINKS)
    }
}

impl Builder {
    /// A builder of nodes with at most `max_links` links: 2 to [`MAX_LINKS`], brought within.
    pub fn new(max_links: usize) -> Self {
        Self { max_links: max_links.clamp(2, MAX_LINKS), levels: vec![Vec::new()], size: 0, leaves: 0 }
    }

    /// Appends a leaf and returns the nodes that it finished: mostly none.
    ///
    /// # Errors
    /// [`BuildError`]: an id that is no leaf's, a size no leaf has, a file beyond what the format
    /// can count. The builder is as it was before.
    pub fn push(&mut self, id: ChunkId, size: usize) -> Result<Vec<Chunk>, BuildError> {
        if id.codec() != Codec::Raw {
            return Err(BuildError::NoLeaf(id));
        }
        // Only the empty file has an empty leaf, and nothing beside it.
        if size > MAX_CHUNK_BYTES || (size == 0 || self.size == 0) && self.leaves > 0 {
            return Err(BuildError::LeafSize(size));
        }
        // Deeper than a walk follows: only where nodes have a handful of links.
        let most_leaves = (self.max_links as u64).saturating_pow(MAX_DEPTH as u32);
        let (size, total) = (size as u64, self.size + size as u64);
        if total > MAX_FILE_BYTES || self.leaves == most_leaves {
            return Err(BuildError::TooLarge);
        }
        self.size = total;
        self.leaves += 1;
        self.levels[0].push(Link { id, size, tsize: size });
        let mut finished = Vec::new();
        for level in 0.. {
            if self.levels[level].len() < self.max_links {
                break;
            }
            finished.push(self.wrap(level));
        }
        Ok(finished)
    }

    /// Ends the file. One without leaves is the empty file: its root is the empty leaf.
    pub fn finish(mut self) -> Finished {
        let mut nodes = Vec::new();
        let mut level = 0;
        // The top level is done once it is a single link: the root.
        while level + 1 < self.levels.len() || self.levels[level].len() > 1 {
            if !self.levels[level].is_empty() {
                nodes.push(self.wrap(level));
            }
            level += 1;
        }
        let root = match self.levels[level].first() {
            Some(link) => link.id,
            None => ChunkId::of(Codec::Raw, b""),
        };
        Finished { root, size: self.size, leaves: self.leaves, nodes }
    }

    /// Makes a node of the links of `level` and links it one level up.
    fn wrap(&mut self, level: usize) -> Chunk {
        let node = Node::new(std::mem::take(&mut self.levels[level])).expect("a builder's links make a node");
        let chunk = Chunk::new(Codec::DagPb, Bytes::from(node.encode()));
        let link =
            Link { id: chunk.id(), size: node.size(), tsize: node.tsize() + chunk.bytes().len() as u64 };
        if self.levels.len() == level + 1 {
            self.levels.push(Vec::new());
        }
        self.levels[level + 1].push(link);
        chunk
    }
}

/// The largest file, in bytes: leaves room for the sizes of the manifest's own nodes in 63 bits.
pub const MAX_FILE_BYTES: u64 = 1 << 62;

/// Why a leaf was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A manifest node in place of a leaf.
    #[error("{0} is no leaf")]
    NoLeaf(ChunkId),
    /// Too large, or empty beside others.
    #[error("a leaf of a file cannot have {0} bytes")]
    LeafSize(usize),
    /// More bytes than a file may have.
    #[error("the file is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge,
}

#[cfg(test)]
mod tests;
