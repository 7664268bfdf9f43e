//! One supervisor for a runtime directory, and how others reach it.
//!
//! Invariant: the kernel says who the supervisor is, by the record lock on `supervisor.pid` (F_GETLK); what the file says is for people.
//! A signal goes to a descriptor of that process, after the lock was seen to be held by it still, so a number that was used
//! again reaches nobody. The file is root's alone: a lock of somebody else keeps no relay from starting.
//!
//! ```text
//! 4711             the pid
//! begun 2          reloads that were begun, and those that were finished
//! done 2 ok        or: done 2, and why the latest was refused
//! ```

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::libc;
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Held as long as a supervisor runs. Dropped, it removes the file.
pub(super) struct Alone {
    // The older lock too: a supervisor of an earlier version holds that one.
    file: Flock<File>,
    path: PathBuf,
    reloads: Reloads,
}

/// What became of the reloads that a supervisor was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloads {
    pub begun: u64,
    pub done: u64,
    /// Why the latest was refused, line by line; empty if it was not.
    pub refusal: Vec<String>,
}

/// Why there can be no other supervisor.
#[derive(Debug)]
pub(super) enum NotAlone {
    Taken(Option<i32>),
    File(io::Error),
}

impl Alone {
    pub(super) fn take(directory: &Path) -> Result<Self, NotAlone> {
        let path = pid_file(directory);
        loop {
            let file = open(&path).map_err(NotAlone::File)?;
            if let Some(holder) = holder(&file) {
                return Err(NotAlone::Taken(Some(holder)));
            }
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((file, nix::errno::Errno::EWOULDBLOCK)) => return Err(NotAlone::Taken(holder(&file))),
                Err((_, error)) => return Err(NotAlone::File(error.into())),
            };
            // The one before may have removed it between our opening it and its end.
            if !is_still(&file, &path) {
                continue;
            }
            if fcntl(&*file, FcntlArg::F_SETLK(&whole(libc::F_WRLCK))).is_err() {
                return Err(NotAlone::Taken(holder(&file)));
            }
            let mut alone = Self { file, path, reloads: Reloads::default() };
            alone.write().map_err(NotAlone::File)?;
            return Ok(alone);
        }
    }

    pub(super) fn reload_begins(&mut self) {
        self.reloads.begun += 1;
        self.reloads.refusal.clear();
        self.say();
    }

    pub(super) fn reload_is_done(&mut self, refusal: Vec<String>) {
        self.reloads.done = self.reloads.begun;
        self.reloads.refusal = refusal;
        self.say();
    }

    fn say(&mut self) {
        if let Err(error) = self.write() {
            tracing::warn!(event = "pid_file_not_written", error = %error);
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let Reloads { begun, done, refusal } = &self.reloads;
        let mut text =
            format!("{}\nbegun {begun}\ndone {done} {}\n", std::process::id(), if refusal.is_empty() { "ok" } else { "refused" });
        for line in refusal {
            text.push_str(line);
            text.push('\n');
        }
        text.push_str(".\n"); // a reader that does not find it came in the middle
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(text.as_bytes())
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // while the lock is held: nobody else's can be there
    }
}

/// The supervisor that runs here.
#[derive(Debug)]
pub struct Supervisor {
    pub pid: i32,
    process: OwnedFd,
    path: PathBuf,
}

/// The supervisor of a runtime directory, if one runs.
pub fn running(directory: &Path) -> io::Result<Option<Supervisor>> {
    let path = pid_file(directory);
    let file = match File::options().read(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(pid) = holder(&file) else { return Ok(None) };
    let Some(number) = Pid::from_raw(pid) else { return Err(io::Error::other("a relay runs here, in another container")) };
    let process = pidfd_open(number, PidfdFlags::empty())?;
    // The descriptor is that of the holder, unless the holder ended before it was opened.
    if holder(&file) == Some(pid) { Ok(Some(Supervisor { pid, process, path })) } else { Ok(None) }
}

/// Whether one runs, as far as this user can see.
pub fn runs(directory: &Path) -> bool {
    match running(directory) {
        Ok(found) => found.is_some(),
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

impl Supervisor {
    pub fn tell_to_reload(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.process, Signal::HUP)?)
    }

    /// What became of its reloads; `None` when it has gone, or is writing just now.
    pub fn reloads(&self) -> Option<Reloads> {
        let mut text = String::new();
        File::open(&self.path).ok()?.read_to_string(&mut text).ok()?;
        parse(&text, self.pid)
    }

    pub fn is_gone(&self) -> bool {
        pidfd_send_signal(&self.process, Signal::CONT).is_err()
    }
}

fn parse(text: &str, pid: i32) -> Option<Reloads> {
    let mut lines = text.strip_suffix("\n.\n")?.lines();
    if lines.next()?.parse() != Ok(pid) {
        return None;
    }
    let begun = lines.next()?.strip_prefix("begun ")?.parse().ok()?;
    let (done, _) = lines.next()?.strip_prefix("done ")?.split_once(' ')?;
    Some(Reloads { begun, done: done.parse().ok()?, refusal: lines.map(str::to_owned).collect() })
}

fn pid_file(directory: &Path) -> PathBuf {
    directory.join("supervisor.pid")
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() || about.uid() != rustix::process::geteuid().as_raw() || about.nlink() > 1 {
        return Err(io::Error::other("it is not a file of root's with one name"));
    }
    file.set_permissions(Permissions::from_mode(0o600))?; // one of an earlier version was 0644
    Ok(file)
}

fn is_still(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    (ours.dev(), ours.ino()) == (there.dev(), there.ino())
}

/// The process that holds the record lock; 0 for one that this process cannot see.
fn holder(file: &File) -> Option<i32> {
    let mut lock = whole(libc::F_WRLCK);
    fcntl(file, FcntlArg::F_GETLK(&mut lock)).ok()?;
    (i32::from(lock.l_type) != libc::F_UNLCK).then_some(lock.l_pid)
}

/// A lock on the whole file.
fn whole(kind: i32) -> libc::flock {
    libc::flock { l_type: kind as libc::c_short, l_whence: libc::SEEK_SET as libc::c_short, l_start: 0, l_len: 0, l_pid: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_supervisor_says_of_its_reloads_is_read_whole_or_not_at_all() {
        let text = "12\nbegun 3\ndone 3 refused\nit has a mistake\nand another\n.\n";

        let read = parse(text, 12).unwrap();

        assert_eq!((read.begun, read.done, read.refusal.len()), (3, 3, 2));
        assert_eq!(parse("12\nbegun 1\ndone 1 ok\n.\n", 12).unwrap().refusal, Vec::<String>::new());
        assert_eq!(parse(text, 13), None);
        for cut in 0..text.len() {
            assert_eq!(parse(&text[..cut], 12), None, "cut at {cut}");
        }
    }

    #[test]
    fn a_number_that_nobody_locks_is_no_supervisor() {
        let place = tempfile::tempdir().unwrap();
        fs::write(pid_file(place.path()), format!("{}\n", std::process::id())).unwrap();

        assert!(running(place.path()).unwrap().is_none());
        let alone = Alone::take(place.path()).unwrap();
        assert_eq!(fs::metadata(pid_file(place.path())).unwrap().mode() & 0o7777, 0o600);
        drop(alone);

        assert!(!pid_file(place.path()).exists());
    }

    #[test]
    fn somebody_elses_lock_on_the_number_is_seen_by_the_kernels_word() {
        let place = tempfile::tempdir().unwrap();
        let path = pid_file(place.path());
        fs::write(&path, "1\n").unwrap();
        // A process of its own: record locks of one process do not exclude each other.
        let mut other = std::process::Command::new("python3")
            .args([
                "-c",
                "import fcntl,sys; f=open(sys.argv[1],'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()",
            ])
            .arg(&path)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 5];
        other.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();

        let found = running(place.path()).unwrap().unwrap();
        let refused = Alone::take(place.path()).err();
        drop(other.stdin.take());
        other.wait().unwrap();

        assert_eq!(found.pid, other.id().cast_signed(), "not the number in the file");
        assert!(matches!(refused, Some(NotAlone::Taken(Some(pid))) if pid == found.pid));
        assert!(found.is_gone() && found.tell_to_reload().is_err());
    }
}
