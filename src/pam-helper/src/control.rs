//! The words between the listener and its template process, over a socket pair that keeps messages apart.
//!
//! ```text
//! listener → template   Fork { job, nice } + the worker's end of its answer socket
//! template → listener   Ready | Unfit | Started { job, pid } + pidfd | NotStarted { job } | Ended { job }
//! ```
//!
//! Invariant: no password crosses here; the question waits in the worker's own socket, which the template
//! never reads.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair};

use crate::sys;

const LENGTH: usize = 17;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Make a worker for this job that yields the processor to others by so much.
    Fork {
        job: u64,
        nice: i32,
    },
    /// `pam_start` is done (or left to the workers) and workers can be forked.
    Ready,
    /// After `pam_start` there were threads or descriptors that a fork must not inherit, or it failed.
    Unfit {
        extra: i32,
        code: i32,
    },
    /// The worker runs; its pidfd is attached.
    Started {
        job: u64,
        pid: i32,
    },
    NotStarted {
        job: u64,
        errno: i32,
    },
    /// The worker is gone: its exit status, or the signal that ended it.
    Ended {
        job: u64,
        status: i32,
        signal: i32,
    },
}

impl Word {
    fn encode(self) -> [u8; LENGTH] {
        let (kind, job, first, second) = match self {
            Self::Fork { job, nice } => (1, job, nice, 0),
            Self::Ready => (2, 0, 0, 0),
            Self::Unfit { extra, code } => (3, 0, extra, code),
            Self::Started { job, pid } => (4, job, pid, 0),
            Self::NotStarted { job, errno } => (5, job, errno, 0),
            Self::Ended { job, status, signal } => (6, job, status, signal),
        };
        let mut bytes = [kind; LENGTH];
        bytes[1..9].copy_from_slice(&job.to_le_bytes());
        bytes[9..13].copy_from_slice(&i32::to_le_bytes(first));
        bytes[13..].copy_from_slice(&i32::to_le_bytes(second));
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (job, rest) = rest.split_first_chunk()?;
        let (first, rest) = rest.split_first_chunk()?;
        let (second, rest) = rest.split_first_chunk()?;
        let (job, first, second) = (u64::from_le_bytes(*job), i32::from_le_bytes(*first), i32::from_le_bytes(*second));
        if !rest.is_empty() {
            return None;
        }
        Some(match kind {
            1 => Self::Fork { job, nice: first },
            2 => Self::Ready,
            3 => Self::Unfit { extra: first, code: second },
            4 => Self::Started { job, pid: first },
            5 => Self::NotStarted { job, errno: first },
            6 => Self::Ended { job, status: first, signal: second },
            _ => return None,
        })
    }
}

/// What a read found.
#[derive(Debug)]
pub(crate) enum Heard {
    Word(Word, Option<OwnedFd>),
    /// Nothing now.
    Silence,
    /// The other side is gone, or speaks nonsense.
    Gone,
}

/// A pair of connected sockets that keep messages apart and are closed by exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends without blocking.
pub(crate) fn say(socket: BorrowedFd<'_>, word: Word, attached: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let bytes = word.encode();
    let numbers: Vec<_> = attached.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let rights = if numbers.is_empty() { &rights[..0] } else { &rights[..] };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], rights, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives without blocking.
pub(crate) fn hear(socket: BorrowedFd<'_>) -> Heard {
    let mut bytes = [0; LENGTH + 1];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let mut space = cmsg_space!([i32; 1]);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let received = match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
        Ok(received) => received,
        Err(Errno::EAGAIN | Errno::EINTR) => return Heard::Silence,
        Err(_) => return Heard::Gone,
    };
    let mut attached: Vec<OwnedFd> = received.cmsgs().into_iter().flatten().flat_map(sys::received_descriptors).collect();
    let length = received.bytes;
    match bytes.get(..length).and_then(Word::decode) {
        Some(word) => Heard::Word(word, attached.pop()),
        None => Heard::Gone,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn words_and_descriptors_come_through() {
        let (ours, theirs) = pair().unwrap();
        let words = [
            Word::Fork { job: u64::MAX, nice: 10 },
            Word::Ready,
            Word::Unfit { extra: 2, code: -1 },
            Word::Started { job: 1, pid: i32::MAX },
            Word::NotStarted { job: 2, errno: 11 },
            Word::Ended { job: 3, status: -1, signal: 9 },
        ];

        for word in words {
            say(ours.as_fd(), word, Some(theirs.as_fd())).unwrap();
            let Heard::Word(heard, Some(_)) = hear(theirs.as_fd()) else { panic!("{word:?} was lost") };
            assert_eq!(heard, word);
        }
        assert!(matches!(hear(theirs.as_fd()), Heard::Silence));
    }

    #[test]
    fn nonsense_and_hang_ups_are_told() {
        let (ours, theirs) = pair().unwrap();
        nix::unistd::write(&ours, &[9; LENGTH]).unwrap();
        assert!(matches!(hear(theirs.as_fd()), Heard::Gone));
        nix::unistd::write(&ours, &[2; LENGTH + 1]).unwrap();
        assert!(matches!(hear(theirs.as_fd()), Heard::Gone));

        drop(ours);
        assert!(matches!(hear(theirs.as_fd()), Heard::Gone));
    }
}
