//! Chunks: immutable bytes and the CID they hash to.
//!
//! Invariant: a [`Chunk`] in hand always matches its [`ChunkId`]. Chunks carry no placement and
//! no file: one chunk may belong to many files.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use cid::Cid;
use multihash::Multihash;
use sha2::{Digest, Sha256};

/// Multihash code of sha2-256.
const SHA2_256: u64 = 0x12;

/// The largest chunk any node takes, in bytes: the greatest `CHUNK_SIZE_MB` of 64 MiB.
///
/// Manifest nodes stay far below it: 1,024 links take about 50 KiB.
pub const MAX_CHUNK_BYTES: usize = 64 << 20;

/// What a chunk's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Codec {
    /// A leaf: file content (multicodec 0x55).
    Raw = 0x55,
    /// A manifest node (multicodec 0x70).
    DagPb = 0x70,
}

impl Codec {
    fn from_code(code: u64) -> Option<Self> {
        match code {
            0x55 => Some(Self::Raw),
            0x70 => Some(Self::DagPb),
            _ => None,
        }
    }
}

/// The name of a chunk: a CIDv1 with sha2-256 and codec raw or dag-pb.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId {
    codec: Codec,
    digest: [u8; 32],
}

impl ChunkId {
    /// The first of all ids, in their order.
    pub(crate) const LEAST: Self = Self { codec: Codec::Raw, digest: [0; 32] };

    /// The id of `bytes`.
    pub fn of(codec: Codec, bytes: &[u8]) -> Self {
        Self { codec, digest: Sha256::digest(bytes).into() }
    }

    /// The id with this digest, computed elsewhere.
    pub const fn from_digest(codec: Codec, digest: [u8; 32]) -> Self {
        Self { codec, digest }
    }

    /// What the chunk's bytes are.
    pub const fn codec(&self) -> Codec {
        self.codec
    }

    /// The SHA-256 of the chunk's bytes.
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The chunk's position on the ring: the first 8 bytes of its digest, big-endian.
    pub fn key(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.digest;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// The binary form of the CID, as dag-pb links carry it.
    pub fn to_cid_bytes(&self) -> Vec<u8> {
        self.to_cid().to_bytes()
    }

    /// Parses the binary form of a CID.
    ///
    /// # Errors
    /// Anything but a CIDv1 with codec raw or dag-pb and a sha2-256 digest.
    pub fn from_cid_bytes(bytes: &[u8]) -> Result<Self, InvalidChunkId> {
        Self::from_cid(&Cid::try_from(bytes).map_err(|_| InvalidChunkId)?)
    }

    fn to_cid(self) -> Cid {
        let hash = Multihash::wrap(SHA2_256, &self.digest).expect("32 bytes fit a 64-byte multihash");
        Cid::new_v1(self.codec as u64, hash)
    }

    fn from_cid(cid: &Cid) -> Result<Self, InvalidChunkId> {
        let codec = Codec::from_code(cid.codec()).ok_or(InvalidChunkId)?;
        if cid.version() != cid::Version::V1 || cid.hash().code() != SHA2_256 {
            return Err(InvalidChunkId);
        }
        let digest = cid.hash().digest().try_into().map_err(|_| InvalidChunkId)?;
        Ok(Self { codec, digest })
    }
}

/// A CID that names no chunk of this store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a chunk id: expected a CIDv1 with codec raw or dag-pb and a sha2-256 digest, such as bafkrei…")]
pub struct InvalidChunkId;

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_cid().fmt(f)
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ChunkId {
    type Err = InvalidChunkId;

    /// Accepts the canonical form only (base32, lower case), so that a chunk has one spelling.
    fn from_str(text: &str) -> Result<Self, InvalidChunkId> {
        if text.len() > 128 {
            return Err(InvalidChunkId);
        }
        let id = Self::from_cid(&text.parse().map_err(|_| InvalidChunkId)?)?;
        if id.to_string() == text { Ok(id) } else { Err(InvalidChunkId) }
    }
}

impl<C> minicbor::Encode<C> for ChunkId {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        let mut bytes = [self.codec as u8; 33];
        bytes[1..].copy_from_slice(&self.digest);
        e.bytes(&bytes)?;
        Ok(())
    }
}

impl<'b, C> minicbor::Decode<'b, C> for ChunkId {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let invalid = || minicbor::decode::Error::message("not a chunk id");
        let (code, digest) = d.bytes()?.split_first().ok_or_else(invalid)?;
        Ok(Self {
            codec: Codec::from_code(u64::from(*code)).ok_or_else(invalid)?,
            digest: digest.try_into().map_err(|_| invalid())?,
        })
    }
}

impl serde::Serialize for ChunkId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for ChunkId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Bytes together with the id they hash to.
///
/// Invariant: `id` is the hash of `bytes`. Both constructors establish it, so a `Chunk` in hand
/// never needs checking again.
#[derive(Clone, PartialEq, Eq)]
pub struct Chunk {
    id: ChunkId,
    bytes: Bytes,
}

impl Chunk {
    /// Names `bytes` by hashing them.
    pub fn new(codec: Codec, bytes: Bytes) -> Self {
        Self { id: ChunkId::of(codec, &bytes), bytes }
    }

    /// Accepts bytes that a disk or a peer claims to be `id`.
    ///
    /// # Errors
    /// [`Corrupt`] if they hash to something else.
    pub fn verify(id: ChunkId, bytes: Bytes) -> Result<Self, Corrupt> {
        let chunk = Self::new(id.codec, bytes);
        if chunk.id == id { Ok(chunk) } else { Err(Corrupt { expected: id, actual: chunk.id }) }
    }

    /// The chunk's name.
    pub const fn id(&self) -> ChunkId {
        self.id
    }

    /// The chunk's bytes.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Gives the bytes away.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({}, {} bytes)", self.id, self.bytes.len())
    }
}

/// Bytes that are not what their name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bytes of chunk {expected} hash to {actual}")]
pub struct Corrupt {
    /// The chunk that was asked for.
    pub expected: ChunkId,
    /// What the bytes are instead.
    pub actual: ChunkId,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz;

    #[test]
    fn the_empty_chunk_has_the_cid_every_ipfs_tool_gives_it() {
        let chunk = Chunk::new(Codec::Raw, Bytes::new());
        assert_eq!(chunk.id().to_string(), "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku");
    }

    #[test]
    fn ids_survive_every_encoding() {
        for codec in [Codec::Raw, Codec::DagPb] {
            let id = ChunkId::of(codec, b"kepler");
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(ChunkId::from_cid_bytes(&id.to_cid_bytes()), Ok(id));
            assert_eq!(minicbor::decode::<ChunkId>(&minicbor::to_vec(id).unwrap()).unwrap(), id);
        }
    }

    #[test]
    fn other_cids_are_refused() {
        let id = ChunkId::of(Codec::Raw, b"kepler").to_string();
        for bad in ["", "x", "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG", &id.to_uppercase()] {
            assert_eq!(bad.parse::<ChunkId>(), Err(InvalidChunkId), "{bad}");
        }
    }

    #[test]
    fn no_bytes_make_the_parsers_of_ids_panic_or_take_two_spellings() {
        let id = ChunkId::of(Codec::DagPb, b"kepler");
        let cbor = |bytes: &[u8]| minicbor::decode::<ChunkId>(bytes).ok();
        let encoded = [minicbor::to_vec(id).unwrap()];
        fuzz::bears_anything(&encoded, 1 << 20, 2_000, cbor);
        fuzz::trusts_no_length(&encoded, cbor);
        fuzz::bears_anything(&[id.to_cid_bytes()], 1 << 20, 2_000, ChunkId::from_cid_bytes);
        fuzz::bears_anything(&[id.to_string().into_bytes()], 1 << 20, 2_000, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            if let Ok(parsed) = text.parse::<ChunkId>() {
                assert_eq!(parsed.to_string(), text);
            }
        });
    }

    #[test]
    fn verification_catches_one_flipped_bit() {
        let id = ChunkId::of(Codec::Raw, b"kepler");
        assert!(Chunk::verify(id, Bytes::from_static(b"kepler")).is_ok());
        let corrupt = Chunk::verify(id, Bytes::from_static(b"keples")).unwrap_err();
        assert_eq!(corrupt.expected, id);
    }
}
