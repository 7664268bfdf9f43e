//! The TLS side of the front end. It has the public certificate chain and a way to ask for signatures; the private
//! key is in another process.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::{Acceptor, ResolvesServerCert};
use rustls::{ProtocolVersion, ServerConfig};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::session::TlsPeer;

/// A client has so long to finish a handshake.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// Handshakes that may wait for a signature at the same moment: each may hold a thread while the key process is slow.
const SIGNING: usize = 64;

/// The oldest version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oldest {
    Tls12,
    Tls13,
}

pub struct Tls {
    config: Arc<ServerConfig>,
    signing: Semaphore,
}

/// Why there is no TLS on a connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the client took longer than {HANDSHAKE:?}")]
    TimedOut,
    #[error("{0}")]
    Failed(#[from] io::Error),
    #[error("the TLS library cannot be set up: {0}")]
    SetUp(#[from] rustls::Error),
}

impl Tls {
    pub fn new(certificates: Arc<dyn ResolvesServerCert>, oldest: Oldest) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions: &[_] = match oldest {
            Oldest::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            Oldest::Tls13 => &[&rustls::version::TLS13],
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_no_client_auth()
            .with_cert_resolver(certificates);
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        config.send_tls13_tickets = 1;
        Ok(Self { config: Arc::new(config), signing: Semaphore::new(SIGNING) })
    }

    /// Shakes hands on a fresh connection.
    pub async fn secure(&self, socket: TcpStream) -> Result<(TlsStream<TcpStream>, TlsPeer), TlsError> {
        tokio::time::timeout(HANDSHAKE, self.handshake(socket)).await.map_err(|_| TlsError::TimedOut)?
    }

    async fn handshake(&self, socket: TcpStream) -> Result<(TlsStream<TcpStream>, TlsPeer), TlsError> {
        // A slow client waits here and holds nothing.
        let hello = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        let turn = self.signing.acquire().await.map_err(|_| TlsError::TimedOut)?;
        // The library answers the hello at once, and that is when it asks for the signature.
        let answer = hello.into_stream(Arc::clone(&self.config));
        drop(turn);
        let stream = answer.await?;
        let (_, connection) = stream.get_ref();
        let peer = TlsPeer {
            version: connection.protocol_version().map_or("TLS", version),
            cipher: connection.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite())).unwrap_or_default(),
        };
        Ok((stream, peer))
    }
}

fn version(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_2 => "TLS1.2",
        ProtocolVersion::TLSv1_3 => "TLS1.3",
        _ => "TLS",
    }
}
