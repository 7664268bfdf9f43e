//! Directories that root makes and gives to a role.
//!
//! Invariant: owner and mode change on the descriptor of the directory that was made or found, never by name; and each directory
//! on the way belongs to root (or to whom the new one is given), and nobody else may write it. So nobody can put something of
//! somebody else's, or a link to it, in the place of what is given away. In root's sticky directories (`/tmp`) the entries
//! must belong to the same two.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Gid, Mode, OFlags, Stat, Uid, fchmod, fchown, fstat, mkdirat, openat, readlinkat};
use rustix::io::Errno;

/// More links than this on one path is a loop.
const LINKS: u32 = 16;

/// Whose a directory becomes, and what they and others may do with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
}

impl Given {
    pub(crate) fn to_root(mode: u32) -> Self {
        Self { uid: 0, gid: 0, mode }
    }

    fn trusts(self, stat: &Stat) -> bool {
        stat.st_uid == 0 || stat.st_uid == self.uid
    }
}

/// Makes the directory if it is missing (its parent must be there), and gives it to its owner either way.
pub(crate) fn make(path: &Path, given: Given) -> io::Result<OwnedFd> {
    let (parent, name, shared) = Walk::to_parent_of(path, given)?;
    let open = || openat(&parent, &name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let directory = match open() {
        Err(Errno::NOENT) => match mkdirat(&parent, &name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => open()?,
            Err(error) => return Err(error.into()),
        },
        Err(Errno::LOOP | Errno::NOTDIR) => return Err(refusal(path, "is not a directory, or a symbolic link")),
        opened => opened?,
    };
    if shared == Shared::Sticky && !given.trusts(&fstat(&directory)?) {
        return Err(refusal(path, "belongs to somebody else, in a directory where everybody may write"));
    }
    fchown(&directory, Some(Uid::from_raw(given.uid)), Some(Gid::from_raw(given.gid)))?;
    fchmod(&directory, Mode::from_raw_mode(given.mode))?; // last: a change of owner clears bits
    Ok(directory)
}

/// Whether others may write a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shared {
    No,
    /// They may, but not replace what is not theirs.
    Sticky,
}

/// A walk from `/`, one name at a time.
struct Walk {
    /// The directories stood in, `/` first; never empty.
    trail: Vec<(OwnedFd, PathBuf)>,
    given: Given,
}

impl Walk {
    fn to_parent_of(path: &Path, given: Given) -> io::Result<(OwnedFd, OsString, Shared)> {
        let absolute = std::path::absolute(path)?;
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut walk = Self { trail: vec![(root, PathBuf::from("/"))], given };
        let mut left = parts(absolute.as_os_str().as_bytes());
        let last = left.pop_back().filter(|name| name != "..").ok_or_else(|| refusal(path, "names no directory of its own"))?;
        let mut links = LINKS;
        while let Some(name) = left.pop_front() {
            if let Some(target) = walk.step(&name)? {
                links = links.checked_sub(1).ok_or_else(|| refusal(path, "leads through too many symbolic links"))?;
                if target.first() == Some(&b'/') {
                    walk.trail.truncate(1);
                }
                for part in parts(&target).into_iter().rev() {
                    left.push_front(part);
                }
            }
        }
        let shared = walk.judge()?;
        let (parent, _) = walk.trail.pop().ok_or_else(|| refusal(path, "has no parent"))?;
        Ok((parent, last, shared))
    }

    /// Enters the next directory, or gives the target of the link that stands there.
    fn step(&mut self, name: &OsString) -> io::Result<Option<Vec<u8>>> {
        if name == ".." {
            if self.trail.len() > 1 {
                self.trail.pop();
            }
            return Ok(None);
        }
        let shared = self.judge()?;
        let Some((here, shown)) = self.trail.last() else { return Ok(None) };
        let shown = shown.join(name);
        let fd = openat(here, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| io::Error::new(io::Error::from(error).kind(), format!("{}: {}", shown.display(), io::Error::from(error))))?;
        let stat = fstat(&fd)?;
        if shared == Shared::Sticky && !self.given.trusts(&stat) {
            return Err(refusal(&shown, "belongs to somebody else, in a directory where everybody may write"));
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => Ok(Some(readlinkat(&fd, "", Vec::new())?.into_bytes())),
            FileType::Directory => {
                self.trail.push((fd, shown));
                Ok(None)
            }
            _ => Err(refusal(&shown, "is not a directory")),
        }
    }

    /// Whether the directory stood in may have something of ours in it.
    fn judge(&self) -> io::Result<Shared> {
        let Some((here, shown)) = self.trail.last() else { return Ok(Shared::No) };
        let stat = fstat(here)?;
        if !self.given.trusts(&stat) {
            return Err(refusal(shown, &format!("belongs to uid {}, who could put something else in its place", stat.st_uid)));
        }
        match (stat.st_mode & 0o022 != 0, stat.st_mode & 0o1000 != 0 && stat.st_uid == 0) {
            (false, _) => Ok(Shared::No),
            (true, true) => Ok(Shared::Sticky),
            (true, false) => Err(refusal(shown, &format!("may be written by others (mode {:04o})", stat.st_mode & 0o7777))),
        }
    }
}

fn parts(path: &[u8]) -> VecDeque<OsString> {
    path.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(|part| OsString::from_vec(part.to_vec()))
        .collect()
}

fn refusal(path: &Path, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("{} {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

    use super::*;

    /// Neither root nor the one that directories are given to.
    const STRANGER: u32 = 54_321;
    const ROLE: u32 = 54_322;

    fn place() -> Option<tempfile::TempDir> {
        if !rustix::process::geteuid().is_root() {
            let _ = io::Write::write_all(&mut io::stdout(), b"SKIPPED (needs root): a test of directories that root gives away\n");
            return None;
        }
        tempfile::tempdir().ok()
    }

    fn mode(path: &Path, bits: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
    }

    fn of(path: &Path) -> (u32, u32) {
        let about = fs::symlink_metadata(path).unwrap();
        (about.uid(), about.mode() & 0o7777)
    }

    const GIVEN: Given = Given { uid: ROLE, gid: ROLE, mode: 0o700 };

    #[test]
    fn a_missing_directory_is_made_and_one_that_is_there_is_put_in_order() {
        let Some(place) = place() else { return };
        let spool = place.path().join("spool");

        make(&spool, GIVEN).unwrap();
        assert_eq!(of(&spool), (ROLE, 0o700));
        chown(&spool, Some(0), Some(0)).unwrap();
        mode(&spool, 0o755);
        make(&spool, GIVEN).unwrap();

        assert_eq!(of(&spool), (ROLE, 0o700));
        make(&spool.join("maildir"), GIVEN).unwrap();
        make(&place.path().join("a/b"), GIVEN).unwrap_err();
    }

    #[test]
    fn a_link_in_the_place_of_the_directory_gives_nothing_away() {
        let Some(place) = place() else { return };
        let (victim, link) = (place.path().join("victim"), place.path().join("spool"));
        fs::create_dir(&victim).unwrap();
        mode(&victim, 0o755);
        symlink(&victim, &link).unwrap();

        make(&link, GIVEN).unwrap_err();

        assert_eq!(of(&victim), (0, 0o755));
        fs::remove_file(&link).unwrap();
        fs::write(&link, "").unwrap();
        make(&link, GIVEN).unwrap_err();
    }

    #[test]
    fn a_parent_that_others_may_write_is_refused_and_named() {
        let Some(place) = place() else { return };
        let parent = place.path().join("parent");
        fs::create_dir(&parent).unwrap();
        for bits in [0o775, 0o757, 0o777] {
            mode(&parent, bits);

            let said = make(&parent.join("spool"), GIVEN).unwrap_err().to_string();

            assert!(said.contains(parent.to_str().unwrap()) && said.contains(&format!("mode {bits:04o}")), "{said}");
        }
        mode(&parent, 0o755);
        chown(&parent, Some(STRANGER), None).unwrap();
        assert!(make(&parent.join("spool"), GIVEN).unwrap_err().to_string().contains("uid 54321"));
        mode(&parent, 0o1777);
        make(&parent.join("spool"), GIVEN).unwrap_err();
        assert!(!parent.join("spool").exists());
    }

    #[test]
    fn in_a_directory_like_tmp_only_what_is_roots_or_the_owners_is_taken() {
        let Some(place) = place() else { return };
        let (tmp, elsewhere) = (place.path().join("tmp"), place.path().join("elsewhere"));
        fs::create_dir(&tmp).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        mode(&tmp, 0o1777);
        fs::create_dir(tmp.join("theirs")).unwrap();
        chown(tmp.join("theirs"), Some(STRANGER), None).unwrap();
        symlink(&elsewhere, tmp.join("link")).unwrap();
        std::os::unix::fs::lchown(tmp.join("link"), Some(STRANGER), None).unwrap();

        make(&tmp.join("theirs"), GIVEN).unwrap_err();
        make(&tmp.join("theirs/spool"), GIVEN).unwrap_err();
        make(&tmp.join("link/spool"), GIVEN).unwrap_err();
        make(&tmp.join("ours"), GIVEN).unwrap();

        assert_eq!(of(&tmp.join("theirs")).0, STRANGER);
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    }

    #[test]
    fn roots_own_links_on_the_way_are_followed() {
        let Some(place) = place() else { return };
        fs::create_dir(place.path().join("disk")).unwrap();
        symlink("disk", place.path().join("spool")).unwrap();
        symlink("../loop", place.path().join("loop")).unwrap();
        symlink("loop2", place.path().join("loop2")).unwrap();

        make(&place.path().join("spool/pamrelay"), GIVEN).unwrap();

        assert_eq!(of(&place.path().join("disk/pamrelay")), (ROLE, 0o700));
        make(&place.path().join("loop2/pamrelay"), GIVEN).unwrap_err();
    }
}
