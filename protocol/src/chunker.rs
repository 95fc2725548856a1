//! The chunker: cuts a stream of bytes into leaves of one size.
//!
//! Invariants: every leaf but the last has exactly the chunk size; a stream of no bytes has one empty
//! leaf; no more than one chunk is held. Bytes are not copied on the way in, but for pieces so small
//! that keeping them apart would cost more. Hashing and joining are left to
//! [`Leaf::into_chunk`], which belongs on a thread that may block.

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};

use crate::chunk::{Chunk, ChunkId, Codec, MAX_CHUNK_BYTES};

/// Pieces below this are gathered in one buffer, so that a client that sends single bytes does not
/// make the chunker hold a million handles.
const SMALL_PIECE: usize = 16 << 10;

/// How many bytes a leaf has: 1 byte to 64 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkSize(usize);

impl ChunkSize {
    /// What `CHUNK_SIZE_MB` says.
    ///
    /// # Errors
    /// Anything but 1 to 64.
    pub const fn from_mib(mib: u64) -> Result<Self, InvalidChunkSize> {
        if mib == 0 || mib > (MAX_CHUNK_BYTES >> 20) as u64 {
            return Err(InvalidChunkSize);
        }
        Ok(Self((mib as usize) << 20))
    }

    /// A size in bytes: for tests, and for files as other IPFS tools cut them.
    ///
    /// # Errors
    /// Anything but 1 to 64 MiB.
    pub const fn from_bytes(bytes: usize) -> Result<Self, InvalidChunkSize> {
        if bytes == 0 || bytes > MAX_CHUNK_BYTES {
            return Err(InvalidChunkSize);
        }
        Ok(Self(bytes))
    }

    /// In bytes.
    pub const fn bytes(self) -> usize {
        self.0
    }
}

/// A chunk size that no node takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no chunk size: use 1 to 64 MiB")]
pub struct InvalidChunkSize;

/// Cuts one file.
///
/// ```
/// use bytes::Bytes;
/// use kepler_protocol::chunker::{Chunker, ChunkSize};
///
/// let mut chunker = Chunker::new(ChunkSize::from_bytes(4).unwrap());
/// let mut leaves = Vec::new();
/// for mut piece in [Bytes::from_static(b"on a "), Bytes::from_static(b"disk")] {
///     while let Some(leaf) = chunker.cut(&mut piece) {
///         leaves.push(leaf.into_bytes());
///     }
/// }
/// leaves.extend(chunker.finish().map(|leaf| leaf.into_bytes()));
/// assert_eq!(leaves, ["on a", " dis", "k"]);
/// ```
#[derive(Debug)]
pub struct Chunker {
    size: ChunkSize,
    /// Bytes of the file before the present leaf.
    offset: u64,
    /// Length of `pieces` and `small` together; less than `size`.
    len: usize,
    pieces: Vec<Bytes>,
    small: BytesMut,
}

impl Chunker {
    /// A chunker at the beginning of a file.
    pub fn new(size: ChunkSize) -> Self {
        Self { size, offset: 0, len: 0, pieces: Vec::new(), small: BytesMut::new() }
    }

    /// Takes from the front of `piece` what the present leaf still lacks, and returns the leaf if
    /// that fills it. Call it until it returns `None`: then `piece` is used up.
    pub fn cut(&mut self, piece: &mut Bytes) -> Option<Leaf> {
        let taken = piece.split_to(piece.len().min(self.size.0 - self.len));
        self.len += taken.len();
        if taken.len() >= SMALL_PIECE.min(self.size.0) {
            self.flush_small();
            self.pieces.push(taken);
        } else {
            self.small.extend_from_slice(&taken);
        }
        (self.len == self.size.0).then(|| self.take_leaf())
    }

    /// Ends the file: its last leaf, unless the file ended with a full one.
    pub fn finish(mut self) -> Option<Leaf> {
        (self.len > 0 || self.offset == 0).then(|| self.take_leaf())
    }

    /// Bytes taken so far.
    pub const fn total(&self) -> u64 {
        self.offset + self.len as u64
    }

    fn take_leaf(&mut self) -> Leaf {
        self.flush_small();
        let leaf = Leaf { offset: self.offset, len: self.len, pieces: std::mem::take(&mut self.pieces) };
        self.offset += self.len as u64;
        self.len = 0;
        leaf
    }

    fn flush_small(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push(self.small.split().freeze());
        }
    }
}

/// One leaf of a file, not yet hashed, in the pieces in which its bytes came.
#[derive(Clone, Debug)]
pub struct Leaf {
    offset: u64,
    len: usize,
    pieces: Vec<Bytes>,
}

impl Leaf {
    /// Where in the file it begins.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Its bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it is the one leaf of the empty file.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its bytes in order, as they came.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// Its id, without joining the pieces. Hashes all bytes.
    pub fn id(&self) -> ChunkId {
        let mut hash = Sha256::new();
        self.pieces.iter().for_each(|piece| hash.update(piece));
        ChunkId::from_digest(Codec::Raw, hash.finalize().into())
    }

    /// Its bytes in one: a copy, unless they came in one piece.
    pub fn into_bytes(mut self) -> Bytes {
        if self.pieces.len() == 1 {
            return self.pieces.swap_remove(0);
        }
        let mut joined = BytesMut::with_capacity(self.len);
        self.pieces.iter().for_each(|piece| joined.extend_from_slice(piece));
        joined.freeze()
    }

    /// The chunk: joins and hashes all bytes, which takes 2 ms for 4 MiB.
    pub fn into_chunk(self) -> Chunk {
        Chunk::new(Codec::Raw, self.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut_all(size: usize, pieces: Vec<Vec<u8>>) -> Vec<Leaf> {
        let mut chunker = Chunker::new(ChunkSize::from_bytes(size).unwrap());
        let mut leaves = Vec::new();
        for piece in pieces {
            let mut piece = Bytes::from(piece);
            while let Some(leaf) = chunker.cut(&mut piece) {
                leaves.push(leaf);
            }
            assert!(piece.is_empty());
        }
        leaves.extend(chunker.finish());
        leaves
    }

    proptest! {
        #[test]
        fn leaves_are_the_stream_however_it_came(
            size in 1usize..60_000,
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40_000), 0..6),
        ) {
            let stream = pieces.concat();
            prop_assume!(stream.len() / size < 2_000);
            let leaves = cut_all(size, pieces);
            prop_assert_eq!(leaves.len(), stream.len().div_ceil(size).max(1));
            for (index, leaf) in leaves.into_iter().enumerate() {
                let expected = &stream[index * size..stream.len().min((index + 1) * size)];
                prop_assert_eq!(leaf.offset(), (index * size) as u64);
                prop_assert_eq!(leaf.len(), expected.len());
                let id = leaf.id();
                let chunk = leaf.into_chunk();
                prop_assert_eq!(&chunk.bytes()[..], expected);
                prop_assert_eq!(chunk.id(), id);
            }
        }
    }

    #[test]
    fn the_empty_file_has_one_empty_leaf() {
        let leaves = cut_all(10, vec![]);
        assert!(leaves.len() == 1 && leaves[0].is_empty());
        assert_eq!(leaves[0].id(), ChunkId::of(Codec::Raw, b""));
    }

    #[test]
    fn a_file_of_full_leaves_has_no_empty_one_at_its_end() {
        assert_eq!(cut_all(4, vec![vec![7; 8]]).len(), 2);
    }

    #[test]
    fn a_piece_that_holds_a_leaf_is_not_copied() {
        let mut piece = Bytes::from(vec![7; 100_000]);
        let address = piece.as_ptr();
        let mut chunker = Chunker::new(ChunkSize::from_bytes(40_000).unwrap());
        let first = chunker.cut(&mut piece).unwrap().into_bytes();
        let second = chunker.cut(&mut piece).unwrap().into_bytes();
        assert_eq!([first.as_ptr(), second.as_ptr()], [address, address.wrapping_add(40_000)]);
    }

    #[test]
    fn single_bytes_are_gathered() {
        let leaves = cut_all(100_000, vec![vec![7]; 100_000]);
        assert!(leaves.len() == 1 && leaves[0].pieces().len() == 1);
    }

    #[test]
    fn chunk_sizes_are_checked_once() {
        assert_eq!(ChunkSize::from_mib(64).map(ChunkSize::bytes), Ok(64 << 20));
        assert_eq!([0, 65, u64::MAX].map(ChunkSize::from_mib), [Err(InvalidChunkSize); 3]);
        assert_eq!([0, (64 << 20) + 1].map(ChunkSize::from_bytes), [Err(InvalidChunkSize); 2]);
    }
}
