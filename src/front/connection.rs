//! One accepted connection: the greeting, the handshake where it belongs, the conversation, one line at its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::door::Crowded;
use super::listener::Visitor;
use super::tls::TlsError;
use super::{Front, TlsMode};
use crate::session::driver::{Client, Closed, Line, Written, converse};
use crate::session::{Plain, Session, TlsPeer, Who};
use crate::smtp::reply::{Refusal, Reply};

/// How long a client that is turned away may take to hear so.
const TURNED_AWAY: Duration = Duration::from_secs(2);
/// How long a handshake may take, the wait for its first octet included.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    Closed(#[from] Closed),
    #[error("TLS handshake failed: {0}")]
    Tls(#[from] TlsError),
    #[error("STARTTLS inside TLS")]
    TwiceSecured,
}

impl Front {
    /// Serves one client to its end.
    pub(super) async fn serve(self: Arc<Self>, visitor: Visitor) {
        let Visitor { socket, peer, listener, mode } = visitor;
        let _seat = match self.door.enter(peer.ip()) {
            Ok(seat) => seat,
            Err(crowded) => return self.turn_away(socket, peer, mode, crowded).await,
        };
        let mut client = Client::new(&self.world, peer, listener);
        tracing::debug!(event = "connected", session = %client.id, peer = %peer);
        let (tls, end) = self.talk(socket, mode, &mut client).await;
        let tls = tls.map_or_else(|| "none".to_owned(), |tls| tls.to_string());
        let is_written = match client.who {
            Who::User => true,
            Who::Stranger => self.world.strangers.note(Line::SessionEnded, peer.ip()) == Written::Yes,
        };
        if !is_written {
            return;
        }
        tracing::info!(event = "session_ended", session = %client.id, listener = %client.listener, peer = %peer.ip(), tls, seconds = client.age().as_secs(), end = %end);
    }

    async fn talk(&self, socket: TcpStream, mode: TlsMode, client: &mut Client<'_>) -> (Option<TlsPeer>, End) {
        let banner = Reply::banner(&self.world.site.host);
        let (socket, plain, greeting) = match mode {
            TlsMode::Implicit => (socket, Plain, Some(banner)),
            TlsMode::StartTls => match converse(socket, Session::Plain(Plain), Some(banner), client).await {
                Ok((socket, plain)) => (socket, plain, None),
                Err(closed) => return (None, closed.into()),
            },
        };
        let until = client.login_due().min(Instant::now() + HANDSHAKE);
        let first = if mode == TlsMode::Implicit { first_octet(&socket, until).await } else { None };
        let (stream, tls) = match self.tls.secure(socket, until).await {
            Ok(secured) => secured,
            Err(error) => {
                // A handshake starts with 22 (RFC 8446 §5.1).
                let is_plain = first.is_some_and(|octet| octet != 22);
                if is_plain && self.world.strangers.note(Line::PlainOnTlsPort, client.peer.ip()) == Written::Yes {
                    tracing::info!(event = "plain_on_tls_port", session = %client.id, peer = %client.peer.ip(), hint = "the client is set to STARTTLS or to no encryption; this port wants TLS from the start");
                }
                return (None, error.into());
            }
        };
        let session = Session::Secured(plain.secured(tls.clone()));
        let end = match converse(stream, session, greeting, client).await {
            Ok(_) => End::TwiceSecured,
            Err(closed) => closed.into(),
        };
        (Some(tls), end)
    }

    /// Closes a connection that came too soon after others from there. It is not waited for: all that it costs is this.
    pub(super) fn hold_off(&self, socket: &TcpStream, peer: SocketAddr, mode: TlsMode) {
        if self.world.strangers.note(Line::ConnectionsTooFast, peer.ip()) == Written::Yes {
            tracing::warn!(event = "connections_too_fast", peer = %peer.ip(), limit = "limits.sessions_per_address");
        }
        if mode == TlsMode::StartTls {
            let mut text = String::new();
            Reply::from(Refusal::TOO_MANY_SESSIONS).write(&mut text);
            let _ = SockRef::from(socket).send(text.as_bytes());
        }
    }

    /// Says why in the clear; a client that waits for TLS sees the connection close.
    async fn turn_away(&self, mut socket: TcpStream, peer: SocketAddr, mode: TlsMode, crowded: Crowded) {
        if self.world.strangers.note(Line::TooManySessions, peer.ip()) == Written::Yes {
            let limit = match crowded {
                Crowded::InAll => "limits.sessions",
                Crowded::FromThere => "limits.sessions_per_address",
                Crowded::FromSite => "limits.sessions_per_site",
            };
            tracing::warn!(event = "too_many_sessions", peer = %peer.ip(), limit);
        }
        if mode == TlsMode::StartTls {
            let mut text = String::new();
            Reply::from(Refusal::TOO_MANY_SESSIONS).write(&mut text);
            let _ = timeout(TURNED_AWAY, socket.write_all(text.as_bytes())).await;
        }
    }
}

/// Looks at the first octet without taking it.
async fn first_octet(socket: &TcpStream, until: Instant) -> Option<u8> {
    let mut first = [0; 1];
    match timeout_at(until, socket.peek(&mut first)).await {
        Ok(Ok(1)) => Some(first[0]),
        Ok(Ok(_) | Err(_)) | Err(_) => None,
    }
}
