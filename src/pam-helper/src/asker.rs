//! One connection: from accept to a whole question of the front end, or a whole order of root.
//!
//! Invariant: a connection carries one frame, within a second, without descriptors; anything else is
//! dropped without an answer, so a confused or hostile peer learns nothing. Orders are root's alone.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, recvmsg};
use nix::unistd::Uid;
use pamrelay_authwire::{FrameLen, Order, Question, QuestionFrame};

/// How long a frame may take from accept to its last byte.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) struct Asker {
    pub(crate) stream: UnixStream,
    pub(crate) since: Instant,
    uid: Uid,
    frame: QuestionFrame,
}

/// A whole frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    Question,
    Order(Order),
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
    /// An order from somebody who may only ask questions.
    Presumptuous,
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
            Self::Presumptuous => "presumptuous",
            Self::Broken => "broken",
        })
    }
}

impl Asker {
    pub(crate) fn new(stream: UnixStream, uid: Uid, now: Instant) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, since: now, uid, frame: QuestionFrame::empty() })
    }

    pub(crate) fn is_slow(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= PATIENCE
    }

    /// Reads what is there. `Ok(Some(_))` when the frame is whole and decodes.
    pub(crate) fn read(&mut self) -> Result<Option<Arrived>, Dropped> {
        loop {
            match self.receive() {
                Ok(0) if self.frame.as_bytes().is_empty() => return Err(Dropped::Silent),
                Ok(0) => return Err(Dropped::Short),
                Ok(count) => self.frame.filled(count),
                Err(Dropped::Slow) => return Ok(None), // nothing more for now
                Err(dropped) => return Err(dropped),
            }
            let arrived = self.frame.as_bytes();
            match FrameLen::of(arrived) {
                FrameLen::Unknown => {}
                FrameLen::Malformed => return Err(Dropped::Malformed),
                FrameLen::Known(length) if arrived.len() < length => {}
                FrameLen::Known(length) if arrived.len() > length || self.has_more() => return Err(Dropped::Surplus),
                FrameLen::Known(_) => return self.understood().map(Some),
            }
        }
    }

    fn understood(&self) -> Result<Arrived, Dropped> {
        let frame = self.frame.as_bytes();
        match Order::decode(frame) {
            Some(_) if !self.uid.is_root() => Err(Dropped::Presumptuous),
            Some(order) => Ok(Arrived::Order(order)),
            None if Question::decode(frame).is_some() => Ok(Arrived::Question),
            None => Err(Dropped::Malformed),
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
        (front, Asker::new(helper, Uid::from_raw(1), Instant::now()).unwrap())
    }

    fn frame() -> QuestionFrame {
        Question { id: 1, session: 2, peer: [0; 16], listener: "", user: b"alice", password: b"secret" }.encode().unwrap()
    }

    #[test]
    fn a_frame_may_arrive_byte_by_byte() {
        let (mut front, mut asker) = connected();
        let frame = frame();
        let (last, first) = frame.as_bytes().split_last().unwrap();

        for byte in first {
            front.write_all(&[*byte]).unwrap();
            assert_eq!(asker.read(), Ok(None));
        }
        front.write_all(&[*last]).unwrap();

        assert_eq!(asker.read(), Ok(Some(Arrived::Question)));
        assert_eq!(asker.into_parts().1.as_bytes(), frame.as_bytes());
    }

    #[test]
    fn what_is_not_one_frame_drops_the_peer() {
        let frame = frame();
        let longest = Question { id: 1, session: 2, peer: [0; 16], listener: &"l".repeat(63), user: &[b'u'; 255], password: &[b'p'; 1023] }
            .encode()
            .unwrap();
        for (bytes, dropped) in [
            (b"GET / HTTP/1.1\r\n".to_vec(), Dropped::Malformed),
            ([frame.as_bytes(), b"x"].concat(), Dropped::Surplus),
            ([frame.as_bytes(), frame.as_bytes()].concat(), Dropped::Surplus),
            ([longest.as_bytes(), b"x"].concat(), Dropped::Surplus),
            (frame.as_bytes()[..20].to_vec(), Dropped::Short),
            (vec![], Dropped::Silent),
            (Order::Status.encode().unwrap(), Dropped::Presumptuous),
        ] {
            let (mut front, mut asker) = connected();
            front.write_all(&bytes).unwrap();
            drop(front);

            assert_eq!(asker.read(), Err(dropped), "{bytes:?}");
        }
    }

    #[test]
    fn root_may_give_orders() {
        let (mut front, helper) = UnixStream::pair().unwrap();
        let mut asker = Asker::new(helper, Uid::from_raw(0), Instant::now()).unwrap();

        front.write_all(&Order::Throttled.encode().unwrap()).unwrap();

        assert_eq!(asker.read(), Ok(Some(Arrived::Order(Order::Throttled))));
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
