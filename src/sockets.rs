//! The sockets that the roles listen on: bound once, and never taken from somebody who answers there.
//!
//! Invariant: a socket is replaced only when the kernel refuses connections to it, which it does when its owner has gone. Among those
//! who bind below one runtime directory that look and the replacement are one step: root's lock stands around both. systemd takes
//! no lock; that is why `pamrelay run` asks it for its units, and why its sockets follow the unit that asks for a `pamrelay run`.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid, chownat, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};

/// Held while a socket is looked at and replaced. Root's alone, or any local user could hold it.
pub(crate) const LOCK: &str = "start.lock";

/// Connections that wait for the role, as many as the kernel lets wait.
const BACKLOG: i32 = 4096;

/// Who may connect: an owner and a group, by a socket of mode 0660.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Askers {
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

/// Somebody who answers at a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answerer {
    /// Of the process that began to listen, where the kernel tells.
    pub(crate) pid: Option<i32>,
}

impl Answerer {
    /// systemd, which holds the sockets of the running units.
    pub(crate) fn is_systemd(&self) -> bool {
        self.pid == Some(1) && Path::new("/run/systemd/system").exists()
    }

    fn in_words(&self) -> String {
        match self.pid {
            Some(_) if self.is_systemd() => "the units of systemd (to stop them: systemctl stop pamrelay)".to_owned(),
            Some(pid) => {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                format!("{} (pid {pid})", crate::visible::visible(name.trim()))
            }
            None => "a process that cannot be named".to_owned(),
        }
    }
}

/// Binds the socket. `lock` is in the runtime directory; without one the caller sees to it that nobody else binds.
pub(crate) fn bind(path: &Path, askers: Askers, lock: Option<&Path>) -> io::Result<UnixListener> {
    let _held = lock.map(hold).transpose()?;
    refuse_if_answered(path)?;
    if fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket()) {
        fs::remove_file(path)?; // left by one that has gone; anything but a socket stays, and is in the way
    }
    // Born for its owner alone: the kernel takes the mode of the socket that is bound. There is no moment in which it is wider than
    // in the end.
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    if askers.uid.is_some() || askers.gid.is_some() {
        chownat(CWD, path, askers.uid.map(Uid::from_raw), askers.gid.map(Gid::from_raw), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    socket.listen(BACKLOG)?; // last: until then nobody answers here
    Ok(UnixListener::from(OwnedFd::from(socket)))
}

/// An error that says who answers, if somebody does.
pub(crate) fn refuse_if_answered(path: &Path) -> io::Result<()> {
    match answerer(path) {
        None => Ok(()),
        Some(somebody) => {
            let words = format!("{} answers at {} already", somebody.in_words(), path.display());
            Err(io::Error::new(io::ErrorKind::AddrInUse, words))
        }
    }
}

/// Who answers at a path. Nobody, if nothing is there or its owner has gone.
pub(crate) fn answerer(path: &Path) -> Option<Answerer> {
    let unknown = Some(Answerer { pid: None });
    let Ok(address) = SockAddr::unix(path) else { return None };
    let Ok(socket) = Socket::new(Domain::UNIX, Type::STREAM, None) else { return unknown };
    // A full backlog is an answer too, and not one to wait for.
    if socket.set_nonblocking(true).is_err() {
        return unknown;
    }
    match socket.connect(&address) {
        Ok(()) => {
            let stream = UnixStream::from(OwnedFd::from(socket));
            let pid = rustix::net::sockopt::socket_peercred(&stream).ok().map(|peer| peer.pid.as_raw_nonzero().get());
            Some(Answerer { pid })
        }
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory => None,
            _ => unknown,
        },
    }
}

fn hold(lock: &Path) -> io::Result<Flock<File>> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(lock)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_socket_that_somebody_answers_at_is_not_replaced_and_the_error_names_who() {
        let place = tempfile::tempdir().unwrap();
        let (path, lock) = (place.path().join("keys"), place.path().join(LOCK));
        let first = bind(&path, Askers::default(), Some(&lock)).unwrap();
        let before = fs::metadata(&path).unwrap().ino();

        let second = bind(&path, Askers::default(), Some(&lock)).unwrap_err();

        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        assert!(second.to_string().contains(&format!("(pid {})", std::process::id())), "{second}");
        assert_eq!(fs::metadata(&path).unwrap().ino(), before);
        assert!(UnixStream::connect(&path).is_ok());
        drop(first);
        bind(&path, Askers::default(), Some(&lock)).unwrap();
        assert_eq!(fs::metadata(&lock).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_full_backlog_is_somebody_who_answers() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("auth");
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let mut waiting = Vec::new();
        while let Some(Answerer { pid: Some(_) }) = answerer(&path) {
            let one = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            one.set_nonblocking(true).unwrap();
            let _ = one.connect(&SockAddr::unix(&path).unwrap());
            waiting.push(one);
            assert!(waiting.len() < 100);
        }

        assert_eq!(answerer(&path), Some(Answerer { pid: None }));
        assert_eq!(bind(&path, Askers::default(), None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_socket_is_for_its_askers_and_nobody_else() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("queue");

        drop(bind(&path, Askers::default(), None).unwrap());
        fs::write(place.path().join("file"), "").unwrap();

        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        bind(&place.path().join("file"), Askers::default(), None).unwrap_err();
        assert!(place.path().join("file").is_file());
    }

    #[test]
    fn of_many_who_start_at_once_one_binds() {
        let place = tempfile::tempdir().unwrap();
        let (path, lock) = (place.path().join("keys"), place.path().join(LOCK));
        for _ in 0..20 {
            let bound: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| bind(&path, Askers::default(), Some(&lock)).ok())).collect();
                threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(bound.len(), 1);
        }
    }
}
