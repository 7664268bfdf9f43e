//! The listening socket, and who is at the other end of a connection.
//!
//! Invariant: only root and the front's user are heard; the kernel says who they are (SO_PEERCRED), not they.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockaddrLike, UnixAddr, getsockname, getsockopt, sockopt};
use nix::unistd::{Gid, Uid, chown};
use std::os::fd::{AsRawFd, OwnedFd};

use crate::sys;

/// The socket that a service manager passed as descriptor 3 (LISTEN_FDS). Asked before anything is opened.
pub(crate) fn inherited() -> Option<OwnedFd> {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let for_us = std::env::var_os("LISTEN_PID").is_none() || number("LISTEN_PID") == Some(std::process::id());
    if number("LISTEN_FDS")? == 0 || !for_us {
        return None;
    }
    sys::inherited_descriptor()
}

/// Makes a listener of what was passed, or says why it is none.
pub(crate) fn listener_from(passed: OwnedFd) -> io::Result<UnixListener> {
    let listens = getsockopt(&passed, sockopt::AcceptConn)?;
    let family = getsockname::<UnixAddr>(passed.as_raw_fd())?.family();
    if !listens || family != Some(AddressFamily::Unix) {
        return Err(io::Error::other("descriptor 3 is not a listening Unix socket"));
    }
    let listener = UnixListener::from(passed);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Binds the path itself, for root and one group.
pub(crate) fn bind(path: &Path, group: Gid) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    chown(path, None, Some(group))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The uid of the process that connected.
pub(crate) fn peer(stream: &UnixStream) -> io::Result<Uid> {
    Ok(Uid::from_raw(getsockopt(stream, sockopt::PeerCredentials)?.uid()))
}
