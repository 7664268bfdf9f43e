//! The spool directory: its law, its large bodies, and the place for what is damaged.
//!
//! ```text
//! /var/spool/pamrelay/    0700, ours, a real directory
//!   queue.db              the database (and queue.db-wal), see `sqlite`
//!   bodies/new-N          a large body while it comes in; removed at start
//!   bodies/ID             a large body: exactly the client's octets
//!   damaged/              what could not be read; nothing here is ever touched again
//! ```
//!
//! Invariant: a file under `bodies/ID` is complete and synced, and so is its name, before any row speaks of it. Files
//! are opened by a name of ours below an open directory, without following links, and only when they are regular files
//! with one link.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::store::StoreError;
use crate::handoff::QueueId;

/// Why the spool cannot be used, in a person's words.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("the spool {} does not exist and cannot be made: {source}; make it with: install -d -m 0700 -o pamrelay-queue -g pamrelay-queue {}", path.display(), path.display())]
    Missing { path: PathBuf, source: io::Error },
    #[error("{} is not a directory; move it away, or name another spool", path.display())]
    NotDirectory { path: PathBuf },
    #[error("{} belongs to uid {found}, but the queue runs as uid {wanted}; mend it with: chown -R {wanted} {}", path.display(), path.display())]
    Owner { path: PathBuf, found: u32, wanted: u32 },
    #[error("{} has mode {found:04o}, so others can reach into it; mend it with: chmod 0700 {}", path.display(), path.display())]
    Mode { path: PathBuf, found: u32 },
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

/// The spool, checked.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    bodies: OwnedFd,
    damaged: OwnedFd,
}

impl Spool {
    /// Checks the law of the directory, and makes what is missing.
    pub fn open(path: &Path) -> Result<Self, SpoolError> {
        let bodies = lawful_directory(path).and_then(|_| lawful_directory(&path.join("bodies")))?;
        let damaged = lawful_directory(&path.join("damaged"))?;
        let top = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty());
        top.and_then(rustix::fs::fsync).map_err(|errno| SpoolError::Io { what: "sync", path: path.to_owned(), source: errno.into() })?;
        Ok(Self { path: path.to_owned(), bodies, damaged })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Octets that may still be written by us.
    pub(crate) fn free(&self) -> io::Result<u64> {
        let it = rustix::fs::fstatvfs(&self.bodies)?;
        Ok(it.f_bavail.saturating_mul(it.f_frsize))
    }

    /// A new file for a body that is coming in.
    pub(crate) fn create_draft(&self, name: &str) -> Result<File, StoreError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.bodies, name, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(|errno| self.failed("create", name, errno))
    }

    /// Removes a draft; one that is gone already is fine.
    pub(crate) fn remove_draft(&self, name: &str) {
        self.remove(name);
    }

    /// Makes a draft a body: 1. its octets are synced, 2. it gets its name, 3. the name is synced.
    pub(crate) fn keep_draft(&self, file: &File, draft: &str, id: QueueId) -> Result<(), StoreError> {
        let name = id.to_string();
        rustix::fs::fsync(file).map_err(|errno| self.unsynced(draft, errno))?;
        rustix::fs::renameat(&self.bodies, draft, &self.bodies, &name).map_err(|errno| self.failed("rename", draft, errno))?;
        rustix::fs::fsync(&self.bodies).map_err(|errno| self.unsynced("", errno))
    }

    pub(crate) fn write_draft(&self, mut file: &File, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        file.write_all(bytes).map_err(|error| self.failed("write", name, errno(&error)))
    }

    /// Opens a body for positioned reads. `size` is what its row says.
    pub(crate) fn open_body(&self, id: QueueId, size: u64) -> Result<File, Unreadable> {
        // NONBLOCK: opening somebody's FIFO must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&self.bodies, id.to_string(), flags, Mode::empty()).map(File::from);
        let file = file.map_err(|errno| match errno {
            Errno::NOENT => Unreadable::Damaged("its body file is missing"),
            Errno::LOOP | Errno::NXIO => Unreadable::Damaged("its body is not a regular file"),
            other => Unreadable::NotNow(other.into()),
        })?;
        let meta = file.metadata().map_err(Unreadable::NotNow)?;
        match () {
            () if !meta.is_file() => Err(Unreadable::Damaged("its body is not a regular file")),
            () if meta.nlink() != 1 => Err(Unreadable::Damaged("its body file has a second name somewhere")),
            () if meta.len() != size => Err(Unreadable::Damaged("its body file does not have the size that was accepted")),
            () => Ok(file),
        }
    }

    /// Removes a body that no row speaks of any more; one that is gone already is fine.
    pub(crate) fn remove_body(&self, id: QueueId) {
        self.remove(&id.to_string());
    }

    fn remove(&self, name: &str) {
        match rustix::fs::unlinkat(&self.bodies, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => tracing::warn!(event = "leftover", file = %self.body_path(name).display(), error = %io::Error::from(errno)),
        }
    }

    /// The names in `bodies/`.
    pub(crate) fn body_names(&self) -> Result<Vec<Name>, StoreError> {
        let list = || -> rustix::io::Result<Vec<Name>> {
            let mut names = Vec::new();
            for entry in Dir::read_from(&self.bodies)? {
                let entry = entry?;
                let name = entry.file_name().to_owned();
                if matches!(name.as_bytes(), b"." | b"..") {
                    continue;
                }
                let meta = rustix::fs::statat(&self.bodies, &name, AtFlags::SYMLINK_NOFOLLOW)?;
                let regular = FileType::from_raw_mode(meta.st_mode) == FileType::RegularFile;
                names.push(Name { name, regular });
            }
            Ok(names)
        };
        list().map_err(|errno| self.failed("list", "", errno))
    }

    /// Moves `bodies/NAME`, whatever it is, to `damaged/`, under a name that is still free.
    pub(crate) fn set_body_aside(&self, name: &CStr, suffix: &str) -> Result<(), StoreError> {
        let shown = name.to_string_lossy();
        for attempt in 0_u32..1000 {
            let mut to = shown.replace('/', "_") + suffix;
            if attempt > 0 {
                to.push_str(&format!(".{attempt}"));
            }
            match rustix::fs::renameat_with(&self.bodies, name, &self.damaged, &to, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                // Kernels whose Landlock is of the first version let nothing move from one directory to another.
                Err(Errno::XDEV) => return self.copy_aside(name, &to).map_err(|error| self.failed("copy aside", &shown, errno(&error))),
                Err(errno) => return Err(self.failed("set aside", &shown, errno)),
            }
        }
        Err(self.failed("set aside", &shown, Errno::EXIST))
    }

    fn copy_aside(&self, name: &CStr, to: &str) -> io::Result<()> {
        let (read, write) = (OFlags::RDONLY | OFlags::NONBLOCK, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL);
        let mut from = File::from(rustix::fs::openat(&self.bodies, name, read | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?);
        let mut copy = File::from(rustix::fs::openat(&self.damaged, to, write | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?);
        io::copy(&mut from, &mut copy)?;
        copy.sync_all()?;
        rustix::fs::fsync(&self.damaged)?;
        Ok(rustix::fs::unlinkat(&self.bodies, name, AtFlags::empty())?)
    }

    /// Writes what is left of a row to `damaged/ID.PART`, synced with its name.
    pub(crate) fn write_aside(&self, id: QueueId, part: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let name = format!("{id}.{part}");
        let path = self.path.join("damaged").join(&name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let write = || -> io::Result<()> {
            let mut file = File::from(rustix::fs::openat(&self.damaged, &name, flags, Mode::RUSR | Mode::WUSR)?);
            file.write_all(bytes)?;
            file.sync_all()?;
            Ok(rustix::fs::fsync(&self.damaged)?)
        };
        write().map_err(|source| StoreError::File { what: "set aside", path, source })
    }

    fn body_path(&self, name: &str) -> PathBuf {
        self.path.join("bodies").join(name)
    }

    fn failed(&self, what: &'static str, name: &str, errno: Errno) -> StoreError {
        match errno {
            Errno::NOSPC | Errno::DQUOT => StoreError::Full,
            other => StoreError::File { what, path: self.body_path(name), source: other.into() },
        }
    }

    /// After a failed sync nobody knows what is on the disk, and asking again may lie: the process ends and its
    /// successor reads what is really there. Lack of space is different: the file is thrown away.
    fn unsynced(&self, name: &str, errno: Errno) -> StoreError {
        match errno {
            Errno::NOSPC | Errno::DQUOT => StoreError::Full,
            other => fatal("sync_failed", &format!("{}: {}", self.body_path(name).display(), io::Error::from(other))),
        }
    }
}

/// An entry of `bodies/`.
pub(crate) struct Name {
    pub(crate) name: CString,
    pub(crate) regular: bool,
}

/// Why a body cannot be read.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// And never will be.
    Damaged(&'static str),
    /// A fault of the moment, such as too many open files.
    NotNow(io::Error),
}

/// Ends the process: the disk can no longer be trusted. EX_IOERR.
pub(crate) fn fatal(event: &'static str, error: &str) -> ! {
    tracing::error!(event, error);
    std::process::exit(74)
}

/// Opens a directory that is real, ours and closed to others; makes it if it is missing.
fn lawful_directory(path: &Path) -> Result<OwnedFd, SpoolError> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => sync_name(path)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(SpoolError::Missing { path: path.to_owned(), source }),
    }
    let open = rustix::fs::openat(CWD, path, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let directory = open.map_err(|errno| match errno {
        Errno::NOTDIR | Errno::LOOP => SpoolError::NotDirectory { path: path.to_owned() },
        other => SpoolError::Io { what: "open", path: path.to_owned(), source: other.into() },
    })?;
    // Asked of the open descriptor, so that what was checked is what is used.
    let meta =
        rustix::fs::fstat(&directory).map_err(|errno| SpoolError::Io { what: "look at", path: path.to_owned(), source: errno.into() })?;
    let wanted = rustix::process::geteuid().as_raw();
    if meta.st_uid != wanted {
        return Err(SpoolError::Owner { path: path.to_owned(), found: meta.st_uid, wanted });
    }
    if meta.st_mode & 0o077 != 0 {
        return Err(SpoolError::Mode { path: path.to_owned(), found: meta.st_mode & 0o7777 });
    }
    Ok(directory)
}

/// Makes the name of a new directory durable, where its parent may be opened.
fn sync_name(path: &Path) -> Result<(), SpoolError> {
    let Some(parent) = path.parent().filter(|it| !it.as_os_str().is_empty()) else { return Ok(()) };
    match File::open(parent).and_then(|it| it.sync_all()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        done => done.map_err(|source| SpoolError::Io { what: "sync", path: parent.to_owned(), source }),
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn id() -> QueueId {
        QueueId::of_number(5).unwrap()
    }

    fn spool() -> (tempfile::TempDir, Spool) {
        let place = tempfile::tempdir().unwrap();
        let spool = Spool::open(&place.path().join("spool")).unwrap();
        (place, spool)
    }

    #[test]
    fn is_made_closed_to_others() {
        let (place, _spool) = spool();

        for name in ["spool", "spool/bodies", "spool/damaged"] {
            assert_eq!(place.path().join(name).metadata().unwrap().mode() & 0o7777, 0o700, "{name}");
        }
    }

    #[test]
    fn one_that_others_can_enter_is_refused_with_the_cure() {
        let (place, _spool) = spool();
        let path = place.path().join("spool");
        for mode in [0o750, 0o701, 0o770, 0o777] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();

            let error = Spool::open(&path).unwrap_err().to_string();

            assert!(error.contains(&format!("mode {mode:04o}")) && error.contains("chmod 0700"), "{error}");
        }
    }

    #[test]
    fn a_link_or_a_file_in_its_place_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let (link, file) = (place.path().join("link"), place.path().join("file"));
        symlink(place.path(), &link).unwrap();
        std::fs::write(&file, "").unwrap();

        for path in [link, file] {
            assert!(matches!(Spool::open(&path), Err(SpoolError::NotDirectory { .. })), "{path:?}");
        }
    }

    #[test]
    fn a_missing_parent_is_said_with_the_cure() {
        let error = Spool::open(Path::new("/nonexistent/pamrelay/spool")).unwrap_err().to_string();

        assert!(error.contains("install -d -m 0700"), "{error}");
    }

    #[test]
    fn a_body_that_is_not_one_plain_file_is_damaged() {
        let (place, spool) = spool();
        let path = place.path().join("spool/bodies").join(id().to_string());
        let elsewhere = place.path().join("elsewhere");
        std::fs::write(&elsewhere, "1234").unwrap();
        let plants: [(&str, &dyn Fn()); 5] = [
            ("link", &|| symlink(&elsewhere, &path).unwrap()),
            ("hard link", &|| std::fs::hard_link(&elsewhere, &path).unwrap()),
            ("directory", &|| std::fs::create_dir(&path).unwrap()),
            ("fifo", &|| nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap()),
            ("sparse file", &|| File::create(&path).unwrap().set_len(10 << 30).unwrap()),
        ];
        for (what, plant) in plants {
            plant();

            assert!(matches!(spool.open_body(id(), 4), Err(Unreadable::Damaged(_))), "{what}");

            let name = CString::new(id().to_string()).unwrap();
            spool.set_body_aside(&name, ".body").unwrap();
            assert!(std::fs::symlink_metadata(&path).is_err(), "{what} is out of the way");
        }
        assert_eq!(std::fs::read_dir(place.path().join("spool/damaged")).unwrap().count(), 5, "all of them are kept");
    }

    #[test]
    fn where_nothing_can_be_moved_a_body_is_copied_aside() {
        let (place, spool) = spool();
        let path = place.path().join("spool/bodies").join(id().to_string());
        std::fs::write(&path, "1234").unwrap();

        spool.copy_aside(&CString::new(id().to_string()).unwrap(), "copy").unwrap();

        assert_eq!(std::fs::read(place.path().join("spool/damaged/copy")).unwrap(), b"1234");
        assert!(!path.exists());
    }

    #[test]
    fn a_draft_becomes_a_body_with_the_octets_that_were_written() {
        let (_place, spool) = spool();
        let file = spool.create_draft("new-1").unwrap();
        spool.write_draft(&file, "new-1", b"body").unwrap();

        spool.keep_draft(&file, "new-1", id()).unwrap();

        let mut read = String::new();
        io::Read::read_to_string(&mut spool.open_body(id(), 4).unwrap(), &mut read).unwrap();
        assert_eq!(read, "body");
    }
}
