//! System calls that neither std nor nix offers safely: declarations, one small safe function each.
//!
//! Invariant: no function here can break memory or descriptors whatever its arguments; the ones that
//! take over a descriptor are told by the kernel, in the same breath, that it is ours.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::libc::{self, c_int, c_long, c_uint, c_ulong};
use nix::sys::signal::{SigHandler, Signal};
use nix::sys::socket::ControlMessageOwned;
use nix::unistd::{ForkResult, Pid};

/// `CAP_DAC_READ_SEARCH`: read shadow files whatever their mode.
pub(crate) const CAP_DAC_READ_SEARCH: u32 = 2;
/// `CAP_NET_BIND_SERVICE`: NIS answers shadow maps only to low ports.
pub(crate) const CAP_NET_BIND_SERVICE: u32 = 10;

/// Room for an account's entry in the name service. One that needs more is there, and that is an answer.
const ENTRY: usize = 16384;
const FIRST_INHERITED: RawFd = 3;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// The first descriptor of the LISTEN_FDS protocol; `None` when it is not open or was taken before.
pub(crate) fn inherited_descriptor() -> Option<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return None;
    }
    // SAFETY: F_GETFD reads a flag of a descriptor number and touches no memory.
    let flags = unsafe { libc::fcntl(FIRST_INHERITED, libc::F_GETFD) };
    if flags < 0 {
        return None;
    }
    // SAFETY: F_SETFD changes that flag alone and touches no memory.
    unsafe { libc::fcntl(FIRST_INHERITED, libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: the descriptor is open (checked above), was passed to this process to own, and TAKEN
    // makes this the only owner; the caller asks before any other descriptor is opened.
    Some(unsafe { OwnedFd::from_raw_fd(FIRST_INHERITED) })
}

/// Takes over the descriptors that one control message carried.
pub(crate) fn received_descriptors(message: ControlMessageOwned) -> Vec<OwnedFd> {
    let ControlMessageOwned::ScmRights(numbers) = message else {
        return Vec::new();
    };
    // SAFETY: the kernel has just installed these descriptors for this receiver, and the message is
    // consumed here, so nobody else owns them.
    numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect()
}

/// Forks. The caller has a single thread, so the child may go on as an ordinary program.
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the callers (the template) have checked that they have one thread, so no lock of the
    // allocator or of libc is held by a thread that the child lacks.
    let forked = unsafe { nix::unistd::fork() }?;
    Ok(match forked {
        ForkResult::Parent { child } => Some(child),
        ForkResult::Child => None,
    })
}

/// Ends the process at once: no destructor, no atexit handler of a PAM module.
pub(crate) fn exit_now(status: c_int) -> ! {
    // SAFETY: _exit does not return and runs no code of this process.
    unsafe { libc::_exit(status) }
}

/// Lets others go first on the processor from now on, by so much. Less is always granted.
pub(crate) fn yield_processor(nice: c_int) {
    // SAFETY: nice takes a number and touches no memory.
    unsafe { libc::nice(nice) };
}

/// Gives SIGCHLD its default action: whoever started us may have had it ignored, and then neither we nor a
/// module (`pam_exec` answers 4) can wait for a child.
pub(crate) fn default_child_signal() -> io::Result<()> {
    // SAFETY: SIG_DFL is no function of ours, so nothing of ours can run in a signal handler.
    unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    Ok(())
}

/// Closes every descriptor above standard error but `keep`. The process owns none of them any more
/// in the sense of Rust: it is a fresh fork that never returns to its parent's code.
pub(crate) fn close_all_but(keep: BorrowedFd<'_>) {
    let keep = c_uint::try_from(keep.as_raw_fd()).unwrap_or(0);
    for (first, last) in [(3, keep.saturating_sub(1)), (keep.saturating_add(1).max(3), c_uint::MAX)] {
        if first <= last {
            // SAFETY: close_range touches no memory; the owners of these descriptors in the copied
            // memory are never dropped, because the worker leaves by `exit_now`.
            unsafe { libc::syscall(libc::SYS_close_range, c_ulong::from(first), c_ulong::from(last), 0 as c_ulong) };
        }
    }
}

/// A descriptor for a child that has not been waited for.
pub(crate) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory.
    let number = unsafe { libc::syscall(libc::SYS_pidfd_open, c_long::from(pid.as_raw()), 0 as c_long) };
    let number = RawFd::try_from(number).ok().filter(|number| *number >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Kills exactly the process behind `pidfd`; a number that was used again cannot be hit.
pub(crate) fn pidfd_kill(pidfd: BorrowedFd<'_>) {
    let (number, signal) = (c_long::from(pidfd.as_raw_fd()), c_long::from(libc::SIGKILL));
    // SAFETY: with a null siginfo pointer pidfd_send_signal reads no memory of ours.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, number, signal, std::ptr::null::<libc::siginfo_t>(), 0 as c_long) };
}

/// Gives up every capability but `keep`, for this process and all it starts; of those kept, only
/// `effective` act here and now.
pub(crate) fn limit_capabilities(keep: &[u32], effective: &[u32]) -> io::Result<()> {
    for capability in 0..64 {
        if keep.contains(&capability) {
            continue;
        }
        // SAFETY: PR_CAPBSET_READ takes an integer and touches no memory.
        let present = unsafe { libc::prctl(libc::PR_CAPBSET_READ, c_ulong::from(capability), 0, 0, 0) };
        if present < 0 {
            break; // beyond the last capability that this kernel knows
        }
        // SAFETY: PR_CAPBSET_DROP takes an integer and touches no memory.
        if present == 1 && unsafe { libc::prctl(libc::PR_CAPBSET_DROP, c_ulong::from(capability), 0, 0, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: PR_CAP_AMBIENT_CLEAR_ALL takes integers and touches no memory.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong, 0, 0, 0) };

    let mut header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut sets = [CapabilitySets::default(); 2];
    // SAFETY: for version 3 the kernel reads the header and writes exactly two `CapabilitySets`; both
    // are ours, of the kernel's layout and alive during the call.
    if unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    for (word, set) in sets.iter_mut().enumerate() {
        let mask = |wanted: &[u32]| wanted.iter().filter(|c| (**c / 32) as usize == word).fold(0, |mask, c| mask | 1 << (c % 32));
        set.permitted &= mask(keep);
        set.effective = set.permitted & mask(effective);
        set.inheritable = 0;
    }
    // SAFETY: for version 3 the kernel reads the header and exactly two `CapabilitySets`.
    if unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether the name service has an answer about this name, whatever it is. A source that is away (NIS) leaves
/// `errno` as it was, and glibc returns that: a zero would be "no such user". So an error stands there
/// before, which only an answer takes away. The source that nsswitch.conf asks last decides.
pub(crate) fn name_is_answered(name: &CStr) -> bool {
    let mut entry = MaybeUninit::<libc::passwd>::uninit();
    let mut text = [0 as c_char; ENTRY];
    let mut found = std::ptr::null_mut();
    Errno::EIO.set();
    // SAFETY: name is a C string; the entry, the text with its length and the pointer are ours and alive during
    // the call, and nothing is read from them after it.
    let result = unsafe { libc::getpwnam_r(name.as_ptr(), entry.as_mut_ptr(), text.as_mut_ptr(), text.len(), &raw mut found) };
    matches!(result, 0 | libc::ERANGE)
}

/// `struct __user_cap_header_struct` of linux/capability.h.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

/// `struct __user_cap_data_struct` of linux/capability.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilitySets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags, poll};

    use super::*;

    #[test]
    fn a_pidfd_kills_its_process_and_tells_its_end() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pidfd = pidfd_open(Pid::from_raw(child.id().try_into().unwrap())).unwrap();

        pidfd_kill(pidfd.as_fd());

        let ended = poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], 5000u16).unwrap();
        assert_eq!(ended, 1);
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn a_process_that_is_no_more_has_no_pidfd() {
        assert!(pidfd_open(Pid::from_raw(i32::MAX)).is_err());
    }
}
