//! The cage of the process that reads files for the queue (`watch`): it reads in a few directories of the system.
//!
//! Invariant: it has no network, writes nothing but its pipe and its log, and listens to nobody, so that nothing can make it
//! read anything but the files it was started for.

use std::path::{Path, PathBuf};

use super::{
    Account, Caged, Policy, SandboxError,
    account::{Groups, become_user},
    alone,
    calls::{self, Families, Servers},
    limits,
    paths::{self, Absent, Rule, Tcp},
};

/// What the cage depends on.
#[derive(Debug, Clone)]
pub struct FilesCage {
    pub account: Account,
    /// The rules are on their directories, because they are replaced there.
    pub files: Vec<PathBuf>,
    pub policy: Policy,
}

/// Where links to `/etc/resolv.conf` lead (systemd-resolved, NetworkManager, resolvconf).
const TARGETS: &[&str] = &["/run", "/usr/lib/systemd/resolv.conf"];

/// Enters the cage.
pub fn files(cage: &FilesCage) -> Result<Caged, SandboxError> {
    alone()?;
    become_user(&cage.account, Groups::FromDatabase, &[])?;
    limits::settle()?;
    let directories = cage.files.iter().flat_map(|file| directories(file));
    let rules: Vec<Rule> = directories.chain(TARGETS.iter().map(PathBuf::from)).map(|path| Rule::read(path, Absent::Skip)).collect();
    let mut missing = paths::confine(&rules, Tcp::Nothing)?;
    missing.extend(calls::confine_role(Families::Unix, Servers::Old)?);
    cage.policy.judge(missing, PathBuf::from("."))
}

/// The directory of the name, and that of the file it leads to.
fn directories(file: &Path) -> Vec<PathBuf> {
    let target = std::fs::canonicalize(file).ok();
    let both = [Some(file), target.as_deref()];
    both.into_iter().flatten().filter_map(Path::parent).filter(|parent| *parent != Path::new("/")).map(Path::to_owned).collect()
}
