//! Gossip messages and the membership updates that ride on them.
//!
//! A datagram's plain bytes are one [`Packet`] followed by any number of [`Update`]s; a full-state
//! exchange is an [`ExchangeHead`] followed by updates. Both end with their input, so nothing declares a length.
//!
//! Invariant: a [`Record`] holds a statement whose signature was checked (or was made here, or read back from
//! this node's own disk); a [`Claim`] is one that nobody has checked yet.

use std::sync::Arc;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use minicbor::{Decode, Decoder, Encode};
use sha2::{Digest, Sha256};

use crate::identity::{ClusterId, DatabaseId};
use crate::node_id::NodeId;
use crate::view::{Metadata, State};

/// Updates in one datagram at most.
pub const MAX_UPDATES: usize = 64;

/// Who stands behind one accusation at most; more confirm nothing.
pub const MAX_ACCUSERS: usize = 4;

/// The greatest length of a full-state exchange, one way, in bytes.
pub const MAX_EXCHANGE: usize = super::MAX_CALL_BYTES;

/// No incarnation is greater: what is left above keeps sums from overflowing.
pub const MAX_INCARNATION: u64 = 1 << 62;

const MAX_STATEMENT: usize = 512;
const DOMAIN: &[u8] = b"kepler-statement-v1\0";

/// What a node tells of its catalog in every datagram, without raising its incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Announcement {
    /// [`crate::catalog::Catalog::seen_digest`]: equal digests, equal catalogs.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub seen_digest: [u8; 16],
    /// The catalog database.
    #[n(1)]
    pub database: DatabaseId,
    /// Catalog transactions committed.
    #[n(2)]
    pub mark: u64,
    /// Number of the adopted roster; 0 without one.
    #[n(3)]
    pub roster: u64,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Statement {
    /// Who speaks.
    #[n(0)]
    pub id: NodeId,
    /// Raised by the speaker with every statement.
    #[n(1)]
    pub incarnation: u64,
    /// What it does; never [`State::Suspect`]. [`State::Dead`] is a goodbye.
    #[n(2)]
    pub state: State,
    /// Where and what it is.
    #[n(3)]
    pub metadata: Metadata,
}

/// Why a statement or a packet is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// Bytes that do not parse, or more of something than there may be.
    #[error("malformed gossip message")]
    Malformed,
    /// The signature is not the speaker's.
    #[error("a statement's signature does not verify")]
    BadSignature,
}

/// A statement as received: its bytes and a signature that nobody checked yet.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Claim {
    #[cbor(n(0), with = "minicbor::bytes")]
    body: Vec<u8>,
    #[cbor(n(1), with = "minicbor::bytes")]
    signature: [u8; 64],
}

impl Claim {
    /// What it says, not yet believed.
    ///
    /// # Errors
    /// When the statement does not parse or a field is out of its bounds.
    pub fn statement(&self) -> Result<Statement, InvalidMessage> {
        if self.body.len() > MAX_STATEMENT {
            return Err(InvalidMessage::Malformed);
        }
        let statement: Statement = minicbor::decode(&self.body).map_err(|_| InvalidMessage::Malformed)?;
        let Metadata { zone, version, .. } = &statement.metadata;
        let bounded = statement.state != State::Suspect
            && statement.incarnation <= MAX_INCARNATION
            && version.len() <= 31
            && zone.as_ref().is_none_or(|z| z.len() <= 63);
        if bounded { Ok(statement) } else { Err(InvalidMessage::Malformed) }
    }

    /// Checks the signature by the key that the statement names.
    ///
    /// # Errors
    /// When it does not parse or verify.
    pub fn verify(self, statement: Statement) -> Result<Arc<Record>, InvalidMessage> {
        let key =
            VerifyingKey::from_bytes(&statement.metadata.key).map_err(|_| InvalidMessage::BadSignature)?;
        key.verify_strict(&signed_bytes(&self.body), &Signature::from_bytes(&self.signature))
            .map_err(|_| InvalidMessage::BadSignature)?;
        Ok(Arc::new(Record { statement, claim: self }))
    }
}

fn signed_bytes(body: &[u8]) -> Vec<u8> {
    [DOMAIN, body].concat()
}

/// A statement that is known to be its speaker's, with the bytes that prove it to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    statement: Statement,
    claim: Claim,
}

impl Record {
    /// Signs a statement of one's own. Ed25519 is deterministic: the same statement, the same bytes.
    pub fn sign(identity: &SigningKey, statement: Statement) -> Arc<Self> {
        let body = minicbor::to_vec(&statement).expect("encoding to memory does not fail");
        let signature = identity.sign(&signed_bytes(&body)).to_bytes();
        Arc::new(Self { statement, claim: Claim { body, signature } })
    }

    /// What was said.
    pub const fn statement(&self) -> &Statement {
        &self.statement
    }

    /// The signed form, for others.
    pub const fn claim(&self) -> &Claim {
        &self.claim
    }

    /// For the disk.
    pub fn to_bytes(&self) -> Vec<u8> {
        minicbor::to_vec(&self.claim).expect("encoding to memory does not fail")
    }

    /// From this node's own disk; the signature is checked all the same.
    ///
    /// # Errors
    /// When the bytes are damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Arc<Self>, InvalidMessage> {
        let claim: Claim = minicbor::decode(bytes).map_err(|_| InvalidMessage::Malformed)?;
        let statement = claim.statement()?;
        claim.verify(statement)
    }
}

/// Names a key in an accusation, so that it does not hit who takes over the id later.
pub fn key_tag(key: &[u8; 32]) -> u64 {
    let digest = Sha256::digest(key);
    u64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}

/// Others' word about a member: they may suspect it or declare it dead, nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Accusation {
    /// Whom.
    #[n(0)]
    pub subject: NodeId,
    /// [`key_tag`] of the subject's key.
    #[n(1)]
    pub key: u64,
    /// Which incarnation of it.
    #[n(2)]
    pub incarnation: u64,
    /// [`State::Suspect`] or [`State::Dead`].
    #[n(3)]
    pub verdict: State,
    /// Who found so independently; 1 to [`MAX_ACCUSERS`].
    #[n(4)]
    pub accusers: Vec<NodeId>,
}

/// One piece of news. A kind that is not known decodes as [`Update::Unknown`] and is skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// A member's own words.
    Claim(Claim),
    /// Others' words.
    Accusation(Accusation),
    /// Something of a later version.
    Unknown,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct WireUpdate {
    #[n(0)]
    claim: Option<Claim>,
    #[n(1)]
    accusation: Option<Accusation>,
}

impl Update {
    /// Appends the update to a packet.
    pub fn encode_to(&self, out: &mut Vec<u8>) {
        let wire = match self.clone() {
            Self::Claim(claim) => WireUpdate { claim: Some(claim), accusation: None },
            Self::Accusation(accusation) => WireUpdate { claim: None, accusation: Some(accusation) },
            Self::Unknown => WireUpdate { claim: None, accusation: None },
        };
        minicbor::encode(wire, out).expect("encoding to memory does not fail");
    }

    /// The update alone.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_to(&mut out);
        out
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, InvalidMessage> {
        let wire: WireUpdate = decoder.decode().map_err(|_| InvalidMessage::Malformed)?;
        match (wire.claim, wire.accusation) {
            (Some(claim), None) => Ok(Self::Claim(claim)),
            (None, Some(accusation)) => {
                let whole = matches!(accusation.verdict, State::Suspect | State::Dead)
                    && accusation.incarnation <= MAX_INCARNATION
                    && (1..=MAX_ACCUSERS).contains(&accusation.accusers.len());
                if whole { Ok(Self::Accusation(accusation)) } else { Err(InvalidMessage::Malformed) }
            }
            (None, None) => Ok(Self::Unknown),
            (Some(_), Some(_)) => Err(InvalidMessage::Malformed),
        }
    }
}

/// What a datagram is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Message {
    /// Are you there? Answered by [`Message::Ack`] with the nonce.
    #[n(0)]
    Ping {
        /// Fresh and random.
        #[n(0)]
        nonce: u64,
    },
    /// Ask `target` for me. Answered by [`Message::Relayed`] or [`Message::Nack`].
    #[n(1)]
    PingReq {
        /// Echoed to the asker.
        #[n(0)]
        nonce: u64,
        /// Whom to ask.
        #[n(1)]
        target: NodeId,
    },
    /// The answer to a ping or a challenge.
    #[n(2)]
    Ack {
        /// What was asked.
        #[n(0)]
        nonce: u64,
    },
    /// The target of a ping-req answered.
    #[n(3)]
    Relayed {
        /// What was asked.
        #[n(0)]
        nonce: u64,
    },
    /// The target of a ping-req has not answered yet, but the helper is there (Lifeguard, section IV-A).
    #[n(4)]
    Nack {
        /// What was asked.
        #[n(0)]
        nonce: u64,
    },
    /// Nothing but updates.
    #[n(5)]
    Gossip,
    /// Your node id belongs to a live node with another key.
    #[n(6)]
    Refused {
        /// The ping's.
        #[n(0)]
        nonce: u64,
    },
}

/// The head of every datagram.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Packet {
    /// What it is for.
    #[n(0)]
    pub message: Message,
    /// The sender's cluster, once it knows.
    #[n(1)]
    pub cluster: Option<ClusterId>,
    /// What the sender tells of its catalog.
    #[n(2)]
    pub announcement: Option<Announcement>,
    /// The sender's local health multiplier, 0 (well) to 8: peers are patient with a struggling node.
    #[n(3)]
    pub health: u8,
    /// A fresh nonce: the sender does not trust this process of the receiver's before it is echoed by an ack.
    #[n(4)]
    pub challenge: Option<u64>,
    /// The sender knows few members and would like to be told of some.
    #[n(5)]
    pub newcomer: bool,
    /// The sender has no statement of the receiver's, or not the latest: the answer should bring it.
    #[n(6)]
    pub unknown: bool,
    /// The lowest bits of the incarnation of the sender's latest statement: who has another, and so
    /// has missed a rumour, notices.
    #[cbor(n(7), default)]
    pub latest: u16,
}

impl Packet {
    /// Parses a datagram's plain bytes.
    ///
    /// # Errors
    /// When they are no packet, or hold more than [`MAX_UPDATES`] updates.
    pub fn decode(bytes: &[u8]) -> Result<(Self, Vec<Update>), InvalidMessage> {
        let mut decoder = Decoder::new(bytes);
        let packet = decoder.decode().map_err(|_| InvalidMessage::Malformed)?;
        Ok((packet, decode_updates(&mut decoder, bytes.len(), MAX_UPDATES)?))
    }

    /// The bytes before the updates.
    pub fn to_bytes(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("encoding to memory does not fail")
    }
}

fn decode_updates(decoder: &mut Decoder<'_>, len: usize, most: usize) -> Result<Vec<Update>, InvalidMessage> {
    let mut updates = Vec::new();
    while decoder.position() < len {
        if updates.len() == most {
            return Err(InvalidMessage::Malformed);
        }
        updates.push(Update::decode(decoder)?);
    }
    Ok(updates)
}

/// The head of a full-state exchange.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ExchangeHead {
    /// The sender's cluster, once it knows.
    #[n(0)]
    pub cluster: Option<ClusterId>,
}

impl ExchangeHead {
    /// Parses one side of a full-state exchange.
    ///
    /// # Errors
    /// When it is none, or longer than [`MAX_EXCHANGE`].
    pub fn decode(bytes: &[u8]) -> Result<(Self, Vec<Update>), InvalidMessage> {
        if bytes.len() > MAX_EXCHANGE {
            return Err(InvalidMessage::Malformed);
        }
        let mut decoder = Decoder::new(bytes);
        let head = decoder.decode().map_err(|_| InvalidMessage::Malformed)?;
        Ok((head, decode_updates(&mut decoder, bytes.len(), usize::MAX)?))
    }
}

#[cfg(test)]
mod tests;
