//! Mutual TLS 1.3 between the farm's own certificates, and nobody else's.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::limits::LINK_TLS_MS;
use crate::link::peer::PeerId;
use crate::link::pki::{self, COORDINATOR_NAME, Identity, PkiError};

/// Why a TLS connection did not come about.
#[derive(Debug, thiserror::Error)]
pub(in crate::link) enum TlsError {
    /// Our own certificate or key cannot be used.
    #[error("own certificate cannot be used: {0}")]
    Setup(String),
    /// The peer has no certificate of our CA, is no peer of TLS at all, or went away.
    #[error("tls handshake failed: {0}")]
    Handshake(#[from] std::io::Error),
    /// The peer said nothing for too long.
    #[error("tls handshake took longer than {LINK_TLS_MS} ms")]
    Late,
    /// The certificate is ours but names no single peer.
    #[error(transparent)]
    Names(#[from] PkiError),
    /// The handshake ended without a certificate.
    #[error("peer showed no certificate")]
    NoCertificate,
}

/// Both directions of TLS for one identity.
#[derive(Clone)]
pub(in crate::link) struct TlsSetup {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl TlsSetup {
    pub(in crate::link) fn new(identity: &Identity) -> Result<Self, TlsError> {
        let setup = |error: &dyn std::fmt::Display| TlsError::Setup(error.to_string());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots
            .add(identity.ca().clone())
            .map_err(|error| setup(&error))?;
        let roots = Arc::new(roots);
        let chain = vec![identity.certificate().clone()];
        let key = || identity.key().map_err(|error| setup(&error));

        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| setup(&error))?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| setup(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key()?)
            .map_err(|error| setup(&error))?;
        // A resumed session takes a certificate as verified because it once was: one that has ended since would still do.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| setup(&error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key()?)
            .map_err(|error| setup(&error))?;
        Ok(Self {
            acceptor: Arc::new(server).into(),
            connector: Arc::new(client).into(),
        })
    }

    /// The serving side alone, for the cluster's own listener.
    pub(in crate::link) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    /// Serves a handshake and gives who the peer is.
    pub(in crate::link) async fn accept(
        &self,
        tcp: TcpStream,
    ) -> Result<(server::TlsStream<TcpStream>, PeerId), TlsError> {
        let stream = in_time(self.acceptor.accept(tcp)).await?;
        let peer = certified(stream.get_ref().1.peer_certificates())?;
        Ok((stream, peer))
    }

    /// Dials a coordinator: only a certificate with the coordinators' name will do.
    pub(in crate::link) async fn connect(
        &self,
        tcp: TcpStream,
    ) -> Result<(client::TlsStream<TcpStream>, PeerId), TlsError> {
        let name = ServerName::try_from(COORDINATOR_NAME)
            .map_err(|error| TlsError::Setup(error.to_string()))?;
        let stream = in_time(self.connector.connect(name, tcp)).await?;
        let peer = certified(stream.get_ref().1.peer_certificates())?;
        Ok((stream, peer))
    }
}

async fn in_time<T>(handshake: impl Future<Output = std::io::Result<T>>) -> Result<T, TlsError> {
    match tokio::time::timeout(Duration::from_millis(LINK_TLS_MS), handshake).await {
        Ok(ended) => Ok(ended?),
        Err(_) => Err(TlsError::Late),
    }
}

fn certified(chain: Option<&[CertificateDer<'_>]>) -> Result<PeerId, TlsError> {
    let certificate = chain
        .and_then(<[_]>::first)
        .ok_or(TlsError::NoCertificate)?;
    Ok(pki::peer_of(certificate)?)
}

#[cfg(test)]
mod tests {
    use rustls::HandshakeKind;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::link::pki::Ca;

    #[tokio::test]
    async fn a_peer_that_comes_again_shows_its_certificate_again() {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::create(folder.path()).unwrap();
        let setup = |name: &str| TlsSetup::new(&ca.issue(&name.parse().unwrap()).unwrap()).unwrap();
        let (leader, node) = (setup("c1.coordinator"), setup("n1.node"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for _ in 0..2 {
            let serving = async {
                let (tcp, _) = listener.accept().await.unwrap();
                let (mut stream, peer) = leader.accept(tcp).await.unwrap();
                // Whatever a session could be resumed by comes before it.
                stream.write_u8(1).await.unwrap();
                stream.flush().await.unwrap();
                (stream.get_ref().1.handshake_kind(), peer)
            };
            let dialling = async {
                let tcp = TcpStream::connect(address).await.unwrap();
                let (mut stream, _) = node.connect(tcp).await.unwrap();
                assert_eq!(stream.read_u8().await.unwrap(), 1);
            };
            let ((kind, peer), ()) = tokio::join!(serving, dialling);
            assert_eq!(kind, Some(HandshakeKind::Full));
            assert_eq!(peer.to_string(), "n1.node");
        }
    }
}
