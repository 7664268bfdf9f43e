//! The listening socket, and who is at the other end of a connection.
//!
//! Invariant: only root and the front's user are heard; the kernel says who they are (SO_PEERCRED), not they.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc::O_NOFOLLOW;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrLike, UnixAddr, connect, getsockname, getsockopt, socket, sockopt};
use nix::unistd::{Gid, Uid};
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

/// Binds the path itself, for root and one group, unless somebody answers there: a second helper that took the first one's place would
/// end all logins. Whoever binds below this runtime directory holds root's lock while it looks and binds.
pub(crate) fn bind(path: &Path, runtime: &Path, group: Gid) -> io::Result<UnixListener> {
    let lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(O_NOFOLLOW)
        .open(runtime.join("start.lock"))?;
    let _held = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    if let Some(who) = answerer(path)? {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{who} answers here already; end it first")));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    std::os::unix::fs::lchown(path, None, Some(group.as_raw()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Who answers at a path; nobody, if nothing is there or its owner has gone.
fn answerer(path: &Path) -> io::Result<Option<String>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK; // a full backlog is an answer too, and not one to wait for
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) => Ok(Some(format!("a process (pid {})", getsockopt(&socket, sockopt::PeerCredentials)?.pid()))),
        Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::ENOTDIR) => Ok(None),
        Err(_) => Ok(Some("a process".to_owned())),
    }
}

/// The uid of the process that connected.
pub(crate) fn peer(stream: &UnixStream) -> io::Result<Uid> {
    Ok(Uid::from_raw(getsockopt(stream, sockopt::PeerCredentials)?.uid()))
}
