//! Each attack on each cage, and the refusals of those who cannot enter one.

use std::{
    fs,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::{PermissionsExt, chown},
            net::{SocketAddr, UnixDatagram, UnixListener},
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use nix::{libc, unistd::geteuid};

use crate::{
    attacks::{self, Attack},
    pki,
    roles::{FAILED, FRONT, KEYS, NOT_HERE, QUEUE, SUCCEEDED},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Outside,
    Front,
    Keys,
    Queue,
    /// The process that reads files for the queue.
    Files,
}

/// How a role is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// As whoever runs the test: root, by `pamrelay run`.
    Plainly,
    /// As the role's user, without any capability.
    AsUser(u32),
    /// As the role's user with one ambient capability, by systemd.
    WithCapability(u32, &'static str),
}

impl Which {
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "outside" => Self::Outside,
            "front" => Self::Front,
            "keys" => Self::Keys,
            "queue" => Self::Queue,
            "files" => Self::Files,
            _ => panic!("no such cage: {name}"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Outside => "outside",
            Self::Front => "front",
            Self::Keys => "keys",
            Self::Queue => "queue",
            Self::Files => "files",
        }
    }
}

/// The attacks that must fail there.
pub(crate) fn attacks_on(which: Which) -> Vec<&'static Attack> {
    let lists: &[&'static [Attack]] = match which {
        Which::Outside => &[attacks::EVERYWHERE, attacks::OUTWARDS, attacks::FRONT, attacks::KEYS, attacks::QUEUE],
        Which::Front => &[attacks::EVERYWHERE, attacks::OUTWARDS, attacks::FRONT],
        Which::Keys => &[attacks::EVERYWHERE, attacks::OUTWARDS, attacks::KEYS],
        Which::Queue => &[attacks::EVERYWHERE, attacks::QUEUE],
        Which::Files => &[attacks::EVERYWHERE, attacks::OUTWARDS, attacks::KEYS, attacks::QUEUE],
    };
    // To read what everybody may in /etc is what the process for files is there for.
    let is_its_work = |attack: &&Attack| which == Which::Files && attack.name == "open /etc/passwd";
    lists.iter().flat_map(|list| list.iter()).filter(|attack| !is_its_work(attack)).collect()
}

/// A host in small: jail, certificates, spool, and what lies about.
pub(crate) struct Place {
    root: tempfile::TempDir,
    listener: TcpListener,
    abstract_name: String,
    _others: (UnixListener, UnixListener, UnixDatagram),
}

impl Place {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = root.path();
        open_to_all(path);
        for name in ["jail", "pamrelay", "spool", "maildir", "run", "run/queue", "run/active", "var/lib/pamrelay/auth"] {
            fs::create_dir_all(path.join(name)).unwrap();
            fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        pki::directory(&path.join("pamrelay/certs"));
        pki::pair(&path.join("pamrelay/certs"), "server", pki::HOST, &rcgen::PKCS_ECDSA_P256_SHA256);
        pki::file(&path.join("secret"), "root's own\n");
        for (name, text) in [("run/tickets", "tickets"), ("trust.pem", "trust"), ("spool/program", "#!/bin/true\n")] {
            fs::write(path.join(name), text).unwrap();
            fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        // Each a secret of another role, or of root's.
        for name in [
            "var/lib/pamrelay/guests",
            "var/lib/pamrelay/auth/known",
            "run/active/auth.env",
            "run/active/pamrelay.yaml",
            "spool/body",
            "maildir/message",
        ] {
            pki::file(&path.join(name), "a secret\n");
        }
        std::os::unix::fs::symlink(path.join("var/lib/pamrelay/guests"), path.join("pamrelay/certs/link-to-guests")).unwrap();
        if geteuid().is_root() {
            for name in ["spool", "spool/program", "maildir", "run/queue"] {
                chown(path.join(name), Some(QUEUE), Some(QUEUE)).unwrap();
            }
        }
        let abstract_name = format!("cage{}", std::process::id() % 100_000);
        let _ = fs::remove_file(path.join("stream"));
        let address = SocketAddr::from_abstract_name(format!("{abstract_name}{}", fastrand(path))).unwrap();
        let others = (
            UnixListener::bind_addr(&address).unwrap(),
            UnixListener::bind(path.join("stream")).unwrap(),
            UnixDatagram::bind(path.join("datagram")).unwrap(),
        );
        for name in ["stream", "datagram"] {
            fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o777)).unwrap();
        }
        Self {
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            abstract_name: format!("{abstract_name}{}", fastrand(path)),
            _others: others,
            root,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    /// This program in another role.
    pub(crate) fn command(&self, role: &str, start: Start) -> Command {
        let mut command = match start {
            Start::Plainly => Command::new(program()),
            Start::AsUser(uid) => {
                let mut command = Command::new(program());
                if geteuid().is_root() {
                    command.uid(uid).gid(uid);
                }
                command
            }
            Start::WithCapability(uid, capability) => {
                let mut command = Command::new("setpriv");
                command
                    .args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into()])
                    .args([format!("--inh-caps=+{capability}"), format!("--ambient-caps=+{capability}")])
                    .arg(program());
                command
            }
        };
        command
            .env("CAGE_TEST_ROLE", role)
            .env("CAGE_TEST_PLACE", self.path())
            .env("CAGE_TEST_PORT", self.listener.local_addr().unwrap().port().to_string())
            .env("CAGE_TEST_ABSTRACT", &self.abstract_name)
            .env("CAGE_TEST_KEY", self.path().join("pamrelay/certs/server.key"));
        command
    }

    fn play(&self, role: &str, start: Start) -> Output {
        self.command(role, start).output().unwrap()
    }
}

/// Something short that differs between two places of one process.
fn fastrand(path: &Path) -> String {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    name.chars().rev().take(3).collect()
}

fn open_to_all(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
}

/// This program where every user can start it: the build directory may be closed to them.
fn program() -> &'static Path {
    static COPY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = COPY.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        open_to_all(directory.path());
        let path = directory.path().join("sandbox-test");
        fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        (directory, path)
    });
    path
}

/// Removes the copy, which nothing else does: statics are not dropped.
pub(crate) fn clean_up() {
    let _ = fs::remove_dir_all(program().parent().unwrap());
    let _ = fs::remove_file("/tmp/cage-test-was-here");
}

enum End {
    Hole,
    Refused,
    Killed,
    NotHere,
}

fn end_of(output: &Output, attack: &str) -> End {
    match (output.status.code(), output.status.signal()) {
        (Some(code), _) if code == i32::from(SUCCEEDED) => End::Hole,
        (Some(code), _) if code == i32::from(FAILED) => End::Refused,
        (Some(code), _) if code == i32::from(NOT_HERE) => End::NotHere,
        (_, Some(libc::SIGSYS)) => End::Killed,
        _ => panic!("{attack}: {:?}: {}", output.status, String::from_utf8_lossy(&output.stderr)),
    }
}

fn siege(which: Which, start: Start) {
    siege_on(which, start, Kernel::AsItIs);
}

/// What the role finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    AsItIs,
    WithoutLandlock,
}

fn siege_on(which: Which, start: Start, kernel: Kernel) {
    let place = Place::new();
    let attacks = attacks_on(which);
    let (mut holes, mut refused, mut killed) = (Vec::new(), 0, 0);
    for (number, attack) in attacks.iter().enumerate() {
        let mut command = place.command(&format!("attack:{}:{number}", which.name()), start);
        if kernel == Kernel::WithoutLandlock {
            command.env("CAGE_TEST_NO_LANDLOCK", "1");
        }
        match end_of(&command.output().unwrap(), attack.name) {
            End::Hole => holes.push(attack.name),
            End::Refused => refused += 1,
            End::Killed => killed += 1,
            End::NotHere if kernel == Kernel::WithoutLandlock => println!("    left to Landlock alone: {}", attack.name),
            End::NotHere => println!("SKIPPED (needs a newer kernel): {}: {}", which.name(), attack.name),
        }
    }
    println!(
        "    {} ({start:?}, kernel {kernel:?}): {} of {} attacks succeeded; {refused} refused, {killed} ended the process",
        which.name(),
        holes.len(),
        attacks.len()
    );
    assert_eq!(holes, Vec::<&str>::new());
}

/// An attack that fails everywhere would prove nothing about a cage.
pub(crate) fn attacks_work_where_there_is_no_cage() {
    let attacks = attacks_on(Which::Outside);
    let mut broken = Vec::new();
    for (number, attack) in attacks.iter().enumerate().filter(|(_, attack)| attack.works_outside) {
        let place = Place::new();
        fs::write(place.path().join("jail/keys"), "").unwrap();
        let output = place.play(&format!("attack:outside:{number}"), Start::Plainly);
        if !matches!(end_of(&output, attack.name), End::Hole) {
            broken.push(format!("{}: {}", attack.name, String::from_utf8_lossy(&output.stderr).trim()));
        }
    }
    assert_eq!(broken, Vec::<String>::new());
}

pub(crate) fn front_from_root() {
    siege(Which::Front, Start::Plainly);
}

pub(crate) fn front_from_systemd() {
    siege(Which::Front, Start::WithCapability(FRONT, "sys_chroot"));
}

pub(crate) fn front_without_chroot() {
    siege(Which::Front, Start::AsUser(FRONT));
}

pub(crate) fn front_without_landlock() {
    siege_on(Which::Front, Start::Plainly, Kernel::WithoutLandlock);
}

pub(crate) fn keys_from_root() {
    siege(Which::Keys, Start::Plainly);
}

pub(crate) fn keys_as_user() {
    siege(Which::Keys, Start::AsUser(KEYS));
}

pub(crate) fn queue_from_root() {
    siege(Which::Queue, Start::Plainly);
}

pub(crate) fn queue_as_user() {
    siege(Which::Queue, Start::AsUser(QUEUE));
}

pub(crate) fn files_from_root() {
    siege(Which::Files, Start::Plainly);
}

pub(crate) fn files_as_user() {
    siege(Which::Files, Start::AsUser(QUEUE));
}

fn is_refused(role: &str, start: Start, required: bool) {
    let place = Place::new();
    let mut command = place.command(role, start);
    if required {
        command.env("CAGE_TEST_REQUIRED", "1");
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn threads_are_refused() {
    is_refused("threads", Start::AsUser(FRONT), false);
}

pub(crate) fn open_directories_are_refused() {
    for start in [Start::Plainly, Start::AsUser(FRONT)] {
        is_refused("open-directory", start, false);
    }
}

pub(crate) fn incomplete_is_refused() {
    is_refused("required", Start::AsUser(FRONT), true);
}
