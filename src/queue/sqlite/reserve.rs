//! Room on the disk that is kept for what makes room: a file in the spool that gives up its end, bit
//! by bit, when the disk is full.
//!
//! A delivered or deleted message must be recorded before its room is free, and the record needs
//! some pages of the log first. On a disk that somebody else filled there is not even that. Invariant:
//! nothing that comes in uses the reserve, neither a message nor a report; and it is filled again only
//! once there is room for mail.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// The most and the least that is kept: the longest log must fit, so that it can be copied into the
/// database.
const MOST: u64 = 72 * 1024 * 1024;
const LEAST: u64 = 2 * 1024 * 1024;
/// The part of the disk that is kept.
const SHARE: u64 = 64;
/// The reserve is given up in this many steps.
const STEPS: u64 = 8;
/// Less is not worth a file.
const WORTH: u64 = 256 * 1024;
/// Time between two looks whether it can be filled again.
const LOOK: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Reserve {
    /// `None` when nothing is kept.
    file: Option<File>,
    path: PathBuf,
    wanted: u64,
    held: u64,
    looked: Option<Instant>,
}

impl Reserve {
    /// Finds what the last process kept below `spool`.
    pub(crate) fn find(spool: &Path) -> Self {
        let path = spool.join("reserve");
        let wanted = rustix::fs::statvfs(spool).map_or(LEAST, |it| (it.f_blocks.saturating_mul(it.f_frsize) / SHARE).clamp(LEAST, MOST));
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(&path);
        let found = opened.and_then(|file| {
            let meta = file.metadata()?;
            let plain = meta.is_file() && meta.nlink() == 1;
            // A file without blocks keeps nothing, whatever its length.
            let held = meta.len().min(meta.blocks().saturating_mul(512));
            if plain { Ok((file, held)) } else { Err(io::ErrorKind::InvalidInput.into()) }
        });
        match found {
            Ok((file, held)) => Self { file: Some(file), path, wanted, held, looked: None },
            Err(error) => {
                tracing::warn!(event = "no_reserve", file = %path.display(), error = %error);
                Self { file: None, path, wanted: 0, held: 0, looked: None }
            }
        }
    }

    /// Keeps nothing.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { file: None, path: PathBuf::new(), wanted: 0, held: 0, looked: None }
    }

    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// Gives up a part; whether there was one.
    pub(crate) fn give(&mut self) -> bool {
        let Some(file) = self.file.as_ref().filter(|_| self.held > 0) else { return false };
        let left = self.held.saturating_sub((self.wanted / STEPS).max(WORTH));
        if let Err(error) = file.set_len(left) {
            tracing::error!(event = "reserve_kept", file = %self.path.display(), error = %error);
            return false;
        }
        tracing::warn!(event = "reserve_used", left, reason = "the disk is full; deliveries and deletions go on");
        self.held = left;
        true
    }

    /// Fills what is missing, at the start: at most half of what mail cannot use or does not need.
    pub(crate) fn fill(&mut self, free: u64) {
        let spare = if free > super::LOW_WATER { free - super::LOW_WATER } else { free };
        let part = self.missing().min(spare / 2);
        if part >= WORTH.min(self.missing()) && part > 0 {
            self.extend(part);
        }
    }

    /// Fills it again once there is room for mail.
    pub(crate) fn fill_again(&mut self, free: impl Fn() -> Option<u64>) {
        if self.missing() == 0 || self.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return;
        }
        self.looked = Some(Instant::now());
        if free().is_some_and(|free| free > self.missing() + 2 * super::LOW_WATER) {
            self.extend(self.missing());
        }
    }

    fn missing(&self) -> u64 {
        self.wanted.saturating_sub(self.held)
    }

    fn extend(&mut self, by: u64) {
        let Some(file) = &self.file else { return };
        match allocate(file, self.held, by) {
            Ok(()) => self.held += by,
            Err(error) => {
                tracing::warn!(event = "no_reserve", file = %self.path.display(), error = %error);
                let _ = file.set_len(self.held); // what was allocated before it failed
            }
        }
    }
}

/// Takes blocks of the disk. Where the file system cannot do that for us, octets are written that do
/// not compress.
fn allocate(file: &File, from: u64, octets: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), from, octets) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        done => return Ok(done?),
    }
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut noise = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()
    };
    file.set_len(from)?;
    let mut end = io::BufWriter::new(OffsetWriter { file, at: from });
    for _ in 0..octets / 8 {
        end.write_all(&noise())?;
    }
    end.flush()?;
    file.sync_data()
}

struct OffsetWriter<'a> {
    file: &'a File,
    at: u64,
}

impl io::Write for OffsetWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = std::os::unix::fs::FileExt::write_at(self.file, bytes, self.at)?;
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_given_up_in_steps_and_filled_again_when_there_is_room() {
        let place = tempfile::tempdir().unwrap();
        let blocks = || place.path().join("reserve").metadata().unwrap().blocks() * 512;
        let mut reserve = Reserve::find(place.path());
        reserve.wanted = LEAST;
        reserve.fill(u64::MAX);
        assert!(reserve.held() == LEAST && blocks() >= LEAST, "{} {}", reserve.held(), blocks());

        assert!(reserve.give());

        assert!(reserve.held() < LEAST && blocks() < LEAST);
        let mut steps = 1;
        while reserve.give() {
            steps += 1;
        }
        assert!((2..=STEPS).contains(&steps), "{steps}");
        assert_eq!((reserve.held(), blocks()), (0, 0));
        reserve.fill_again(|| Some(LEAST));
        assert_eq!(reserve.held(), 0, "mail needs that room");
        reserve.looked = None;
        reserve.fill_again(|| Some(u64::MAX));
        assert_eq!((reserve.held(), Reserve::find(place.path()).held()), (LEAST, LEAST));
    }

    #[test]
    fn of_little_room_half_is_kept_and_nothing_of_none() {
        let place = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::find(place.path());
        reserve.fill(0);
        assert_eq!(reserve.held(), 0);

        reserve.fill(4 * WORTH);

        assert_eq!(reserve.held(), 2 * WORTH);
    }

    #[test]
    fn something_else_in_its_place_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("other"), "precious").unwrap();
        std::os::unix::fs::symlink(place.path().join("other"), place.path().join("reserve")).unwrap();

        let mut reserve = Reserve::find(place.path());
        reserve.fill(u64::MAX);

        assert!(!reserve.give());
        assert_eq!(std::fs::read(place.path().join("other")).unwrap(), b"precious");
    }
}
