//! Proving the cluster key inside a TLS session, before any other protocol.
//!
//! Each side sends keying material that only the two ends of this very session can derive (RFC 5705,
//! RFC 8446 section 7.5), with the cluster key as context and a label by role, so that a proof cannot be
//! reflected, replayed or relayed. It costs one round trip a connection and nothing a byte.
//!
//! Keys rotate: the first is proved to peers, each is accepted from them.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use futures_rustls::rustls;

use super::NO_CLUSTER_KEY;

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

/// The cluster keys, never none: the first is proved to peers, each is accepted. They may be replaced
/// while connections are made; all clones are one.
#[derive(Clone)]
pub(super) struct ClusterKeys(Arc<RwLock<Arc<[[u8; 32]]>>>);

impl ClusterKeys {
    /// Without a key the well-known one.
    pub(super) fn new(keys: Vec<[u8; 32]>) -> Self {
        Self(Arc::new(RwLock::new(or_none(keys))))
    }

    pub(super) fn replace(&self, keys: Vec<[u8; 32]>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = or_none(keys);
    }

    pub(super) fn now(&self) -> Arc<[[u8; 32]]> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn or_none(mut keys: Vec<[u8; 32]>) -> Arc<[[u8; 32]]> {
    if keys.is_empty() {
        keys.push(NO_CLUSTER_KEY);
    }
    keys.into()
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

#[cfg(test)]
mod tests {
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    /// Stands for a session's exporter: differs by session, label and key.
    fn session(secret: u8) -> impl Fn([u8; 32], &[u8], &[u8; 32]) -> Result<[u8; 32], rustls::Error> {
        move |_, label, key| {
            let digest = aws_lc_rs::digest::digest(
                &aws_lc_rs::digest::SHA256,
                &[&[secret][..], label, &[0], key].concat(),
            );
            Ok(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
        }
    }

    fn proofs(role: Role, secret: u8, keys: &[[u8; 32]]) -> Proofs {
        derive(role, keys, session(secret)).expect("the exporter does not fail")
    }

    async fn meet(dialer: Proofs, listener: Proofs) -> (Result<(), ProofError>, Result<(), ProofError>) {
        let (a, b) = tokio::io::duplex(1024);
        let dialing = async { exchange(&mut a.compat(), &dialer).await };
        let listening = async { exchange(&mut b.compat(), &listener).await };
        tokio::join!(dialing, listening)
    }

    #[tokio::test]
    async fn a_shared_key_lets_both_in_and_any_other_neither() {
        const OLD: [u8; 32] = [1; 32];
        const NEW: [u8; 32] = [2; 32];
        const OTHER: [u8; 32] = [3; 32];
        type Keys = &'static [[u8; 32]];
        let cases: [(Keys, Keys, bool); 6] = [
            (&[OLD], &[OLD], true),
            (&[OLD, NEW], &[NEW, OLD], true),
            (&[OLD], &[OLD, NEW], true),
            (&[OLD], &[NEW, OLD], false), // the listener proves a key that the dialer does not know yet
            (&[OLD], &[OTHER], false),
            (&[[0; 32]], &[OLD], false),
        ];
        for (n, (ours, theirs, welcome)) in cases.into_iter().enumerate() {
            let (a, b) = meet(proofs(Role::Dialer, 1, ours), proofs(Role::Listener, 1, theirs)).await;
            assert_eq!((a.is_ok(), b.is_ok()), (welcome, welcome), "case {n}: {a:?} {b:?}");
        }
    }

    #[tokio::test]
    async fn a_proof_is_worth_nothing_in_another_session_or_sent_back() {
        let key = [[1; 32]];
        let (a, b) = meet(proofs(Role::Dialer, 1, &key), proofs(Role::Listener, 2, &key)).await;
        assert!(a.is_err() && b.is_err(), "relayed");
        // A mirror: both ends say what a dialer says.
        let (a, b) = meet(proofs(Role::Dialer, 1, &key), proofs(Role::Dialer, 1, &key)).await;
        assert!(a.is_err() && b.is_err(), "reflected");
    }
}
