//! The ticket keys, and the tickets they sign.
//!
//! The file is made once per boot (a helper that restarts keeps it, so sessions go on), rotated daily or
//! after the longest session, whichever is longer; the key before stays valid for its last tickets.
//! Invariant: the file is never seen half written, and only root and the queue's group can read it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hmac_sha256::HMAC;
use nix::libc::O_NOFOLLOW;
use nix::unistd::{Gid, fchown};
use pamrelay_authwire::{Accepted, KEY_LEN, MAC_LEN, Ticket, TicketKey, TicketKeys};
use zeroize::Zeroizing;

const DAY: Duration = Duration::from_secs(86_400);
/// More than two keys take up.
const LARGEST_FILE: u64 = 4096;

/// The keys in memory and their file.
pub(crate) struct Mint {
    path: PathBuf,
    group: Gid,
    lifetime: Duration,
    keys: TicketKeys,
}

impl Mint {
    /// Takes the keys of this boot from the file, or makes the file.
    pub(crate) fn open(runtime: &Path, group: Gid, lifetime: Duration) -> io::Result<Self> {
        let path = runtime.join("tickets");
        if let Some(keys) = read(&path, group) {
            return Ok(Self { path, group, lifetime, keys });
        }
        let mint = Self { path, group, lifetime, keys: TicketKeys { current: fresh_key(None)?, previous: None } };
        mint.write(&mint.keys)?;
        Ok(mint)
    }

    /// Signs a ticket for this account in this session.
    pub(crate) fn sign(&self, accepted: &Accepted, session: u64) -> Option<Vec<u8>> {
        let mut ticket = Ticket {
            key_id: self.keys.current.id,
            expiry: unix_time().saturating_add(self.lifetime.as_secs()),
            session,
            uid: accepted.uid,
            user: accepted.user.clone(),
            mac: [0; MAC_LEN],
        };
        ticket.mac = HMAC::mac(ticket.signed_part()?, self.keys.current.key);
        ticket.encode()
    }

    /// Makes a new key if the current one is old. On failure the old one stays in use.
    pub(crate) fn rotate(&mut self) -> io::Result<Rotation> {
        if unix_time().saturating_sub(self.keys.current.made) < DAY.max(self.lifetime).as_secs() {
            return Ok(Rotation::NotYet);
        }
        let current = fresh_key(Some(self.keys.current.id))?;
        let old = std::mem::replace(&mut self.keys.current, current);
        let older = self.keys.previous.replace(old);
        if let Err(error) = self.write(&self.keys) {
            if let Some(old) = std::mem::replace(&mut self.keys.previous, older) {
                self.keys.current = old;
            }
            return Err(error);
        }
        Ok(Rotation::Done)
    }

    /// Beside the file, then over it.
    fn write(&self, keys: &TicketKeys) -> io::Result<()> {
        let text = Zeroizing::new(keys.print());
        let beside = self.path.with_extension("new");
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        fchown(&file, None, Some(self.group))?;
        file.set_permissions(fs::Permissions::from_mode(0o640))?;
        file.write_all(&text)?;
        fs::rename(&beside, &self.path)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rotation {
    NotYet,
    Done,
}

/// The file's keys, if it is exactly what this program would have written.
fn read(path: &Path, group: Gid) -> Option<TicketKeys> {
    let file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(path).ok()?;
    let meta = file.metadata().ok()?;
    let ours = meta.is_file() && meta.uid() == 0 && meta.gid() == group.as_raw() && meta.mode() & 0o7777 == 0o640 && meta.nlink() == 1;
    if !ours {
        return None;
    }
    let mut text = Zeroizing::new(String::with_capacity(LARGEST_FILE as usize));
    file.take(LARGEST_FILE).read_to_string(&mut text).ok()?;
    TicketKeys::parse(&text)
}

fn fresh_key(before: Option<u32>) -> io::Result<TicketKey> {
    let mut key = TicketKey { id: 0, made: unix_time(), key: [0; KEY_LEN] };
    random(&mut key.key)?;
    while key.id == 0 || Some(key.id) == before {
        let mut id = [0; 4];
        random(&mut id)?;
        key.id = u32::from_le_bytes(id);
    }
    Ok(key)
}

/// Bytes from the system's generator.
pub(crate) fn random(bytes: &mut [u8]) -> io::Result<()> {
    File::open("/dev/urandom")?.read_exact(bytes)
}

fn unix_time() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Runtime(PathBuf);

    impl Runtime {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("pamrelay-tickets-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn mint(&self) -> Mint {
            Mint::open(&self.0, nix::unistd::getegid(), Duration::from_secs(3600)).unwrap()
        }

        fn text(&self) -> String {
            fs::read_to_string(self.0.join("tickets")).unwrap()
        }
    }

    impl Drop for Runtime {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn needs_root(test: &str) -> bool {
        let root = nix::unistd::geteuid().is_root();
        if !root {
            eprintln!("SKIPPED (needs root): {test}");
        }
        root
    }

    fn alice() -> Accepted {
        Accepted { user: "alice".into(), uid: 1000, groups: vec![], ticket: vec![] }
    }

    #[test]
    fn a_ticket_is_signed_with_the_key_in_the_file() {
        let runtime = Runtime::new("signed");

        let ticket = Ticket::decode(&runtime.mint().sign(&alice(), 42).unwrap()).unwrap();

        let keys = TicketKeys::parse(&runtime.text()).unwrap();
        assert_eq!(ticket.mac, HMAC::mac(ticket.signed_part().unwrap(), keys.find(ticket.key_id).unwrap().key));
        assert_eq!((ticket.user.as_str(), ticket.uid, ticket.session), ("alice", 1000, 42));
        assert!(ticket.expiry.abs_diff(unix_time() + 3600) <= 2);
    }

    #[test]
    fn a_second_helper_of_the_same_boot_keeps_the_key() {
        if !needs_root("a_second_helper_of_the_same_boot_keeps_the_key") {
            return;
        }
        let runtime = Runtime::new("kept");
        drop(runtime.mint());
        let first = runtime.text();
        drop(runtime.mint());

        assert_eq!(runtime.text(), first);
        assert_eq!(fs::metadata(runtime.0.join("tickets")).unwrap().mode() & 0o7777, 0o640);
    }

    #[test]
    fn a_file_that_others_could_have_written_is_replaced() {
        let runtime = Runtime::new("replaced");
        drop(runtime.mint());
        let first = runtime.text();
        fs::set_permissions(runtime.0.join("tickets"), fs::Permissions::from_mode(0o666)).unwrap();
        drop(runtime.mint());

        assert_ne!(runtime.text(), first);
    }

    #[test]
    fn after_a_day_there_is_a_new_key_and_the_old_one_still_counts() {
        let runtime = Runtime::new("rotated");
        let mut mint = runtime.mint();
        assert_eq!(mint.rotate().unwrap(), Rotation::NotYet);
        let old = mint.keys.current.id;
        mint.keys.current.made -= DAY.as_secs();

        assert_eq!(mint.rotate().unwrap(), Rotation::Done);

        let keys = TicketKeys::parse(&runtime.text()).unwrap();
        assert_ne!(keys.current.id, old);
        assert!(keys.find(old).is_some());
        assert_eq!(keys, mint.keys);
    }

    #[test]
    fn a_rotation_that_cannot_be_written_changes_nothing() {
        let runtime = Runtime::new("unwritable");
        let mut mint = runtime.mint();
        mint.keys.current.made -= DAY.as_secs();
        let before = mint.keys.current.id;
        mint.path = runtime.0.join("gone/tickets");

        assert!(mint.rotate().is_err());
        assert_eq!((mint.keys.current.id, &mint.keys.previous), (before, &None));
    }
}
