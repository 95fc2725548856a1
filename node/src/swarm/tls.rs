//! TLS 1.3 by the libp2p specification, preferring AES-128-GCM, and the cluster key inside it.
//!
//! The handshake is wire-compatible with `/tls/1.0.0` of other libp2p implementations; the stock crate
//! prefers ChaCha20 and cannot be told otherwise, which costs more than half of the throughput on a
//! CPU with AES instructions. Certificates are made and checked by `libp2p::tls::certificate`.
//! Sessions are never resumed, and keys are never logged.

use std::io;
use std::iter;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::future::BoxFuture;
use futures::io::BufWriter;
use futures::{AsyncRead, AsyncWrite};
use futures_rustls::rustls::client::Resumption;
use futures_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use futures_rustls::rustls::crypto::aws_lc_rs::{self, cipher_suite};
use futures_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use futures_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use futures_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use futures_rustls::rustls::{
    self, ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::identity::{Keypair, PeerId};
use libp2p::tls::certificate;

use super::counters::Counters;
use super::proof::{self, ClusterKeys, ProofError, Role};

const ALPN: &[u8] = b"libp2p";

/// Gathers Yamux's headers and small frames into whole TLS records.
const WRITE_BUFFER_BYTES: usize = 64 << 10;

/// Why a peer was not let in.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("shake hands by TLS")]
    Handshake(#[source] io::Error),
    #[error("read the peer's certificate")]
    Certificate(#[from] certificate::ParseError),
    #[error("the peer has no certificate")]
    NoCertificate,
    #[error(transparent)]
    Proof(#[from] ProofError),
}

/// The upgrade from a socket to an encrypted stream of a peer that has the cluster key.
#[derive(Clone)]
pub(super) struct Tls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    keys: ClusterKeys,
    counters: Arc<Counters>,
}

impl Tls {
    /// Prepares both roles.
    pub(super) fn new(
        identity: &Keypair,
        keys: ClusterKeys,
        counters: Arc<Counters>,
    ) -> Result<Self, String> {
        let describe = |e: &dyn std::error::Error| e.to_string();
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        let provider = Arc::new(provider);

        let (certificate, key) = certificate::generate(identity).map_err(|e| describe(&e))?;
        let key = aws_lc_rs::sign::any_ecdsa_type(&key).map_err(|e| describe(&e))?;
        // Not through `with_single_cert`: it refuses the critical extension that libp2p puts in.
        let resolver = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key)));

        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| describe(&e))?
            .with_client_cert_verifier(Arc::new(Verifier))
            .with_cert_resolver(resolver.clone());
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.ignore_client_order = true;
        server.send_tls13_tickets = 0;

        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| describe(&e))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier))
            .with_client_cert_resolver(resolver);
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.enable_sni = false;
        client.resumption = Resumption::disabled();

        Ok(Self { server: Arc::new(server), client: Arc::new(client), keys, counters })
    }

    fn note_cipher(&self, session: &CommonState) {
        if let Some(suite) = session.negotiated_cipher_suite() {
            self.counters.cipher_suite.store(u16::from(suite.suite()), Ordering::Relaxed);
        }
    }
}

fn peer_of(session: &CommonState) -> Result<PeerId, TlsError> {
    match session.peer_certificates() {
        Some([certificate]) => Ok(certificate::parse(certificate)?.peer_id()),
        _ => Err(TlsError::NoCertificate),
    }
}

impl UpgradeInfo for Tls {
    type Info = &'static str;
    type InfoIter = iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/tls/1.0.0")
    }
}

/// An encrypted stream.
pub(super) type Encrypted<C> = BufWriter<TlsStream<C>>;

impl<C> InboundConnectionUpgrade<C> for Tls
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, Encrypted<C>);
    type Error = TlsError;
    type Future = BoxFuture<'static, Result<Self::Output, TlsError>>;

    fn upgrade_inbound(self, socket: C, _: &'static str) -> Self::Future {
        Box::pin(async move {
            let acceptor = TlsAcceptor::from(self.server.clone());
            let mut stream = acceptor.accept(socket).await.map_err(TlsError::Handshake)?;
            let session = stream.get_ref().1;
            let peer = peer_of(session)?;
            let proofs = proof::derive(Role::Listener, &self.keys.now(), |out, label, key| {
                session.export_keying_material(out, label, Some(key))
            })?;
            proof::exchange(&mut stream, &proofs).await?;
            self.note_cipher(stream.get_ref().1);
            Ok((peer, BufWriter::with_capacity(WRITE_BUFFER_BYTES, stream.into())))
        })
    }
}

impl<C> OutboundConnectionUpgrade<C> for Tls
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, Encrypted<C>);
    type Error = TlsError;
    type Future = BoxFuture<'static, Result<Self::Output, TlsError>>;

    fn upgrade_outbound(self, socket: C, _: &'static str) -> Self::Future {
        Box::pin(async move {
            // The specification forbids a server name; an address is not sent.
            let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into());
            let connector = TlsConnector::from(self.client.clone());
            let mut stream = connector.connect(name, socket).await.map_err(TlsError::Handshake)?;
            let session = stream.get_ref().1;
            let peer = peer_of(session)?;
            let proofs = proof::derive(Role::Dialer, &self.keys.now(), |out, label, key| {
                session.export_keying_material(out, label, Some(key))
            })?;
            proof::exchange(&mut stream, &proofs).await?;
            self.note_cipher(stream.get_ref().1);
            Ok((peer, BufWriter::with_capacity(WRITE_BUFFER_BYTES, stream.into())))
        })
    }
}

/// As in the stock implementation.
const SCHEMES: [SignatureScheme; 9] = [
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA512,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA256,
];

/// Checks certificates as the libp2p specification says: exactly one, self-signed, valid now, with the
/// identity key's signature in the extension. Whose identity it is, membership decides.
#[derive(Debug)]
struct Verifier;

impl Verifier {
    fn check(certificate: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        if !others.is_empty() {
            return Err(rustls::Error::General("more than one certificate".into()));
        }
        certificate::parse(certificate)?;
        Ok(())
    }
}

/// What a verifier of servers and one of clients have in common, word for word.
macro_rules! verify_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::General("only TLS 1.3 is spoken".into()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let certificate = certificate::parse(certificate)?;
            certificate.verify_signature(signed.scheme, message, signed.signature())?;
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            SCHEMES.to_vec()
        }
    };
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Self::check(certificate, others).map(|()| ServerCertVerified::assertion())
    }

    verify_signatures!();
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Self::check(certificate, others).map(|()| ClientCertVerified::assertion())
    }

    verify_signatures!();
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use libp2p::tls as stock;
    use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

    use super::*;

    type Pipe = Compat<tokio::io::DuplexStream>;

    fn pipe() -> (Pipe, Pipe) {
        let (a, b) = tokio::io::duplex(1 << 16);
        (a.compat(), b.compat())
    }

    fn ours(identity: &Keypair, keys: &[[u8; 32]]) -> Tls {
        Tls::new(identity, ClusterKeys::new(keys.to_vec()), Arc::default()).expect("the identity is sound")
    }

    #[tokio::test]
    async fn both_ends_learn_whom_they_speak_to_and_agree_on_aes_128_gcm() {
        let (us, them) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let (a, b) = pipe();
        let (dialer, listener) = (ours(&us, &[[1; 32]]), ours(&them, &[[2; 32], [1; 32]]));
        // The listener proves a key that the dialer does not have.
        let (dialed, heard) =
            tokio::join!(dialer.clone().upgrade_outbound(a, ""), listener.clone().upgrade_inbound(b, ""));
        assert!(matches!(dialed, Err(TlsError::Proof(ProofError::WrongKey))));
        assert!(heard.is_err());

        let (a, b) = pipe();
        let listener = ours(&them, &[[1; 32], [2; 32]]);
        let (dialed, heard) = tokio::join!(dialer.upgrade_outbound(a, ""), listener.upgrade_inbound(b, ""));
        let ((peer, stream), (caller, _)) = (dialed.expect("it is let in"), heard.expect("it lets in"));
        assert_eq!((peer, caller), (them.public().to_peer_id(), us.public().to_peer_id()));
        let suite = stream.get_ref().get_ref().1.negotiated_cipher_suite().expect("TLS is up");
        assert_eq!(suite.suite(), rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    }

    /// The handshake is that of the specification; what a stock peer lacks is the cluster key.
    #[tokio::test]
    async fn stock_libp2p_shakes_hands_and_is_then_cut_off() {
        let (us, them) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let theirs = stock::Config::new(&them).expect("the identity is sound");

        let (a, b) = pipe();
        let dial = theirs.clone().upgrade_outbound(a, "").map(|dialed| dialed.expect("TLS is up").0);
        let (peer, heard) = tokio::join!(dial, ours(&us, &[[0; 32]]).upgrade_inbound(b, ""));
        assert_eq!(peer, us.public().to_peer_id());
        assert!(matches!(heard, Err(TlsError::Proof(ProofError::Io(_)))));

        let (a, b) = pipe();
        let listen = theirs.upgrade_inbound(b, "").map(|heard| heard.expect("TLS is up").0);
        let (dialed, caller) = tokio::join!(ours(&us, &[[0; 32]]).upgrade_outbound(a, ""), listen);
        assert_eq!(caller, us.public().to_peer_id());
        assert!(matches!(dialed, Err(TlsError::Proof(ProofError::Io(_)))));
    }
}
