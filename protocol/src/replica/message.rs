//! What replicas say to each other: a council's words or a catalog's, within one call.

use minicbor::{Decode, Encode};

use crate::wire::MAX_CALL_BYTES;
use crate::{catalog, roster};

/// What one replica asks of another.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Request {
    /// About names.
    #[n(0)]
    Catalog(#[n(0)] catalog::message::Request),
    /// About the roster.
    #[n(1)]
    Council(#[n(0)] roster::message::Request),
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Response {
    /// About names.
    #[n(0)]
    Catalog(#[n(0)] catalog::message::Response),
    /// About the roster.
    #[n(1)]
    Council(#[n(0)] roster::message::Response),
}

/// Bytes that are no request or response of a replica.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message of a replica: {0}")]
pub struct Malformed(String);

fn encode<T: Encode<()>>(message: &T) -> Vec<u8> {
    minicbor::to_vec(message).expect("writing to a Vec cannot fail")
}

fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> std::result::Result<T, Malformed> {
    if bytes.len() > MAX_CALL_BYTES {
        return Err(Malformed("it is too long".into()));
    }
    minicbor::decode(bytes).map_err(|error| Malformed(error.to_string()))
}

fn malformed(error: impl ToString) -> Malformed {
    Malformed(error.to_string())
}

impl Request {
    /// The bytes that cross the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Parses and checks what came over the wire.
    ///
    /// # Errors
    /// If it is longer than any call, is no request, or holds what no replica sends.
    pub fn from_bytes(bytes: &[u8]) -> std::result::Result<Self, Malformed> {
        match decode(bytes)? {
            Self::Catalog(request) => request.checked().map(Self::Catalog).map_err(malformed),
            Self::Council(request) => match request.check() {
                Ok(()) => Ok(Self::Council(request)),
                Err(error) => Err(malformed(error)),
            },
        }
    }
}

impl Response {
    /// The bytes that cross the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Parses and checks what came over the wire.
    ///
    /// # Errors
    /// As for [`Request::from_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> std::result::Result<Self, Malformed> {
        match decode(bytes)? {
            Self::Catalog(response) => response.checked().map(Self::Catalog).map_err(malformed),
            Self::Council(response) => match response.check() {
                Ok(()) => Ok(Self::Council(response)),
                Err(error) => Err(malformed(error)),
            },
        }
    }
}
