//! The cage of the queue: its spool and its mail directories, the internet outwards, and a few files to read.
//!
//! Invariant: what a remote server's answer could make the queue do ends at its own spool: no other program, no
//! other file, no listening port.

use std::path::{Path, PathBuf};

use crate::directory::{self, Given};

use super::{
    Account, Caged, Policy, SandboxError,
    account::{Groups, become_user},
    alone,
    calls::{self, Families, Servers},
    draw_a_random_byte, limits,
    paths::{self, Absent, Reach, Rule, Tcp},
};

/// What the queue's cage depends on.
#[derive(Debug, Clone)]
pub struct QueueCage {
    pub account: Account,
    pub spool: PathBuf,
    /// Where mail is delivered to on this host.
    pub maildirs: Vec<PathBuf>,
    /// `/run/pamrelay`: read for the ticket keys and the configuration, written below `queue`.
    pub runtime: PathBuf,
    /// Further files to read: the trust file, a configuration elsewhere.
    pub read: Vec<PathBuf>,
    pub policy: Policy,
}

/// Enters the cage. The listener is bound or passed in by now; no other thread exists yet.
pub fn queue(cage: &QueueCage) -> Result<Caged, SandboxError> {
    alone()?;
    draw_a_random_byte()?;

    make_directories(cage)?;
    become_user(&cage.account, Groups::FromDatabase, &[])?;
    limits::settle()?;
    let mut missing = paths::confine(&rules(cage), Tcp::Connect)?;
    missing.extend(calls::confine_role(Families::UnixAndInternet, Servers::New)?);
    cage.policy.judge(missing, PathBuf::from("."))
}

/// The spool and the directory of the control socket. tmpfiles.d makes them where there is systemd; else root
/// does, here, and the rules below need them to be there.
fn make_directories(cage: &QueueCage) -> Result<(), SandboxError> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    for directory in [cage.spool.clone(), cage.runtime.join("queue")] {
        if directory.exists() || !directory.parent().is_some_and(Path::is_dir) {
            continue;
        }
        let given = Given { uid: cage.account.uid, gid: cage.account.gid, mode: 0o700 };
        directory::make(&directory, given)
            .map_err(|error| SandboxError::step("make the directory of the spool or the control socket", error))?;
    }
    Ok(())
}

fn rules(cage: &QueueCage) -> Vec<Rule> {
    let written = |path: &Path, reach, absent| Rule { path: path.to_path_buf(), reach, absent };
    let mut rules = vec![
        written(&cage.spool, Reach::ReadWrite, Absent::Fail),
        written(&cage.runtime.join("queue"), Reach::ReadWriteSockets, Absent::Skip),
        Rule::read(&cage.runtime, Absent::Skip),
    ];
    // A mail directory that is missing is made below its parent by the administrator, not by us.
    rules.extend(cage.maildirs.iter().map(|path| written(path, Reach::ReadWrite, Absent::Fail)));
    rules.extend(cage.read.iter().map(|path| Rule::read(path, Absent::Skip)));
    rules.extend(READ.iter().map(|path| Rule::read(path, Absent::Skip)));
    rules.push(written(Path::new("/dev/null"), Reach::ReadWrite, Absent::Skip));
    rules
}

/// Files of the system: names, trust, time zones. A rule for a single file goes with the file that is there now; what is replaced
/// while we run is read by another process (`watch`).
const READ: &[&str] = &[
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/localtime",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/lib/ssl",
    "/usr/share/zoneinfo",
    "/dev/urandom",
];
