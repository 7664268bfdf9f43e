//! What this program is when it was started again by itself.

use std::{
    io::Write,
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use pamrelay::{
    keys::{
        self, KeysSettings,
        client::Keys,
        law::Law,
        server::Users,
        store::{PairFiles, StoreSettings},
    },
    sandbox::{self, Account, Caged, FilesCage, FrontCage, KeysCage, Missing, Policy, QueueCage, SandboxError},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    attacks::{Attack, Loot},
    pki::HOST,
    walls::{Which, attacks_on},
};

/// The uids of the roles, where the test is root. Nobody has them.
pub(crate) const FRONT: u32 = 61_001;
pub(crate) const KEYS: u32 = 61_002;
pub(crate) const QUEUE: u32 = 61_003;

/// How an attack ended, as exit status.
pub(crate) const SUCCEEDED: u8 = 0;
pub(crate) const FAILED: u8 = 42;
pub(crate) const NOT_HERE: u8 = 77;
pub(crate) const NO_CAGE: u8 = 99;

pub(crate) fn play(role: &str) -> ExitCode {
    let mut words = role.split(':');
    match (words.next().unwrap_or_default(), words.next(), words.next()) {
        ("attack", Some(cage), Some(number)) => attack(cage, number.parse().unwrap()),
        ("front", None, None) => front(),
        ("keys", None, None) => key_process(),
        ("queue", None, None) => queue(),
        ("threads", None, None) => threads(),
        ("open-directory", None, None) => open_directory(),
        ("required", None, None) => required(),
        _ => panic!("no such role: {role}"),
    }
}

fn place() -> PathBuf {
    std::env::var_os("CAGE_TEST_PLACE").unwrap().into()
}

/// The role's own user when started by root, else whoever this is.
fn account(uid: u32) -> Account {
    if nix::unistd::geteuid().is_root() { Account { name: format!("cage-test-{uid}"), uid, gid: uid } } else { Account::current() }
}

fn policy() -> Policy {
    if std::env::var_os("CAGE_TEST_REQUIRED").is_some() { Policy::Required } else { Policy::BestEffort }
}

fn enter_front() -> Result<Caged, SandboxError> {
    sandbox::front(&FrontCage { account: account(FRONT), jail: place().join("jail"), policy: policy() })
}

fn enter_keys() -> Result<Caged, SandboxError> {
    sandbox::keys(&KeysCage { account: account(KEYS), directory: place().join("pamrelay/certs"), policy: policy() })
}

fn enter_queue() -> Result<Caged, SandboxError> {
    sandbox::queue(&QueueCage {
        account: account(QUEUE),
        spool: place().join("spool"),
        maildirs: vec![place().join("maildir")],
        runtime: place().join("run"),
        read: vec![place().join("trust.pem")],
        policy: policy(),
    })
}

fn enter_files() -> Result<Caged, SandboxError> {
    let files = vec![PathBuf::from("/etc/hosts"), PathBuf::from("/etc/resolv.conf")];
    sandbox::files(&FilesCage { account: account(QUEUE), files, policy: policy() })
}

fn attack(cage: &str, number: usize) -> ExitCode {
    let which = Which::named(cage);
    let loot = Loot::gather();
    let Attack { name, run, .. } = attacks_on(which)[number];
    if std::env::var_os("CAGE_TEST_NO_LANDLOCK").is_some() {
        forbid_landlock();
    }
    let entered = match which {
        Which::Outside => {
            std::env::set_current_dir(place().join("jail")).unwrap();
            None
        }
        Which::Front => Some(enter_front()),
        Which::Keys => Some(enter_keys()),
        Which::Queue => Some(enter_queue()),
        Which::Files => Some(enter_files()),
    };
    match entered {
        None => {}
        Some(Ok(caged)) if needs(name, which).iter().any(|part| caged.missing.contains(part)) => return NOT_HERE.into(),
        Some(Ok(_)) => {}
        Some(Err(error)) => {
            eprintln!("{error}");
            return NO_CAGE.into();
        }
    }
    match run(&loot) {
        Ok(()) => SUCCEEDED.into(),
        Err(errno) => {
            let _ = writeln!(std::io::stderr(), "errno {errno}");
            FAILED.into()
        }
    }
}

/// Makes the kernel look as if it had no Landlock.
fn forbid_landlock() {
    use nix::libc;
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    let calls = [libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self];
    let answer = SeccompAction::Errno(u32::try_from(libc::ENOSYS).unwrap());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let rules = calls.into_iter().map(|call| (call, Vec::new())).collect();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, arch).unwrap();
    seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

/// The parts of the cage an attack is stopped by, where there is no second wall.
fn needs(attack: &str, cage: Which) -> &'static [Missing] {
    match (attack, cage) {
        ("an abstract socket of another", _) | ("signal the parent", Which::Keys | Which::Queue | Which::Files) => {
            &[Missing::Landlock, Missing::LandlockScopes]
        }
        ("listen on a TCP port", Which::Queue) => &[Missing::Landlock, Missing::LandlockTcp],
        (_, Which::Front | Which::Outside) => &[],
        (_, Which::Keys | Which::Queue | Which::Files) => &[Missing::Landlock],
    }
}

/// A small front end: TLS by the remote key, then every byte comes back.
fn front() -> ExitCode {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    let caged = match enter_front() {
        Ok(caged) => caged,
        Err(error) => {
            eprintln!("{error}");
            return NO_CAGE.into();
        }
    };
    // As many as the machine has is more than this cage lets anybody find out, and is no reason to die.
    let _ = std::thread::available_parallelism();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(serve(listener, caged.jail.join("keys")));
    ExitCode::SUCCESS
}

async fn serve(listener: TcpListener, socket: PathBuf) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let keys = loop {
        match Keys::connect(socket.clone()) {
            Ok(keys) => break keys,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_cert_resolver(keys.server_certs());
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let mut tls = match acceptor.accept(stream).await {
                Ok(tls) => tls,
                Err(error) => return eprintln!("handshake: {error}"),
            };
            let mut buffer = [0; 4096];
            while let Ok(count) = tls.read(&mut buffer).await {
                let said = &buffer[..count];
                assert!(!said.starts_with(b"panic"), "asked to panic");
                if count == 0 || tls.write_all(said).await.is_err() || tls.flush().await.is_err() {
                    break;
                }
            }
        });
    }
}

fn key_process() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let account = account(KEYS);
    let is_root = nix::unistd::geteuid().is_root();
    let me = nix::unistd::geteuid().as_raw();
    let settings = KeysSettings {
        listen: place().join("jail/keys"),
        store: StoreSettings {
            directory: place().join("pamrelay/certs"),
            server: PairFiles { certificate: "server.crt".into(), key: "server.key".into() },
            client: None,
            secrets: Vec::new(),
            hostname: HOST.into(),
            law: Law::new(account.uid, "pamrelay-keys"),
        },
        users: if is_root { Users { front: FRONT, queue: QUEUE } } else { Users { front: me, queue: QUEUE } },
        account,
        policy: policy(),
    };
    let Err(error) = keys::run(settings);
    eprintln!("{error}");
    ExitCode::FAILURE
}

/// What the queue does with files, names and networks.
fn queue() -> ExitCode {
    if let Err(error) = enter_queue() {
        eprintln!("{error}");
        return NO_CAGE.into();
    }
    let place = place();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();

    // A database, and bodies that are written under one name and renamed into another directory.
    let database = rusqlite::Connection::open(place.join("spool/queue.db")).unwrap();
    database.pragma_update(None, "journal_mode", "WAL").unwrap();
    database.execute_batch("CREATE TABLE message (id INTEGER PRIMARY KEY); INSERT INTO message VALUES (1); VACUUM;").unwrap();
    for under in ["spool", "maildir"] {
        let (tmp, new) = (place.join(under).join("tmp"), place.join(under).join("new"));
        std::fs::create_dir_all(&tmp).unwrap();
        std::fs::create_dir_all(&new).unwrap();
        std::fs::write(tmp.join("1"), b"body").unwrap();
        std::fs::File::open(tmp.join("1")).unwrap().sync_all().unwrap();
        std::fs::rename(tmp.join("1"), new.join("1")).unwrap();
        std::fs::File::open(&new).unwrap().sync_all().unwrap();
        assert_eq!(std::fs::read_dir(&new).unwrap().count(), 1);
        std::fs::remove_file(new.join("1")).unwrap();
    }
    // What it only reads; the ticket keys are replaced by renaming.
    assert_eq!(std::fs::read(place.join("run/tickets")).unwrap(), b"tickets");
    assert_eq!(std::fs::read(place.join("trust.pem")).unwrap(), b"trust");
    let _ = std::fs::read("/etc/hosts").unwrap();
    assert!(std::fs::write(place.join("run/tickets"), b"forged").is_err());
    // Its control socket, and the internet outwards.
    drop(std::os::unix::net::UnixListener::bind(place.join("run/queue/control")).unwrap());
    let port: u16 = std::env::var("CAGE_TEST_PORT").unwrap().parse().unwrap();
    runtime.block_on(async {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        socket.connect(([127, 0, 0, 1], port).into()).await.unwrap();
    });
    let asked = UdpSocket::bind("127.0.0.1:0").unwrap();
    asked.send_to(b"question", ("127.0.0.1", port)).unwrap();
    println!("done");
    ExitCode::SUCCESS
}

fn threads() -> ExitCode {
    let (_keep, wait) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || wait.recv());
    let refusals = [enter_front(), enter_keys(), enter_queue()];
    refused(refusals.iter().all(|it| matches!(it, Err(SandboxError::Threads(2)))), &refusals)
}

fn open_directory() -> ExitCode {
    let _kept = std::fs::File::open(place()).unwrap();
    let refusal = [enter_front()];
    refused(matches!(&refusal[0], Err(SandboxError::DirectoryOpen(path)) if path == Path::new(&place())), &refusal)
}

/// An ordinary user cannot chroot, so a required cage is incomplete.
fn required() -> ExitCode {
    let refusal = [enter_front()];
    refused(matches!(&refusal[0], Err(SandboxError::Incomplete(missing)) if missing.contains(&Missing::Chroot)), &refusal)
}

fn refused(as_wanted: bool, refusals: &[Result<Caged, SandboxError>]) -> ExitCode {
    if as_wanted {
        return ExitCode::SUCCESS;
    }
    let _ = writeln!(std::io::stderr(), "{refusals:?}");
    ExitCode::FAILURE
}
