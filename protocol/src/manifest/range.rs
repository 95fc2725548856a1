//! The way from a byte range to the chunks that hold it.
//!
//! A [`Walk`] says which manifest nodes to load and, in file order, which leaves to read and which part
//! of each. It does no IO and takes only [`Chunk`]s, whose bytes match their ids: with the ids of a
//! node's children checked against the root in this way, every byte it leads to is proved by the root.
//!
//! Invariants: leaves come in file order and cover the range exactly once; sizes that a node claims
//! are those its parent gave it; no more than two nodes are asked for ahead a level, and no more than
//! [`READY`] leaves beyond those of one node are held; so memory is bounded by the depth of the
//! manifest, which is bounded too. Nothing a node says makes it panic.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use super::unixfs::{DecodeError, Link, MAX_DEPTH, Node};
use crate::chunk::{Chunk, ChunkId, Codec, MAX_CHUNK_BYTES};

/// How many manifest nodes are asked for ahead.
const AHEAD: usize = 2;

/// No further node is opened while so many leaves wait to be read.
const READY: usize = 1024;

/// A leaf to read, and the part of it that lies within the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafRead {
    /// The leaf.
    pub id: ChunkId,
    /// Bytes of the whole leaf.
    pub size: u64,
    /// Where in the file the leaf begins.
    pub offset: u64,
    /// Bytes of the leaf to skip.
    pub skip: u64,
    /// Bytes to take after those.
    pub take: u64,
}

impl LeafRead {
    /// The part of `chunk` to pass on; no copy.
    ///
    /// # Errors
    /// [`WalkError::LeafSize`] if the manifest said another size: it is damaged, not the chunk.
    /// [`WalkError::Unexpected`] if it is another chunk.
    pub fn slice(&self, chunk: &Chunk) -> Result<Bytes, WalkError> {
        if chunk.id() != self.id {
            return Err(WalkError::Unexpected(chunk.id()));
        }
        let actual = chunk.bytes().len() as u64;
        if actual != self.size {
            return Err(WalkError::LeafSize { id: self.id, expected: self.size, actual });
        }
        Ok(chunk.bytes().slice(self.skip as usize..(self.skip + self.take) as usize))
    }
}

/// Why a range cannot be read by this manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    /// It does not lie within the file.
    #[error("bytes {start} to {end} do not lie within a file of {size} bytes")]
    Range {
        /// First byte.
        start: u64,
        /// The byte after the last.
        end: u64,
        /// The file's bytes.
        size: u64,
    },
    /// Not a manifest node.
    #[error("manifest node {id}: {source}")]
    Node {
        /// The node.
        id: ChunkId,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// A node holds more or less than its parent, or the version, says.
    #[error("manifest node {id} has {actual} bytes below it where {expected} were announced")]
    NodeSize {
        /// The node.
        id: ChunkId,
        /// By its parent, or by the version.
        expected: u64,
        /// By its own links.
        actual: u64,
    },
    /// A leaf has another size than its parent, or the version, says.
    #[error("leaf {id} has {actual} bytes where {expected} were announced")]
    LeafSize {
        /// The leaf.
        id: ChunkId,
        /// By its parent, or by the version.
        expected: u64,
        /// What it has, or may have at most.
        actual: u64,
    },
    /// More levels of nodes than any file needs.
    #[error("manifest node {0} lies deeper than {MAX_DEPTH} levels")]
    TooDeep(ChunkId),
    /// A chunk that was not asked for.
    #[error("chunk {0} was not asked for")]
    Unexpected(ChunkId),
}

/// Finds the leaves of a byte range.
///
/// Drive it so: load every [`Walk::poll_wanted`] and hand it to [`Walk::handle_node`]; read every
/// [`Walk::poll_leaf`] in order; it is over when [`Walk::is_done`].
#[derive(Debug)]
pub struct Walk {
    range: Range<u64>,
    /// Leaves in file order, all before whatever is in `rest`.
    ready: VecDeque<LeafRead>,
    /// What follows, the next last. Leaves are moved to `ready` as soon as they come up, so the
    /// last is a node.
    rest: Vec<Item>,
    failed: Option<WalkError>,
}

#[derive(Debug)]
struct Item {
    link: Link,
    offset: u64,
    /// Levels of nodes above it.
    depth: usize,
    state: Load,
}

#[derive(Debug)]
enum Load {
    Wanted,
    Asked,
    Loaded(Vec<Link>),
}

impl Walk {
    /// A walk over `range` of the file of `size` bytes whose root is `root`.
    ///
    /// # Errors
    /// A range that does not lie within the file, or a leaf as root with more than a leaf may have.
    pub fn new(root: ChunkId, size: u64, range: Range<u64>) -> Result<Self, WalkError> {
        if range.start > range.end || range.end > size {
            return Err(WalkError::Range { start: range.start, end: range.end, size });
        }
        if root.codec() == Codec::Raw && size > MAX_CHUNK_BYTES as u64 {
            return Err(WalkError::LeafSize { id: root, expected: size, actual: MAX_CHUNK_BYTES as u64 });
        }
        let mut walk = Self { range, ready: VecDeque::new(), rest: Vec::new(), failed: None };
        if !walk.range.is_empty() {
            // Nobody announced the bytes of the root's chunks: zero stands for not known.
            let link = Link { id: root, size, tsize: 0 };
            walk.rest.push(Item { link, offset: 0, depth: 0, state: Load::Wanted });
            walk.advance();
        }
        Ok(walk)
    }

    /// The next manifest node to load, each once. `None` while enough are under way or enough
    /// leaves wait to be read, and when none is left.
    pub fn poll_wanted(&mut self) -> Option<ChunkId> {
        if self.failed.is_some() || self.ready.len() >= READY {
            return None;
        }
        let wanted = |item: &Item| item.link.id.codec() == Codec::DagPb && matches!(item.state, Load::Wanted);
        let id = self.near().find(|item| wanted(item))?.link.id;
        // A file of equal parts has equal nodes: loading one serves all that are near.
        for item in self.near().filter(|item| item.link.id == id && wanted(item)) {
            item.state = Load::Asked;
        }
        Some(id)
    }

    /// Takes a manifest node. One that nobody waits for any more is ignored.
    ///
    /// # Errors
    /// A node that is none, or contradicts its parent: the manifest is damaged at its source, as the
    /// bytes are those of the id, so loading it elsewhere is no help. The walk is over then.
    pub fn handle_node(&mut self, chunk: &Chunk) -> Result<(), WalkError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.load(chunk);
        self.failed = result.err();
        result
    }

    /// The next leaf to read, in file order. `None` while a node is missing, and at the end.
    pub fn poll_leaf(&mut self) -> Option<LeafRead> {
        let leaf = self.ready.pop_front();
        self.advance();
        leaf
    }

    /// Whether every leaf has been given out.
    pub fn is_done(&self) -> bool {
        self.ready.is_empty() && self.rest.is_empty()
    }

    /// Leaves that wait to be given out, and what waits behind them.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        (self.ready.len(), self.rest.len())
    }

    fn near(&mut self) -> impl Iterator<Item = &mut Item> {
        self.rest.iter_mut().rev().take(AHEAD)
    }

    fn load(&mut self, chunk: &Chunk) -> Result<(), WalkError> {
        let id = chunk.id();
        // Opening a node pushes what was asked for ahead further down, so look at everything.
        let waits = |item: &Item| item.link.id == id && matches!(item.state, Load::Asked);
        if !self.rest.iter().any(waits) {
            return Ok(());
        }
        let node = Node::decode(chunk.bytes()).map_err(|source| WalkError::Node { id, source })?;
        let tsize = node.tsize() + chunk.bytes().len() as u64;
        for item in self.rest.iter_mut().filter(|item| waits(item)) {
            if item.depth >= MAX_DEPTH {
                return Err(WalkError::TooDeep(id));
            }
            for (expected, actual) in [(item.link.size, node.size()), (item.link.tsize, tsize)] {
                // Zero, which no link has, is the size of the root's chunks: nobody announced it.
                if expected != actual && expected != 0 {
                    return Err(WalkError::NodeSize { id, expected, actual });
                }
            }
            item.state = Load::Loaded(node.links().to_vec());
        }
        self.advance();
        Ok(())
    }

    /// Opens loaded nodes and moves leaves that come up to `ready`.
    fn advance(&mut self) {
        while let Some(item) = self.rest.pop() {
            match item.state {
                _ if item.link.id.codec() == Codec::Raw => {
                    let part = overlap(&item.link, item.offset, &self.range);
                    self.ready.extend(part);
                }
                Load::Loaded(ref links) if self.ready.len() < READY => self.open(links, &item),
                _ => {
                    self.rest.push(item);
                    return;
                }
            }
        }
    }

    /// Puts the children that touch the range in the place of their node.
    fn open(&mut self, links: &[Link], parent: &Item) {
        let begin = self.rest.len();
        let mut offset = parent.offset;
        for link in links {
            if overlap(link, offset, &self.range).is_some() {
                let state = Load::Wanted;
                self.rest.push(Item { link: *link, offset, depth: parent.depth + 1, state });
            }
            offset += link.size;
        }
        self.rest[begin..].reverse();
    }
}

/// The part of a child that lies within the range.
fn overlap(link: &Link, offset: u64, range: &Range<u64>) -> Option<LeafRead> {
    let (start, end) = (range.start.max(offset), range.end.min(offset + link.size));
    (start < end).then(|| LeafRead {
        id: link.id,
        size: link.size,
        offset,
        skip: start - offset,
        take: end - start,
    })
}
