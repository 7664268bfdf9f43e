//! The database's log (SQLite's WAL): how much of it is good, when it is copied into the database,
//! and what is done about it when the disk fails.
//!
//! ```text
//! start   rewritten in place, synced ─▶ copied, synced ─▶ emptied, synced ─▶ the first 250
//! commit  frames appended, synced; from time to time copied into the database
//! failure cut back to the last good commit, synced ─▶ the process ends
//! ```
//!
//! Invariant: a commit never stands behind frames that the disk may not have. After a failed sync the
//! kernel counts the pages as written, so the next process reads frames from memory that the disk
//! never got, and syncing them again does nothing. Therefore a log that is found at the start is
//! written again before anything leans on it, and a batch whose sync failed is removed before the
//! process ends: its clients are not told 250, so it must not be delivered (RFC 5321 §4.2.5).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use rusqlite::{Connection, ErrorCode};

use super::reserve::Reserve;

/// Pages in the log before they are copied into the database.
const LONG: i32 = 16 * 1024;
/// The same when less than `TIGHT` octets of the disk are free.
const LONG_WHEN_TIGHT: i32 = 1024;
const TIGHT: u64 = 4 * super::LOW_WATER;
/// However small the reserve, the log may have this many pages.
const SHORT: i32 = 256;
/// Header of the file, and of each page in it.
const FILE_HEADER: u64 = 32;
const FRAME_HEADER: u64 = 24;
/// Octets written again at once.
const STRIDE: usize = 256 * 1024;

pub(super) struct Log {
    path: PathBuf,
    page_size: u64,
    /// Pages up to the last commit; 0 once all of them are in the database.
    frames: Arc<AtomicI32>,
    /// A commit found the disk full: the log is copied whatever its length, so that the next commit
    /// writes it from its beginning, where it needs no more of the disk.
    pressed: bool,
    /// Pages at the last look: a copy that failed is not tried again before the log has grown.
    seen: i32,
}

/// What a copy of the log into the database came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copied {
    All,
    Part,
}

impl Log {
    /// Watches the log of `db`, whose file is `database`.
    pub(super) fn of(db: &mut Connection, database: &Path) -> rusqlite::Result<Self> {
        let frames = Arc::new(AtomicI32::new(frames(db)?));
        let counter = Arc::clone(&frames);
        db.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: i32| {
            counter.store(pages, Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Self { path: path_of(database), page_size: page_size(db)?, frames, pressed: false, seen: 0 })
    }

    pub(super) fn press(&mut self) {
        self.pressed = true;
    }

    /// Copies a long log into the database, and on a disk with little room also a shorter one. Never
    /// longer than the reserve covers: on a full disk it is the reserve that makes the copy possible.
    pub(super) fn copy_when_long(
        &mut self,
        db: &Connection,
        reserve: &mut Reserve,
        free: impl Fn() -> Option<u64>,
    ) -> rusqlite::Result<()> {
        let frames = self.frames.load(Ordering::Relaxed);
        if frames < self.seen {
            self.seen = 0; // it began anew
        }
        let grown = frames - self.seen;
        let long = self.longest(reserve);
        let tight = || free().is_some_and(|free| free < TIGHT);
        if self.pressed || grown >= long || grown >= LONG_WHEN_TIGHT && tight() {
            return self.copy(db, reserve);
        }
        Ok(())
    }

    /// Copies the log into the database. Where the database finds no room to grow, the reserve gives it.
    pub(super) fn copy(&mut self, db: &Connection, reserve: &mut Reserve) -> rusqlite::Result<()> {
        self.pressed = false;
        self.seen = self.frames.load(Ordering::Relaxed);
        if copy_with(db, "PASSIVE", reserve)? == Copied::All {
            self.frames.store(0, Ordering::Relaxed);
            self.seen = 0;
        }
        Ok(())
    }

    /// At the end: the next process finds nothing to recover.
    pub(super) fn empty(&mut self, db: &Connection, reserve: &mut Reserve) -> rusqlite::Result<()> {
        copy_with(db, "TRUNCATE", reserve).map(drop)
    }

    fn longest(&self, reserve: &Reserve) -> i32 {
        let covered = reserve.held() / 8 * 7 / (self.page_size + FRAME_HEADER).max(1);
        i32::try_from(covered).unwrap_or(LONG).clamp(SHORT, LONG)
    }

    /// Removes what a commit wrote whose sync failed. What cannot be removed or synced is left: then
    /// the next process finds the batch in the log, and says so to whoever asks for it.
    pub(super) fn cut(&self) {
        let good = length(self.frames.load(Ordering::Relaxed), self.page_size);
        let cut = || -> io::Result<()> {
            let file = open(&self.path)?;
            if file.metadata()?.len() > good {
                file.set_len(good)?;
            }
            file.sync_all()
        };
        match cut() {
            Ok(()) => tracing::error!(event = "log_cut", file = %self.path.display(), octets = good),
            Err(error) => tracing::error!(event = "log_not_cut", file = %self.path.display(), octets = good, error = %error),
        }
    }
}

/// Makes the log that was found at the start durable and empties it: 1. its octets are written again
/// and synced, because those in memory need not be on the disk; 2. its pages go into the database,
/// which is synced; 3. that it is empty is synced, so that no older part of it comes back over a
/// newer database. On a full disk 1. is enough, since it needs no room.
pub(super) fn settle(db: &Connection, database: &Path, reserve: &mut Reserve) -> Result<(), LogError> {
    let path = path_of(database);
    let frames = frames(db)?;
    if frames > 0 {
        match rewrite(&path, length(frames, page_size(db)?)) {
            Ok(()) => tracing::info!(event = "log_recovered", pages = frames),
            // Only where overwriting takes new room. The copy below may still succeed.
            Err(error) if is_full(&error) => tracing::warn!(event = "log_recovered", pages = frames, error = %error),
            Err(error) => return Err(LogError::File(error)),
        }
    }
    match copy_with(db, "TRUNCATE", reserve) {
        Ok(Copied::All) => {}
        Ok(Copied::Part) => tracing::warn!(event = "checkpoint", reason = "not all of the log could be copied"),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
            tracing::warn!(event = "checkpoint", reason = "no room to copy the log into the database; it stays in the log");
        }
        Err(error) => return Err(error.into()),
    }
    match open(&path).and_then(|file| file.sync_all()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(LogError::File(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Why the log of the last process cannot be relied on.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
    #[error("its log: {0}")]
    File(io::Error),
}

fn copy_with(db: &Connection, mode: &str, reserve: &mut Reserve) -> rusqlite::Result<Copied> {
    loop {
        match checkpoint(db, mode) {
            Ok((pages, copied)) => return Ok(if pages == copied { Copied::All } else { Copied::Part }),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) && reserve.give() => {}
            Err(error) => return Err(error),
        }
    }
}

/// Pages in the log, and how many of them are in the database.
fn checkpoint(db: &Connection, mode: &str) -> rusqlite::Result<(i32, i32)> {
    db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| Ok((row.get(1)?, row.get(2)?)))
}

/// Pages in the log that count; what lies behind them is left over from an earlier time.
fn frames(db: &Connection) -> rusqlite::Result<i32> {
    Ok(checkpoint(db, "NOOP")?.0.max(0))
}

fn page_size(db: &Connection) -> rusqlite::Result<u64> {
    let size: i64 = db.pragma_query_value(None, "page_size", |row| row.get(0))?;
    Ok(u64::try_from(size).unwrap_or(0))
}

fn length(frames: i32, page_size: u64) -> u64 {
    match u64::try_from(frames).unwrap_or(0) {
        0 => 0,
        frames => FILE_HEADER + frames * (FRAME_HEADER + page_size),
    }
}

fn rewrite(path: &Path, length: u64) -> io::Result<()> {
    let file = open(path)?;
    let (mut buffer, mut at) = (vec![0; STRIDE], 0);
    while at < length {
        let wanted = usize::try_from(length - at).unwrap_or(STRIDE).min(STRIDE);
        let part = buffer.get_mut(..wanted).unwrap_or_default();
        file.read_exact_at(part, at)?;
        file.write_all_at(part, at)?;
        at += wanted as u64;
    }
    file.sync_all()
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NOFOLLOW).open(path)
}

fn path_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
