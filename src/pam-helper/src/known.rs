//! The file of known pairs: from which network which account was accepted lately, so that a restart of the helper forgets nobody.
//!
//! ```text
//! 0 "pamrelay-known-1\n"   17 key (32 octets)   49 pairs: keyed hash, second since 1970 (8 octets each)   … HMAC-SHA-256 of all before it
//! ```
//!
//! It is root's alone (0600, one link), in a directory that is root's alone. It has keyed hashes, and neither names nor addresses.
//! Invariant: what is not exactly such a file is nobody's knowledge: it is refused with one line, and the helper starts with none.
//! It is replaced in one step, by a thread of its own, so that a slow disk delays no login.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hmac_sha256::HMAC;
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use nix::unistd::geteuid;

use crate::log::{Level, Line};
use crate::tickets;

const MAGIC: &[u8] = b"pamrelay-known-1\n";
const KEY: usize = 32;
const MAC: usize = 32;
/// As many as the table has places.
pub(crate) const MOST_PAIRS: usize = 16 * 1024;
const LARGEST: u64 = (MAGIC.len() + KEY + 16 * MOST_PAIRS + MAC) as u64;
/// The file is written no more often than this.
const PAUSE: Duration = Duration::from_secs(60);

/// A keyed hash, and when that pair was accepted, in seconds since 1970.
pub(crate) type Pair = (u64, u64);

pub(crate) struct Known {
    path: PathBuf,
    key: [u8; KEY],
    /// `None` where it cannot be kept.
    keeps: bool,
    next: Instant,
    writer: Option<JoinHandle<io::Result<()>>>,
    /// Whether the last failure was logged.
    said: bool,
}

impl Known {
    /// Reads the file. Without one, or without a directory for it, there is a fresh key.
    pub(crate) fn open(directory: &Path, make: bool, now: Instant) -> io::Result<(Self, Vec<Pair>)> {
        if make {
            for path in directory.parent().into_iter().chain([directory]) {
                let _ = DirBuilder::new().mode(0o700).create(path); // it may be there
            }
        }
        let path = directory.join("known");
        let keeps = is_private(directory);
        let found = if keeps { read(&path) } else { Err(io::Error::other("its directory is not there, or not root's alone (0700)")) };
        let mut key = [0; KEY];
        tickets::random(&mut key)?;
        let pairs = match found {
            Ok(Some((kept, pairs))) => {
                key = kept;
                pairs
            }
            Ok(None) => Vec::new(),
            Err(error) => {
                let line = Line::event(Level::Warning, "known").with("state", "refused").text("path", path.display().to_string());
                line.text("text", error.to_string()).write();
                Vec::new()
            }
        };
        Ok((Self { path, key, keeps, next: now + PAUSE, writer: None, said: false }, pairs))
    }

    pub(crate) fn key(&self) -> [u8; KEY] {
        self.key
    }

    /// Whether it is time to write, if there is news.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        self.finish_if(JoinHandle::is_finished);
        self.keeps && self.writer.is_none() && now >= self.next
    }

    /// Has the file written.
    pub(crate) fn write(&mut self, pairs: Vec<Pair>, now: Instant) {
        self.next = now + PAUSE;
        let (path, bytes) = (self.path.clone(), encode(&self.key, pairs));
        self.writer = thread::Builder::new().name("known".into()).spawn(move || replace(&path, &bytes)).ok();
    }

    /// The same, and waits for it: the helper ends.
    pub(crate) fn close(&mut self, pairs: Option<Vec<Pair>>, now: Instant) {
        self.finish_if(|_| true);
        if let Some(pairs) = pairs.filter(|_| self.keeps) {
            self.write(pairs, now);
            self.finish_if(|_| true);
        }
    }

    fn finish_if(&mut self, over: impl FnOnce(&JoinHandle<io::Result<()>>) -> bool) {
        let Some(writer) = self.writer.take_if(|writer| over(writer)) else { return };
        let failed = match writer.join() {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the writer ended".to_owned()),
        };
        match failed {
            None => self.said = false,
            Some(_) if self.said => {}
            Some(text) => {
                self.said = true;
                Line::event(Level::Warning, "known").with("state", "not-written").text("text", text).write();
            }
        }
    }
}

pub(crate) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn is_private(directory: &Path) -> bool {
    fs::symlink_metadata(directory).is_ok_and(|about| about.is_dir() && about.uid() == geteuid().as_raw() && about.mode() & 0o077 == 0)
}

fn encode(key: &[u8; KEY], mut pairs: Vec<Pair>) -> Vec<u8> {
    pairs.truncate(MOST_PAIRS);
    let mut bytes = [MAGIC, key.as_slice()].concat();
    for (hash, time) in pairs {
        bytes.extend_from_slice(&hash.to_le_bytes());
        bytes.extend_from_slice(&time.to_le_bytes());
    }
    let mac = HMAC::mac(&bytes, key);
    bytes.extend_from_slice(&mac);
    bytes
}

fn decode(bytes: &[u8]) -> Option<([u8; KEY], Vec<Pair>)> {
    let (signed, mac) = bytes.split_last_chunk::<MAC>()?;
    let (key, pairs) = signed.strip_prefix(MAGIC)?.split_first_chunk::<KEY>()?;
    if HMAC::mac(signed, key) != *mac {
        return None;
    }
    let (pairs, rest) = pairs.as_chunks::<16>();
    let pair = |octets: &[u8; 16]| {
        let number = u128::from_le_bytes(*octets);
        (number as u64, (number >> 64) as u64)
    };
    rest.is_empty().then(|| (*key, pairs.iter().map(pair).collect()))
}

/// `None`: there is no file.
fn read(path: &Path) -> io::Result<Option<([u8; KEY], Vec<Pair>)>> {
    let file = match OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let about = file.metadata()?;
    let ours = about.is_file() && about.uid() == geteuid().as_raw() && about.mode() & 0o7177 == 0 && about.nlink() == 1;
    if !ours {
        return Err(io::Error::other("it is not a file of root's alone (0600, one link)"));
    }
    if about.len() > LARGEST {
        return Err(io::Error::other("it is too large"));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    decode(&bytes).map(Some).ok_or_else(|| io::Error::other("it is damaged, or of another version"))
}

/// Beside it, synced, then over it.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("pamrelay-known-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        DirBuilder::new().mode(0o700).create(&path).unwrap();
        path
    }

    fn open(directory: &Path) -> (Known, Vec<Pair>) {
        Known::open(directory, false, Instant::now()).unwrap()
    }

    #[test]
    fn pairs_and_key_survive_a_restart_in_a_file_of_root_s_alone() {
        let place = directory("kept");
        let (mut known, none) = open(&place);
        known.close(Some(vec![(1, 2), (u64::MAX, 3)]), Instant::now());

        let (again, pairs) = open(&place);

        assert!(none.is_empty());
        assert_eq!((again.key(), pairs), (known.key(), vec![(1, 2), (u64::MAX, 3)]));
        assert_eq!(fs::metadata(place.join("known")).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
        fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn what_is_not_exactly_such_a_file_is_refused_and_replaced() {
        let place = directory("refused");
        let path = place.join("known");
        let good = encode(&[7; KEY], vec![(1, 2), (3, 4)]);
        let newer = [b"pamrelay-known-2\n", &good[MAGIC.len()..]].concat();
        let damaged = (0..good.len()).map(|at| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        });
        let cut = (0..good.len()).map(|end| good[..end].to_vec());
        for bytes in damaged.chain(cut).chain([newer, [&good[..], b"x"].concat(), vec![0; LARGEST as usize + 1]]) {
            fs::write(&path, &bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(open(&place).1.is_empty());
        }
        fs::write(&path, &good).unwrap();
        assert_eq!(open(&place).1.len(), 2);
        for mode in [0o640, 0o604, 0o700, 0o4600] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(open(&place).1.is_empty(), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::hard_link(&path, place.join("second")).unwrap();
        assert!(open(&place).1.is_empty(), "two links");
        fs::rename(place.join("second"), place.join("elsewhere")).unwrap();
        fs::remove_file(&path).unwrap();
        symlink("elsewhere", &path).unwrap();
        let (mut known, pairs) = open(&place);
        assert!(pairs.is_empty(), "a link");

        known.close(Some(vec![(5, 6)]), Instant::now());

        assert_eq!(open(&place).1, [(5, 6)]);
        assert_eq!(fs::read(place.join("elsewhere")).unwrap(), good, "nothing was written through the link");
        fs::set_permissions(&place, fs::Permissions::from_mode(0o750)).unwrap();
        let (mut known, pairs) = open(&place);
        assert!(pairs.is_empty() && !known.is_due(Instant::now() + 2 * PAUSE), "a directory that others can read");
        fs::remove_dir_all(place).unwrap();
    }
}
