//! What an administrator asks of the helper itself, beside questions about passwords. Only root is answered.
//!
//! ```text
//! 0 version  1 kind  2 length of the rest  4 what  5 …
//! ```
//!
//! Invariant: no order can make the helper accept anybody, and none carries a password.

use crate::cursor::{Reader, put_text};
use crate::question::FrameLen;
use crate::{ORDER, VERSION};

/// The longest order: well below the longest question, so that one buffer takes both.
pub const MAX_ORDER: usize = HEADER + 2 + 255;

const HEADER: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// How many workers there are, how they fare, what was answered so far.
    Status,
    /// Which accounts and networks are held back now.
    Throttled,
    /// Forget the failures of this.
    Release(Subject),
    /// What became of these logins.
    Explain(Logins),
}

/// What failures are counted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Account(String),
    /// An address in it, as in a question.
    Network([u8; 16]),
    All,
}

/// Which of the logins that the helper remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Logins {
    OfSession(u64),
    /// However the name was written.
    OfUser(String),
    /// Whoever it was.
    Latest,
}

impl Order {
    /// The bytes to send, or `None` if a name is longer than any can be.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut out = vec![VERSION, ORDER, 0, 0];
        match self {
            Self::Status => out.push(1),
            Self::Throttled => out.push(2),
            Self::Release(Subject::Account(name)) => {
                out.push(3);
                put_text(&mut out, name)?;
            }
            Self::Release(Subject::Network(address)) => {
                out.push(4);
                out.extend_from_slice(address);
            }
            Self::Release(Subject::All) => out.push(5),
            Self::Explain(Logins::OfSession(session)) => {
                out.push(6);
                out.extend_from_slice(&session.to_le_bytes());
            }
            Self::Explain(Logins::OfUser(name)) => {
                out.push(7);
                put_text(&mut out, name)?;
            }
            Self::Explain(Logins::Latest) => out.push(8),
        }
        let rest = u16::try_from(out.len() - HEADER).ok()?;
        out.get_mut(2..HEADER)?.copy_from_slice(&rest.to_le_bytes());
        Some(out)
    }

    /// Reads exactly one order; a byte too few, too many or unknown is `None`.
    pub fn decode(frame: &[u8]) -> Option<Self> {
        let mut rest = Reader(frame);
        if rest.u8()? != VERSION || rest.u8()? != ORDER || usize::from(rest.u16()?) != rest.0.len() {
            return None;
        }
        let order = match rest.u8()? {
            1 => Self::Status,
            2 => Self::Throttled,
            3 => Self::Release(Subject::Account(rest.text()?.to_owned())),
            4 => Self::Release(Subject::Network(rest.array()?)),
            5 => Self::Release(Subject::All),
            6 => Self::Explain(Logins::OfSession(rest.u64()?)),
            7 => Self::Explain(Logins::OfUser(rest.text()?.to_owned())),
            8 => Self::Explain(Logins::Latest),
            _ => return None,
        };
        rest.end()?;
        Some(order)
    }

    /// How long a frame is that begins like an order.
    pub(crate) fn frame_len(start: &[u8]) -> FrameLen {
        let mut rest = Reader(start);
        match rest.bytes(2).and_then(|_| rest.u16()).map(|len| HEADER + usize::from(len)) {
            None => FrameLen::Unknown,
            Some(len) if (HEADER + 1..=MAX_ORDER).contains(&len) => FrameLen::Known(len),
            Some(_) => FrameLen::Malformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_order() -> Vec<Order> {
        vec![
            Order::Status,
            Order::Throttled,
            Order::Release(Subject::Account("u".repeat(255))),
            Order::Release(Subject::Network([7; 16])),
            Order::Release(Subject::All),
            Order::Explain(Logins::OfSession(u64::MAX)),
            Order::Explain(Logins::OfUser("alice".into())),
            Order::Explain(Logins::Latest),
        ]
    }

    #[test]
    fn every_order_comes_back_as_it_was() {
        for order in every_order() {
            let frame = order.encode().unwrap();

            assert_eq!(FrameLen::of(&frame), FrameLen::Known(frame.len()));
            assert_eq!(Order::decode(&frame), Some(order));
        }
        assert_eq!(Order::Release(Subject::Account("u".repeat(256))).encode(), None);
    }

    #[test]
    fn no_cut_lengthened_or_unknown_frame_is_an_order() {
        for order in every_order() {
            let frame = order.encode().unwrap();

            for cut in 0..frame.len() {
                assert_eq!(Order::decode(&frame[..cut]), None, "{order:?} cut at {cut}");
            }
            assert_eq!(Order::decode(&[&frame[..], b"x"].concat()), None);
        }
        assert_eq!(Order::decode(&[VERSION, ORDER, 1, 0, 9]), None);
        assert_eq!(FrameLen::of(&[VERSION, ORDER, 0, 0]), FrameLen::Malformed, "an order says something");
        assert_eq!(FrameLen::of(&[VERSION, ORDER, 0xff, 0xff]), FrameLen::Malformed);
        assert_eq!(FrameLen::of(&[VERSION, ORDER, 1]), FrameLen::Unknown);
    }
}
