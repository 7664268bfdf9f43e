//! The TLS side of the front end. It has the public certificate chain and a way to ask for signatures; the private
//! key is in another process. How many handshakes may wait for a signature at once is bounded there, in `keys::client`.

use std::io;
use std::sync::Arc;

use rustls::server::ResolvesServerCert;
use rustls::{ProtocolVersion, ServerConfig};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::hello_limit::HelloLimit;
use super::wiping::Wiping;
use crate::session::TlsPeer;

/// A client's stream after its handshake.
pub(super) type Secure = TlsStream<Wiping<HelloLimit<TcpStream>>>;

pub struct Tls {
    acceptor: TlsAcceptor,
}

/// Why there is no TLS on a connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the client took too long")]
    TimedOut,
    #[error("{0}")]
    Failed(#[from] io::Error),
    #[error("the TLS library cannot be set up: {0}")]
    SetUp(#[from] rustls::Error),
}

impl Tls {
    /// TLS 1.2 and 1.3, with session tickets.
    pub fn new(certificates: Arc<dyn ResolvesServerCert>) -> Result<Self, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(certificates);
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        config.send_tls13_tickets = 1;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// Shakes hands on a fresh connection.
    pub async fn secure(&self, socket: TcpStream, until: Instant) -> Result<(Secure, TlsPeer), TlsError> {
        let handshake = self.acceptor.accept(Wiping(HelloLimit::new(socket)));
        let mut stream = timeout_at(until, handshake).await.map_err(|_| TlsError::TimedOut)??;
        stream.get_mut().0.0.lift();
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
