//! The step between the supervisor and a role: the same process before it becomes the role.
//!
//! The supervisor hands the role's sockets over as standard input and, where there is a second, standard output: those can be passed without
//! unsafe code. Here they become descriptors 3 and 4 as the protocol of sd_listen_fds(3) wants it. Nothing else stays open, and the role dies
//! with its supervisor.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
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
pub fn exec(program: &OsString, arguments: &[OsString], sockets: Sockets) -> io::Error {
    let error = match prepare(sockets) {
        Ok(()) => {
            let mut command = Command::new(program);
            command.args(arguments);
            let count = match sockets {
                Sockets::None => None,
                Sockets::OnStdin => Some("1"),
                Sockets::OnStdinAndStdout => Some("2"),
            };
            if let Some(count) = count {
                // Our own pid: exec keeps it.
                command.env("LISTEN_FDS", count).env("LISTEN_PID", std::process::id().to_string());
            }
            command.exec()
        }
        Err(error) => error,
    };
    io::Error::new(error.kind(), format!("cannot start {}: {error}", program.display()))
}

/// Where the role's sockets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sockets {
    None,
    OnStdin,
    OnStdinAndStdout,
}

impl Sockets {
    /// Of so many; more cannot be passed.
    pub fn of(count: u8) -> Option<Self> {
        match count {
            0 => Some(Self::None),
            1 => Some(Self::OnStdin),
            2 => Some(Self::OnStdinAndStdout),
            _ => None,
        }
    }
}

fn prepare(sockets: Sockets) -> io::Result<()> {
    die_with_parent()?; // 1. before anything can go wrong
    close_inherited()?; // 2. descriptor 3 is free from here on
    SigSet::empty().thread_set_mask()?; // 3. a mask is inherited over exec
    // Out of the way of what is passed.
    let null = rustix::io::fcntl_dupfd_cloexec(std::fs::File::options().read(true).write(true).open("/dev/null")?, 10)?;
    if sockets != Sockets::None {
        pass(io::stdin().as_fd(), 3)?;
    }
    rustix::stdio::dup2_stdin(&null)?;
    if sockets == Sockets::OnStdinAndStdout {
        pass(io::stdout().as_fd(), 4)?;
        rustix::stdio::dup2_stdout(&null)?;
    }
    Ok(())
}

/// Makes a descriptor the one of this number, for the program to come.
fn pass(descriptor: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    let listener = rustix::io::fcntl_dupfd_cloexec(descriptor, number)?;
    if listener.as_raw_fd() != number {
        return Err(io::Error::other(format!("descriptor {number} is taken")));
    }
    rustix::io::fcntl_setfd(&listener, FdFlags::empty())?;
    // Kept open for the program to come.
    std::mem::forget(listener);
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
