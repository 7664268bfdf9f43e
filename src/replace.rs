//! New content under an old name.
//!
//! Invariant: whoever reads the name finds the old content or the new one, whole, after a crash too; nothing is written through
//! a link that somebody left beside it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Written beside it with this mode, synced, renamed over it.
pub(crate) fn replace(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
    file.set_permissions(Permissions::from_mode(mode))?; // whatever the umask
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(directory_of(path))?.sync_all()
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
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
    fn a_bare_file_name_belongs_to_the_working_directory() {
        for (path, directory) in [("guests", "."), ("a/guests", "a"), ("/guests", "/")] {
            assert_eq!(directory_of(Path::new(path)), Path::new(directory));
        }
    }
}
