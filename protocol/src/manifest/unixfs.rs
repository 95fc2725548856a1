//! The bytes of one manifest node: dag-pb around UnixFS v1, in the one canonical form.
//!
//! A node is `PBNode { Links = 2: PBLink { Hash = 1, Name = 2, Tsize = 3 }, Data = 1 }` with the links
//! *before* the data, an empty name that is written nevertheless, and as data
//! `Data { Type = 1: File, filesize = 3, blocksizes = 4 }` without bytes of its own (the dag-pb and
//! UnixFS specifications, ipld.io/specs/codecs/dag-pb and specs.ipfs.tech/unixfs).
//!
//! Invariants of a [`Node`]: 1 to [`MAX_LINKS`] links, all to leaves or all to nodes; no link of no
//! bytes; no leaf above the greatest chunk; sizes that add up without overflow. What is read is
//! compared with what writing it again gives, so equal nodes have equal bytes and equal ids.

use crate::chunk::{ChunkId, Codec, MAX_CHUNK_BYTES};

/// The most links of a node that is read. Our own have at most 1,024, those of others few more.
pub const MAX_LINKS: usize = 8192;

/// The most levels of nodes above the leaves. Four of 1,024 links hold 4 EiB of leaves of 4 MiB.
pub const MAX_DEPTH: usize = 16;

/// A child of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The child.
    pub id: ChunkId,
    /// Bytes of the file below it.
    pub size: u64,
    /// Bytes of all chunks below it and of itself.
    pub tsize: u64,
}

/// An inner node of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    links: Vec<Link>,
    size: u64,
    tsize: u64,
}

/// Why bytes are not a manifest node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not the form in which manifests are written.
    #[error("not the canonical form of a UnixFS file node")]
    Malformed,
    /// Too many links or none.
    #[error("{0} links, where 1 to {MAX_LINKS} are taken")]
    Links(usize),
    /// Leaves and nodes side by side.
    #[error("links to leaves and to nodes side by side")]
    MixedLevels,
    /// Sizes that do not add up.
    #[error("sizes that contradict each other")]
    Sizes,
}

impl Node {
    /// A node with these children, in file order.
    ///
    /// # Errors
    /// Links that break an invariant of the type.
    pub fn new(links: Vec<Link>) -> Result<Self, DecodeError> {
        if links.is_empty() || links.len() > MAX_LINKS {
            return Err(DecodeError::Links(links.len()));
        }
        if links.iter().any(|link| link.id.codec() != links[0].id.codec()) {
            return Err(DecodeError::MixedLevels);
        }
        let sound = |link: &Link| match link.id.codec() {
            Codec::Raw => link.size > 0 && link.size <= MAX_CHUNK_BYTES as u64 && link.tsize == link.size,
            Codec::DagPb => link.size > 0 && link.tsize > link.size,
        };
        let sum = |of: fn(&Link) -> u64| links.iter().try_fold(0u64, |sum, link| sum.checked_add(of(link)));
        match (links.iter().all(sound), sum(|link| link.size), sum(|link| link.tsize)) {
            // Half the range, so that a parent adds its own bytes without a thought of overflow.
            (true, Some(size), Some(tsize)) if tsize <= u64::MAX / 2 => Ok(Self { links, size, tsize }),
            _ => Err(DecodeError::Sizes),
        }
    }

    /// The children, in file order.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// Gives the children away.
    pub fn into_links(self) -> Vec<Link> {
        self.links
    }

    /// Whether the children are leaves.
    pub fn is_lowest(&self) -> bool {
        self.links[0].id.codec() == Codec::Raw
    }

    /// Bytes of the file below the node.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of all chunks below the node, without itself.
    pub const fn tsize(&self) -> u64 {
        self.tsize
    }

    /// The node's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 * self.links.len() + 32);
        for link in &self.links {
            let mut body = Vec::with_capacity(56);
            field(&mut body, 1, &link.id.to_cid_bytes());
            field(&mut body, 2, b"");
            number(&mut body, 3, link.tsize);
            field(&mut bytes, 2, &body);
        }
        let mut data = Vec::with_capacity(11 * self.links.len() + 16);
        number(&mut data, 1, TYPE_FILE);
        number(&mut data, 3, self.size);
        self.links.iter().for_each(|link| number(&mut data, 4, link.size));
        field(&mut bytes, 1, &data);
        bytes
    }

    /// Reads a node. Takes time and memory in proportion to `bytes`, which need not be trusted.
    ///
    /// # Errors
    /// Whatever [`Node::encode`] does not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut outer = Reader(bytes);
        let mut children = Vec::new();
        while outer.0.first() == Some(&key(2, LENGTH)) {
            if children.len() == MAX_LINKS {
                return Err(DecodeError::Links(MAX_LINKS + 1));
            }
            let mut link = Reader(outer.field(2)?);
            let id = ChunkId::from_cid_bytes(link.field(1)?).map_err(|_| DecodeError::Malformed)?;
            link.field(2)?;
            children.push((id, link.number(3)?));
        }
        let mut data = Reader(outer.field(1)?);
        let (kind, filesize) = (data.number(1)?, data.number(3)?);
        let mut links = Vec::with_capacity(children.len());
        for (id, tsize) in children {
            links.push(Link { id, size: data.number(4)?, tsize });
        }
        let node = Self::new(links)?;
        if node.size != filesize {
            return Err(DecodeError::Sizes);
        }
        if kind != TYPE_FILE || node.encode() != bytes {
            return Err(DecodeError::Malformed);
        }
        Ok(node)
    }
}

/// UnixFS `Data.DataType.File`.
const TYPE_FILE: u64 = 2;

/// Protobuf wire types.
const VARINT: u8 = 0;
const LENGTH: u8 = 2;

const fn key(field: u8, wire: u8) -> u8 {
    field << 3 | wire
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(key(field, VARINT));
    varint(out, value);
}

fn field(out: &mut Vec<u8>, field: u8, body: &[u8]) {
    out.push(key(field, LENGTH));
    varint(out, body.len() as u64);
    out.extend_from_slice(body);
}

/// What is left to read of a message.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, DecodeError> {
        let (first, rest) = self.0.split_first().ok_or(DecodeError::Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    fn expect(&mut self, key: u8) -> Result<(), DecodeError> {
        if self.byte()? == key { Ok(()) } else { Err(DecodeError::Malformed) }
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            // Bits beyond the 64th are lost here and found by the comparison with what we write.
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::Malformed)
    }

    fn number(&mut self, field: u8) -> Result<u64, DecodeError> {
        self.expect(key(field, VARINT))?;
        self.varint()
    }

    fn field(&mut self, field: u8) -> Result<&'a [u8], DecodeError> {
        self.expect(key(field, LENGTH))?;
        let length = usize::try_from(self.varint()?).map_err(|_| DecodeError::Malformed)?;
        let (body, rest) = self.0.split_at_checked(length).ok_or(DecodeError::Malformed)?;
        self.0 = rest;
        Ok(body)
    }
}
