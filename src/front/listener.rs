//! Binds what the configuration names and accepts, for as long as the front end runs.

use std::io;
use std::net::{SocketAddr, TcpListener as BoundListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::Front;
use crate::session::driver::{Line, Written};

/// Connections the kernel completes before we come to accept them.
const BACKLOG: i32 = 4096;
/// A pause after an error of accept, such as too many open files, that would only repeat itself.
const OUT_OF_BREATH: Duration = Duration::from_millis(100);

/// When a connection on a listener speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    StartTls,
    /// From the first octet (RFC 8314 §3.3).
    Implicit,
}

/// A bound address; it is bound before the cage closes.
#[derive(Debug)]
pub struct Listener {
    /// As the configuration and the helper call it.
    pub name: Arc<str>,
    pub socket: BoundListener,
    pub mode: TlsMode,
}

/// A connection that has just been made.
pub(super) struct Visitor {
    pub socket: TcpStream,
    pub peer: SocketAddr,
    pub listener: Arc<str>,
    pub mode: TlsMode,
}

impl Listener {
    pub fn bind(name: &str, address: SocketAddr, mode: TlsMode) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            // `0.0.0.0` and `[::]` are two listeners, so that each says what it means.
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Self { name: name.into(), socket: socket.into(), mode })
    }

    /// Joins the runtime we are in.
    pub(super) fn open(self) -> io::Result<OpenListener> {
        let address = self.socket.local_addr()?;
        TcpListener::from_std(self.socket).map(|socket| OpenListener { name: self.name, address, socket, mode: self.mode })
    }
}

/// A listener that clients are accepted from.
pub(super) struct OpenListener {
    name: Arc<str>,
    address: SocketAddr,
    socket: TcpListener,
    mode: TlsMode,
}

impl OpenListener {
    /// Accepts until the front end is asked to stop.
    pub(super) async fn accept(self, front: Arc<Front>) {
        let mut closing = front.world.closing.clone();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = closing.wait_for(|closing| *closing) => return,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) if !front.arrivals.admit(peer.ip(), Instant::now()) => front.hold_off(&socket, peer, self.mode),
                Ok((socket, peer)) => {
                    // Replies are small and complete: waiting to fill a packet only adds delay.
                    let _ = SockRef::from(&socket).set_tcp_nodelay(true);
                    tokio::spawn(Arc::clone(&front).serve(Visitor { socket, peer, listener: Arc::clone(&self.name), mode: self.mode }));
                }
                Err(error) => {
                    if front.world.strangers.note(Line::AcceptFailed, self.address.ip()) == Written::Yes {
                        tracing::warn!(event = "accept_failed", listener = %self.name, error = %error);
                    }
                    tokio::time::sleep(OUT_OF_BREATH).await;
                }
            }
        }
    }
}
