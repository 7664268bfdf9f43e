//! The PAM service file: is it there, is it complete, did anything around it change?
//!
//! libpam silently takes `/etc/pam.d/other` for a service without a file, and for a part (auth, account)
//! that the file does not mention; Debian's `other` lets every Unix user in. Invariant: PAM is asked only
//! while `/etc/pam.d/<service>` exists and has auth and account lines of its own.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub(crate) const DIRECTORY: &str = "/etc/pam.d";
/// Beside `/etc/pam.d` and the module directories: what decides who answers for users.
const ALSO_WATCHED: &[&str] = &["/etc/nsswitch.conf", "/etc/pam.conf", "/usr/lib/pam.d", "/etc/krb5.conf"];
/// What the modules of Linux-PAM read, pam_faillock's limits among it.
const SECURITY: &str = "/etc/security";
const MODULE_PARENTS: &[&str] = &["/usr/lib", "/usr/lib64", "/lib", "/lib64"];
pub(crate) const DEEPEST_INCLUDE: u32 = 8;

/// Why a service cannot be used, in words for the administrator.
pub(crate) fn unusable(service: &str) -> Option<String> {
    unusable_in(Path::new(DIRECTORY), service)
}

fn unusable_in(directory: &Path, service: &str) -> Option<String> {
    let path = directory.join(service);
    let parts = match Parts::read(directory, &path, DEEPEST_INCLUDE) {
        Ok(parts) => parts,
        Err(error) => {
            return Some(format!(
                "{}: {error}; without this file PAM would use the service \"other\", which may let anybody in",
                path.display()
            ));
        }
    };
    let missing = match parts {
        Parts { auth: true, account: true } => return None,
        Parts { auth: false, .. } => "auth",
        Parts { account: false, .. } => "account",
    };
    Some(format!("{}: has no {missing} line, so PAM would take them from the service \"other\"", path.display()))
}

/// The lines of a service file as libpam reads them: without comments, and one that ends in a backslash goes on in the next.
pub(crate) fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut begun = String::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        match line.strip_suffix('\\') {
            Some(part) => {
                begun.push_str(part);
                begun.push(' ');
            }
            None => lines.push(std::mem::take(&mut begun) + line),
        }
    }
    lines.push(begun);
    lines
}

/// Which parts a service file has.
#[derive(Clone, Copy, Default)]
struct Parts {
    auth: bool,
    account: bool,
}

impl Parts {
    fn read(directory: &Path, path: &Path, depth: u32) -> std::io::Result<Self> {
        let text = fs::read(path)?;
        let text = String::from_utf8_lossy(&text);
        let mut parts = Self::default();
        for line in logical_lines(&text) {
            let mut words = line.split_whitespace();
            match words.next().map(|word| word.trim_start_matches('-').to_ascii_lowercase()).as_deref() {
                Some("auth") => parts.auth = true,
                Some("account") => parts.account = true,
                Some("@include") if depth > 0 => {
                    let included = words.next().map(|file| directory.join(file)); // an absolute path replaces the directory
                    let included = included.and_then(|file| Self::read(directory, &file, depth - 1).ok()).unwrap_or_default();
                    parts.auth |= included.auth;
                    parts.account |= included.account;
                }
                Some(_) | None => {}
            }
        }
        Ok(parts)
    }
}

/// A number that changes when a file that PAM or the name service reads at start was changed.
pub(crate) struct Watch {
    directories: Vec<PathBuf>,
}

impl Watch {
    /// Finds the module directories of this machine.
    pub(crate) fn new() -> Self {
        let children = MODULE_PARENTS.iter().filter_map(|parent| fs::read_dir(parent).ok()).flatten().flatten();
        let candidates =
            children.map(|child| child.path().join("security")).chain(MODULE_PARENTS.iter().map(|p| Path::new(p).join("security")));
        Self { directories: candidates.filter(|path| path.is_dir()).collect() }
    }

    /// Names, sizes, times and inodes: enough to notice every edit, cheap enough to ask often. `None` when it cannot be looked
    /// at now, for want of descriptors or memory: that is no news.
    pub(crate) fn fingerprint(&self) -> Option<u64> {
        let mut hash = DefaultHasher::new();
        let mut names = Vec::new();
        for directory in [DIRECTORY, SECURITY] {
            names.push(PathBuf::from(directory));
            match fs::read_dir(directory) {
                Ok(entries) => names.extend(entries.flatten().map(|entry| entry.path())),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(_) => return None,
            }
        }
        names.sort_unstable();
        let fixed = ALSO_WATCHED.iter().map(Path::new);
        for path in names.iter().map(PathBuf::as_path).chain(fixed).chain(self.directories.iter().map(PathBuf::as_path)) {
            path.hash(&mut hash);
            if let Ok(meta) = fs::metadata(path) {
                (meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec(), meta.mode()).hash(&mut hash);
            }
        }
        Some(hash.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of service files that removes itself.
    struct Services(PathBuf);

    impl Services {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let path = std::env::temp_dir().join(format!("pamrelay-service-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            for (file, text) in files {
                fs::write(path.join(file), text).unwrap();
            }
            Self(path)
        }

        fn unusable(&self, service: &str) -> Option<String> {
            unusable_in(&self.0, service)
        }
    }

    impl Drop for Services {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_with_both_parts_is_usable_also_through_includes() {
        let services = Services::new(
            "good",
            &[
                ("plain", "#%PAM-1.0\nauth required pam_unix.so\n-account required pam_unix.so\n"),
                ("debian", "@include common-auth\n@include common-account # both\n"),
                ("common-auth", "auth\t[success=1 default=ignore]\tpam_unix.so\n"),
                ("common-account", "account required pam_unix.so\n"),
            ],
        );

        assert_eq!(services.unusable("plain"), None);
        assert_eq!(services.unusable("debian"), None);
    }

    #[test]
    fn a_line_that_ends_in_a_backslash_goes_on_and_a_comment_does_not() {
        let lines = logical_lines("auth required \\\n pam_unix.so # \\\naccount \\\n required \\\n pam_unix.so\n# auth\\\nx");

        let words: Vec<Vec<&str>> =
            lines.iter().map(|line| line.split_whitespace().collect()).filter(|words: &Vec<_>| !words.is_empty()).collect();
        assert_eq!(words, [vec!["auth", "required", "pam_unix.so"], vec!["account", "required", "pam_unix.so"], vec!["x"]]);
    }

    #[test]
    fn a_missing_empty_or_half_file_is_told() {
        let services = Services::new(
            "bad",
            &[
                ("empty", ""),
                ("commented", "# auth required pam_unix.so\n"),
                ("half", "auth required pam_unix.so\n"),
                ("loop", "@include loop\n"),
            ],
        );

        assert!(services.unusable("missing").unwrap().contains("other"));
        assert!(services.unusable("empty").unwrap().contains("no auth line"));
        assert!(services.unusable("commented").unwrap().contains("no auth line"));
        assert!(services.unusable("half").unwrap().contains("no account line"));
        assert!(services.unusable("loop").unwrap().contains("no auth line"));
    }

    #[test]
    fn nothing_changed_is_the_same_fingerprint() {
        let watch = Watch::new();

        assert_eq!(watch.fingerprint(), watch.fingerprint());
    }
}
