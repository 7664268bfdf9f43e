//! The small irrevocable settings of a process: no core files, no new privileges, no debugger.
//!
//! Invariant: [`settle`] is called after the last change of user, which would make the process dumpable again.

use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
    stat::{Mode, umask},
};

use super::SandboxError;

/// Fixes them all, and raises the number of descriptors to what is permitted.
pub(super) fn settle() -> Result<(), SandboxError> {
    umask(Mode::from_bits_truncate(0o077));
    crate::run::child::die_with_parent().map_err(|error| SandboxError::step("follow the supervisor", error))?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|errno| SandboxError::step("read the limit of descriptors", errno))?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).map_err(|errno| SandboxError::step("raise the limit of descriptors", errno))?;
    prctl::set_no_new_privs().map_err(|errno| SandboxError::step("forbid new privileges", errno))?;
    opaque()
}

/// No core file, and nobody of the same user who looks inside.
pub fn opaque() -> Result<(), SandboxError> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|errno| SandboxError::step("forbid core files", errno))?;
    prctl::set_dumpable(false).map_err(|errno| SandboxError::step("forbid debuggers", errno))
}
