//! The file of guests: people who may send and have no account on the host.
//!
//! ```text
//! friend@example.org:$y$j9T$…     a name and the hash of a password, as pam_pwdfile reads them
//! ```
//!
//! Invariants: it is root's alone (0600), in a directory that no role can read; it is replaced in one step or not at all, and no
//! name is in it twice. A line that is not understood stays as it is.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use pamrelay_authwire::spelling;
use yescrypt::{PasswordHasher as _, Yescrypt};

use crate::replace::replace;

/// Where `pamrelay guest` and the example of a PAM service look.
pub const PATH: &str = "/var/lib/pamrelay/guests";
/// Where the file was up to version 0.1: the key process can read there.
pub const BEFORE: &str = "/etc/pamrelay/guests";
/// The command that moves it, for an administrator to run.
pub const MOVE: &str = "install -d -m 0700 /var/lib/pamrelay && mv /etc/pamrelay/guests /var/lib/pamrelay/guests && \
                        rm -f /etc/pamrelay/guests.lock && sed -i 's,/etc/pamrelay/guests,/var/lib/pamrelay/guests,g' /etc/pam.d/smtp-guests";

#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    #[error("{path}: {doing}: {source}")]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is not root's alone (owner uid {uid}, mode {mode:04o}); mend it with: chown root:root {path} && chmod 0600 {path}")]
    Loose { path: PathBuf, uid: u32, mode: u32 },
    #[error("the guests are still in {BEFORE}, which the key process can read; move them: {MOVE}")]
    NotMoved,
    #[error("there is already a guest {0}; a new password: pamrelay guest password {0}")]
    There(String),
    #[error("there is no guest {0}")]
    NotThere(String),
    #[error("{0} cannot be the name of a guest: {1}")]
    Name(String, &'static str),
    #[error("the password is empty, has a NUL, or is longer than {} octets", spelling::LONGEST_PASSWORD)]
    Password,
    #[error("the password cannot be hashed: {0}")]
    Hash(String),
}

/// The file, locked against other writers as long as this lives.
#[derive(Debug)]
pub struct Guests {
    path: PathBuf,
    lines: Vec<String>,
    _lock: Flock<File>,
}

impl Guests {
    /// Reads the file; one that is not there has no guests. Its directory is made if need be, for root alone.
    pub fn open(path: &Path) -> Result<Self, GuestError> {
        if path == Path::new(PATH) && !path.exists() && Path::new(BEFORE).exists() {
            return Err(GuestError::NotMoved); // an empty list in the new place would look like a loss
        }
        let failed = |doing| move |source: io::Error| GuestError::File { doing, path: path.to_owned(), source };
        match path.parent().map(|directory| DirBuilder::new().mode(0o700).create(directory)) {
            Some(Err(error)) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("its directory cannot be made")(error)),
            Some(Ok(()) | Err(_)) | None => {}
        }
        let beside = path.with_extension("lock");
        let lock =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&beside).map_err(failed("cannot be locked"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| failed("cannot be locked")(error.into()))?;
        let mut text = String::new();
        match OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(path) {
            Ok(mut file) => {
                let about = file.metadata().map_err(failed("cannot be examined"))?;
                if about.uid() != nix::unistd::geteuid().as_raw() || about.mode() & 0o077 != 0 || !about.is_file() {
                    return Err(GuestError::Loose { path: path.to_owned(), uid: about.uid(), mode: about.mode() & 0o7777 });
                }
                file.read_to_string(&mut text).map_err(failed("cannot be read"))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("cannot be read")(error)),
        }
        Ok(Self { path: path.to_owned(), lines: text.lines().map(str::to_owned).collect(), _lock: lock })
    }

    /// In the order of the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter_map(|line| name_of(line))
    }

    pub fn add(&mut self, name: &str, password: &[u8]) -> Result<(), GuestError> {
        admissible(name)?;
        if self.names().any(|known| known.to_lowercase() == name.to_lowercase()) {
            return Err(GuestError::There(name.to_owned()));
        }
        self.lines.push(format!("{name}:{}", hash(password)?));
        self.write()
    }

    /// A new password.
    pub fn change(&mut self, name: &str, password: &[u8]) -> Result<(), GuestError> {
        let hash = hash(password)?;
        let line = self.lines.iter_mut().find(|line| name_of(line) == Some(name)).ok_or_else(|| GuestError::NotThere(name.to_owned()))?;
        *line = format!("{name}:{hash}");
        self.write()
    }

    pub fn remove(&mut self, name: &str) -> Result<(), GuestError> {
        let before = self.lines.len();
        self.lines.retain(|line| name_of(line) != Some(name));
        if self.lines.len() == before {
            return Err(GuestError::NotThere(name.to_owned()));
        }
        self.write()
    }

    fn write(&self) -> Result<(), GuestError> {
        let text: String = self.lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        replace(&self.path, 0o600, &text).map_err(|source| GuestError::File { doing: "cannot be written", path: self.path.clone(), source })
    }
}

fn name_of(line: &str) -> Option<&str> {
    line.split_once(':').map(|(name, _)| name).filter(|name| !name.is_empty() && !name.starts_with('#'))
}

/// What the helper lets through to PAM, and what is nobody's name on this host.
fn admissible(name: &str) -> Result<(), GuestError> {
    let bad = |why| Err(GuestError::Name(name.escape_debug().to_string(), why));
    if spelling::name(name.as_bytes()).is_none() || name.starts_with('#') || name.contains(char::is_whitespace) {
        return bad("it is empty or too long, begins with - or #, or has a blank, a colon, a slash or a character that looks like another");
    }
    for form in [name.to_owned(), name.to_lowercase()] {
        match nix::unistd::User::from_name(&form) {
            Ok(None) => {}
            Ok(Some(_)) => return bad("an account on this host has it"),
            Err(_) => return bad("the name service cannot say whether an account on this host has it"),
        }
    }
    Ok(())
}

/// yescrypt with the cost that Debian and Red Hat have.
fn hash(password: &[u8]) -> Result<String, GuestError> {
    if !spelling::is_password(password) {
        return Err(GuestError::Password);
    }
    let mut salt = [0; 16];
    aws_lc_rs::rand::fill(&mut salt).map_err(|_| GuestError::Hash("no random numbers".to_owned()))?;
    let hash = Yescrypt::default().hash_password_with_salt(password, &salt).map_err(|error| GuestError::Hash(error.to_string()))?;
    Ok(hash.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("guests");
        (directory, path)
    }

    fn names(path: &Path) -> Vec<String> {
        Guests::open(path).unwrap().names().map(str::to_owned).collect()
    }

    #[test]
    fn guests_come_go_and_change_their_passwords() {
        let (_directory, path) = file();

        Guests::open(&path).unwrap().add("friend@example.org", b"secret").unwrap();
        Guests::open(&path).unwrap().add("printer-2", "pässwörd".as_bytes()).unwrap();
        let before = fs::read_to_string(&path).unwrap();
        Guests::open(&path).unwrap().change("printer-2", b"other").unwrap();

        assert_eq!(names(&path), ["friend@example.org", "printer-2"]);
        assert!(before.starts_with("friend@example.org:$y$j9T$"), "{before}");
        assert_ne!(fs::read_to_string(&path).unwrap(), before);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        Guests::open(&path).unwrap().remove("friend@example.org").unwrap();
        assert_eq!(names(&path), ["printer-2"]);
    }

    #[test]
    fn the_directory_of_guests_is_made_for_root_alone() {
        let (directory, _) = file();
        let path = directory.path().join("pamrelay/guests");

        Guests::open(&path).unwrap().add("friend", b"x").unwrap();

        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        assert_eq!(names(&path), ["friend"]);
        assert!(MOVE.contains(BEFORE) && MOVE.contains(PATH));
    }

    #[test]
    fn a_name_is_there_once_and_never_one_of_this_host() {
        let (_directory, path) = file();
        let mut guests = Guests::open(&path).unwrap();
        guests.add("friend", b"x").unwrap();

        assert!(matches!(guests.add("Friend", b"x"), Err(GuestError::There(_))));
        for name in ["root", "daemon", "DAEMON", "", "-f", "#x", "a b", "a:b", "a/b", "a\nb"] {
            assert!(matches!(guests.add(name, b"x"), Err(GuestError::Name(..))), "{name:?}");
        }
        for password in [&b""[..], b"a\0b", &[b'x'; 512]] {
            assert!(matches!(guests.add("other", password), Err(GuestError::Password)));
        }
        assert!(matches!(guests.remove("other"), Err(GuestError::NotThere(_))));
        assert!(matches!(guests.change("other", b"x"), Err(GuestError::NotThere(_))));
        drop(guests);
        assert_eq!(names(&path), ["friend"]);
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_and_a_strange_line_is_kept() {
        let (_directory, path) = file();
        fs::write(&path, "# friends\nold:$1$abc$x\njunk\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Guests::open(&path), Err(GuestError::Loose { .. })));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();

        Guests::open(&path).unwrap().add("new", b"x").unwrap();

        assert!(fs::read_to_string(&path).unwrap().starts_with("# friends\nold:$1$abc$x\njunk\nnew:$y$"));
        assert_eq!(names(&path), ["old", "new"]);
    }
}
