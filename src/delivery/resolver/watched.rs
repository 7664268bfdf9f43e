//! A file of the host that changes while we run: DHCP writes /etc/resolv.conf after the boot, people write /etc/hosts. Outside of a
//! cage it is looked at here; inside, its text comes from `watch`.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Changed;

/// How often the file is looked at.
const PAUSE: Duration = Duration::from_secs(5);

/// What a file says, or a value that never changes.
pub(super) struct Watched<T> {
    file: Option<File<T>>,
    known: Mutex<Known<T>>,
}

struct File<T> {
    path: PathBuf,
    parse: fn(&str) -> T,
    pause: Duration,
}

struct Known<T> {
    value: Arc<T>,
    stamp: Option<Stamp>,
    looked: Instant,
}

/// What changes when a file does.
#[derive(PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(about: &Metadata) -> Self {
        Self { device: about.dev(), inode: about.ino(), size: about.size(), changed: (about.mtime(), about.mtime_nsec()) }
    }
}

impl<T> Watched<T> {
    pub(super) fn fixed(value: T) -> Self {
        Self { file: None, known: Mutex::new(Known { value: Arc::new(value), stamp: None, looked: Instant::now() }) }
    }

    /// A file that is not there says what an empty one says.
    pub(super) fn file(path: impl Into<PathBuf>, parse: fn(&str) -> T) -> Self {
        Self::with_pause(path, parse, PAUSE)
    }

    fn with_pause(path: impl Into<PathBuf>, parse: fn(&str) -> T, pause: Duration) -> Self {
        let path = path.into();
        let stamp = fs::metadata(&path).ok().as_ref().map(Stamp::of);
        let value = Arc::new(parse(&fs::read_to_string(&path).unwrap_or_default()));
        Self { file: Some(File { path, parse, pause }), known: Mutex::new(Known { value, stamp, looked: Instant::now() }) }
    }

    pub(super) fn get(&self) -> Arc<T> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &self.file
            && known.looked.elapsed() >= file.pause
        {
            known.looked = Instant::now();
            file.look(&mut known);
        }
        known.value.clone()
    }
}

impl<T: PartialEq> Watched<T> {
    pub(super) fn set(&self, value: T) -> Changed {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if *known.value == value {
            return Changed::No;
        }
        known.value = Arc::new(value);
        Changed::Yes
    }
}

impl<T> File<T> {
    /// What cannot be read leaves what was known: half a change is no reason to forget the servers.
    fn look(&self, known: &mut Known<T>) {
        let Ok(about) = fs::metadata(&self.path) else { return };
        let stamp = Some(Stamp::of(&about));
        if stamp == known.stamp {
            return;
        }
        known.stamp = stamp; // said once for each change
        let path = self.path.display();
        match fs::read_to_string(&self.path) {
            Ok(text) => {
                known.value = Arc::new((self.parse)(&text));
                tracing::info!(event = "read_again", file = %path);
            }
            Err(error) => tracing::warn!(event = "not_read_again", file = %path, error = %error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_and_a_file_that_goes_away_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let watched = Watched::with_pause(&path, str::to_owned, Duration::ZERO);
        assert_eq!(*watched.get(), "");

        fs::write(&path, "one").unwrap();
        assert_eq!(*watched.get(), "one");
        fs::write(directory.path().join("new"), "other").unwrap();
        fs::rename(directory.path().join("new"), &path).unwrap();
        assert_eq!(*watched.get(), "other");

        fs::remove_file(&path).unwrap();
        assert_eq!(*watched.get(), "other");
    }

    #[test]
    fn a_file_is_looked_at_only_now_and_then() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        let watched = Watched::file(&path, str::to_owned);

        fs::write(&path, "one").unwrap();

        assert_eq!(*watched.get(), "");
    }
}
