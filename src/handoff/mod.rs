//! The door from the front end to the queue: an opening, the body, one answer.
//!
//! ```text
//! front ──Opening──chunk──chunk──…──end──▶ queue
//! front ◀──────── Accepted(id) | Refused ── queue
//!
//! front ──is it in? ─────▶ queue            front ──how much may come in? ─▶ queue
//! front ◀─ Accepted(id) | Absent ─ queue    front ◀─────── octets ────────── queue
//! ```
//!
//! Invariant: 250 rests on a `QueueId`, and the front end gets one only by the answer to an end that it wrote.
//! Whatever else happens on the way (no queue, a dead connection) is an error that means 451: the queue never heard the
//! end. When the end was written and no answer comes, the front end asks by the hand-off's token, also the queue that
//! comes after a crash. `Absent` is a promise: the message is not in and will not come in, so 451 may be said
//! (RFC 5321 §4.2.5). When nobody answers that either, the client gets no reply.

pub mod bounds;
mod client;
pub(crate) mod codec;
mod questions;
pub(crate) mod shares;
mod token;
pub(crate) mod wire;

use std::fmt;

pub use client::{HandoffError, Limits, Pool, Transfer};
pub use questions::Room;
pub use token::Token;
pub(crate) use wire::OPENING_LIMIT;

use crate::message::trace::Trace;
use crate::smtp::SessionId;
use crate::smtp::envelope::Envelope;

/// The name of one accepted message. Only the queue makes one, when the message is durable.
///
/// 63 bits, so that every database can hold it as a signed number; later messages have greater ones. It is shown as
/// 13 characters of base 32 (the alphabet of RFC 4648 §7, lower case).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(u64);

impl QueueId {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    const DIGITS: usize = 13;

    /// The id that `text` shows. An administrator may have typed it, so it need not name a message.
    pub fn named(text: &str) -> Option<Self> {
        if text.len() != Self::DIGITS {
            return None;
        }
        let mut number = 0_u64;
        for byte in text.bytes() {
            let digit = Self::ALPHABET.iter().position(|letter| *letter == byte.to_ascii_lowercase())?;
            number = number.checked_mul(32)?.checked_add(digit as u64)?;
        }
        Self::of_number(number)
    }

    pub(crate) fn of_number(number: u64) -> Option<Self> {
        (number != 0 && i64::try_from(number).is_ok()).then_some(Self(number))
    }

    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; Self::DIGITS];
        for (place, letter) in text.iter_mut().rev().enumerate() {
            *letter = Self::ALPHABET[((self.0 >> (5 * place)) & 31) as usize];
        }
        f.pad(std::str::from_utf8(&text).expect("the alphabet is US-ASCII"))
    }
}

/// All that the queue hears about a message before its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    pub envelope: Envelope,
    pub trace: Trace,
    pub proof: Proof,
    pub session: SessionId,
    /// The SIZE parameter (RFC 1870 §3): what the client believes it will send.
    pub declared_size: Option<u64>,
}

/// Why the queue should believe that a known user sends this.
#[derive(Clone, PartialEq, Eq)]
pub enum Proof {
    /// The ticket of the session's login, opaque to the front end.
    Ticket(Vec<u8>),
}

/// A ticket lets its bearer send mail until it expires, so it is not for logs.
impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ticket(bytes) => write!(f, "Ticket({} octets)", bytes.len()),
        }
    }
}

/// What the queue says after the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The message is durable; it is the queue's from here on (RFC 5321 §6.1).
    Accepted(QueueId),
    Refused(Refused),
}

/// Why the queue does not take a message; nothing of it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No room on the disk: 452 4.3.1.
    Full,
    /// Above the size limit: 552 5.3.4.
    TooLarge,
    /// The proof does not hold, or no client may ask for this: 550 5.7.1.
    NotPermitted,
    /// The proof held once: 451 4.7.0.
    LoginExpired,
    /// The queue could not do its work: 451 4.3.0.
    Fault,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_from_its_text_in_any_case() {
        for number in [1, 33, 0x0123_4567_89ab_cdef, i64::MAX as u64] {
            let id = QueueId::of_number(number).unwrap();
            let text = id.to_string();

            assert_eq!(text.len(), 13);
            assert_eq!(QueueId::named(&text), Some(id));
            assert_eq!(QueueId::named(&text.to_uppercase()), Some(id));
        }
    }

    #[test]
    fn what_is_no_id_is_not_read_as_one() {
        for text in ["", "0", "0000000000000", "000000000000w", "00000000000011", "vvvvvvvvvvvvv", "8000000000000", "../../etc/pas"] {
            assert_eq!(QueueId::named(text), None, "{text}");
        }
    }

    #[test]
    fn ids_sort_as_text_in_the_order_they_were_made() {
        let (a, b) = (QueueId::of_number(31).unwrap(), QueueId::of_number(32).unwrap());

        assert!(a < b && a.to_string() < b.to_string());
    }
}
