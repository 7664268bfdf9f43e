//! Becoming the role's user, with the capabilities it needs and no others.
//!
//! Invariant: after [`become_user`] neither root nor any capability but the kept ones can come back: real,
//! effective and saved ids are the role's, and the bounding set is emptied where that is permitted.

use std::{collections::HashSet, ffi::CString, io};

use caps::{CapSet, Capability};
use nix::unistd::{Gid, Uid, User, geteuid, initgroups, setgroups, setresgid, setresuid};

use super::SandboxError;

/// The user a role runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// Which supplementary groups the role keeps.
#[derive(Debug, Clone, Copy)]
pub(super) enum Groups {
    /// Its own, and none beside.
    Own,
    /// Those the administrator put it in: mail directories may be shared by group.
    FromDatabase,
}

impl Account {
    /// Looks a user up by name.
    pub fn named(name: &str) -> Result<Self, SandboxError> {
        match User::from_name(name) {
            Ok(Some(user)) => Ok(Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }),
            Ok(None) => Err(SandboxError::NoUser(name.to_owned())),
            Err(errno) => Err(SandboxError::step("look up a user", errno)),
        }
    }

    /// Whoever runs this process.
    pub fn current() -> Self {
        let (uid, gid) = (geteuid(), nix::unistd::getegid());
        let name = match User::from_uid(uid) {
            Ok(Some(user)) => user.name,
            Ok(None) | Err(_) => uid.to_string(),
        };
        Self { name, uid: uid.as_raw(), gid: gid.as_raw() }
    }
}

/// Drops from root to the user, or checks that systemd has done so, and keeps of `keep` what it may.
///
/// Returns whether all of `keep` is held.
pub(super) fn become_user(account: &Account, groups: Groups, keep: &[Capability]) -> Result<bool, SandboxError> {
    if account.uid == 0 {
        return Err(SandboxError::RootUser(account.name.clone()));
    }
    if geteuid().is_root() {
        drop_bounding()?;
        drop_root(account, groups)?;
    } else if geteuid().as_raw() != account.uid {
        return Err(SandboxError::WrongUser { is: geteuid().as_raw(), wanted: account.name.clone() });
    }
    keep_only(keep)
}

/// Forbids capabilities to come back by any exec. Needs CAP_SETPCAP; without it no_new_privs must do.
fn drop_bounding() -> Result<(), SandboxError> {
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(capabilities)? {
        return Ok(());
    }
    for capability in caps::read(None, CapSet::Bounding).map_err(capabilities)? {
        caps::drop(None, CapSet::Bounding, capability).map_err(capabilities)?;
    }
    Ok(())
}

fn drop_root(account: &Account, groups: Groups) -> Result<(), SandboxError> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    match groups {
        Groups::Own => setgroups(&[gid]),
        Groups::FromDatabase => {
            let name = CString::new(account.name.as_str()).map_err(|_| SandboxError::step("set groups", io::ErrorKind::InvalidInput))?;
            initgroups(&name, gid)
        }
    }
    .map_err(|errno| SandboxError::step("set groups", errno))?;
    setresgid(gid, gid, gid).map_err(|errno| SandboxError::step("set the group", errno))?;
    // The permitted set survives the change of user, so that one capability can be kept of it.
    nix::sys::prctl::set_keepcaps(true).map_err(|errno| SandboxError::step("keep capabilities", errno))?;
    setresuid(uid, uid, uid).map_err(|errno| SandboxError::step("set the user", errno))?;
    nix::sys::prctl::set_keepcaps(false).map_err(|errno| SandboxError::step("keep capabilities", errno))
}

/// Leaves exactly those of `keep` that are permitted; `keep` empty leaves nothing.
pub(super) fn keep_only(keep: &[Capability]) -> Result<bool, SandboxError> {
    let permitted = caps::read(None, CapSet::Permitted).map_err(capabilities)?;
    let kept: HashSet<Capability> = keep.iter().copied().filter(|wanted| permitted.contains(wanted)).collect();

    let ambient = caps::clear(None, CapSet::Ambient);
    caps::clear(None, CapSet::Inheritable).map_err(capabilities)?;
    caps::clear(None, CapSet::Effective).map_err(capabilities)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(capabilities)?;
    caps::set(None, CapSet::Effective, &kept).map_err(capabilities)?;
    // An empty inheritable set empties the ambient one too, so this error would be of no consequence but oddness.
    ambient.map_err(capabilities)?;
    Ok(kept.len() == keep.len())
}

fn capabilities(error: caps::errors::CapsError) -> SandboxError {
    SandboxError::Capabilities(error.to_string())
}
