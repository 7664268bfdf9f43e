//! New content under an old name.
//!
//! Invariant: whoever reads the name finds the old content or the new one, whole, after a crash too; nothing is written through
//! a link that somebody left beside it, and owner and mode are set on the descriptor of what was written.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, fchown, openat, renameat, unlinkat};
use rustix::io::Errno;

/// Who may read a file: its owner, and a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub(crate) mode: u32,
    /// Without one, the group of whoever writes it.
    pub(crate) group: Option<u32>,
}

/// Written beside it with this mode, synced, renamed over it.
pub(crate) fn replace(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let flags = rustix::fs::OFlags::DIRECTORY.bits().cast_signed();
    let directory = File::options().read(true).custom_flags(flags).open(directory_of(path))?;
    Staged::write(directory.as_fd(), name, Access { mode, group: None }, text)?.take_effect()?;
    directory.sync_all()
}

/// Content that is on the disk under another name, and takes its own in one step.
#[derive(Debug)]
pub(crate) struct Staged<'a> {
    directory: BorrowedFd<'a>,
    beside: OsString,
    name: OsString,
}

impl<'a> Staged<'a> {
    pub(crate) fn write(directory: BorrowedFd<'a>, name: &OsStr, access: Access, text: &str) -> io::Result<Self> {
        let beside = Path::new(name).with_extension("new").into_os_string();
        match unlinkat(directory, &beside, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(directory, &beside, flags, Mode::RUSR | Mode::WUSR)?);
        if let Some(group) = access.group {
            fchown(&file, None, Some(Gid::from_raw(group)))?;
        }
        file.set_permissions(Permissions::from_mode(access.mode))?; // whatever the umask
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(Self { directory, beside, name: name.to_owned() })
    }

    /// The caller syncs the directory.
    pub(crate) fn take_effect(self) -> io::Result<()> {
        Ok(renameat(self.directory, &self.beside, self.directory, &self.name)?)
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_copy_is_replaced_in_one_step() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pamrelay.yaml");

        replace(&path, 0o644, "one").unwrap();
        replace(&path, 0o644, "two").unwrap();

        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_that_stands_beside_the_file_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, victim) = (directory.path().join("pamrelay.yaml"), directory.path().join("victim"));
        fs::write(&victim, "as it was").unwrap();
        std::os::unix::fs::symlink(&victim, directory.path().join("pamrelay.new")).unwrap();

        replace(&path, 0o600, "one").unwrap();

        assert_eq!(fs::read_to_string(&victim).unwrap(), "as it was");
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
    }

    #[test]
    fn a_bare_file_name_belongs_to_the_working_directory() {
        for (path, directory) in [("guests", "."), ("a/guests", "a"), ("/guests", "/")] {
            assert_eq!(directory_of(Path::new(path)), Path::new(directory));
        }
    }
}
