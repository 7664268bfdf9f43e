//! One connection of the front end: from accept to a whole question.
//!
//! Invariant: a connection carries one frame, within a second, without descriptors; anything else is
//! dropped without an answer, so a confused or hostile peer learns nothing.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, recvmsg};
use pamrelay_authwire::{FrameLen, Question, QuestionFrame};

/// How long a frame may take from accept to its last byte.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) struct Asker {
    pub(crate) stream: UnixStream,
    pub(crate) since: Instant,
    frame: QuestionFrame,
}

/// Why a peer is dropped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// Connected and closed; a probe.
    Silent,
    Slow,
    Malformed,
    Short,
    Surplus,
    Descriptors,
    Broken,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "silent",
            Self::Slow => "slow",
            Self::Malformed => "malformed",
            Self::Short => "short",
            Self::Surplus => "surplus",
            Self::Descriptors => "descriptors",
            Self::Broken => "broken",
        })
    }
}

impl Asker {
    pub(crate) fn new(stream: UnixStream, now: Instant) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, since: now, frame: QuestionFrame::empty() })
    }

    pub(crate) fn is_slow(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= PATIENCE
    }

    /// Reads what is there. `Ok(true)` when the frame is whole and decodes.
    pub(crate) fn read(&mut self) -> Result<bool, Dropped> {
        loop {
            match self.receive() {
                Ok(0) if self.frame.as_bytes().is_empty() => return Err(Dropped::Silent),
                Ok(0) => return Err(Dropped::Short),
                Ok(count) => self.frame.filled(count),
                Err(Dropped::Slow) => return Ok(false), // nothing more for now
                Err(dropped) => return Err(dropped),
            }
            let arrived = self.frame.as_bytes();
            match Question::frame_len(arrived) {
                FrameLen::Unknown => {}
                FrameLen::Malformed => return Err(Dropped::Malformed),
                FrameLen::Known(length) if arrived.len() < length => {}
                FrameLen::Known(length) if arrived.len() > length || self.has_more() => return Err(Dropped::Surplus),
                FrameLen::Known(_) if Question::decode(arrived).is_none() => return Err(Dropped::Malformed),
                FrameLen::Known(_) => return Ok(true),
            }
        }
    }

    /// The connection and its frame, once [`read`](Self::read) said that it is whole.
    pub(crate) fn into_parts(self) -> (UnixStream, QuestionFrame) {
        (self.stream, self.frame)
    }

    fn receive(&mut self) -> Result<usize, Dropped> {
        let mut parts = [IoSliceMut::new(self.frame.room())];
        // No room for control messages: the kernel closes descriptors that were sent along, and says so.
        match recvmsg::<()>(self.stream.as_raw_fd(), &mut parts, None, MsgFlags::MSG_DONTWAIT) {
            Ok(received) if received.flags.contains(MsgFlags::MSG_CTRUNC) => Err(Dropped::Descriptors),
            Ok(received) => Ok(received.bytes),
            Err(Errno::EAGAIN | Errno::EINTR) => Err(Dropped::Slow),
            Err(_) => Err(Dropped::Broken),
        }
    }

    fn has_more(&self) -> bool {
        let peeked = recv(self.stream.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK);
        peeked.is_ok_and(|count| count > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Write};

    use nix::sys::socket::{ControlMessage, sendmsg};

    use super::*;

    fn connected() -> (UnixStream, Asker) {
        let (front, helper) = UnixStream::pair().unwrap();
        (front, Asker::new(helper, Instant::now()).unwrap())
    }

    fn frame() -> QuestionFrame {
        Question { id: 1, session: 2, peer: [0; 16], user: b"alice", password: b"secret" }.encode().unwrap()
    }

    #[test]
    fn a_frame_may_arrive_byte_by_byte() {
        let (mut front, mut asker) = connected();
        let frame = frame();
        let (last, first) = frame.as_bytes().split_last().unwrap();

        for byte in first {
            front.write_all(&[*byte]).unwrap();
            assert_eq!(asker.read(), Ok(false));
        }
        front.write_all(&[*last]).unwrap();

        assert_eq!(asker.read(), Ok(true));
        assert_eq!(asker.into_parts().1.as_bytes(), frame.as_bytes());
    }

    #[test]
    fn what_is_not_one_frame_drops_the_peer() {
        let frame = frame();
        let longest = Question { id: 1, session: 2, peer: [0; 16], user: &[b'u'; 240], password: &[b'p'; 1022] }.encode().unwrap();
        for (bytes, dropped) in [
            (b"GET / HTTP/1.1\r\n".to_vec(), Dropped::Malformed),
            ([frame.as_bytes(), b"x"].concat(), Dropped::Surplus),
            ([frame.as_bytes(), frame.as_bytes()].concat(), Dropped::Surplus),
            ([longest.as_bytes(), b"x"].concat(), Dropped::Surplus),
            (frame.as_bytes()[..20].to_vec(), Dropped::Short),
            (vec![], Dropped::Silent),
        ] {
            let (mut front, mut asker) = connected();
            front.write_all(&bytes).unwrap();
            drop(front);

            assert_eq!(asker.read(), Err(dropped), "{bytes:?}");
        }
    }

    #[test]
    fn descriptors_sent_along_drop_the_peer() {
        let (front, mut asker) = connected();
        let rights = [front.as_raw_fd()];
        let frame = frame();
        sendmsg::<()>(front.as_raw_fd(), &[IoSlice::new(frame.as_bytes())], &[ControlMessage::ScmRights(&rights)], MsgFlags::empty(), None)
            .unwrap();

        assert_eq!(asker.read(), Err(Dropped::Descriptors));
    }
}
