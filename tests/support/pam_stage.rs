//! A private mount namespace with users and PAM files of its own, and the real helper in it.
//!
//! The host's files are only read. Each helper gets copies of /etc/passwd, shadow, group and pam.d with a few
//! accounts added, bound over the real ones in a namespace that dies with it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use pamrelay_authwire::{Order, Outcome, Question, Statement, Verdict};

/// yescrypt, cost as Debian sets it, of `right horse`.
const YESCRYPT: &str = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$B8I0wwyZTHLFTqqXOesUXnz29MB9VmzCuQzNnXgIYoB";
/// SHA-256 with few rounds, of `right`: quick.
const CHEAP: &str = "$5$rounds=1000$abcdefgh$7CVyC8P266q4WSp2xjkRTdYiJnZTV8bjxwkmSMxhVsA";
/// The same of `päss` in Latin-1.
const LATIN: &str = "$5$rounds=1000$abcdefgh$gR2sTD1jAMxKdwd4I1ShFXG6HUTNX4ECNsmrse6lT24";
/// The same of 511 times `x`.
const LONG: &str = "$5$rounds=1000$abcdefgh$hlq6jcPzgV/t.xwrc0/BnnpYIeYGwgGroctJjPjRAE6";

/// name, uid, hash, days: last change, minimum, maximum, warning, inactive, expiry
const USERS: &[(&str, u32, &str, &str)] = &[
    ("alice", 20001, YESCRYPT, "20000:0:99999:7::"),
    ("bob", 20002, CHEAP, "20000:0:99999:7::"),
    ("carol", 20003, CHEAP, "20000:0:99999:7::"),
    ("locked", 20004, "!$5$rounds=1000$abcdefgh$7CVyC8P266q4WSp2xjkRTdYiJnZTV8bjxwkmSMxhVsA", "20000:0:99999:7::"),
    ("expired", 20005, CHEAP, "20000:0:99999:7::18000"),
    ("mustchange", 20006, CHEAP, "0:0:99999:7::"),
    ("aged", 20007, CHEAP, "18000:0:30:7::"),
    ("inactive", 20008, CHEAP, "18000:0:30:7:10:"),
    ("empty", 20009, "", "20000:0:99999:7::"),
    ("latin", 20010, LATIN, "20000:0:99999:7::"),
    ("longpass", 20011, LONG, "20000:0:99999:7::"),
    ("hanger", 20012, CHEAP, "20000:0:99999:7::"),
    ("sysacct", 500, CHEAP, "20000:0:99999:7::"),
    ("toor", 0, CHEAP, "20000:0:99999:7::"),
    ("pamrelay", 20100, "*", "20000:0:99999:7::"),
];

/// A plain stack that checks passwords.
pub(crate) const UNIX: &str = "auth required pam_unix.so nodelay\naccount required pam_unix.so\n";

/// Whether the test can run; says so if not.
pub(crate) fn needs_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        // Past the capture of passing tests, which would hide it.
        let _ = writeln!(std::io::stdout(), "SKIPPED (needs root): {test}");
    }
    root
}

/// What to start.
pub(crate) struct Stage {
    dir: tempfile::TempDir,
    settings: Vec<(String, String)>,
    prefix: String,
}

/// A running helper; ends with its namespace when dropped.
pub(crate) struct Helper {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) socket: PathBuf,
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Stage {
    /// The accounts, and `/etc/pam.d/smtp` with this text.
    pub(crate) fn new(service: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let (mut passwd, mut shadow, mut group) = (host("/etc/passwd"), host("/etc/shadow"), host("/etc/group"));
        for (name, uid, hash, days) in USERS {
            passwd += &format!("{name}:x:{uid}:{}::/nonexistent:/bin/sh\n", if *uid == 0 { 0 } else { 20000 });
            shadow += &format!("{name}:{hash}:{days}:\n");
        }
        group += "mailers:x:20000:\nsenders:x:20200:bob,carol\npamrelay-queue:x:20101:\n";
        fs::write(at("passwd"), passwd).unwrap();
        fs::write(at("shadow"), shadow).unwrap();
        fs::write(at("group"), group).unwrap();
        fs::set_permissions(at("shadow"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::create_dir_all(at("pam.d")).unwrap();
        fs::create_dir_all(at("run/jail")).unwrap();
        for entry in fs::read_dir("/etc/pam.d").unwrap() {
            let entry = entry.unwrap().path();
            fs::copy(&entry, at("pam.d").join(entry.file_name().unwrap())).unwrap();
        }
        fs::write(at("pam.d/smtp"), service).unwrap();
        let stage = Self { dir, settings: Vec::new(), prefix: String::new() };
        stage.set("DEADLINE_MS", "8000")
    }

    pub(crate) fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.retain(|(set, _)| *set != format!("PAMRELAY_{name}"));
        self.settings.push((format!("PAMRELAY_{name}"), value.to_owned()));
        self
    }

    /// A program that PAM stacks can run, as `DIR/name`; write `DIR` in the service text for the directory.
    pub(crate) fn script(self, name: &str, text: &str) -> Self {
        let path = self.dir.path().join(name);
        let text = text.replace("DIR", self.dir.path().to_str().unwrap());
        fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let service = self.dir.path().join("pam.d/smtp");
        let text = fs::read_to_string(&service).unwrap().replace("DIR", self.dir.path().to_str().unwrap());
        fs::write(service, text).unwrap();
        self
    }

    /// A stack with the project's own misbehaving module behind the password check.
    pub(crate) fn misbehaving(how: &str, built_with: &'static str) -> Self {
        let service = format!("auth required pam_unix.so nodelay\nauth required FIXTURE {how}\naccount required pam_unix.so\n");
        Self::with_fixture(&service, built_with)
    }

    /// A stack in which `FIXTURE` stands for that module.
    pub(crate) fn with_fixture(service: &str, built_with: &'static str) -> Self {
        let stage = Self::new("");
        let module = stage.dir.path().join("pam_fixture.so");
        fs::write(&module, fixture(built_with)).unwrap();
        fs::write(stage.dir.path().join("pam.d/smtp"), service.replace("FIXTURE", module.to_str().unwrap())).unwrap();
        stage
    }

    pub(crate) fn without_service_file(self) -> Self {
        fs::remove_file(self.dir.path().join("pam.d/smtp")).unwrap();
        self
    }

    /// A command put before the helper's own: something that prepares its descriptors, say.
    pub(crate) fn through(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the helper and waits until it listens.
    pub(crate) fn start(self) -> Helper {
        let mut helper = self.spawn();
        helper.waits_for_log("event=started");
        assert!(helper.child.try_wait().unwrap().is_none(), "{}", helper.log());
        helper
    }

    /// Starts the helper and waits until it has given up.
    pub(crate) fn fails(self) -> (Option<i32>, String) {
        let mut helper = self.spawn();
        let status = helper.child.wait().unwrap();
        std::thread::sleep(Duration::from_millis(50)); // the reader of its log
        (status.code(), helper.log())
    }

    fn spawn(self) -> Helper {
        let dir = self.dir.path().to_str().unwrap();
        let script = format!(
            "mount --bind {dir}/passwd /etc/passwd; mount --bind {dir}/shadow /etc/shadow; mount --bind {dir}/group /etc/group
             mount --bind {dir}/pam.d /etc/pam.d; exec {} {}",
            self.prefix,
            program().display()
        );
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--", "sh", "-euc", &script])
            .envs(self.settings.iter().cloned())
            .env("PAMRELAY_RUNTIME", self.dir.path().join("run"))
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, kept) = (BufReader::new(child.stderr.take().unwrap()).lines(), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut kept = kept.lock().unwrap();
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        Helper { socket: self.dir.path().join("run/jail/auth"), dir: self.dir, child, log }
    }
}

impl Helper {
    /// Asks, and gives back what was decided. A peer that was dropped is a failed test.
    pub(crate) fn asks(&self, user: &str, password: &str) -> Outcome {
        self.asks_bytes(user.as_bytes(), password.as_bytes())
    }

    pub(crate) fn asks_bytes(&self, user: &[u8], password: &[u8]) -> Outcome {
        self.asks_from("192.0.2.25", user, password)
    }

    /// Asks for a client at this address.
    pub(crate) fn asks_from(&self, peer: &str, user: &[u8], password: &[u8]) -> Outcome {
        self.asks_all(peer, "", user, password)
    }

    /// Asks for a client of this listener.
    pub(crate) fn asks_on(&self, listener: &str, user: &str, password: &str) -> Outcome {
        self.asks_all("192.0.2.25", listener, user.as_bytes(), password.as_bytes())
    }

    /// What root asks of the helper itself.
    pub(crate) fn orders(&self, order: &Order) -> Statement {
        let answer = self.sends(&order.encode().unwrap());
        Statement::decode(&answer).unwrap_or_else(|| panic!("no statement: {answer:?}\n{}", self.log()))
    }

    fn asks_all(&self, peer: &str, listener: &str, user: &[u8], password: &[u8]) -> Outcome {
        let peer = Question::peer_bytes(peer.parse::<IpAddr>().unwrap());
        let frame = Question { id: 77, session: 42, peer, listener, user, password }.encode().unwrap();
        let answer = self.sends(frame.as_bytes());
        let verdict = Verdict::decode(&answer).unwrap_or_else(|| panic!("no verdict: {answer:?}\n{}", self.log()));
        assert_eq!(verdict.id, 77);
        verdict.outcome
    }

    /// Sends bytes, and gives back all that is answered until the end.
    pub(crate) fn sends(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer); // a dropped peer may see a reset
        answer
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    /// Waits until the helper has ended by itself.
    pub(crate) fn ends(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    pub(crate) fn template(&self) -> i32 {
        waits_for("a template", || children(self.pid()).first().copied())
    }

    pub(crate) fn worker(&self) -> i32 {
        waits_for("a worker", || children(self.template()).first().copied())
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn waits_for_log(&self, text: &str) {
        let found = patiently(|| self.log().contains(text).then_some(()));
        assert!(found.is_some(), "no {text:?} in the log:\n{}", self.log());
    }

    pub(crate) fn service(&self) -> PathBuf {
        self.dir.path().join("pam.d/smtp")
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the helper's log\n{}", self.log());
        }
    }
}

/// The words that a verdict is logged with: outcome, phase, code, reason.
pub(crate) fn words(outcome: &Outcome) -> String {
    match outcome.cause() {
        Some(cause) => format!("{} {} {} {}", outcome.word(), cause.phase, cause.code, cause.reason),
        None => outcome.word().to_owned(),
    }
}

pub(crate) fn children(pid: i32) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// Whether a process with this argument lives anywhere on the machine.
pub(crate) fn is_running(argument: &str) -> bool {
    let argument = argument.as_bytes();
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == argument)
    })
}

/// Seconds to sleep that no other process of this machine sleeps: another run of this test may go on beside us.
pub(crate) fn marked(seconds: u32) -> String {
    format!("{seconds}.{}", std::process::id())
}

pub(crate) fn patiently<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn waits_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    patiently(look).unwrap_or_else(|| panic!("no {what}"))
}

fn host(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap();
    // The host may have accounts of these names; ours come first in no file, so take theirs out.
    let ours = |line: &str| line.split(':').next().is_some_and(|name| USERS.iter().any(|user| user.0 == name) || name == "pamrelay-queue");
    text.lines().filter(|line| !ours(line)).map(|line| format!("{line}\n")).collect()
}

/// The module, built once in this way.
fn fixture(built_with: &'static str) -> Vec<u8> {
    static BUILT: Mutex<BTreeMap<&str, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap();
    let module = built.entry(built_with).or_insert_with(|| {
        let place = tempfile::tempdir().unwrap();
        let module = place.path().join("pam_fixture.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/pam_fixture.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", built_with, "-o"]).arg(&module).args([
            source,
            "-lpthread",
            "-lpam",
        ]);
        assert!(cc.status().unwrap().success());
        fs::read(&module).unwrap()
    });
    module.clone()
}

/// The helper, built as this test was.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let directory = test.parent().and_then(Path::parent).unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "pamrelay-auth"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        if directory.file_name().is_some_and(|name| name == "release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success());
        directory.join("pamrelay-auth")
    })
}
