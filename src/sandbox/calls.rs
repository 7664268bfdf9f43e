//! seccomp: which system calls a role has left, and with which arguments.
//!
//! Invariant: a filter compares numbers and arguments only, never memory, so nothing can be changed behind it. Of
//! several filters the strictest answer counts: each says one thing, and together they are the rule.
//!
//! The front has a list of what it may do and dies at the first other call. Keys and queue have a list of what
//! they may not, because libraries that read files and look up names are too various for a list of the
//! permitted; there the answer is EPERM.

use std::{collections::BTreeMap, io};

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::{Missing, SandboxError};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

const MSG_FASTOPEN: u64 = 0x2000_0000;
const THREAD: u64 = 0x0001_0900; // CLONE_THREAD | CLONE_SIGHAND | CLONE_VM
const NAMESPACES: u64 = 0x7e02_0080; // CLONE_NEW*, all of them
const PROT_EXEC: u64 = 4;
const PR_SET_NAME: u64 = 15;
const SHORTEST_INET_ADDRESS: u64 = 16;
const SOCKET_TYPE: u64 = 0xf; // the rest of the argument is SOCK_CLOEXEC and SOCK_NONBLOCK
const TCP_ULP: u64 = 31;
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541c;

/// The address families a role may open sockets of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Families {
    Unix,
    UnixAndInternet,
}

/// Whether a role may make new Unix listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Servers {
    Old,
    New,
}

/// The front's three filters. After this the process can do what serving connections needs.
pub(super) fn confine_front() -> Result<Option<Missing>, SandboxError> {
    let pid = u64::from(std::process::id());
    install(&[
        filter(thread_flags_visible(), SeccompAction::Allow, errno(libc::ENOSYS))?,
        filter(curiosity(), SeccompAction::Allow, errno(libc::EPERM))?,
        filter(front_calls(pid)?, SeccompAction::KillProcess, SeccompAction::Allow)?,
    ])
}

/// The filters of keys and queue.
pub(super) fn confine_role(families: Families, servers: Servers) -> Result<Option<Missing>, SandboxError> {
    install(&[
        filter(thread_flags_visible(), SeccompAction::Allow, errno(libc::ENOSYS))?,
        filter(forbidden(families, servers)?, SeccompAction::Allow, errno(libc::EPERM))?,
    ])
}

fn errno(number: i32) -> SeccompAction {
    SeccompAction::Errno(u32::try_from(number).unwrap_or(1))
}

fn install(programs: &[BpfProgram]) -> Result<Option<Missing>, SandboxError> {
    for (place, program) in programs.iter().enumerate() {
        match seccompiler::apply_filter(program) {
            Ok(()) => {}
            // Only the first can find the kernel without seccomp; later ones failing is no missing part.
            Err(seccompiler::Error::Seccomp(error)) if place == 0 && is_absent(&error) => {
                return Ok(Some(Missing::Seccomp));
            }
            Err(error) => return Err(SandboxError::Filter(error.to_string())),
        }
    }
    Ok(None)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::EPERM))
}

fn filter(rules: Rules, otherwise: SeccompAction, on_match: SeccompAction) -> Result<BpfProgram, SandboxError> {
    let failed = |error: String| SandboxError::Filter(error);
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| failed(error.to_string()))?;
    let filter = SeccompFilter::new(rules, otherwise, on_match, arch).map_err(|error| failed(error.to_string()))?;
    BpfProgram::try_from(filter).map_err(|error| failed(error.to_string()))
}

/// `clone3` keeps its flags in memory, out of sight; without it the C library uses `clone`.
fn thread_flags_visible() -> Rules {
    named(&[libc::SYS_clone3])
}

/// What libraries try and do well without: it fails, but is no reason to die.
fn curiosity() -> Rules {
    named(CURIOSITY)
}

const CURIOSITY: &[i64] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getcwd,
    libc::SYS_ioctl,
    libc::SYS_prlimit64,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// Everything the front may do.
fn front_calls(pid: u64) -> Result<Rules, SandboxError> {
    let mut rules = named(FRONT);
    rules.extend(curiosity());

    // Threads only: no process, no namespace.
    matching(&mut rules, libc::SYS_clone, vec![when(0, Len::Qword, Op::MaskedEq(THREAD | NAMESPACES), THREAD)?])?;
    // No memory that can be run.
    matching(&mut rules, libc::SYS_mmap, vec![when(2, Len::Qword, Op::MaskedEq(PROT_EXEC), 0)?])?;
    matching(&mut rules, libc::SYS_mprotect, vec![when(2, Len::Qword, Op::MaskedEq(PROT_EXEC), 0)?])?;
    // Local streams only: a datagram can go to a socket that nobody connected it to. And no address that could be an
    // internet one: a TCP socket the front has accepted could be disconnected and turned outwards. What it writes, it
    // writes to connected sockets: sendmsg and sendmmsg carry addresses and descriptors where no filter sees them, so
    // they are not in the list at all.
    let (unix, stream) = (u64::try_from(libc::AF_UNIX).unwrap_or(1), u64::try_from(libc::SOCK_STREAM).unwrap_or(1));
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        let unix_stream = vec![when(0, Len::Dword, Op::Eq, unix)?, when(1, Len::Dword, Op::MaskedEq(SOCKET_TYPE), stream)?];
        matching(&mut rules, call, unix_stream)?;
    }
    matching(&mut rules, libc::SYS_connect, vec![when(2, Len::Dword, Op::Lt, SHORTEST_INET_ADDRESS)?])?;
    let not_fast_open = |argument| when(argument, Len::Dword, Op::MaskedEq(MSG_FASTOPEN), 0);
    matching(&mut rules, libc::SYS_sendto, vec![when(4, Len::Qword, Op::Eq, 0)?, not_fast_open(3)?])?;
    // Options of sockets and of TCP, but no upper protocol loaded into the kernel.
    let (socket_level, tcp_level) = (u64::try_from(libc::SOL_SOCKET).unwrap_or(1), 6);
    matching(&mut rules, libc::SYS_setsockopt, vec![when(1, Len::Dword, Op::Eq, socket_level)?])?;
    let tcp = vec![when(1, Len::Dword, Op::Eq, tcp_level)?, when(2, Len::Dword, Op::Ne, TCP_ULP)?];
    matching(&mut rules, libc::SYS_setsockopt, tcp)?;
    // Descriptor flags and copies; no leases, locks, signals to others.
    for command in [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC] {
        let command = u64::try_from(command).unwrap_or(0);
        matching(&mut rules, libc::SYS_fcntl, vec![when(1, Len::Dword, Op::Eq, command)?])?;
    }
    matching(&mut rules, libc::SYS_prctl, vec![when(0, Len::Dword, Op::Eq, PR_SET_NAME)?])?;
    matching(&mut rules, libc::SYS_tgkill, vec![when(0, Len::Dword, Op::Eq, pid)?])?; // abort() only
    Ok(rules)
}

/// Calls the front may make with any arguments.
const FRONT: &[i64] = &[
    // Waiting and reading and writing.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_create1,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_accept4,
    libc::SYS_shutdown,
    libc::SYS_close,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_fstat,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_madvise,
    libc::SYS_mremap,
    // Threads and time.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_clone3, // the first filter answers it
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Signals.
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
];

/// What neither keys nor queue ever needs.
fn forbidden(families: Families, servers: Servers) -> Result<Rules, SandboxError> {
    let mut rules = named(FORBIDDEN);
    // A process instead of a thread, or a namespace.
    matching(&mut rules, libc::SYS_clone, vec![when(0, Len::Qword, Op::MaskedEq(libc_thread()), 0)?])?;
    for bit in (0..32).map(|shift| 1 << shift).filter(|bit| NAMESPACES & bit != 0) {
        matching(&mut rules, libc::SYS_clone, vec![when(0, Len::Qword, Op::MaskedEq(bit), bit)?])?;
    }
    for call in [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_pkey_mprotect] {
        matching(&mut rules, call, vec![when(2, Len::Qword, Op::MaskedEq(PROT_EXEC), PROT_EXEC)?])?;
    }
    let permitted: &[i32] = match families {
        Families::Unix => &[libc::AF_UNIX],
        Families::UnixAndInternet => &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6],
    };
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        let none_of = permitted.iter().map(|family| when(0, Len::Dword, Op::Ne, u64::try_from(*family).unwrap_or(1)));
        matching(&mut rules, call, none_of.collect::<Result<_, _>>()?)?;
        // Among local sockets, only streams: a datagram can go to anybody's socket. The one to the service manager is
        // connected before.
        let unix = u64::try_from(libc::AF_UNIX).unwrap_or(1);
        let stream = u64::try_from(libc::SOCK_STREAM).unwrap_or(1);
        for kind in (0..=SOCKET_TYPE).filter(|kind| *kind != stream) {
            matching(&mut rules, call, vec![when(0, Len::Dword, Op::Eq, unix)?, when(1, Len::Dword, Op::MaskedEq(SOCKET_TYPE), kind)?])?;
        }
    }
    // In the foreground the role has the administrator's terminal: it must not type on it.
    for request in [TIOCSTI, TIOCLINUX] {
        matching(&mut rules, libc::SYS_ioctl, vec![when(1, Len::Dword, Op::Eq, request)?])?;
    }
    if families == Families::Unix {
        // It answers those who come to it, and goes to nobody.
        rules.insert(libc::SYS_connect, Vec::new());
        matching(&mut rules, libc::SYS_sendto, vec![when(4, Len::Qword, Op::Ne, 0)?])?;
        // Their addresses are in memory, where a filter cannot look.
        rules.insert(libc::SYS_sendmsg, Vec::new());
        rules.insert(libc::SYS_sendmmsg, Vec::new());
    }
    if servers == Servers::Old {
        rules.insert(libc::SYS_bind, Vec::new());
        rules.insert(libc::SYS_listen, Vec::new());
    }
    forbid_x32(&mut rules);
    Ok(rules)
}

/// CLONE_THREAD alone: without it a clone is a process.
fn libc_thread() -> u64 {
    0x0001_0000
}

/// The same kernel functions have second numbers on x86-64 (the x32 ABI), which a list must name too.
fn forbid_x32(rules: &mut Rules) {
    const X32: i64 = 0x4000_0000;
    if cfg!(target_arch = "x86_64") {
        let second: Rules = rules.iter().map(|(number, chain)| (number | X32, chain.clone())).collect();
        rules.extend(second);
        rules.extend((512..=547).map(|number| (number | X32, Vec::new())));
    }
}

const FORBIDDEN: &[i64] = &[
    // Other programs, other processes.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kcmp,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    libc::SYS_personality,
    libc::SYS_shmat,
    // Who one is, and where.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    libc::SYS_mknodat,
    // The kernel's wide doors.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    libc::SYS_fanotify_init,
    libc::SYS_lookup_dcookie,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_mbind,
    libc::SYS_set_mempolicy,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// Rules that match calls whatever their arguments.
fn named(calls: &[i64]) -> Rules {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

/// Adds "this call, when all of these hold" to the rules that a filter matches.
fn matching(rules: &mut Rules, call: i64, conditions: Vec<SeccompCondition>) -> Result<(), SandboxError> {
    let rule = SeccompRule::new(conditions).map_err(|error| SandboxError::Filter(error.to_string()))?;
    rules.entry(call).or_default().push(rule);
    Ok(())
}

fn when(argument: u8, length: Len, op: Op, value: u64) -> Result<SeccompCondition, SandboxError> {
    SeccompCondition::new(argument, length, op, value).map_err(|error| SandboxError::Filter(error.to_string()))
}
