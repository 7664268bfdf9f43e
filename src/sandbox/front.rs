//! The cage of the front end: it holds client sockets and can reach three local sockets, and nothing else.
//!
//! Invariant: after [`front`] no file can be opened, no process made, no connection begun but to the sockets in
//! the jail. All that needs a file must be loaded before: the configuration, the number of CPUs, the time zone,
//! the sockets to the journal and the service manager.

use std::path::{Path, PathBuf};

use caps::Capability;

use super::{
    Account, Caged, Missing, Policy, SandboxError,
    account::{Groups, become_user, keep_only},
    alone, calls, draw_a_random_byte, limits, memory,
    paths::{self, Tcp},
};

/// What the front's cage depends on.
#[derive(Debug, Clone)]
pub struct FrontCage {
    pub account: Account,
    /// The directory that holds the sockets `auth`, `keys` and `queue`; their names must stay short.
    pub jail: PathBuf,
    pub policy: Policy,
}

/// Enters the cage. The listeners are bound and the log is connected by now; no other thread exists yet.
pub fn front(cage: &FrontCage) -> Result<Caged, SandboxError> {
    alone()?;
    draw_a_random_byte()?;
    let mut missing = Vec::from_iter(memory::lock()?);

    let may_chroot = become_user(&cage.account, Groups::Own, &[Capability::CAP_SYS_CHROOT])?; // 1. not root any more
    no_directory_open()?; // 2. a descriptor of one would lead out of the chroot
    nix::unistd::chdir(&cage.jail).map_err(|errno| SandboxError::step("enter the jail", errno))?;
    let jail = if may_chroot {
        nix::unistd::chroot(".").map_err(|errno| SandboxError::step("change root into the jail", errno))?; // 3.
        PathBuf::from("/")
    } else {
        missing.push(Missing::Chroot);
        PathBuf::from(".") // the sockets are reached from here, by names that are short
    };
    keep_only(&[])?; // 4. no capability
    limits::settle()?; // 5. no core, no new privileges, no debugger
    missing.extend(paths::confine(&[], Tcp::Nothing)?); // 6. no file at all
    missing.extend(calls::confine_front()?); // 7. last: after this nothing of the above can be called
    cage.policy.judge(missing, jail)
}

fn no_directory_open() -> Result<(), SandboxError> {
    let entries = std::fs::read_dir("/proc/self/fd").map_err(|error| SandboxError::step("list the descriptors in /proc/self/fd", error))?;
    let names: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect(); // the listing is closed here
    match names.iter().find(|name| is_directory(name)) {
        Some(name) => Err(SandboxError::DirectoryOpen(std::fs::read_link(name).unwrap_or_else(|_| name.clone()))),
        None => Ok(()),
    }
}

fn is_directory(descriptor: &Path) -> bool {
    std::fs::metadata(descriptor).is_ok_and(|it| it.is_dir())
}
