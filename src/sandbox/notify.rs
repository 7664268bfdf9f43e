//! Telling the service manager how things are, from inside a cage.
//!
//! Invariant: the socket is connected before the cage and kept: inside there is no connecting by path.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt,
        unix::ffi::OsStrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    sync::Arc,
};

/// A connection to the service manager, or none where there is no service manager.
#[derive(Clone, Debug)]
pub struct Notifier(Option<Arc<UnixDatagram>>);

impl Notifier {
    /// Connects to `$NOTIFY_SOCKET`.
    pub fn from_env() -> Self {
        let Some(name) = env::var_os("NOTIFY_SOCKET") else { return Self(None) };
        let connected = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&name),
        }
        .and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&address)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => Self(Some(Arc::new(socket))),
            Err(error) => {
                tracing::warn!(event = "notify_unreachable", error = %error);
                Self(None)
            }
        }
    }

    /// The role does its work from now on.
    pub fn ready(&self) {
        self.say("READY=1\n");
    }

    /// The role ends.
    pub fn stopping(&self) {
        self.say("STOPPING=1\n");
    }

    /// One line for whoever looks at the unit: what the role waits for, or why it cannot start.
    pub fn status(&self, words: impl std::fmt::Display) {
        let line = words.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        self.say(&format!("STATUS={line}\n"));
    }

    fn say(&self, text: &str) {
        let Some(socket) = &self.0 else { return };
        match socket.send(text.as_bytes()) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {} // it will learn from the next one
            Err(error) => tracing::warn!(event = "notify_failed", error = %error),
        }
    }
}
