//! What the helper gives up before it answers anybody.
//!
//! Kept is what PAM modules need: uid 0, to read shadow files CAP_DAC_READ_SEARCH, and nothing to gain by
//! exec. The file system and system calls are narrowed by the unit, because modules differ in what they
//! open. Invariant: all of it is inherited by the template and its workers.

use std::io;

use nix::libc;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Gid, getgroups, getppid, setgroups};

use crate::settings::LowPorts;
use crate::sys::{self, CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE};

/// No core file and no way to look into the process: passwords pass through its memory.
pub(crate) fn no_core() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    prctl::set_dumpable(false)?;
    Ok(())
}

/// Keeps this process out of swap, each page from its first use on. Only where memory may be locked without a limit: under one
/// a module would run out of it. Neither fork nor exec hands it on.
pub(crate) fn lock_memory() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)?;
    mlockall(MlockAllFlags::from_bits_retain(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT))?;
    Ok(())
}

/// For every question that can wait or leave, and every worker, with room to spare.
pub(crate) const OF_LISTENER: u64 = 4096;
/// What programs usually have: there are modules that close whatever could be open, one by one.
pub(crate) const OF_WORKERS: u64 = 1024;

/// So many descriptors, if the hard limit has room for them.
pub(crate) fn descriptors(wanted: u64) -> io::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, wanted.min(most), most)?)
}

/// Signals as a program may expect them: none blocked, children waited for.
pub(crate) fn plain_signals() -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    sys::default_child_signal()
}

/// The helper ends with the supervisor that started it, however that one ends.
pub(crate) fn end_with(supervisor: i32) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // It may have ended before the line above.
    if getppid().as_raw() == supervisor { Ok(()) } else { Err(io::Error::other("the supervisor is gone")) }
}

/// Root may give a file to a group that it is a member of without any capability; so the ticket file
/// can be renewed daily when CAP_CHOWN is long gone. A failure shows when the file is written.
pub(crate) fn join(group: Gid) {
    if let Ok(mut groups) = getgroups()
        && !groups.contains(&group)
    {
        groups.push(group);
        let _ = setgroups(&groups);
    }
}

/// Nothing can be gained by exec any more, and only the named capabilities are left. The listener itself
/// uses none of them; they are for the workers.
pub(crate) fn drop_privileges(low_ports: LowPorts) -> io::Result<()> {
    prctl::set_no_new_privs()?;
    let keep: &[u32] = match low_ports {
        LowPorts::Needed => &[CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE],
        LowPorts::Dropped => &[CAP_DAC_READ_SEARCH],
    };
    sys::limit_capabilities(keep, &[])
}
