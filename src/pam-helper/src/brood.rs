//! The children of this process, and what they leave behind.
//!
//! Modules start programs (`pam_exec` gives its own a session of its own), and programs outlive the worker
//! that was killed. As a *subreaper* this process becomes the parent of every such orphan, finds it among
//! its children, and kills it. Invariant: a child's number is used for a signal only before that child is
//! waited for, while nobody else can have the number.

use std::fs;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpid};

/// A child that has ended.
pub(crate) struct Ended {
    pub(crate) pid: Pid,
    pub(crate) status: i32,
    pub(crate) signal: i32,
}

/// Whether orphans were found and may have left orphans of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Orphans {
    None,
    Killed,
}

/// From now on orphans below this process become its children.
pub(crate) fn adopt_orphans() -> nix::Result<()> {
    prctl::set_child_subreaper(true)
}

/// Waits for every child that has ended, and kills what is left of its process group.
pub(crate) fn reap() -> Vec<Ended> {
    let mut ended = Vec::new();
    loop {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let pid = match waitid(Id::All, look) {
            Ok(status) => status.pid(),
            Err(Errno::EINTR) => continue,
            Err(_) => None,
        };
        let Some(pid) = pid else { return ended };
        let _ = killpg(pid, Signal::SIGKILL); // still unwaited, so the number is still its own
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) => ended.push(Ended { pid, status, signal: 0 }),
            Ok(WaitStatus::Signaled(pid, signal, _)) => ended.push(Ended { pid, status: 0, signal: signal as i32 }),
            Ok(_) | Err(_) => return ended,
        }
    }
}

/// Kills every child that is not among `ours`.
pub(crate) fn kill_orphans(ours: &[Pid]) -> Orphans {
    let me = getpid();
    let children = fs::read_to_string(format!("/proc/self/task/{me}/children")).unwrap_or_default();
    let mut found = Orphans::None;
    for pid in children.split_whitespace().filter_map(|number| number.parse().ok()).map(Pid::from_raw) {
        if !ours.contains(&pid) {
            let _ = kill(pid, Signal::SIGKILL); // a child, not waited for: the number is its own
            found = Orphans::Killed;
        }
    }
    found
}
