//! One accepted connection: the greeting, the handshake where it belongs, the conversation, one line at its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::door::Crowded;
use super::listener::Visitor;
use super::tls::TlsError;
use super::{Front, TlsMode};
use crate::session::driver::{Client, Closed, Ended, converse};
use crate::session::{Plain, Session, TlsPeer};
use crate::smtp::SessionId;
use crate::smtp::reply::{Refusal, Reply};

/// How long a client that is turned away may take to hear so.
const TURNED_AWAY: Duration = Duration::from_secs(2);

/// Why a connection ended other than by QUIT or 421.
#[derive(Debug)]
enum Broken {
    Closed(Closed),
    Tls(TlsError),
}

impl Front {
    /// Serves one client to its end.
    pub(super) async fn serve(self: Arc<Self>, visitor: Visitor) {
        let Visitor { socket, peer, mode } = visitor;
        let _seat = match self.door.enter(peer.ip()) {
            Ok(seat) => seat,
            Err(crowded) => return self.turn_away(socket, peer, mode, crowded).await,
        };
        let begun = Instant::now();
        let mut client =
            Client { world: &self.world, id: SessionId::fresh(), peer, deadline: begun + self.world.limits.session_timeout, faults: 0 };
        tracing::debug!(event = "connected", session = %client.id, peer = %peer);
        let (tls, ended) = self.talk(socket, mode, &mut client).await;
        let tls = tls.map_or_else(|| "none".to_owned(), |tls| tls.to_string());
        let end = match ended {
            Ok(()) | Err(Broken::Closed(Closed::ByUs)) => "closed".to_owned(),
            Err(Broken::Closed(Closed::ByPeer)) => "client went away".to_owned(),
            Err(Broken::Closed(Closed::Error(error))) => error.to_string(),
            Err(Broken::Tls(error)) => format!("TLS handshake failed: {error}"),
        };
        tracing::info!(event = "session_ended", session = %client.id, peer = %peer.ip(), tls, faults = client.faults, seconds = begun.elapsed().as_secs(), end);
    }

    async fn talk(&self, socket: TcpStream, mode: TlsMode, client: &mut Client<'_>) -> (Option<TlsPeer>, Result<(), Broken>) {
        let banner = Reply::banner(&self.world.site.host);
        let (socket, plain, greeting) = match mode {
            TlsMode::Implicit => (socket, Plain, Some(banner)),
            TlsMode::StartTls => match converse(socket, Session::Plain(Plain), Some(banner), client).await {
                Ok(Ended::StartTls(socket, plain)) => (socket, plain, None),
                Ok(Ended::Closed) => return (None, Ok(())),
                Err(closed) => return (None, Err(Broken::Closed(closed))),
            },
        };
        let in_clear = mode == TlsMode::Implicit && speaks_in_clear(&socket).await;
        let (stream, tls) = match self.tls.secure(socket).await {
            Ok(secured) => secured,
            Err(error) => {
                if in_clear {
                    tracing::info!(event = "plain_on_tls_port", session = %client.id, peer = %client.peer.ip(), hint = "the client is set to STARTTLS or to no encryption; this port wants TLS from the start");
                }
                return (None, Err(Broken::Tls(error)));
            }
        };
        let session = Session::Secured(plain.secured(tls.clone()));
        let ended = converse(stream, session, greeting, client).await;
        (Some(tls), ended.map(|_| ()).map_err(Broken::Closed))
    }

    async fn turn_away(&self, mut socket: TcpStream, peer: std::net::SocketAddr, mode: TlsMode, crowded: Crowded) {
        let limit = match crowded {
            Crowded::InAll => "limits.sessions",
            Crowded::FromThere => "limits.sessions_per_address",
        };
        tracing::warn!(event = "too_many_sessions", peer = %peer.ip(), limit);
        if mode == TlsMode::StartTls {
            let mut text = String::new();
            Reply::from(Refusal::TOO_MANY_SESSIONS).write(&mut text);
            let _ = tokio::time::timeout(TURNED_AWAY, socket.write_all(text.as_bytes())).await;
        }
    }
}

/// Looks at the first octet without taking it: a TLS handshake starts with 22 (RFC 8446 §5.1).
async fn speaks_in_clear(socket: &TcpStream) -> bool {
    let mut first = [0; 1];
    let peeked = tokio::time::timeout(Duration::from_secs(30), socket.peek(&mut first)).await;
    matches!(peeked, Ok(Ok(1))) && first != [0x16]
}
