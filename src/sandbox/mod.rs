//! The cages: what each role gives up before it meets anybody.
//!
//! ```text
//! root or the role's own user ▸ [memory locked] ▸ [chroot] ▸ no capabilities ▸ no core, no new privileges ▸ Landlock ▸ seccomp
//! ```
//!
//! Invariant: a cage is entered by the only thread there is, before any runtime exists, and it never widens.
//! What the kernel lacks is named in [`Caged::missing`]; under [`Policy::Required`] it is an error instead.

use std::{io, path::PathBuf};

mod account;
mod calls;
mod files;
mod front;
mod keys;
mod limits;
mod memory;
mod notify;
mod paths;
mod queue;

pub use account::Account;
pub use files::{FilesCage, files};
pub use front::{FrontCage, front};
pub use keys::{KeysCage, keys, reachable};
pub use limits::opaque;
pub use notify::Notifier;
pub use queue::{QueueCage, queue};

/// What to do where the kernel cannot build a part of the cage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Refuse to start.
    Required,
    /// Go on, and say which part is missing.
    BestEffort,
}

/// A cage that was entered.
#[derive(Debug)]
#[must_use = "the missing parts are to be logged"]
pub struct Caged {
    pub missing: Vec<Missing>,
    /// How the front names the directory of the sockets from now on.
    pub jail: PathBuf,
}

/// A part of the cage that could not be built here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    #[error("chroot: not started as root and without CAP_SYS_CHROOT")]
    Chroot,
    #[error("Landlock: not in this kernel, or switched off")]
    Landlock,
    #[error("Landlock's right to truncate files (Linux 6.2)")]
    LandlockTruncate,
    #[error("Landlock's rules about TCP (Linux 6.7)")]
    LandlockTcp,
    #[error("Landlock's rule about devices (Linux 6.10)")]
    LandlockDevices,
    #[error("Landlock's scopes of signals and abstract sockets (Linux 6.12)")]
    LandlockScopes,
    #[error("seccomp filters: not in this kernel, or forbidden here")]
    Seccomp,
    #[error("locked memory: it is limited here, so passwords and keys may be written to swap (LimitMEMLOCK=infinity, ulimit -l unlimited)")]
    LockedMemory,
}

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("{0} threads exist; a cage is entered before the second one")]
    Threads(usize),
    #[error("there is no user {0}; create it: useradd --system --no-create-home --shell /usr/sbin/nologin {0}")]
    NoUser(String),
    #[error("this role must not run as root: the configured user {0} has uid 0")]
    RootUser(String),
    #[error("started as uid {is}, wanted root or {wanted}")]
    WrongUser { is: u32, wanted: String },
    #[error("a directory is still open ({0}): a way out of the chroot")]
    DirectoryOpen(PathBuf),
    #[error("cannot {doing}: {source}")]
    Step { doing: &'static str, source: io::Error },
    #[error("cannot change capabilities: {0}")]
    Capabilities(String),
    #[error("cannot give the Landlock rule for {path}: {reason}")]
    Rule { path: PathBuf, reason: String },
    #[error("cannot build the Landlock rules: {0}")]
    Landlock(String),
    #[error("cannot build the seccomp filter: {0}")]
    Filter(String),
    #[error("sandbox: required, but this is missing: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Incomplete(Vec<Missing>),
}

impl SandboxError {
    /// Whether every start ends like this until a person has done something. A step that failed may have met a host without memory.
    pub fn lasts(&self) -> bool {
        match self {
            Self::Step { .. } => false,
            Self::Threads(_)
            | Self::NoUser(_)
            | Self::RootUser(_)
            | Self::WrongUser { .. }
            | Self::DirectoryOpen(_)
            | Self::Capabilities(_)
            | Self::Rule { .. }
            | Self::Landlock(_)
            | Self::Filter(_)
            | Self::Incomplete(_) => true,
        }
    }

    fn step(doing: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Step { doing, source: source.into() }
    }
}

impl Policy {
    /// The end of every cage: complete, or missing parts that the policy tolerates.
    fn judge(self, missing: Vec<Missing>, jail: PathBuf) -> Result<Caged, SandboxError> {
        match self {
            Self::Required if !missing.is_empty() => Err(SandboxError::Incomplete(missing)),
            Self::Required | Self::BestEffort => Ok(Caged { missing, jail }),
        }
    }
}

/// Refuses when other threads exist: they would stay outside.
fn alone() -> Result<(), SandboxError> {
    match std::fs::read_dir("/proc/self/task") {
        Ok(tasks) => match tasks.count() {
            0 | 1 => Ok(()),
            more => Err(SandboxError::Threads(more)),
        },
        Err(error) => Err(SandboxError::step("count the threads in /proc/self/task", error)),
    }
}

/// The first use of the library's random numbers looks at devices; let it look now.
fn draw_a_random_byte() -> Result<(), SandboxError> {
    aws_lc_rs::rand::fill(&mut [0; 1]).map_err(|_| SandboxError::step("draw a random byte", io::ErrorKind::Other))
}
