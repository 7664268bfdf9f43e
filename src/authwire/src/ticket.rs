//! The proof that somebody logged in: made by the helper, carried by the front, checked by the queue.
//!
//! ```text
//! 0 version  1 key id  5 expiry  13 session  21 uid  25 user length  26 user … MAC (32)
//! ```
//!
//! The MAC is HMAC-SHA-256 over everything before it ([`signed_part`](Ticket::signed_part)), with the key
//! that the id names; callers compute it, since this crate has no dependencies. Invariant: one ticket has
//! one encoding, so a MAC over the bytes is a MAC over the meaning.

use crate::VERSION;
use crate::cursor::{Reader, put_text};

/// HMAC-SHA-256.
pub const MAC_LEN: usize = 32;
/// The longest encoded ticket.
pub const MAX_TICKET: usize = 26 + 255 + MAC_LEN;

/// Who logged in, in which session, and until when it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub key_id: u32,
    /// Seconds since 1970; the ticket is void from this second on.
    pub expiry: u64,
    pub session: u64,
    pub uid: u32,
    pub user: String,
    pub mac: [u8; MAC_LEN],
}

impl Ticket {
    /// The bytes under the MAC, or `None` if the name is too long for a ticket.
    pub fn signed_part(&self) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(MAX_TICKET);
        out.push(VERSION);
        out.extend_from_slice(&self.key_id.to_le_bytes());
        out.extend_from_slice(&self.expiry.to_le_bytes());
        out.extend_from_slice(&self.session.to_le_bytes());
        out.extend_from_slice(&self.uid.to_le_bytes());
        put_text(&mut out, &self.user)?;
        Some(out)
    }

    /// The whole ticket as the front carries it.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut out = self.signed_part()?;
        out.extend_from_slice(&self.mac);
        Some(out)
    }

    /// Reads exactly one ticket. What it says is worth nothing before the MAC and the expiry are checked.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = Reader(bytes);
        if rest.u8()? != VERSION {
            return None;
        }
        let ticket = Self {
            key_id: rest.u32()?,
            expiry: rest.u64()?,
            session: rest.u64()?,
            uid: rest.u32()?,
            user: rest.text()?.to_owned(),
            mac: rest.array()?,
        };
        rest.end()?;
        (!ticket.user.is_empty()).then_some(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(user: &str) -> Ticket {
        Ticket { key_id: 5, expiry: 1_800_000_000, session: 42, uid: 1000, user: user.into(), mac: [7; MAC_LEN] }
    }

    #[test]
    fn comes_back_as_it_was_and_ends_in_the_mac() {
        for user in ["alice", &"u".repeat(255)] {
            let bytes = ticket(user).encode().unwrap();

            assert!(bytes.len() <= MAX_TICKET);
            assert_eq!(Ticket::decode(&bytes), Some(ticket(user)));
            assert_eq!(bytes.strip_suffix(&[7; MAC_LEN]), ticket(user).signed_part().as_deref());
        }
    }

    #[test]
    fn no_cut_or_lengthened_ticket_is_one() {
        let bytes = ticket("alice").encode().unwrap();

        for cut in 0..bytes.len() {
            assert_eq!(Ticket::decode(&bytes[..cut]), None);
        }
        assert_eq!(Ticket::decode(&[&bytes[..], b"x"].concat()), None);
        assert_eq!(ticket(&"u".repeat(256)).encode(), None);
        assert_eq!(Ticket::decode(&ticket("").encode().unwrap()), None, "somebody has a name");
    }
}
