//! Files of the host that others replace while the queue runs, read by a process of their own (`pamrelay watch-files`).
//!
//! Editors, DHCP clients and NetworkManager put a new file under the old name, or turn a link elsewhere. A cage cannot follow
//! that: Landlock's rule for a file goes with the file that was there, and a rule for `/etc` would open all of it to a queue that
//! was taken over. So the queue starts this process before it enters its cage. The process may read those directories and
//! nothing else can be done with it: it has no network, writes no file, and takes no input but the files that it was
//! started for. Its only way out is a pipe.
//!
//! ```text
//! frame  number of the file (1) │ length (4, little-endian) │ text
//! ```
//!
//! A file is told once it has not changed between two looks, so that nobody reads half of one. A file that goes away is not
//! told of: what it said holds until there is another.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::run::child;

/// The hidden subcommand that leads to `tell`.
pub const SUBCOMMAND: &str = "watch-files";
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// A list of hosts or authorities is smaller.
const LARGEST: u32 = 4 << 20;

/// The process at work.
pub struct Watcher {
    child: Child,
    told: ChildStdout,
}

impl Watcher {
    /// Starts it with the configuration that this process has, as the same user. It ends with this process.
    pub fn start(config: &Path) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(SUBCOMMAND)
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .env(child::SUPERVISED, std::process::id().to_string())
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_PID")
            .spawn()?;
        let told = child.stdout.take().ok_or_else(|| io::Error::other("there is no pipe"))?;
        Ok(Self { child, told })
    }

    /// Passes on each text that comes, with the number of its file, on a thread of its own.
    pub fn listen(self, hear: impl FnMut(usize, Vec<u8>) + Send + 'static) -> io::Result<()> {
        let Self { mut child, told } = self;
        std::thread::Builder::new().name("files".to_owned()).spawn(move || {
            let ended = receive(told, hear);
            let _ = child.wait(); // so that it does not stay as a zombie
            let reason = ended.err().map(|error| error.to_string()).unwrap_or_default();
            tracing::warn!(event = "files_not_watched", reason, remedy = "restart pamrelay-queue");
        })?;
        Ok(())
    }
}

/// Reads frames until the other side ends.
fn receive(mut from: impl Read, mut hear: impl FnMut(usize, Vec<u8>)) -> io::Result<()> {
    loop {
        let mut head = [0; 5];
        match from.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        let [number, length @ ..] = head;
        let length = u32::from_le_bytes(length);
        if length > LARGEST {
            return Err(io::Error::other("a text is longer than a file can be"));
        }
        let mut text = Vec::new();
        // Half a file is worse than the one before: a list of authorities would be short of some.
        if from.by_ref().take(u64::from(length)).read_to_end(&mut text)? as u64 != u64::from(length) {
            return Err(io::Error::other("it ended in the middle of a text"));
        }
        hear(usize::from(number), text);
    }
}

/// Tells `out` what the files say, now and whenever they say something else, until nobody listens.
pub fn tell(files: &[PathBuf], mut out: impl Write + AsFd) -> io::Result<()> {
    let mut files: Vec<File<'_>> = files.iter().map(|path| File { path, seen: None, told: None }).collect();
    loop {
        for (number, file) in (0..=u8::MAX).zip(&mut files) {
            let Some(text) = file.news() else { continue };
            let Some(length) = u32::try_from(text.len()).ok().filter(|length| *length <= LARGEST) else { continue };
            out.write_all(&[&[number], &length.to_le_bytes()[..], &text].concat())?;
            out.flush()?;
        }
        let mut reader = [PollFd::new(out.as_fd(), PollFlags::empty())];
        let pause = PollTimeout::try_from(PAUSE).unwrap_or(PollTimeout::MAX);
        match poll(&mut reader, pause) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(()), // the reader has gone
            Err(errno) => return Err(errno.into()),
        }
    }
}

struct File<'a> {
    path: &'a Path,
    seen: Option<Stamp>,
    told: Option<Stamp>,
}

/// What changes when a file does.
#[derive(Clone, PartialEq, Eq)]
struct Stamp {
    place: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl File<'_> {
    /// What the file says, if it says something new and is at rest.
    fn news(&mut self) -> Option<Vec<u8>> {
        // A FIFO must not stop us here.
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(self.path).ok()?;
        let about = file.metadata().ok().filter(|about| about.is_file())?;
        let stamp = Some(Stamp {
            place: (about.dev(), about.ino()),
            size: about.size(),
            modified: (about.mtime(), about.mtime_nsec()),
            changed: (about.ctime(), about.ctime_nsec()),
        });
        let at_rest = self.seen == stamp;
        self.seen.clone_from(&stamp);
        if !at_rest || self.told == stamp {
            return None;
        }
        let mut text = Vec::new();
        file.take(u64::from(LARGEST) + 1).read_to_end(&mut text).ok()?;
        self.told = stamp;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;

    use super::*;

    /// What the teller says about one file.
    fn news(path: &Path) -> mpsc::Receiver<String> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let path = path.to_owned();
        std::thread::spawn(move || tell(&[path], theirs));
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            receive(ours, |number, text| {
                assert_eq!(number, 0);
                let _ = sender.send(String::from_utf8(text).unwrap());
            })
        });
        receiver
    }

    fn next(news: &mpsc::Receiver<String>) -> String {
        news.recv_timeout(Duration::from_secs(30)).expect("the file was not told")
    }

    #[test]
    fn a_file_is_told_when_it_appears_is_replaced_by_rename_and_when_its_link_is_turned() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let path = at("resolv.conf");
        let news = news(&path);

        fs::write(&path, "first").unwrap();
        assert_eq!(next(&news), "first");

        fs::write(at("new"), "renamed").unwrap();
        fs::rename(at("new"), &path).unwrap();
        assert_eq!(next(&news), "renamed");

        fs::write(at("elsewhere"), "linked").unwrap();
        symlink(at("elsewhere"), at("link")).unwrap();
        fs::rename(at("link"), &path).unwrap();
        assert_eq!(next(&news), "linked");

        fs::remove_file(&path).unwrap();
        assert!(news.recv_timeout(Duration::from_secs(3)).is_err(), "a file that goes away says nothing");
    }

    #[test]
    fn a_frame_that_is_too_long_or_cut_ends_the_listening_and_nobody_hears_half_a_file() {
        let heard = |octets: &[u8]| {
            let mut count = 0;
            let ended = receive(octets, |_, _| count += 1);
            (count, ended.is_ok())
        };

        assert_eq!(heard(&[0, 1, 0, 0, 0, b'x', 1, 0, 0, 0, 0]), (2, true));
        assert_eq!(heard(&[0, 255, 255, 255, 255]), (0, false));
        assert_eq!(heard(&[0, 1]), (0, true));
        assert_eq!(heard(&[0, 1, 0, 0, 0, b'x', 0, 4, 0, 0, 0, b'h', b'a', b'l']), (1, false));
    }

    #[test]
    fn the_teller_ends_when_nobody_listens() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let teller = std::thread::spawn(move || tell(&[], theirs));

        drop(ours);

        assert!(teller.join().unwrap().is_ok());
    }
}
