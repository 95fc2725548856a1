//! Sealed datagrams: who may speak to whom, and that nothing is heard twice.
//!
//! A datagram is a clear header followed by XChaCha20-Poly1305 ciphertext:
//!
//! ```text
//! version 1 | key id 8 | sender 1+n | receiver 1+n | epoch 8 | counter 8 | salt 8 | ciphertext | tag 16
//! ```
//!
//! The whole header is associated data, so neither the version, the key, the sender nor the receiver
//! can be altered: a datagram reflected to its sender or sent on to a third node does not pass.
//!
//! - **Keys.** A [`KeyRing`] holds several keys: the first seals, all open. The cluster's keys are 32
//!   random bytes. Without a configured key [`KeyRing::open_to_all`] is used, whose key is 32 zero
//!   bytes: it protects nothing, keeps one code path, and is for loopback only.
//! - **Nonces** are epoch, counter and salt. The epoch is a number that a node persists before it
//!   uses it and never uses again; the counter counts the datagrams of one process; the salt is
//!   random and drawn once a process. Two nodes share keys, so what keeps their nonces apart is the
//!   salt: a nonce repeats only if two processes draw the same 64 random bits *and* run under the same
//!   epoch. A process that somehow reuses an epoch (a cloned disk) is kept apart by the salt as well.
//! - **Replays** are refused by a [`Window`] over the counter, one for each sender and epoch. That an
//!   epoch is the sender's present one is proved by its answer to a fresh random nonce; that
//!   is the session's business, in [`crate::swim`].
//! - **First contact.** A joiner knows a seed's address and not its name. The receiver may then be
//!   empty, the *wildcard*. Such a datagram changes no state at its receiver; it may only
//!   ask for an answer that echoes its nonce, and the answer is addressed by name.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};

use crate::node_id::NodeId;

/// The greatest length of a datagram, sealing included, in bytes.
pub const MAX_DATAGRAM: usize = 1_400;

/// The version of the datagram format; another is dropped.
pub const VERSION: u8 = 1;

/// Keys accepted at once at most.
pub const MAX_KEYS: usize = 8;

const TAG: usize = 16;
const NUMBERS: usize = 24;

#[derive(Clone)]
struct Key {
    id: [u8; 8],
    cipher: XChaCha20Poly1305,
}

/// The cluster's keys: the first seals, all open. It cannot be printed.
#[derive(Clone)]
pub struct KeyRing {
    keys: Vec<Key>,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyRing({} keys)", self.keys.len())
    }
}

/// A key ring without a key, or with too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key ring holds 1 to {MAX_KEYS} keys")]
pub struct BadKeyRing;

impl KeyRing {
    /// A ring of 1 to [`MAX_KEYS`] keys.
    ///
    /// # Errors
    /// When there is none, or there are more.
    pub fn new(keys: &[[u8; 32]]) -> Result<Self, BadKeyRing> {
        if keys.is_empty() || keys.len() > MAX_KEYS {
            return Err(BadKeyRing);
        }
        let keys = keys.iter().map(|bytes| {
            let mut id = [0; 8];
            id.copy_from_slice(
                &Sha256::new().chain_update(b"kepler-datagram-key-v1").chain_update(bytes).finalize()[..8],
            );
            Key { id, cipher: XChaCha20Poly1305::new(bytes.into()) }
        });
        Ok(Self { keys: keys.collect() })
    }

    /// The ring of the well-known key that everybody has. For loopback only: it keeps nobody out.
    pub fn open_to_all() -> Self {
        Self::new(&[[0; 32]]).expect("one key")
    }
}

/// What an opened datagram says of itself, authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who sealed it.
    pub sender: NodeId,
    /// Whom it is for; nobody in particular on first contact.
    pub receiver: Option<NodeId>,
    /// The sender's process.
    pub epoch: u64,
    /// The process's salt: tells two processes apart that run under one name and epoch.
    pub salt: u64,
    /// The datagram's number within that process, from 1.
    pub counter: u64,
}

/// Why a datagram was not opened. It is counted and not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Too short, too long, another version, or a header that is none.
    #[error("no datagram of ours")]
    Malformed,
    /// Sealed under a key that is not on the ring.
    #[error("sealed under an unknown key")]
    UnknownKey,
    /// Altered, or sealed by somebody without the key.
    #[error("does not open")]
    Forged,
}

/// Seals the datagrams of one process.
#[derive(Clone, Debug)]
pub struct Sealer {
    me: NodeId,
    keys: KeyRing,
    epoch: u64,
    counter: u64,
    salt: [u8; 8],
}

impl Sealer {
    /// A sealer for the process of `me` that persisted `epoch`; `salt` is random.
    pub fn new(me: NodeId, keys: KeyRing, epoch: u64, salt: [u8; 8]) -> Self {
        Self { me, keys, epoch, counter: 0, salt }
    }

    /// Replaces the keys: how they are rotated without a restart.
    pub fn set_keys(&mut self, keys: KeyRing) {
        self.keys = keys;
    }

    /// The number of the datagram sealed last; 0 before the first.
    pub const fn counter(&self) -> u64 {
        self.counter
    }

    /// This process.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many bytes may be sealed for `receiver` so that the datagram keeps [`MAX_DATAGRAM`].
    pub fn room(&self, receiver: Option<&NodeId>) -> usize {
        let names = self.me.as_str().len() + receiver.map_or(0, |r| r.as_str().len());
        MAX_DATAGRAM - (1 + 8 + 2 + names + NUMBERS + TAG)
    }

    /// Seals `plain`, which is at most [`Sealer::room`] bytes long, for `receiver`.
    pub fn seal(&mut self, receiver: Option<&NodeId>, plain: &[u8]) -> Vec<u8> {
        assert!(plain.len() <= self.room(receiver), "a datagram is at most {MAX_DATAGRAM} bytes");
        self.counter += 1;
        let key = &self.keys.keys[0];
        let mut out = Vec::with_capacity(MAX_DATAGRAM.min(plain.len() + 224));
        out.push(VERSION);
        out.extend_from_slice(&key.id);
        for name in [self.me.as_str(), receiver.map_or("", NodeId::as_str)] {
            out.push(u8::try_from(name.len()).expect("node ids are at most 63 bytes"));
            out.extend_from_slice(name.as_bytes());
        }
        let mut nonce = [0; NUMBERS];
        nonce[..8].copy_from_slice(&self.epoch.to_be_bytes());
        nonce[8..16].copy_from_slice(&self.counter.to_be_bytes());
        nonce[16..].copy_from_slice(&self.salt);
        out.extend_from_slice(&nonce);
        let head = out.len();
        out.extend_from_slice(plain);
        let (header, body) = out.split_at_mut(head);
        let tag = key
            .cipher
            .encrypt_inout_detached(&XNonce::from(nonce), header, body.into())
            .expect("far below the cipher's limit");
        out.extend_from_slice(&tag);
        out
    }

    /// Opens a datagram from anybody: its header, and its plain bytes.
    ///
    /// Whether it is for this node, fresh, and of a member is for the caller to check.
    ///
    /// # Errors
    /// When it is not one, or was not sealed like this under a key of the ring.
    pub fn open(&self, datagram: &[u8]) -> Result<(Header, Vec<u8>), OpenError> {
        let (header, key_id, nonce, head) = parse_header(datagram).ok_or(OpenError::Malformed)?;
        let key = self.keys.keys.iter().find(|k| k.id == key_id).ok_or(OpenError::UnknownKey)?;
        let (body, tag) = datagram[head..].split_at(datagram.len() - head - TAG);
        let tag = Tag::try_from(tag).map_err(|_| OpenError::Malformed)?;
        let mut plain = body.to_vec();
        key.cipher
            .decrypt_inout_detached(
                &XNonce::from(nonce),
                &datagram[..head],
                plain.as_mut_slice().into(),
                &tag,
            )
            .map_err(|_| OpenError::Forged)?;
        Ok((header, plain))
    }
}

/// The header, the key's id, the nonce and where the ciphertext begins.
fn parse_header(datagram: &[u8]) -> Option<(Header, [u8; 8], [u8; NUMBERS], usize)> {
    if datagram.len() > MAX_DATAGRAM {
        return None;
    }
    let (version, rest) = datagram.split_first()?;
    if *version != VERSION {
        return None;
    }
    let (key_id, rest) = rest.split_first_chunk::<8>()?;
    let (sender, rest) = parse_name(rest)?;
    let (receiver, rest) = parse_name(rest)?;
    let (nonce, rest) = rest.split_first_chunk::<NUMBERS>()?;
    let _body = rest.len().checked_sub(TAG)?;
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&nonce[at..at + 8]);
        u64::from_be_bytes(bytes)
    };
    let header = Header { sender: sender?, receiver, epoch: number(0), salt: number(16), counter: number(8) };
    Some((header, *key_id, *nonce, datagram.len() - rest.len()))
}

/// A length and a node id, or a zero.
fn parse_name(bytes: &[u8]) -> Option<(Option<NodeId>, &[u8])> {
    let (len, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*len))?;
    if name.is_empty() {
        return Some((None, rest));
    }
    let id = std::str::from_utf8(name).ok()?.parse().ok()?;
    Some((Some(id), rest))
}

/// Which counters of one process have been heard: a sliding bitmap (RFC 4303, section 3.4.3).
///
/// Invariant: a counter is accepted once. What is more than [`Window::SIZE`] behind the greatest
/// one is refused, for it may have been heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    greatest: u64,
    bits: [u64; 4],
}

impl Window {
    /// How far behind the greatest counter one may come and still be accepted.
    pub const SIZE: u64 = 256;

    /// The greatest counter accepted.
    pub const fn greatest(&self) -> u64 {
        self.greatest
    }

    /// Accepts `counter` if it was not heard before.
    pub fn accept(&mut self, counter: u64) -> bool {
        if counter == 0 {
            return false;
        }
        if counter > self.greatest {
            self.slide(counter - self.greatest);
            self.greatest = counter;
        }
        let behind = self.greatest - counter;
        if behind >= Self::SIZE {
            return false;
        }
        let (word, bit) = ((behind / 64) as usize, 1 << (behind % 64));
        let fresh = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        fresh
    }

    /// Moves every mark `by` places back.
    fn slide(&mut self, by: u64) {
        if by >= Self::SIZE {
            self.bits = [0; 4];
            return;
        }
        let (words, bits) = ((by / 64) as usize, by % 64);
        for at in (0..4usize).rev() {
            let low = at.checked_sub(words).map_or(0, |from| self.bits[from]);
            let carry = at.checked_sub(words + 1).map_or(0, |from| self.bits[from]);
            self.bits[at] = if bits == 0 { low } else { low << bits | carry >> (64 - bits) };
        }
    }
}

#[cfg(test)]
mod tests;
