//! The permission law of the certificate directory: who may have touched a key before we trust it.
//!
//! Invariant: every byte the relay uses from the directory was read from a descriptor on which the law was
//! checked, so there is no time between check and use. All breaches of one look are told together, each with
//! the command that repairs it.
//!
//! An access control list cannot hide from the mode bits: with one, the group bits are its mask, and a mask of
//! nothing makes every named entry void. The law asks for no group bits, so it needs no second look at the list.

use std::{
    fmt, io,
    io::Read,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, openat};
use zeroize::Zeroizing;

use super::walk::{Floor, Walk};

/// One element that breaks the law, in words for the administrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    pub element: PathBuf,
    pub found: String,
    pub wanted: String,
    /// A shell command that mends it.
    pub repair: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { element, found, wanted, repair } = self;
        write!(f, "{}: {found}; wanted: {wanted}; repair: {repair}", element.display())
    }
}

/// Whose property keys may be: root's, or that of the user the key process runs as.
#[derive(Debug, Clone)]
pub struct Law {
    keys_uid: u32,
    keys_name: String,
}

/// What an element of a path is to the law.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A directory on the way to the certificate directory.
    Above,
    /// The certificate directory.
    Directory,
    /// A directory below it.
    Below,
    /// A symbolic link met on the way, above or inside.
    Link,
    /// A file that is used.
    File,
}

impl Law {
    /// The law for a key process that runs as this user.
    pub fn new(keys_uid: u32, keys_name: impl Into<String>) -> Self {
        Self { keys_uid, keys_name: keys_name.into() }
    }

    pub(super) fn keys_uid(&self) -> u32 {
        self.keys_uid
    }

    pub(super) fn keys_name(&self) -> &str {
        &self.keys_name
    }

    /// Opens `files` (names relative to `directory`) lawfully: all of them, or every breach found.
    pub fn open(&self, directory: &Path, files: &[&Path]) -> Result<Vec<LawfulFile>, Vec<Breach>> {
        let mut breaches = Vec::new();
        let opened = self.open_all(directory, files, &mut breaches);

        let mut seen: Vec<Breach> = Vec::with_capacity(breaches.len());
        for breach in breaches {
            if !seen.contains(&breach) {
                seen.push(breach);
            }
        }
        if seen.is_empty() { Ok(opened) } else { Err(seen) }
    }

    fn open_all(&self, directory: &Path, files: &[&Path], breaches: &mut Vec<Breach>) -> Vec<LawfulFile> {
        let Some((fd, shown)) = self.open_directory(directory, breaches) else {
            return Vec::new();
        };

        let mut opened = Vec::with_capacity(files.len());
        for file in files {
            let Some(name) = inside(directory, file) else {
                breaches.push(Breach {
                    element: file.to_path_buf(),
                    found: "a file outside the certificate directory".into(),
                    wanted: format!("a file in {}", directory.display()),
                    repair: format!("install -m 0600 -o root {} {}/", quoted(file), quoted(directory)),
                });
                continue;
            };
            opened.extend(self.open_file(&fd, &shown, &name, breaches));
        }
        opened
    }

    /// Walks from `/` to the directory, judging each element on its descriptor.
    fn open_directory(&self, directory: &Path, breaches: &mut Vec<Breach>) -> Option<(OwnedFd, PathBuf)> {
        let absolute = match std::path::absolute(directory) {
            Ok(path) => path,
            Err(error) => {
                breaches.push(unreachable_element(directory, &error, self));
                return None;
            }
        };
        let root = match rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => fd,
            Err(error) => {
                breaches.push(unreachable_element(Path::new("/"), &error.into(), self));
                return None;
            }
        };
        let mut walk = Walk::from(root, PathBuf::from("/"), Floor::Root, self, breaches);
        walk.judge_start(Role::Above);
        walk.reach_directory(absolute.as_os_str())
    }

    fn open_file(&self, directory: &OwnedFd, shown: &Path, name: &Path, breaches: &mut Vec<Breach>) -> Option<LawfulFile> {
        let start = match rustix::io::fcntl_dupfd_cloexec(directory, 3) {
            Ok(fd) => fd,
            Err(error) => {
                breaches.push(unreachable_element(shown, &error.into(), self));
                return None;
            }
        };
        let mut walk = Walk::from(start, shown.to_path_buf(), Floor::Directory, self, breaches);
        let (parent, last, path) = walk.reach_file(name.as_os_str())?;

        // NONBLOCK: should the regular file just seen have become a FIFO, opening must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let judged = openat(&parent, last.as_os_str(), flags, Mode::empty()).and_then(|fd| fstat(&fd).map(|stat| (fd, stat)));
        let (fd, stat) = match judged {
            Ok(both) => both,
            Err(error) => {
                breaches.push(unreachable_element(&path, &error.into(), self));
                return None;
            }
        };
        let before = breaches.len();
        self.judge(Role::File, &path, &stat, breaches);
        if breaches.len() > before {
            return None;
        }
        Some(LawfulFile { file: fd.into(), path, size: u64::try_from(stat.st_size).unwrap_or(0) })
    }

    /// Compares one element, as its descriptor shows it, with the law.
    pub(super) fn judge(&self, role: Role, path: &Path, stat: &Stat, breaches: &mut Vec<Breach>) {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if role == Role::File && kind != FileType::RegularFile {
            breaches.push(not_regular(path, kind));
            return;
        }
        self.judge_owner(path, stat, role, breaches);
        if let Some(breach) = mode_breach(role, path, stat) {
            breaches.push(breach);
        }
        if role == Role::File && stat.st_nlink != 1 {
            let name = quoted(path);
            breaches.push(Breach {
                element: path.to_path_buf(),
                found: format!("{} names (hard links) lead to this file", stat.st_nlink),
                wanted: "exactly one".into(),
                repair: format!("cp -p {name} {name}.only && mv {name}.only {name}"),
            });
        }
    }

    fn judge_owner(&self, path: &Path, stat: &Stat, role: Role, breaches: &mut Vec<Breach>) {
        if stat.st_uid == 0 || stat.st_uid == self.keys_uid {
            return;
        }
        let option = if role == Role::Link { "-h " } else { "" };
        breaches.push(Breach {
            element: path.to_path_buf(),
            found: format!("owner {}", user_name(stat.st_uid)),
            wanted: format!("owner root or {}", self.keys_name),
            repair: format!("chown {option}root: {}", quoted(path)),
        });
    }
}

/// A file that obeyed the law on the descriptor it is read from.
#[derive(Debug)]
pub struct LawfulFile {
    file: std::fs::File,
    path: PathBuf,
    size: u64,
}

impl LawfulFile {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file, at most `limit` bytes, into memory that is wiped.
    pub fn read(self, limit: usize) -> io::Result<Zeroizing<Vec<u8>>> {
        let too_long = || io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {limit} bytes"));
        let size = usize::try_from(self.size).map_err(|_| too_long())?;
        if size > limit {
            return Err(too_long());
        }
        // Room for all of it at once: a buffer that grows leaves unwiped copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(size.saturating_add(1)));
        let room = u64::try_from(size).unwrap_or(u64::MAX);
        self.file.take(room).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// The mode bits an element has and may not have.
fn mode_breach(role: Role, path: &Path, stat: &Stat) -> Option<Breach> {
    let mode = stat.st_mode & 0o7777;
    let shared_but_sticky = mode & 0o1000 != 0 && stat.st_uid == 0;
    let (forbidden, wanted, repair) = match role {
        // In root's sticky directory (/tmp) nobody can replace what is not theirs, and the next element is judged too.
        Role::Above if shared_but_sticky => return None,
        Role::Below if mode & 0o7000 != 0 => (0o7022, "no set-id or sticky bit, not writable by group or others", "chmod a-st,go-w"),
        Role::Above | Role::Below => (0o022, "not writable by group or others", "chmod go-w"),
        // Five digits: with four, GNU chmod keeps the set-id bits of a directory.
        Role::Directory => (0o7077, "mode 0700 or stricter", "chmod 00700"),
        Role::File => (0o7177, "mode 0600 or stricter", "chmod 0600"),
        Role::Link => return None, // its mode means nothing
    };
    (mode & forbidden != 0).then(|| Breach {
        element: path.to_path_buf(),
        found: format!("mode {mode:04o}"),
        wanted: wanted.into(),
        repair: format!("{repair} {}", quoted(path)),
    })
}

fn not_regular(path: &Path, kind: FileType) -> Breach {
    let found = match kind {
        FileType::Directory => "a directory",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Symlink => "a symbolic link",
        FileType::RegularFile | FileType::Unknown => "something unknown",
    };
    Breach {
        element: path.to_path_buf(),
        found: found.into(),
        wanted: "a regular file".into(),
        repair: format!("mv {0} {0}.aside", quoted(path)),
    }
}

/// The breach for an element that could not be opened at all.
pub(super) fn unreachable_element(path: &Path, error: &io::Error, law: &Law) -> Breach {
    let name = quoted(path);
    let (found, wanted, repair) = match error.kind() {
        io::ErrorKind::NotFound => (
            "nothing of that name".to_owned(),
            "a file or directory the configuration can use".to_owned(),
            format!("ls -la {}", path.parent().map_or_else(|| name.clone(), quoted)),
        ),
        io::ErrorKind::PermissionDenied => (
            format!("uid {} may not open it", rustix::process::geteuid().as_raw()),
            format!("owner {0}, or CAP_DAC_READ_SEARCH for {0}; after a directory was replaced, a restart of the role", law.keys_name),
            format!("chown {}: {name}", law.keys_name),
        ),
        _ => (error.to_string(), "an element that can be opened".to_owned(), format!("ls -lad {name}")),
    };
    Breach { element: path.to_path_buf(), found, wanted, repair }
}

/// `file` as a name below `directory`; `None` when it is an absolute name elsewhere.
fn inside(directory: &Path, file: &Path) -> Option<PathBuf> {
    let relative = if file.is_absolute() { file.strip_prefix(directory).ok()? } else { file };
    let names_something = relative.components().any(|part| matches!(part, Component::Normal(_)));
    names_something.then(|| relative.to_path_buf())
}

/// A path as one word of a shell.
pub(super) fn quoted(path: &Path) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+,:@%=".contains(byte);
    let bytes = path.as_os_str().as_bytes();
    if !bytes.is_empty() && bytes.iter().all(plain) {
        return path.display().to_string();
    }
    let mut word = String::from("'");
    for part in path.as_os_str().to_string_lossy().split_inclusive('\'') {
        match part.strip_suffix('\'') {
            Some(head) => {
                word.push_str(head);
                word.push_str("'\\''");
            }
            None => word.push_str(part),
        }
    }
    word.push('\'');
    word
}

fn user_name(uid: u32) -> String {
    match nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("{} ({uid})", user.name),
        Ok(None) | Err(_) => format!("uid {uid}"),
    }
}
