//! What a captured role would try. Every attack is a system call by number, as shell code would do it.

use std::{
    ffi::CString,
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
};

use nix::libc::{self, c_long};

/// An attack: its name, and what it does. `Ok` means the wall has a hole.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// Whether root outside of any cage succeeds with it here; where not, it only shows that the cage refuses.
    pub(crate) works_outside: bool,
    pub(crate) run: fn(&Loot) -> Result<(), i32>,
}

/// What the attacker finds in the process it has captured, and what it would like to have.
pub(crate) struct Loot {
    /// A TCP connection the role held when it entered the cage.
    pub(crate) held: TcpStream,
    _listener: TcpListener,
    _client: TcpStream,
    /// A listener in another process that it must not reach.
    pub(crate) port: u16,
    /// The process that started this one.
    pub(crate) parent: usize,
    /// The short name of an abstract socket of another process.
    pub(crate) abstract_name: String,
    /// A file of root's, mode 0600, by its path outside.
    pub(crate) key: String,
    /// The directory all test files are in.
    pub(crate) place: String,
}

impl Loot {
    pub(crate) fn gather() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (held, _) = listener.accept().unwrap();
        let text = |name: &str| std::env::var(name).unwrap();
        Self {
            held,
            _listener: listener,
            _client: client,
            port: text("CAGE_TEST_PORT").parse().unwrap(),
            parent: usize::try_from(nix::unistd::getppid().as_raw()).unwrap(),
            abstract_name: text("CAGE_TEST_ABSTRACT"),
            key: text("CAGE_TEST_KEY"),
            place: text("CAGE_TEST_PLACE"),
        }
    }
}

pub(crate) fn call(number: c_long, arguments: &[usize]) -> Result<usize, i32> {
    let at = |place: usize| arguments.get(place).copied().unwrap_or(0);
    // SAFETY: every pointer given lies in memory that the caller keeps until this returns, or is null or nonsense,
    // which the kernel answers with EFAULT.
    let result = unsafe { libc::syscall(number, at(0), at(1), at(2), at(3), at(4), at(5)) };
    usize::try_from(result).map_err(|_| nix::errno::Errno::last_raw())
}

fn path(path: &str) -> CString {
    CString::new(path).unwrap()
}

pub(crate) fn open(name: &str, flags: i32) -> Result<usize, i32> {
    let name = path(name);
    call(libc::SYS_openat, &[at_cwd(), name.as_ptr() as usize, flags as usize, 0o600])
}

fn read(name: &str) -> Result<(), i32> {
    done(open(name, libc::O_RDONLY))
}

fn at_cwd() -> usize {
    libc::AT_FDCWD as usize
}

fn done(result: Result<usize, i32>) -> Result<(), i32> {
    result.map(drop)
}

fn fd(of: &impl AsRawFd) -> usize {
    usize::try_from(of.as_raw_fd()).unwrap()
}

/// A `sockaddr_in` for 127.0.0.1.
fn inet(port: u16) -> [u8; 16] {
    let mut address = [0; 16];
    address[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    address[2..4].copy_from_slice(&port.to_be_bytes());
    address[4..8].copy_from_slice(&[127, 0, 0, 1]);
    address
}

fn unix(name: &[u8]) -> Vec<u8> {
    [&(libc::AF_UNIX as u16).to_ne_bytes()[..], name].concat()
}

fn connect(socket: usize, address: &[u8]) -> Result<(), i32> {
    done(call(libc::SYS_connect, &[socket, address.as_ptr() as usize, address.len()]))
}

fn socket(family: i32, kind: i32) -> Result<usize, i32> {
    call(libc::SYS_socket, &[family as usize, kind as usize, 0])
}

/// One end of two that are connected.
fn pair(family: i32, kind: i32) -> Result<usize, i32> {
    let mut ends = [0i32; 2];
    call(libc::SYS_socketpair, &[family as usize, kind as usize, 0, ends.as_mut_ptr() as usize])?;
    usize::try_from(ends[0]).map_err(|_| libc::EBADF)
}

/// One octet by sendmsg.
fn send_message(socket: usize, address: &[u8], control: &[u64]) -> Result<(), i32> {
    let parts = [b"x".as_ptr() as usize, 1];
    let pointer = |empty: bool, at: usize| if empty { 0 } else { at };
    let message = [
        pointer(address.is_empty(), address.as_ptr() as usize),
        address.len(),
        parts.as_ptr() as usize,
        1,
        pointer(control.is_empty(), control.as_ptr() as usize),
        std::mem::size_of_val(control),
        0,
    ];
    done(call(libc::SYS_sendmsg, &[socket, message.as_ptr() as usize, libc::MSG_NOSIGNAL as usize]))
}

fn turn_outwards(loot: &Loot, unspec: &[u8]) -> Result<(), i32> {
    connect(fd(&loot.held), unspec)?;
    connect(fd(&loot.held), &inet(loot.port))
}

fn page() -> [u64; 512] {
    [0; 512]
}

macro_rules! attack {
    ($name:literal, $outside:expr, $run:expr) => {
        Attack { name: $name, works_outside: $outside, run: $run }
    };
}

/// Attacks that must fail from inside every cage.
pub(crate) const EVERYWHERE: &[Attack] = &[
    attack!("open /etc/shadow", true, |_| done(open("/etc/shadow", libc::O_RDONLY))),
    attack!("open /etc/passwd", true, |_| done(open("/etc/passwd", libc::O_RDONLY))),
    attack!("open /proc/1/mem", false, |_| done(open("/proc/1/mem", libc::O_RDWR))),
    attack!("open the parent's memory", true, |loot| done(open(&format!("/proc/{}/mem", loot.parent), libc::O_RDWR))),
    attack!("list /", true, |_| done(open("/", libc::O_RDONLY | libc::O_DIRECTORY))),
    attack!("make a file in /tmp", true, |_| done(open("/tmp/cage-test-was-here", libc::O_RDWR | libc::O_CREAT))),
    attack!("open a file by openat2", true, |_| {
        let name = path("/etc/shadow");
        let how = [0u64; 3];
        done(call(libc::SYS_openat2, &[at_cwd(), name.as_ptr() as usize, how.as_ptr() as usize, 24]))
    }),
    attack!("execve", true, |_| {
        let name = path("/bin/true");
        let arguments = [name.as_ptr() as usize, 0];
        done(call(libc::SYS_execve, &[name.as_ptr() as usize, arguments.as_ptr() as usize, 0]))
    }),
    attack!("fork", true, |_| done(call(libc::SYS_clone, &[libc::SIGCHLD as usize]))),
    attack!("clone3", true, |_| {
        let mut arguments = [0u64; 8];
        arguments[4] = libc::SIGCHLD as u64;
        done(call(libc::SYS_clone3, &[arguments.as_ptr() as usize, 64]))
    }),
    attack!("ptrace the parent", true, |loot| done(call(libc::SYS_ptrace, &[libc::PTRACE_SEIZE as usize, loot.parent]))),
    attack!("read the parent's memory", false, |loot| {
        let mut buffer = page();
        let local = [buffer.as_mut_ptr() as usize, 8];
        let remote = [0x1000usize, 8];
        done(call(libc::SYS_process_vm_readv, &[loot.parent, local.as_ptr() as usize, 1, remote.as_ptr() as usize, 1]))
    }),
    attack!("hold the parent by pidfd", true, |loot| done(call(libc::SYS_pidfd_open, &[loot.parent]))),
    attack!("socket AF_NETLINK", true, |_| done(socket(libc::AF_NETLINK, libc::SOCK_RAW))),
    attack!("socket AF_PACKET", true, |_| done(socket(libc::AF_PACKET, libc::SOCK_RAW))),
    attack!("socket AF_ALG", false, |_| done(socket(libc::AF_ALG, libc::SOCK_SEQPACKET))),
    attack!("socket AF_VSOCK", false, |_| done(socket(libc::AF_VSOCK, libc::SOCK_STREAM))),
    attack!("mount", false, |_| {
        let (what, place) = (path("tmpfs"), path("/"));
        let what = what.as_ptr() as usize;
        done(call(libc::SYS_mount, &[what, place.as_ptr() as usize, what, 0, 0]))
    }),
    attack!("setuid(0)", true, |_| done(call(libc::SYS_setuid, &[0]))),
    attack!("setresuid(0, 0, 0)", true, |_| done(call(libc::SYS_setresuid, &[0, 0, 0]))),
    attack!("unshare a user namespace", true, |_| done(call(libc::SYS_unshare, &[libc::CLONE_NEWUSER as usize]))),
    attack!("clone into a user namespace", true, |_| { done(call(libc::SYS_clone, &[(libc::CLONE_NEWUSER | libc::SIGCHLD) as usize])) }),
    attack!("chroot", true, |_| {
        let root = path("/");
        done(call(libc::SYS_chroot, &[root.as_ptr() as usize]))
    }),
    attack!("bpf", false, |_| done(call(libc::SYS_bpf, &[0, page().as_ptr() as usize, 64]))),
    attack!("perf_event_open", false, |_| {
        done(call(libc::SYS_perf_event_open, &[page().as_ptr() as usize, 0, usize::MAX, usize::MAX, 0]))
    }),
    attack!("userfaultfd", false, |_| done(call(libc::SYS_userfaultfd, &[libc::O_CLOEXEC as usize]))),
    attack!("keyctl", false, |_| done(call(libc::SYS_keyctl, &[0, usize::MAX - 2]))),
    attack!("io_uring_setup", false, |_| done(call(libc::SYS_io_uring_setup, &[1, page().as_ptr() as usize]))),
    attack!("memfd_create", true, |_| done(call(libc::SYS_memfd_create, &[path("x").as_ptr() as usize, 0]))),
    attack!("memory that can be run", true, |_| {
        let rights = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as usize;
        let kind = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
        done(call(libc::SYS_mmap, &[0, 4096, rights, kind, usize::MAX, 0]))
    }),
    attack!("memory made runnable", true, |_| {
        let kind = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
        let rights = (libc::PROT_READ | libc::PROT_WRITE) as usize;
        let start = call(libc::SYS_mmap, &[0, 4096, rights, kind, usize::MAX, 0])?;
        done(call(libc::SYS_mprotect, &[start, 4096, (libc::PROT_READ | libc::PROT_EXEC) as usize]))
    }),
    attack!("personality", true, |_| done(call(libc::SYS_personality, &[0x0400_0000]))),
    attack!("name_to_handle_at", true, |_| {
        let name = path("/etc");
        let mut handle = page();
        handle[0] = 128;
        let mut mount = 0i32;
        let arguments = [at_cwd(), name.as_ptr() as usize, handle.as_mut_ptr() as usize, &raw mut mount as usize, 0];
        done(call(libc::SYS_name_to_handle_at, &arguments))
    }),
    attack!("listen on a TCP port", true, |_| {
        let listener = socket(libc::AF_INET, libc::SOCK_STREAM)?;
        let address = inet(free_port());
        done(call(libc::SYS_bind, &[listener, address.as_ptr() as usize, 16]))
    }),
    attack!("an abstract socket of another", true, |loot| {
        let stream = socket(libc::AF_UNIX, libc::SOCK_STREAM)?;
        connect(stream, &unix(format!("\0{}", loot.abstract_name).as_bytes()))
    }),
    attack!("a local datagram socket", true, |_| done(socket(libc::AF_UNIX, libc::SOCK_DGRAM))),
    attack!("a local datagram socket that does not block", true, |_| done(socket(
        libc::AF_UNIX,
        libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK
    ))),
    attack!("a local socket of packets", true, |_| done(socket(libc::AF_UNIX, libc::SOCK_SEQPACKET))),
    attack!("a raw local socket", true, |_| done(socket(libc::AF_UNIX, libc::SOCK_RAW))), // the kernel makes it a datagram socket
    attack!("a pair of local datagram sockets", true, |_| done(pair(libc::AF_UNIX, libc::SOCK_DGRAM))),
    attack!("a pair of local sockets of packets", true, |_| done(pair(libc::AF_UNIX, libc::SOCK_SEQPACKET))),
    attack!("a datagram of a pair to another's path", true, |loot| {
        let near = pair(libc::AF_UNIX, libc::SOCK_DGRAM)?;
        let address = unix(format!("{}/datagram", loot.place).as_bytes());
        connect(near, &address)?;
        done(call(libc::SYS_write, &[near, b"x".as_ptr() as usize, 1]))
    }),
    attack!("signal the parent", true, |loot| done(call(libc::SYS_kill, &[loot.parent, 0]))),
    attack!("a core file limit", true, |_| {
        let limit = [4096u64, 4096];
        done(call(libc::SYS_setrlimit, &[libc::RLIMIT_CORE as usize, limit.as_ptr() as usize]))
    }),
    #[cfg(target_arch = "x86_64")]
    attack!("execve by its x32 number", false, |_| {
        let name = path("/bin/true");
        done(call(520 | 0x4000_0000, &[name.as_ptr() as usize, 0, 0]))
    }),
    #[cfg(target_arch = "x86_64")]
    attack!("io_uring_setup by its x32 number", false, |_| {
        done(call(libc::SYS_io_uring_setup | 0x4000_0000, &[1, page().as_ptr() as usize]))
    }),
];

/// A port that is most likely free: bound and released before the attack could matter.
fn free_port() -> u16 {
    47_113
}

/// Ways outwards for a role that may hold connections but not make them.
pub(crate) const OUTWARDS: &[Attack] = &[
    attack!("socket AF_INET", true, |_| done(socket(libc::AF_INET, libc::SOCK_STREAM))),
    attack!("socket AF_INET6", true, |_| done(socket(libc::AF_INET6, libc::SOCK_DGRAM))),
    attack!("connect to 127.0.0.1", true, |loot| {
        let stream = socket(libc::AF_INET, libc::SOCK_STREAM)?;
        connect(stream, &inet(loot.port))
    }),
    attack!("an accepted connection turned outwards", true, |loot| turn_outwards(loot, &[0; 16])),
    attack!("an accepted connection turned outwards, with a short address first", true, |loot| {
        connect(fd(&loot.held), &[0; 8])?;
        connect(fd(&loot.held), &inet(loot.port))
    }),
    attack!("sendto with MSG_FASTOPEN", true, |loot| {
        connect(fd(&loot.held), &[0; 8])?;
        let address = inet(loot.port);
        let flags = (libc::MSG_FASTOPEN | libc::MSG_DONTWAIT) as usize;
        let sent = call(libc::SYS_sendto, &[fd(&loot.held), b"x".as_ptr() as usize, 1, flags, address.as_ptr() as usize, 16]);
        in_progress(sent)
    }),
    attack!("sendmsg with MSG_FASTOPEN", true, |loot| {
        connect(fd(&loot.held), &[0; 8])?;
        let address = inet(loot.port);
        let parts = [b"x".as_ptr() as usize, 1];
        let message = [address.as_ptr() as usize, 16, parts.as_ptr() as usize, 1, 0, 0, 0];
        let flags = (libc::MSG_FASTOPEN | libc::MSG_DONTWAIT) as usize;
        in_progress(call(libc::SYS_sendmsg, &[fd(&loot.held), message.as_ptr() as usize, flags]))
    }),
    attack!("sendmmsg with MSG_FASTOPEN", true, |loot| {
        connect(fd(&loot.held), &[0; 8])?;
        let address = inet(loot.port);
        let parts = [b"x".as_ptr() as usize, 1];
        let messages = [address.as_ptr() as usize, 16, parts.as_ptr() as usize, 1, 0, 0, 0, 0];
        let flags = (libc::MSG_FASTOPEN | libc::MSG_DONTWAIT) as usize;
        in_progress(call(libc::SYS_sendmmsg, &[fd(&loot.held), messages.as_ptr() as usize, 1, flags]))
    }),
    attack!("TCP_FASTOPEN_CONNECT, then connect", true, |loot| {
        let on = 1i32;
        connect(fd(&loot.held), &[0; 8])?;
        call(libc::SYS_setsockopt, &[fd(&loot.held), 6, 30, &raw const on as usize, 4])?;
        connect(fd(&loot.held), &inet(loot.port))
    }),
    attack!("a datagram to another's path", true, |loot| {
        let datagram = socket(libc::AF_UNIX, libc::SOCK_DGRAM)?;
        let address = unix(format!("{}/datagram", loot.place).as_bytes());
        done(call(libc::SYS_sendto, &[datagram, b"x".as_ptr() as usize, 1, 0, address.as_ptr() as usize, address.len()]))
    }),
    attack!("a datagram by sendmsg to another's path", true, |loot| {
        let datagram = socket(libc::AF_UNIX, libc::SOCK_DGRAM)?;
        let address = unix(format!("{}/datagram", loot.place).as_bytes());
        let parts = [b"x".as_ptr() as usize, 1];
        let message = [address.as_ptr() as usize, address.len(), parts.as_ptr() as usize, 1, 0, 0, 0];
        done(call(libc::SYS_sendmsg, &[datagram, message.as_ptr() as usize, 0]))
    }),
    attack!("sendmsg with an address on a socket it holds", true, |loot| send_message(fd(&loot.held), &inet(loot.port), &[])),
    attack!("sendmsg without an address on a socket it holds", true, |loot| send_message(fd(&loot.held), &[], &[])),
    attack!("a descriptor sent by sendmsg", true, |loot| {
        let near = pair(libc::AF_UNIX, libc::SOCK_STREAM)?;
        // A header of 64-bit length, level and kind, and the descriptor.
        let mut control = [0u64; 3];
        control[0] = 20;
        control[1] = u64::from(libc::SOL_SOCKET as u32) | u64::from(libc::SCM_RIGHTS as u32) << 32;
        control[2] = fd(&loot.held) as u64;
        send_message(near, &[], &control)
    }),
    attack!("a local socket by a long path", true, |loot| {
        let stream = socket(libc::AF_UNIX, libc::SOCK_STREAM)?;
        connect(stream, &unix(format!("{}/stream", loot.place).as_bytes()))
    }),
    attack!("socketpair of another family", false, |_| { done(pair(libc::AF_TIPC, libc::SOCK_STREAM)) }),
];

/// What the front in particular must not do.
pub(crate) const FRONT: &[Attack] = &[
    attack!("open the private key", true, |loot| done(open(&loot.key, libc::O_RDONLY))),
    attack!("open the private key from the old root", true, |loot| done(open(&format!("../../../..{}", loot.key), libc::O_RDONLY))),
    attack!("make a file in the jail", true, |_| done(open("planted", libc::O_RDWR | libc::O_CREAT))),
    attack!("rename a socket in the jail", true, |_| {
        let (from, to) = (path("keys"), path("old"));
        done(call(libc::SYS_renameat2, &[at_cwd(), from.as_ptr() as usize, at_cwd(), to.as_ptr() as usize, 0]))
    }),
    attack!("listen on a socket it holds", false, |loot| {
        connect(fd(&loot.held), &[0; 8])?;
        done(call(libc::SYS_listen, &[fd(&loot.held), 1]))
    }),
    attack!("a kernel protocol on a socket it holds", false, |loot| {
        done(call(libc::SYS_setsockopt, &[fd(&loot.held), 6, 31, c"tls".as_ptr() as usize, 3]))
    }),
    attack!("be dumpable again", true, |_| done(call(libc::SYS_prctl, &[libc::PR_SET_DUMPABLE as usize, 1, 0, 0, 0]))),
    attack!("a signal through tgkill", true, |loot| done(call(libc::SYS_tgkill, &[loot.parent, loot.parent, 0]))),
    attack!("ioctl", true, |loot| {
        let mut waiting = 0i32;
        done(call(libc::SYS_ioctl, &[fd(&loot.held), libc::FIONREAD as usize, &raw mut waiting as usize]))
    }),
    attack!("descriptors sent by signal", true, |loot| {
        done(call(libc::SYS_fcntl, &[fd(&loot.held), libc::F_SETOWN as usize, loot.parent]))
    }),
];

/// What keys in particular must not do, although it may read root's files in one directory.
pub(crate) const KEYS: &[Attack] = &[
    attack!("open a file of root's beside the directory", true, |loot| done(open(&format!("{}/secret", loot.place), libc::O_RDONLY))),
    attack!("open it by a way round", true, |loot| { done(open(&format!("{}/pamrelay/certs/../../secret", loot.place), libc::O_RDONLY)) }),
    attack!("read the guests", true, |loot| read(&format!("{}/var/lib/pamrelay/guests", loot.place))),
    attack!("read whom the helper knows", true, |loot| read(&format!("{}/var/lib/pamrelay/auth/known", loot.place))),
    attack!("list the directory of both", true, |loot| {
        done(open(&format!("{}/var/lib/pamrelay", loot.place), libc::O_RDONLY | libc::O_DIRECTORY))
    }),
    attack!("read the ticket keys", true, |loot| read(&format!("{}/run/tickets", loot.place))),
    attack!("read the accepted configuration's settings of the helper", true, |loot| read(&format!("{}/run/active/auth.env", loot.place))),
    attack!("read the accepted configuration", true, |loot| read(&format!("{}/run/active/pamrelay.yaml", loot.place))),
    attack!("read queued mail", true, |loot| read(&format!("{}/spool/body", loot.place))),
    attack!("list the spool", true, |loot| done(open(&format!("{}/spool", loot.place), libc::O_RDONLY | libc::O_DIRECTORY))),
    attack!("read a delivered message", true, |loot| read(&format!("{}/maildir/message", loot.place))),
    attack!("read /etc/gshadow", false, |_| read("/etc/gshadow")),
    attack!("read a secret by a link in the certificate directory", true, |loot| {
        read(&format!("{}/pamrelay/certs/link-to-guests", loot.place))
    }),
    attack!("change the key", true, |loot| done(open(&loot.key, libc::O_RDWR))),
    attack!("make a file beside the key", true, |loot| done(open(&format!("{}.new", loot.key), libc::O_RDWR | libc::O_CREAT))),
    attack!("remove the key", false, |loot| {
        let name = path(&loot.key);
        done(call(libc::SYS_unlinkat, &[at_cwd(), name.as_ptr() as usize, 0]))
    }),
    attack!("open by handle", false, |_| {
        let handle = page();
        done(call(libc::SYS_open_by_handle_at, &[0, handle.as_ptr() as usize, 0]))
    }),
];

/// What the queue in particular must not do.
pub(crate) const QUEUE: &[Attack] = &[
    attack!("open the private key", true, |loot| done(open(&loot.key, libc::O_RDONLY))),
    attack!("open a file of root's", true, |loot| done(open(&format!("{}/secret", loot.place), libc::O_RDONLY))),
    attack!("a raw socket", true, |_| {
        let protocol = libc::IPPROTO_ICMP as usize;
        done(call(libc::SYS_socket, &[libc::AF_INET as usize, libc::SOCK_RAW as usize, protocol]))
    }),
    attack!("run a file of the spool", false, |loot| {
        let name = path(&format!("{}/spool/program", loot.place));
        let arguments = [name.as_ptr() as usize, 0];
        done(call(libc::SYS_execve, &[name.as_ptr() as usize, arguments.as_ptr() as usize, 0]))
    }),
];

/// A fast open that has begun has got out, whatever comes of it.
fn in_progress(sent: Result<usize, i32>) -> Result<(), i32> {
    match sent {
        Ok(_) | Err(libc::EINPROGRESS) => Ok(()),
        Err(errno) => Err(errno),
    }
}
