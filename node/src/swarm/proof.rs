//! Proving the cluster key inside a TLS session, before any other protocol.
//!
//! Each side sends keying material that only the two ends of this very session can derive (RFC 5705,
//! RFC 8446 section 7.5), with the cluster key as context and a label by role, so that a proof cannot be
//! reflected, replayed or relayed. It costs one round trip a connection and nothing a byte.
//!
//! Keys rotate: the first is proved to peers, each is accepted from them.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use futures_rustls::rustls;

const PROOF_BYTES: usize = 32;

/// What both say once they have verified the other's proof.
const WELCOME: u8 = 1;

/// Which end of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Dialer,
    Listener,
}

impl Role {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Dialer => b"EXPORTER-kepler-cluster-key-1-dialer",
            Self::Listener => b"EXPORTER-kepler-cluster-key-1-listener",
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Dialer => Self::Listener,
            Self::Listener => Self::Dialer,
        }
    }
}

/// The peer is not of this cluster, or speaks something else.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProofError {
    #[error("the peer does not have the cluster key")]
    WrongKey,
    #[error("derive the proof of the cluster key")]
    Export(#[source] rustls::Error),
    #[error("exchange proofs of the cluster key; the peer may have another one")]
    Io(#[from] io::Error),
}

/// Keying material of a session, derived before the stream is given to [`exchange`].
pub(super) struct Proofs {
    ours: [u8; PROOF_BYTES],
    accepted: Vec<[u8; PROOF_BYTES]>,
}

/// Derives what this side sends and what it accepts. `export` is the session's exporter.
///
/// `keys` is not empty; its first key is ours.
pub(super) fn derive(
    role: Role,
    keys: &[[u8; 32]],
    export: impl Fn([u8; PROOF_BYTES], &[u8], &[u8; 32]) -> Result<[u8; PROOF_BYTES], rustls::Error>,
) -> Result<Proofs, ProofError> {
    let of = |role: Role, key: &[u8; 32]| export([0; PROOF_BYTES], role.label(), key);
    let ours = of(role, &keys[0]).map_err(ProofError::Export)?;
    let accepted = keys.iter().map(|key| of(role.other(), key));
    Ok(Proofs { ours, accepted: accepted.collect::<Result<_, _>>().map_err(ProofError::Export)? })
}

/// Proves the cluster key to the peer and has it prove it.
///
/// The caller sets the deadline.
pub(super) async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    proofs: &Proofs,
) -> Result<(), ProofError> {
    stream.write_all(&proofs.ours).await?;
    stream.flush().await?;
    let mut theirs = [0; PROOF_BYTES];
    stream.read_exact(&mut theirs).await?;
    // All keys are compared, each in constant time, so that nothing tells which one it was.
    let known = proofs.accepted.iter().fold(false, |known, proof| known | equal(proof, &theirs));
    if !known {
        return Err(ProofError::WrongKey);
    }
    stream.write_all(&[WELCOME]).await?;
    stream.flush().await?;
    let mut welcome = [0];
    stream.read_exact(&mut welcome).await?;
    if welcome == [WELCOME] { Ok(()) } else { Err(ProofError::WrongKey) }
}

fn equal(a: &[u8; PROOF_BYTES], b: &[u8; PROOF_BYTES]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}
