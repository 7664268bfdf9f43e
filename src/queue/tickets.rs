//! Whether a ticket holds: made by the helper, unspent by time, and for this very session.
//!
//! Invariant: an `Author::User` is made here from a ticket whose MAC was verified, or read back from the spool; the front
//! end's own word never makes one. The key file is read again when a ticket names a key we do not have, at most five
//! times a second, because the helper changes keys once a day and a front end that was taken over may name any.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use pamrelay_authwire::{Ticket, TicketKeys, wipe};

use super::message::Author;
use super::moment::Moment;
use crate::smtp::SessionId;

/// The file has two lines of keys.
const FILE_LIMIT: u64 = 4096;
const READ_AGAIN: Duration = Duration::from_millis(200);

/// Why a ticket does not prove anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    #[error("it is no ticket")]
    Malformed,
    #[error("its key is not known")]
    UnknownKey,
    #[error("its seal is not the helper's")]
    Forged,
    #[error("it has expired")]
    Expired,
    #[error("it is for another session")]
    OtherSession,
}

/// The keys that tickets are checked with.
#[derive(Debug)]
pub struct TicketBook {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    keys: Vec<(u32, hmac::Key)>,
    read: Option<Instant>,
}

impl TicketBook {
    /// `path` is read when the first ticket comes.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), known: Mutex::default() }
    }

    /// Who sends in `session`, if the ticket holds at `now`.
    pub fn author(&self, ticket: &[u8], session: SessionId, now: Moment) -> Result<Author, TicketError> {
        let ticket = Ticket::decode(ticket).ok_or(TicketError::Malformed)?;
        let signed = ticket.signed_part().ok_or(TicketError::Malformed)?;
        let key = self.key(ticket.key_id).ok_or(TicketError::UnknownKey)?;
        hmac::verify(&key, &signed, &ticket.mac).map_err(|_| TicketError::Forged)?;
        if now.seconds() >= ticket.expiry {
            return Err(TicketError::Expired);
        }
        if ticket.session != session.0 {
            return Err(TicketError::OtherSession);
        }
        Ok(Author::User { user: ticket.user, uid: ticket.uid, session })
    }

    fn key(&self, id: u32) -> Option<hmac::Key> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = known.find(id) {
            return Some(key);
        }
        if known.read.is_some_and(|at| at.elapsed() < READ_AGAIN) {
            return None;
        }
        known.read = Some(Instant::now());
        match read(&self.path) {
            Ok(keys) => known.keys = keys,
            Err(error) => tracing::error!(event = "ticket_keys", file = %self.path.display(), error = %error),
        }
        known.find(id)
    }
}

impl Known {
    fn find(&self, id: u32) -> Option<hmac::Key> {
        self.keys.iter().find(|(known, _)| *known == id).map(|(_, key)| key.clone())
    }
}

fn read(path: &Path) -> std::io::Result<Vec<(u32, hmac::Key)>> {
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(path)?;
    let mut text = Vec::with_capacity(FILE_LIMIT as usize + 1); // never grows, so that no copy of a key is left behind
    file.take(FILE_LIMIT).read_to_end(&mut text)?;
    let parsed = std::str::from_utf8(&text).ok().and_then(TicketKeys::parse);
    wipe(&mut text);
    let keys = parsed.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "it is no file of ticket keys"))?;
    let known = [Some(&keys.current), keys.previous.as_ref()];
    Ok(known.into_iter().flatten().map(|key| (key.id, hmac::Key::new(hmac::HMAC_SHA256, &key.key))).collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use pamrelay_authwire::{MAC_LEN, TicketKey};

    use super::*;

    pub(crate) const SESSION: SessionId = SessionId(42);
    const NOW: Moment = Moment(1_800_000_000_000);

    fn key(id: u32) -> TicketKey {
        TicketKey { id, made: 1_799_999_000, key: [id as u8; 32] }
    }

    pub(crate) fn write_keys(path: &Path, current: u32, previous: Option<u32>) {
        let keys = TicketKeys { current: key(current), previous: previous.map(key) };
        let beside = path.with_extension("new");
        std::fs::write(&beside, keys.print()).unwrap();
        std::fs::rename(beside, path).unwrap();
    }

    pub(crate) fn ticket(key_id: u32, expiry: u64) -> Vec<u8> {
        ticket_of("alice", key_id, expiry)
    }

    pub(crate) fn ticket_of(user: &str, key_id: u32, expiry: u64) -> Vec<u8> {
        let mut ticket = Ticket { key_id, expiry, session: SESSION.0, uid: 1000, user: user.into(), mac: [0; MAC_LEN] };
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[key_id as u8; 32]), &ticket.signed_part().unwrap());
        ticket.mac.copy_from_slice(tag.as_ref());
        ticket.encode().unwrap()
    }

    fn book() -> (tempfile::TempDir, TicketBook) {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("tickets");
        write_keys(&path, 2, Some(1));
        let book = TicketBook::new(path);
        (place, book)
    }

    #[test]
    fn a_ticket_of_the_present_or_the_previous_key_names_its_user() {
        let (_place, book) = book();

        for key_id in [1, 2] {
            let author = book.author(&ticket(key_id, NOW.seconds() + 1), SESSION, NOW);

            assert_eq!(author, Ok(Author::User { user: "alice".into(), uid: 1000, session: SESSION }));
        }
    }

    #[test]
    fn no_ticket_holds_with_any_bit_changed() {
        let (_place, book) = book();
        let good = ticket(2, NOW.seconds() + 1);

        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(book.author(&bad, SESSION, NOW).is_err(), "octet {at}, bit {bit}");
            }
        }
        assert_eq!(book.author(b"", SESSION, NOW), Err(TicketError::Malformed));
    }

    #[test]
    fn an_expired_ticket_and_one_of_another_session_are_refused() {
        let (_place, book) = book();

        assert_eq!(book.author(&ticket(2, NOW.seconds()), SESSION, NOW), Err(TicketError::Expired));
        assert_eq!(book.author(&ticket(2, NOW.seconds() + 9), SessionId(43), NOW), Err(TicketError::OtherSession));
    }

    #[test]
    fn a_new_key_is_found_in_the_file() {
        let (place, book) = book();
        book.author(&ticket(2, NOW.seconds() + 9), SESSION, NOW).unwrap();
        write_keys(&place.path().join("tickets"), 3, Some(2));

        // The file was read a moment ago, so a key nobody knows does not make the queue read it again and again.
        assert_eq!(book.author(&ticket(3, NOW.seconds() + 9), SESSION, NOW), Err(TicketError::UnknownKey));
        std::thread::sleep(READ_AGAIN);
        assert!(book.author(&ticket(3, NOW.seconds() + 9), SESSION, NOW).is_ok());
        assert!(book.author(&ticket(2, NOW.seconds() + 9), SESSION, NOW).is_ok());
        assert_eq!(book.author(&ticket(1, NOW.seconds() + 9), SESSION, NOW), Err(TicketError::UnknownKey), "long gone");
    }

    #[test]
    fn without_a_key_file_nothing_holds() {
        let book = TicketBook::new("/nonexistent/tickets");

        assert_eq!(book.author(&ticket(2, NOW.seconds() + 9), SESSION, NOW), Err(TicketError::UnknownKey));
    }
}
