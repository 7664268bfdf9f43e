//! Walking a path one element at a time, on descriptors, judging each.
//!
//! Invariant: no element is ever entered by a name that the kernel resolves further than one step, so what was
//! judged is what is used; and a walk with a floor never stands above it, whatever links say.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, openat, readlinkat};

use super::law::{Breach, Law, Role, quoted, unreachable_element};

/// More links than this on one path is a loop or a trick.
const LINKS: usize = 16;

/// Where a walk may not rise above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Floor {
    /// The root of the file system: `..` there stays there, absolute links start there.
    Root,
    /// The certificate directory: rising above it, or an absolute link, leaves it.
    Directory,
}

pub(super) struct Walk<'a> {
    /// The directories stood in, the floor first; never empty.
    trail: Vec<(OwnedFd, PathBuf)>,
    floor: Floor,
    links_left: usize,
    /// The link that gave the names now being walked.
    link: Option<PathBuf>,
    law: &'a Law,
    breaches: &'a mut Vec<Breach>,
}

/// One element, opened without following it.
struct Element {
    fd: OwnedFd,
    stat: Stat,
    path: PathBuf,
}

impl<'a> Walk<'a> {
    pub(super) fn from(start: OwnedFd, shown: PathBuf, floor: Floor, law: &'a Law, breaches: &'a mut Vec<Breach>) -> Self {
        Self { trail: vec![(start, shown)], floor, links_left: LINKS, link: None, law, breaches }
    }

    /// Judges the place the walk starts from.
    pub(super) fn judge_start(&mut self, role: Role) {
        if let Some((fd, path)) = self.trail.first() {
            match fstat(fd) {
                Ok(stat) => self.law.judge(role, path, &stat, self.breaches),
                Err(error) => self.breaches.push(unreachable_element(path, &error.into(), self.law)),
            }
        }
    }

    /// Walks to a directory that must not itself be a link.
    pub(super) fn reach_directory(&mut self, path: &OsStr) -> Option<(OwnedFd, PathBuf)> {
        let mut left = parts(path);
        while let Some(name) = left.pop_front() {
            let is_last = left.is_empty();
            if name == ".." {
                self.rise(&name)?;
                continue;
            }
            let element = self.element(&name)?;
            match FileType::from_raw_mode(element.stat.st_mode) {
                FileType::Symlink if is_last => {
                    self.breach(&element.path, "a symbolic link", "a real directory", |name| {
                        format!("readlink -f {name}  # name this directory in the configuration")
                    });
                    return None;
                }
                FileType::Symlink => self.follow(&element, &mut left)?,
                FileType::Directory => {
                    let role = if is_last { Role::Directory } else { Role::Above };
                    self.law.judge(role, &element.path, &element.stat, self.breaches);
                    self.trail.push((element.fd, element.path));
                }
                _ => return self.not_a_directory(&element.path),
            }
        }
        self.trail.pop()
    }

    /// Walks to a file inside the floor: the directory it is in, its last name, and its path for messages.
    pub(super) fn reach_file(&mut self, path: &OsStr) -> Option<(OwnedFd, OsString, PathBuf)> {
        let mut left = parts(path);
        while let Some(name) = left.pop_front() {
            if name == ".." {
                self.rise(&name)?;
                continue;
            }
            let element = self.element(&name)?;
            match FileType::from_raw_mode(element.stat.st_mode) {
                FileType::Symlink => self.follow(&element, &mut left)?,
                FileType::Directory if !left.is_empty() => {
                    self.law.judge(Role::Below, &element.path, &element.stat, self.breaches);
                    self.trail.push((element.fd, element.path));
                }
                FileType::RegularFile if left.is_empty() => {
                    let (parent, _) = self.trail.pop()?;
                    return Some((parent, name, element.path));
                }
                _ if left.is_empty() => {
                    self.law.judge(Role::File, &element.path, &element.stat, self.breaches);
                    return None;
                }
                _ => return self.not_a_directory(&element.path),
            }
        }
        // Only a path that ends in `..` comes here.
        let shown = self.here();
        self.breach(&shown, "a directory", "a regular file", |name| format!("ls -la {name}"));
        None
    }

    /// Opens the next element as itself, never what it points to.
    fn element(&mut self, name: &OsStr) -> Option<Element> {
        let (parent, shown) = self.trail.last()?;
        let path = shown.join(name);
        let opened = openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .and_then(|fd| fstat(&fd).map(|stat| (fd, stat)));
        match opened {
            Ok((fd, stat)) => Some(Element { fd, stat, path }),
            Err(error) => {
                self.breaches.push(unreachable_element(&path, &error.into(), self.law));
                None
            }
        }
    }

    /// Puts a link's target in front of what is left of the path.
    fn follow(&mut self, link: &Element, left: &mut VecDeque<OsString>) -> Option<()> {
        self.law.judge(Role::Link, &link.path, &link.stat, self.breaches);
        self.links_left = match self.links_left.checked_sub(1) {
            Some(rest) => rest,
            None => {
                self.breach(&link.path, "too many symbolic links", "a path that ends", |name| format!("readlink {name}"));
                return None;
            }
        };
        let target = match readlinkat(&link.fd, "", Vec::new()) {
            Ok(target) => OsString::from_vec(target.into_bytes()),
            Err(error) => {
                self.breaches.push(unreachable_element(&link.path, &error.into(), self.law));
                return None;
            }
        };
        if target.as_bytes().starts_with(b"/") {
            match self.floor {
                Floor::Root => self.trail.truncate(1),
                Floor::Directory => return self.leaves(&link.path, &target),
            }
        }
        self.link = Some(link.path.clone());
        for part in parts(&target).into_iter().rev() {
            left.push_front(part);
        }
        Some(())
    }

    /// One directory up, unless that is above the floor.
    fn rise(&mut self, name: &OsStr) -> Option<()> {
        if self.trail.len() > 1 {
            self.trail.pop();
            return Some(());
        }
        match self.floor {
            Floor::Root => Some(()),
            Floor::Directory => {
                let shown = self.link.clone().unwrap_or_else(|| self.here().join(name));
                self.leaves(&shown, name)
            }
        }
    }

    fn leaves<T>(&mut self, path: &Path, target: &OsStr) -> Option<T> {
        let target = target.to_string_lossy().into_owned();
        let directory = self.trail.first().map_or_else(PathBuf::new, |(_, shown)| shown.clone());
        let found = format!("leads out of the certificate directory, to {target}");
        let wanted = format!("a file in {}", directory.display());
        let is_link = self.link.as_deref() == Some(path) || target.starts_with('/');
        self.breach(path, &found, &wanted, |name| {
            if is_certbots(path, &target) {
                // A copy in the place of a link would end certbot's renewal.
                "leave certbot's links as they are, and let a deploy hook copy what they lead to: certs/README.md has one for \
                 /etc/letsencrypt/renewal-hooks/deploy/pamrelay; tls.directory is then /etc/pamrelay/certs"
                    .to_owned()
            } else if is_link {
                format!("cp --remove-destination \"$(readlink -f {name})\" {name} && chmod 0600 {name}")
            } else {
                format!("install -m 0600 -o root {name} {}/", quoted(&directory))
            }
        });
        None
    }

    fn not_a_directory<T>(&mut self, path: &Path) -> Option<T> {
        self.breach(path, "not a directory", "a directory", |name| format!("ls -la {name}"));
        None
    }

    fn breach(&mut self, path: &Path, found: &str, wanted: &str, repair: impl FnOnce(&str) -> String) {
        self.breaches.push(Breach {
            element: path.to_path_buf(),
            found: found.to_owned(),
            wanted: wanted.to_owned(),
            repair: repair(&quoted(path)),
        });
    }

    fn here(&self) -> PathBuf {
        self.trail.last().map_or_else(PathBuf::new, |(_, shown)| shown.clone())
    }
}

/// Whether a link is one of certbot's own, or leads to one: they stand in `letsencrypt/live/NAME`, or in `live/NAME` of another directory.
fn is_certbots(path: &Path, target: &str) -> bool {
    let mut parts = path.iter().chain(Path::new(target).iter());
    parts.any(|part| part == "letsencrypt" || part == "live")
}

/// The names in a path; empty ones and `.` say nothing.
fn parts(path: &OsStr) -> VecDeque<OsString> {
    path.as_bytes()
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(|part| OsString::from_vec(part.to_vec()))
        .collect()
}
