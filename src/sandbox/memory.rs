//! Memory that never goes to swap: passwords pass through it, keys lie in it.
//!
//! Invariant: all or nothing. Under a limit some mapping of later would fail, so memory is locked only where there is none.

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use super::{Missing, SandboxError};

/// Locks what is there and what will be, each page when it is first used. Called while the process may still raise its own limit.
pub(super) fn lock() -> Result<Option<Missing>, SandboxError> {
    if setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_err() {
        return Ok(Some(Missing::LockedMemory));
    }
    let all_when_used = MlockAllFlags::from_bits_retain(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT);
    match mlockall(all_when_used) {
        Ok(()) => Ok(None),
        Err(Errno::ENOSYS | Errno::EINVAL | Errno::EPERM) => Ok(Some(Missing::LockedMemory)),
        Err(errno) => Err(SandboxError::step("lock memory", errno)),
    }
}
