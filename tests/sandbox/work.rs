//! The roles at work in their cages: processes of their own, as `pamrelay run` starts them.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::{
        fd::OwnedFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixDatagram, UnixListener},
        },
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use crate::{
    pki::{self, HOST},
    roles::{KEYS, QUEUE},
    walls::{Place, Start},
};

type Session = StreamOwned<ClientConnection, TcpStream>;

/// A role in a process of its own, ended when the test is over.
struct Role {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Role {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        thread::spawn({
            let log = Arc::clone(&log);
            move || lines.map_while(Result::ok).for_each(|line| *log.lock().unwrap() += &(line + "\n"))
        });
        Self { child, log }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Stops the process, and returns when each of its threads stands.
    fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.child.id());
        let stands = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
        };
        while !fs::read_dir(&tasks).unwrap().flatten().all(stands) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn says(&self, words: &str) {
        let until = Instant::now() + Duration::from_secs(10);
        while !self.log.lock().unwrap().contains(words) {
            assert!(Instant::now() < until, "{words:?} was not said: {}", self.log.lock().unwrap());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A relay of two roles.
struct Relay {
    place: Place,
    front: Role,
    keys: Role,
    port: u16,
}

impl Relay {
    fn start() -> Self {
        let place = Place::new();
        let keys = Role::start(place.command("keys", Start::Plainly));
        keys.says("keys_in_use");
        let mut front = place.command("front", Start::Plainly);
        front.env("RUST_BACKTRACE", "1"); // a panic then wants to open files
        let mut front = Role::start(front);
        let mut line = String::new();
        BufReader::new(front.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap_or_else(|_| panic!("no port: {}", front.log.lock().unwrap()));
        Self { place, front, keys, port }
    }

    fn certs(&self) -> PathBuf {
        self.place.path().join("pamrelay/certs")
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.certs().join("server.crt")).unwrap()).unwrap();
        roots
    }

    fn connect(&self, roots: &RootCertStore) -> std::io::Result<Session> {
        let config = ClientConfig::builder().with_root_certificates(roots.clone()).with_no_client_auth();
        let name = ServerName::try_from(HOST).unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut session = StreamOwned::new(tls, stream);
        echo(&mut session)?;
        Ok(session)
    }
}

/// Says a word and hears it again; how long that took.
fn echo(session: &mut Session) -> std::io::Result<Duration> {
    let begun = Instant::now();
    session.write_all(b"word")?;
    session.flush()?;
    let mut word = [0; 4];
    session.read_exact(&mut word)?;
    assert_eq!(&word, b"word");
    Ok(begun.elapsed())
}

pub(crate) fn front_and_keys() {
    let mut relay = Relay::start();
    let roots = relay.roots();

    let mut sessions: Vec<Session> = (0..20).map(|_| relay.connect(&roots).unwrap()).collect();
    for session in &mut sessions {
        echo(session).unwrap();
    }

    // A panic, with its backtrace, ends its own session only.
    let last = sessions.last_mut().unwrap();
    last.write_all(b"panic").unwrap();
    last.flush().unwrap();
    assert!(echo(last).is_err());
    echo(&mut sessions[0]).unwrap();
    assert!(relay.front.child.try_wait().unwrap().is_none(), "{}", relay.front.log.lock().unwrap());

    for (role, uid) in [(&relay.front, "61001"), (&relay.keys, "61002")] {
        let status = fs::read_to_string(format!("/proc/{}/status", role.child.id())).unwrap();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        assert_eq!(field("Uid:"), [uid; 4].join("\t"));
        assert_eq!(field("Gid:"), [uid; 4].join("\t"));
        assert_eq!(field("Groups:"), uid);
        assert_eq!(field("NoNewPrivs:"), "1");
        assert_eq!(field("Seccomp:"), "2");
        let permitted = if uid == "61002" { "0000000000000004" } else { "0000000000000000" }; // CAP_DAC_READ_SEARCH
        assert_eq!(field("CapPrm:"), permitted);
        assert_eq!(field("CapEff:"), permitted);
        for empty in ["CapInh:", "CapAmb:", "CapBnd:"] {
            assert_eq!(field(empty), "0000000000000000", "{empty}");
        }
    }
}

pub(crate) fn sighup() {
    let relay = Relay::start();
    let old = relay.roots();
    relay.connect(&old).unwrap();

    // A bad set: the old one stays, and the log says why and what to do.
    fs::set_permissions(relay.certs().join("server.key"), fs::Permissions::from_mode(0o644)).unwrap();
    relay.keys.signal(Signal::SIGHUP);
    relay.keys.says("stay in use");
    relay.keys.says(&format!("chmod 0600 {}", relay.certs().join("server.key").display()));
    relay.connect(&old).unwrap();

    // A good one, in a directory that was replaced as a whole.
    let new = relay.place.path().join("pamrelay/certs.new");
    pki::directory(&new);
    pki::pair(&new, "server", HOST, &rcgen::PKCS_ED25519);
    fs::rename(relay.certs(), relay.place.path().join("pamrelay/certs.old")).unwrap();
    fs::rename(&new, relay.certs()).unwrap();
    let before = relay.keys.log.lock().unwrap().matches("keys_in_use").count();
    relay.keys.signal(Signal::SIGHUP);
    let until = Instant::now() + Duration::from_secs(5);
    while relay.keys.log.lock().unwrap().matches("keys_in_use").count() == before {
        assert!(Instant::now() < until, "{}", relay.keys.log.lock().unwrap());
        thread::sleep(Duration::from_millis(10));
    }
    let new = relay.roots();
    let _ = relay.connect(&old); // may still be the old chain, whose key is kept; its answer tells of the new one
    assert!((0..50).any(|_| {
        thread::sleep(Duration::from_millis(20));
        relay.connect(&new).is_ok()
    }));
    assert!(relay.connect(&old).is_err());
}

pub(crate) fn stopped_keys() {
    let relay = Relay::start();
    let roots = relay.roots();
    let mut session = relay.connect(&roots).unwrap();
    relay.keys.stop();

    // More handshakes than there are worker threads.
    let slowest = thread::scope(|scope| {
        let waiting: Vec<_> = (0..8).map(|_| scope.spawn(|| (Instant::now(), relay.connect(&roots).is_err()))).collect();
        thread::sleep(Duration::from_millis(100));
        let slowest = (0..50).map(|_| echo(&mut session).unwrap()).max().unwrap();
        for handshake in waiting {
            let (begun, failed) = handshake.join().unwrap();
            assert!(failed);
            assert!(begun.elapsed() < Duration::from_secs(6));
        }
        slowest
    });
    println!("    slowest of 50 answers in a session while 8 handshakes wait for a stopped key process: {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");

    relay.keys.signal(Signal::SIGCONT);
    relay.connect(&roots).unwrap();
}

pub(crate) fn killed_keys() {
    let mut relay = Relay::start();
    let roots = relay.roots();
    let mut session = relay.connect(&roots).unwrap();

    relay.keys.signal(Signal::SIGKILL);
    relay.keys.child.wait().unwrap();
    echo(&mut session).unwrap();
    assert!(relay.connect(&roots).is_err());

    relay.keys = Role::start(relay.place.command("keys", Start::Plainly));
    relay.keys.says("keys_in_use");
    for _ in 0..5 {
        relay.connect(&roots).unwrap();
    }
    echo(&mut session).unwrap();
}

/// As systemd does it: the role's user with one ambient capability, the socket as descriptor 3, and a place to
/// report to.
pub(crate) fn keys_from_systemd() {
    let place = Place::new();
    let socket = place.path().join("jail/keys");
    let listener = UnixListener::bind(&socket).unwrap();
    let notify = place.path().join("notify");
    let manager = UnixDatagram::bind(&notify).unwrap();
    for path in [&socket, &notify] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let role = place.command("keys", Start::WithCapability(KEYS, "dac_read_search"));
    let mut command = Command::new("sh");
    command.args(["-c", "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"", "sh"]);
    command.arg(role.get_program()).args(role.get_args());
    command.envs(role.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("NOTIFY_SOCKET", &notify).stdin(Stdio::from(OwnedFd::from(listener)));

    let keys = Role::start(command);
    keys.says("keys_in_use");

    let mut said = [0; 64];
    let count = manager.recv(&mut said).unwrap();
    assert_eq!(&said[..count], b"READY=1\n");
    let answered = pamrelay::keys::client::Keys::connect(socket);
    assert!(answered.is_ok(), "{answered:?}: {}", keys.log.lock().unwrap());
}

pub(crate) fn loose_directory() {
    let place = Place::new();
    let certs = place.path().join("pamrelay/certs");
    fs::set_permissions(&certs, fs::Permissions::from_mode(0o750)).unwrap();

    let mut keys = Role::start(place.command("keys", Start::Plainly));

    assert!(!keys.child.wait().unwrap().success());
    keys.says("mode 0750");
    keys.says(&format!("chmod 00700 {}", certs.display()));
}

pub(crate) fn queue() {
    for start in [Start::Plainly, Start::AsUser(QUEUE)] {
        let place = Place::new();
        let output = place.command("queue", start).output().unwrap();
        assert!(output.status.success(), "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
}
