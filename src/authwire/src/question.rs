//! The question: may this user, with this password, from this address, send?
//!
//! ```text
//! 0 version  1 kind  2 user length  4 password length  6 id  14 session  22 peer  38 listener length
//! 39 listener, user, password
//! ```
//!
//! Numbers are little-endian, the peer is an IPv6 address (IPv4 as `::ffff:a.b.c.d`), never a name. The listener
//! is named, not the PAM service: which service that means is the helper's own to know.
//! Invariant: the password exists only in a [`QuestionFrame`], which is wiped when dropped and never
//! grows; a decoded [`Question`] borrows from it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::cursor::Reader;
use crate::order::Order;
use crate::{ORDER, QUESTION, VERSION, wipe};

/// The longest account name, in bytes.
pub const MAX_USER: usize = 255;
/// The longest password that is carried; longer ones are wrong without asking.
pub const MAX_PASSWORD: usize = 1023;
/// The longest name of a listener.
pub const MAX_LISTENER: usize = 63;
/// The longest frame: neither side reads or holds more for one question.
pub const MAX_QUESTION: usize = HEADER + MAX_LISTENER + MAX_USER + MAX_PASSWORD;

const HEADER: usize = 39;

/// What a frame says. The helper checks every field again; nothing in it is believed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Question<'a> {
    /// Chosen by the asker and repeated in the verdict.
    pub id: u64,
    /// The session that the ticket will be bound to.
    pub session: u64,
    /// The client's address, IPv4 mapped into IPv6.
    pub peer: [u8; 16],
    /// The listener that the client came to; empty for none in particular.
    pub listener: &'a str,
    pub user: &'a [u8],
    pub password: &'a [u8],
}

/// How much of a frame is still to come, judged from what has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameLen {
    /// The lengths have not arrived yet.
    Unknown,
    /// The whole frame has this many bytes.
    Known(usize),
    /// No question starts like this.
    Malformed,
}

impl FrameLen {
    /// Judges the beginning of a frame, so that a reader knows when to stop or give up.
    pub fn of(start: &[u8]) -> Self {
        let mut rest = Reader(start);
        match (rest.u8(), rest.u8()) {
            (Some(VERSION), Some(QUESTION)) => Self::of_question(rest),
            (Some(VERSION), Some(ORDER)) => Order::frame_len(start),
            (None | Some(VERSION), None) => Self::Unknown,
            (Some(_) | None, _) => Self::Malformed,
        }
    }

    fn of_question(mut rest: Reader<'_>) -> Self {
        let (Some(user), Some(password)) = (rest.u16(), rest.u16()) else { return Self::Unknown };
        let (user, password) = (usize::from(user), usize::from(password));
        if user > MAX_USER || password > MAX_PASSWORD {
            return Self::Malformed;
        }
        let Some(listener) = rest.bytes(32).and_then(|_| rest.u8()).map(usize::from) else { return Self::Unknown };
        if listener > MAX_LISTENER { Self::Malformed } else { Self::Known(HEADER + listener + user + password) }
    }
}

impl<'a> Question<'a> {
    /// The bytes to send, or `None` if user or password are too long to be right.
    pub fn encode(&self) -> Option<QuestionFrame> {
        let (listener, user, password) = (self.listener.as_bytes(), self.user, self.password);
        if listener.len() > MAX_LISTENER || user.len() > MAX_USER || password.len() > MAX_PASSWORD {
            return None;
        }

        let mut frame = QuestionFrame::empty();
        for part in [
            &[VERSION, QUESTION][..],
            &u16::try_from(user.len()).ok()?.to_le_bytes(),
            &u16::try_from(password.len()).ok()?.to_le_bytes(),
            &self.id.to_le_bytes(),
            &self.session.to_le_bytes(),
            &self.peer,
            &[u8::try_from(listener.len()).ok()?],
            listener,
            user,
            password,
        ] {
            frame.append(part)?;
        }
        Some(frame)
    }

    /// Reads exactly one frame; a byte too few, too many or unknown is `None`.
    pub fn decode(frame: &'a [u8]) -> Option<Self> {
        let mut rest = Reader(frame);
        if rest.u8()? != VERSION || rest.u8()? != QUESTION || FrameLen::of(frame) != FrameLen::Known(frame.len()) {
            return None;
        }
        let user_len = rest.u16()?;
        let password_len = rest.u16()?;
        let (id, session, peer) = (rest.u64()?, rest.u64()?, rest.array()?);
        let question = Self {
            id,
            session,
            peer,
            listener: rest.text()?,
            user: rest.bytes(usize::from(user_len))?,
            password: rest.bytes(usize::from(password_len))?,
        };
        rest.end()?;
        Some(question)
    }

    /// The peer as it is logged and given to PAM: an IPv4 address in its own form.
    pub fn peer_addr(&self) -> IpAddr {
        Self::address(self.peer)
    }

    /// An address from what a frame carries.
    pub fn address(octets: [u8; 16]) -> IpAddr {
        Ipv6Addr::from(octets).to_canonical()
    }

    /// An address as the frame carries it.
    pub fn peer_bytes(peer: IpAddr) -> [u8; 16] {
        match peer {
            IpAddr::V4(four) => four.to_ipv6_mapped().octets(),
            IpAddr::V6(six) => six.octets(),
        }
    }
}

impl fmt::Debug for Question<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question")
            .field("id", &self.id)
            .field("session", &self.session)
            .field("peer", &self.peer_addr())
            .field("listener", &self.listener)
            .field("user", &String::from_utf8_lossy(self.user))
            .field("password", &"(hidden)")
            .finish()
    }
}

/// The bytes of one question in a buffer of fixed size, wiped on drop.
pub struct QuestionFrame {
    bytes: Box<[u8; MAX_QUESTION]>,
    len: usize,
}

impl QuestionFrame {
    pub fn empty() -> Self {
        Self { bytes: Box::new([0; MAX_QUESTION]), len: 0 }
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// The free part, for a read from a socket; follow with [`filled`](Self::filled).
    pub fn room(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.len..).unwrap_or_default()
    }

    /// Says how many bytes were read into [`room`](Self::room); never more than the room there was.
    pub fn filled(&mut self, count: usize) {
        self.len = self.len.saturating_add(count).min(MAX_QUESTION);
    }

    fn append(&mut self, part: &[u8]) -> Option<()> {
        self.room().get_mut(..part.len())?.copy_from_slice(part);
        self.filled(part.len());
        Some(())
    }
}

impl Drop for QuestionFrame {
    fn drop(&mut self) {
        wipe(&mut self.bytes[..]);
    }
}

impl fmt::Debug for QuestionFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QuestionFrame({} bytes, hidden)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question<'a>(user: &'a [u8], password: &'a [u8]) -> Question<'a> {
        let peer = Question::peer_bytes("192.0.2.7".parse().unwrap());
        Question { id: 7, session: u64::MAX, peer, listener: "submission", user, password }
    }

    #[test]
    fn comes_back_as_it_was() {
        for (user, password) in [(&b"alice"[..], &b"secret"[..]), (b"", b""), (&[0xff; MAX_USER], &[b'x'; MAX_PASSWORD])] {
            let frame = question(user, password).encode().unwrap();

            assert_eq!(Question::decode(frame.as_bytes()), Some(question(user, password)));
        }
    }

    #[test]
    fn an_ipv4_peer_is_shown_in_its_own_form() {
        assert_eq!(question(b"", b"").peer_addr().to_string(), "192.0.2.7");
    }

    #[test]
    fn what_is_too_long_is_not_sent() {
        assert!(question(&[b'u'; 256], b"x").encode().is_none());
        assert!(question(b"u", &[b'p'; 1024]).encode().is_none());
        let listener = "l".repeat(MAX_LISTENER + 1);
        assert!(Question { listener: &listener, ..question(b"u", b"p") }.encode().is_none());
    }

    #[test]
    fn every_shorter_and_longer_frame_is_refused() {
        let frame = question(b"alice", b"secret").encode().unwrap();
        let whole = frame.as_bytes();

        for cut in 0..whole.len() {
            assert_eq!(Question::decode(&whole[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Question::decode(&[whole, b"x"].concat()), None);
    }

    #[test]
    fn unknown_versions_kinds_and_lengths_are_malformed_at_once() {
        let frame = question(b"alice", b"secret").encode().unwrap();
        let altered = |at: usize, to: &[u8]| {
            let mut bytes = frame.as_bytes().to_vec();
            bytes[at..at + to.len()].copy_from_slice(to);
            FrameLen::of(&bytes)
        };

        assert_eq!(altered(0, &[2]), FrameLen::Malformed);
        assert_eq!(altered(1, &[0]), FrameLen::Malformed);
        for user in [256u16, 0x7fff, 0xffff] {
            assert_eq!(altered(2, &user.to_le_bytes()), FrameLen::Malformed);
        }
        for password in [1024u16, 0x7fff, 0xffff] {
            assert_eq!(altered(4, &password.to_le_bytes()), FrameLen::Malformed);
        }
        assert_eq!(altered(38, &[64]), FrameLen::Malformed);
        assert_eq!(FrameLen::of(&[VERSION]), FrameLen::Unknown);
        assert_eq!(FrameLen::of(&frame.as_bytes()[..38]), FrameLen::Unknown);
        assert_eq!(FrameLen::of(b"GET / HTTP/1.1"), FrameLen::Malformed);
    }

    #[test]
    fn the_password_is_not_in_debug_output() {
        let question = question(b"alice", b"hunter2");
        let shown = format!("{question:?} {:?}", question.encode().unwrap());

        assert!(shown.contains("alice") && !shown.contains("hunter2"), "{shown}");
    }
}
