//! The step between the supervisor and a role: the same process before it becomes the role.
//!
//! The supervisor hands the role's socket over as standard input, the one descriptor that can be passed without unsafe code; here it becomes
//! descriptor 3 as the protocol of sd_listen_fds(3) wants it. Nothing else stays open, and the role dies with its supervisor.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use rustix::io::FdFlags;

/// The hidden subcommand that leads here.
pub const SUBCOMMAND: &str = "role-exec";
/// Tells a role the pid of the supervisor, which it must not outlive.
pub const SUPERVISED: &str = "PAMRELAY_SUPERVISED";

/// Becomes the role's program. Returns only if that fails.
pub fn exec(program: &OsString, arguments: &[OsString], socket: Socket) -> io::Error {
    let error = match prepare(socket) {
        Ok(()) => {
            let mut command = Command::new(program);
            command.args(arguments);
            if let Socket::OnStdin = socket {
                // Our own pid: exec keeps it.
                command.env("LISTEN_FDS", "1").env("LISTEN_PID", std::process::id().to_string());
            }
            command.exec()
        }
        Err(error) => error,
    };
    io::Error::new(error.kind(), format!("cannot start {}: {error}", program.display()))
}

/// What standard input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    OnStdin,
    None,
}

fn prepare(socket: Socket) -> io::Result<()> {
    die_with_parent()?; // 1. before anything can go wrong
    close_inherited()?; // 2. descriptor 3 is free from here on
    SigSet::empty().thread_set_mask()?; // 3. a mask is inherited over exec
    if let Socket::OnStdin = socket {
        let listener = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
        if listener.as_raw_fd() != 3 {
            return Err(io::Error::other("descriptor 3 is taken"));
        }
        rustix::io::fcntl_setfd(&listener, FdFlags::empty())?;
        // Kept open for the program to come.
        std::mem::forget(listener);
    }
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(())
}

/// Where a supervisor started this process: the kernel kills it when the supervisor ends, however it ends. A change of user undoes this, so a role
/// says it again after its own.
pub fn die_with_parent() -> io::Result<()> {
    let Some(supervisor) = std::env::var(SUPERVISED).ok().and_then(|pid| pid.parse::<i32>().ok()) else { return Ok(()) };
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // It may have ended before the line above.
    if nix::unistd::getppid().as_raw() == supervisor { Ok(()) } else { Err(io::Error::other("the supervisor is gone")) }
}

/// Closes what the supervisor's own parent may have left open, such as a job server of make.
pub(crate) fn close_inherited() -> io::Result<()> {
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        // The directory just read is among them and closed already.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}
