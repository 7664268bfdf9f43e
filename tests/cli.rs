//! The program as an administrator meets it: what it says, and how it ends.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pamrelay_authwire::{Accepted, Cause, Outcome, Phase, Question, Reason, Verdict};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_pamrelay");

fn pamrelay(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A root of one's own is what a test here cannot make up.
fn root_is_missing(test: &str) -> bool {
    let missing = !nix::unistd::geteuid().is_root();
    if missing {
        // Past the capture of tests that pass, which would hide it; tests/bed/count.awk counts it.
        let _ = writeln!(std::io::stdout(), "SKIPPED (needs root): {test}");
    }
    missing
}

#[test]
fn help_and_version_are_answers_and_nonsense_is_misuse() {
    let help = pamrelay(&["--help"]);
    let version = pamrelay(&["--version"]);

    assert_eq!(help.status.code(), Some(0));
    assert!(said(&help).contains("check") && said(&help).contains("/etc/pamrelay/pamrelay.yaml"));
    assert!(!said(&help).contains("role-exec"));
    assert_eq!(said(&version), format!("pamrelay {}\n", env!("CARGO_PKG_VERSION")));
    for nonsense in [&["frobnicate"][..], &["check", "--frobnicate"], &["auth", "test"], &[]] {
        assert_eq!(pamrelay(nonsense).status.code(), Some(64), "{nonsense:?}");
    }
}

#[test]
fn a_bad_configuration_ends_everything_with_78_and_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bad.yaml");
    fs::write(&path, "listen: [{ address: \"127.0.0.1:0\", tls: starttls }]\nlimits:\n  recipient: 5\n").unwrap();
    let path = path.to_str().unwrap();

    for command in ["run", "front", "keys", "queue"] {
        let output = pamrelay(&[command, "--config", path]);

        assert_eq!(output.status.code(), Some(78), "{command}: {}", said(&output));
        assert_eq!(
            said(&output),
            format!("pamrelay: {path}:3:3: limits.recipient: there is no such key; did you mean recipients?\n"),
            "{command}"
        );
    }
    let check = pamrelay(&["check", "--config", path]);
    assert_eq!(check.status.code(), Some(1));
    assert!(said(&check).contains("bad.yaml:3:3: limits.recipient") && said(&check).contains("1 mistake"), "{}", said(&check));
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    let output = pamrelay(&["run", "--config", "/nonexistent/pamrelay.yaml"]);

    assert_eq!(output.status.code(), Some(78));
    assert!(said(&output).starts_with("pamrelay: /nonexistent/pamrelay.yaml: it cannot be opened"), "{}", said(&output));
}

#[test]
fn what_root_alone_may_do_is_refused_to_others() {
    let site = Site::new("");
    for command in [&["auth", "test", "alice"][..], &["activate"], &["reload"]] {
        let mut program = Command::new(PROGRAM);
        program.args(command).arg("--config").arg(site.config()).stdin(Stdio::null());
        if nix::unistd::geteuid().is_root() {
            program.uid(65534).gid(65534);
        }

        let output = program.output().unwrap();

        assert_eq!(output.status.code(), Some(77), "{command:?}: {}", said(&output));
        assert!(said(&output).contains("only root may"), "{}", said(&output));
    }
}

/// Everything a relay needs, below one directory; users and PAM service are put over /etc in a mount namespace of their own.
struct Site {
    directory: TempDir,
}

impl Site {
    fn new(more: &str) -> Self {
        let site = Self { directory: tempfile::tempdir().unwrap() };
        fs::set_permissions(site.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        site.write(more);
        site.certify("mail.example.org");
        site.populate();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.path("pamrelay.yaml")
    }

    fn write(&self, more: &str) {
        let at = self.directory.path().display();
        let text = format!(
            "hostname: mail.example.org\nlisten: [{{ address: \"127.0.0.1:0\", tls: starttls }}]\ntls: {{ directory: {at}/certs }}\nruntime_dir: {at}/run\nspool: {at}/spool\nroutes: [{{ domains: [\"*\"], maildir: {at}/maildir }}]\n{more}"
        );
        fs::write(self.config(), text).unwrap();
    }

    fn certify(&self, name: &str) {
        let pair = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let certs = self.path("certs");
        fs::create_dir_all(&certs).unwrap();
        fs::set_permissions(&certs, fs::Permissions::from_mode(0o700)).unwrap();
        for (file, text) in [("server.crt", pair.cert.pem()), ("server.key", pair.signing_key.serialize_pem())] {
            fs::write(certs.join(file), text).unwrap();
            fs::set_permissions(certs.join(file), fs::Permissions::from_mode(0o600)).unwrap();
        }
    }

    /// The host's users and ours, the host's services and `smtp`.
    fn populate(&self) {
        let mut passwd = fs::read_to_string("/etc/passwd").unwrap();
        let mut group = fs::read_to_string("/etc/group").unwrap();
        for (number, name) in (61_001..).zip(["pamrelay", "pamrelay-keys", "pamrelay-queue"]) {
            passwd.push_str(&format!("{name}:x:{number}:{number}::/nonexistent:/usr/sbin/nologin\n"));
            group.push_str(&format!("{name}:x:{number}:\n"));
        }
        fs::write(self.path("passwd"), passwd).unwrap();
        fs::write(self.path("group"), group).unwrap();
        fs::create_dir(self.path("pam.d")).unwrap();
        fs::write(self.path("pam.d/smtp"), "auth required pam_unix.so\naccount required pam_unix.so\n").unwrap();
    }

    /// The program on this site.
    fn command(&self, arguments: &[&str]) -> Command {
        let at = self.directory.path().display();
        let mut command = Command::new("unshare");
        command.arg("--mount").args(["sh", "-ec"]).arg(format!(
            "mount --bind {at}/passwd /etc/passwd; mount --bind {at}/group /etc/group; mount --bind {at}/pam.d /etc/pam.d; if [ -d /run/systemd ]; then mount -t tmpfs none /run/systemd; fi; exec \"$@\""
        ));
        command.args(["sh", PROGRAM]).args(arguments).arg("--config").arg(self.config()).stdin(Stdio::null());
        command
    }

    /// The helper as somebody types it.
    fn helper(&self) -> Command {
        let at = self.directory.path().display();
        let mut command = Command::new("unshare");
        command.arg("--mount").args(["sh", "-ec"]).arg(format!(
            "mount --bind {at}/passwd /etc/passwd; mount --bind {at}/group /etc/group; mount --bind {at}/pam.d /etc/pam.d; exec \"$@\""
        ));
        command.arg("sh").arg(Path::new(PROGRAM).with_file_name("pamrelay-auth"));
        command.env("PAMRELAY_RUNTIME", self.path("run")).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

#[test]
fn check_finds_nothing_where_all_is_well() {
    if root_is_missing("check_finds_nothing_where_all_is_well") {
        return;
    }
    let site = Site::new("");

    let output = site.output(&["check"]);

    assert_eq!(said(&output), "pamrelay can start: no faults, no warnings.\n");
    assert_eq!(output.status.code(), Some(0));
}

/// Each breaks one thing; `check` says what and how to mend it, and `run` does not start.
#[test]
fn check_says_what_is_wrong_and_how_to_mend_it() {
    if root_is_missing("check_says_what_is_wrong_and_how_to_mend_it") {
        return;
    }
    let mode = |path: PathBuf, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let pam = |site: &Site, text: &str| fs::write(site.path("pam.d/smtp"), text).unwrap();
    let breakages: [(&dyn Fn(&Site), &str, &str); 13] = [
        (
            &|site| {
                fs::write(site.path("pam.d/common-auth"), "auth required pam_unix.so\n").unwrap();
                pam(site, "@include common-auth\n");
            },
            "/etc/pam.d/smtp has no line for account",
            "@include common-account",
        ),
        (
            &|site| pam(site, "auth required pam_permit.so\naccount required pam_permit.so\n"),
            "lets everybody in, whatever the password: the line at /etc/pam.d/smtp:1",
            "pam_deny.so",
        ),
        (
            &|site| pam(site, "auth sufficient pam_permit.so\nauth required pam_unix.so\naccount required pam_unix.so\n"),
            "lets everybody in, whatever the password: the line at /etc/pam.d/smtp:1",
            "pam_deny.so",
        ),
        (
            &|site| pam(site, "auth required pam_unix.so\nauth required pam_gone.so\naccount required pam_unix.so\n"),
            "/etc/pam.d/smtp:2: there is no PAM module pam_gone.so",
            "install the package",
        ),
        (
            &|site| pam(site, "auth include gone\naccount required pam_unix.so\n"),
            "/etc/pam.d/smtp:1: gone is included, and there is no such file",
            "ls /etc/pam.d",
        ),
        (
            &|site| {
                let lineage = site.path("letsencrypt/live/mail.example.org");
                fs::create_dir_all(&lineage).unwrap();
                fs::rename(site.path("certs/server.key"), lineage.join("privkey.pem")).unwrap();
                std::os::unix::fs::symlink(lineage.join("privkey.pem"), site.path("certs/server.key")).unwrap();
            },
            "leads out of the certificate directory",
            "deploy hook",
        ),
        (&|site| mode(site.path("certs/server.key"), 0o640), "server.key", "chmod 0600"),
        (&|site| mode(site.path("certs"), 0o755), "certs", "chmod 00700"),
        (&|site| fs::remove_file(site.path("pam.d/smtp")).unwrap(), "lets everybody in", "/etc/pam.d/smtp"),
        (&|site| mode(site.path("pam.d/smtp"), 0o666), "others than root may change /etc/pam.d/smtp", "chmod 0644 /etc/pam.d/smtp"),
        (
            &|site| fs::write(site.path("pam.d/smtp"), "auth required pam_unix.so\n").unwrap(),
            "no line for account",
            "include common-account",
        ),
        (&|site| fs::create_dir(site.path("spool")).unwrap(), "wanted are pamrelay-queue and 0700", "chown pamrelay-queue:"),
        (
            &|site| {
                let users = fs::read_to_string(site.path("passwd")).unwrap().replace("pamrelay-queue:x", "else:x");
                fs::write(site.path("passwd"), users).unwrap();
            },
            "there is no user pamrelay-queue",
            "useradd --system",
        ),
    ];
    for (breaks, what, remedy) in breakages {
        let site = Site::new("");
        breaks(&site);

        let check = site.output(&["check"]);
        let run = site.output(&["run"]);

        assert!(said(&check).contains(what) && said(&check).contains(remedy), "{what}:\n{}", said(&check));
        assert!(said(&check).contains("pamrelay would not start: 1 fault"), "{what}:\n{}", said(&check));
        assert_eq!(check.status.code(), Some(1));
        assert_eq!(run.status.code(), Some(78), "{what}:\n{}", said(&run));
        assert!(said(&run).contains(what), "{}", said(&run));
    }
}

#[test]
fn check_says_whether_the_groups_that_may_send_are_there() {
    if root_is_missing("check_says_whether_the_groups_that_may_send_are_there") {
        return;
    }
    let none = Site::new("auth: { groups: [no-such-group, nor-this] }\n").output(&["check"]);
    let one = Site::new("auth: { groups: [no-such-group, pamrelay] }\n").output(&["check"]);

    assert!(
        said(&none).contains("fault: auth.groups: none of its groups exists (no-such-group, nor-this), so everybody would be refused"),
        "{}",
        said(&none)
    );
    assert_eq!(none.status.code(), Some(1));
    assert!(said(&one).contains("warning: auth.groups: there is no group no-such-group"), "{}", said(&one));
    assert_eq!(one.status.code(), Some(0));
}

#[test]
fn check_warns_of_ports_that_others_have_and_not_of_those_of_the_running_relay() {
    if root_is_missing("check_warns_of_ports_that_others_have_and_not_of_those_of_the_running_relay") {
        return;
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let site = Site::new("");
    let text = fs::read_to_string(site.config()).unwrap().replace("127.0.0.1:0", &free.to_string());
    fs::write(site.config(), &text).unwrap();
    let relay = Relay::start(&site);
    relay.line(0, &["event=ready"]);

    let running = site.output(&["check"]);
    let foreign = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = format!("{{ address: \"{}\", tls: starttls }}", foreign.local_addr().unwrap());
    fs::write(site.config(), text.replace("tls: starttls }]", &format!("tls: starttls }}, {other}]"))).unwrap();
    let taken = site.output(&["check"]);

    assert_eq!(said(&running), "pamrelay can start: no faults, no warnings.\n");
    assert!(
        said(&taken).contains(&format!("warning: listen: {} cannot be listened on now", foreign.local_addr().unwrap())),
        "{}",
        said(&taken)
    );
    assert!(said(&taken).contains("no faults, 1 warning"), "{}", said(&taken));
}

#[test]
fn check_answers_programs_in_the_documented_form() {
    if root_is_missing("check_answers_programs_in_the_documented_form") {
        return;
    }
    let read = |output: &Output| -> serde_json::Value { serde_json::from_slice(&output.stdout).unwrap() };
    let good = Site::new("");
    let broken = Site::new("limits:\n  recipient: 5\n");
    let loose = Site::new("");
    fs::write(loose.path("pam.d/smtp"), "auth required pam_unix.so\nauth required  pam_gone.so\naccount required pam_unix.so\n").unwrap();

    assert_eq!(read(&good.output(&["check", "--json"])), serde_json::json!({ "starts": true, "complete": true, "findings": [] }));

    let answer = broken.output(&["check", "--json"]);
    let finding = &read(&answer)["findings"][0];
    assert_eq!(answer.status.code(), Some(1));
    assert_eq!((&finding["level"], &finding["line"], &finding["column"]), (&"fault".into(), &8.into(), &3.into()));
    assert_eq!(finding["file"], broken.config().to_str().unwrap());
    assert_eq!(finding["what"], "limits.recipient: there is no such key; did you mean recipients?");

    let answer = read(&loose.output(&["check", "--json"]));
    let finding = &answer["findings"][0];
    assert_eq!(answer["starts"], false);
    assert_eq!((&finding["file"], &finding["line"], &finding["column"]), (&"/etc/pam.d/smtp".into(), &2.into(), &16.into()));
    assert!(finding["repair"].as_str().unwrap().contains("install the package"), "{finding}");
    let keys: Vec<&String> = finding.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["column", "file", "level", "line", "repair", "what"]);
}

/// A helper that gives one answer.
fn helper(site: &Site, outcome: Outcome) -> thread::JoinHandle<Vec<u8>> {
    fs::create_dir_all(site.path("run/jail")).unwrap();
    let socket = site.path("run/jail/auth");
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut frame = vec![0; pamrelay_authwire::MAX_QUESTION];
        let count = stream.read(&mut frame).unwrap();
        frame.truncate(count);
        let id = Question::decode(&frame).unwrap().id;
        stream.write_all(&Verdict { id, outcome }.encode().unwrap()).unwrap();
        frame
    })
}

fn auth_test(site: &Site, password: &[u8]) -> Output {
    let mut program = Command::new(PROGRAM);
    program.args(["auth", "test", "alice", "--rhost", "192.0.2.7", "--config"]).arg(site.config());
    let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(password).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn auth_test_puts_the_password_to_the_helper_and_explains_the_answer() {
    if root_is_missing("auth_test_puts_the_password_to_the_helper_and_explains_the_answer") {
        return;
    }
    let site = Site::new("");
    let cause = |reason| Cause { phase: Phase::Account, code: 13, reason };
    let accepted = Accepted { user: "alice".into(), uid: 1000, groups: vec!["staff".into()], ticket: vec![1] };
    let cases = [
        (Outcome::Accept(accepted), 0, "accepted: alice (uid 1000, in staff) may send mail"),
        (Outcome::Reject(cause(Reason::Refused)), 1, "535 5.7.8"),
        (Outcome::Expired(cause(Reason::AccountExpired)), 1, "535 5.7.13"),
        (Outcome::Unavailable(cause(Reason::Deadline)), 75, "slower than auth.deadline"),
    ];
    for (outcome, status, words) in cases {
        let helper = helper(&site, outcome);

        let output = auth_test(&site, b"pass word\r\nnot this\n");

        assert_eq!(output.status.code(), Some(status), "{}", said(&output));
        assert!(said(&output).contains(words), "{}", said(&output));
        assert!(!said(&output).contains("pass word"));
        let frame = helper.join().unwrap();
        let question = Question::decode(&frame).unwrap();
        assert_eq!((question.user, question.password), (&b"alice"[..], &b"pass word"[..]));
        assert_eq!(question.peer_addr().to_string(), "192.0.2.7");
    }
    fs::remove_file(site.path("run/jail/auth")).unwrap();
    let away = auth_test(&site, b"x\n");
    assert_eq!(away.status.code(), Some(75));
    assert!(said(&away).contains("systemctl status pamrelay-auth"), "{}", said(&away));
}

/// A relay under its supervisor, and what it logged.
struct Relay {
    supervisor: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Relay {
    fn start(site: &Site) -> Self {
        let mut supervisor = site.command(&["run"]).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, kept) = (BufReader::new(supervisor.stderr.take().unwrap()), Arc::clone(&log));
        thread::spawn(move || lines.lines().map_while(Result::ok).for_each(|line| kept.lock().unwrap().push(line)));
        Self { supervisor, log }
    }

    /// The `nth` line that has all these words.
    fn line(&self, nth: usize, words: &[&str]) -> String {
        let until = Instant::now() + Duration::from_secs(120);
        loop {
            let found = self.log.lock().unwrap().iter().filter(|line| words.iter().all(|word| line.contains(word))).nth(nth).cloned();
            match found {
                Some(line) => return line,
                None if Instant::now() > until => panic!("no line {nth} with {words:?} in\n{}", self.log.lock().unwrap().join("\n")),
                None => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn pid(&self, role: &str, nth: usize) -> i32 {
        field(&self.line(nth, &["event=role_started", &format!("role={role}")]), "pid").parse().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(i32::try_from(self.supervisor.id()).unwrap(), signal);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
    }
}

fn field<'l>(line: &'l str, name: &str) -> &'l str {
    line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('=')).unwrap()
}

fn kill(pid: i32, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

fn lives(pid: i32) -> bool {
    // A zombie has ended.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(120);
    while !done() {
        assert!(Instant::now() < until, "{what} did not come true");
        thread::sleep(Duration::from_millis(10));
    }
}

const ROLES: [&str; 4] = ["auth", "keys", "queue", "front"];

#[test]
fn a_role_that_is_killed_comes_back_and_the_others_stay() {
    if root_is_missing("a_role_that_is_killed_comes_back_and_the_others_stay") {
        return;
    }
    let site = Site::new("");
    let relay = Relay::start(&site);
    relay.line(0, &["event=ready"]);
    let pids = ROLES.map(|role| (role, relay.pid(role, 0)));
    for (role, user) in [("keys", 61_002), ("queue", 61_003), ("front", 61_001), ("auth", 0)] {
        let status = fs::read_to_string(format!("/proc/{}/status", relay.pid(role, 0))).unwrap();
        assert!(status.contains(&format!("Uid:\t{user}\t{user}\t{user}\t{user}\n")), "{role}: {status}");
    }

    for (killed, pid) in pids {
        kill(pid, Signal::SIGKILL);

        let died = relay.line(0, &["event=role_died", &format!("role={killed}")]);
        assert!(died.contains("signal: 9"), "{died}");
        relay.line(1, &["event=role_ready", &format!("role={killed}")]);
        assert_ne!(relay.pid(killed, 1), pid);
    }
    let deaths = relay.log.lock().unwrap().iter().filter(|line| line.contains("event=role_died")).count();
    assert_eq!(deaths, 4, "nobody followed another");
}

#[test]
fn an_empty_queue_says_so_to_people_and_programs() {
    if root_is_missing("an_empty_queue_says_so_to_people_and_programs") {
        return;
    }
    let site = Site::new("");
    let away = site.output(&["queue", "list"]);
    assert_eq!(away.status.code(), Some(69), "{}", said(&away));
    let relay = Relay::start(&site);
    relay.line(0, &["event=ready"]);

    assert_eq!(said(&site.output(&["queue", "list"])), "No messages.\n");
    assert_eq!(said(&site.output(&["queue", "list", "--json"])), "[]\n");
    assert_eq!(said(&site.output(&["queue", "delete", "--all"])), "");
    for misuse in
        [&["queue", "delete"][..], &["queue", "delete", "--all", "0000000000001"], &["queue", "hold", "0000000000001", "--user", "x"]]
    {
        assert_eq!(site.output(misuse).status.code(), Some(64), "{misuse:?}");
    }
    let missing = site.output(&["queue", "retry", "0000000000001"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(said(&missing).contains("0000000000001"), "{}", said(&missing));
}

#[test]
fn no_role_outlives_its_supervisor() {
    if root_is_missing("no_role_outlives_its_supervisor") {
        return;
    }
    let site = Site::new("");
    let mut relay = Relay::start(&site);
    relay.line(0, &["event=ready"]);
    let roles = ROLES.map(|role| relay.pid(role, 0));

    relay.supervisor.kill().unwrap();
    relay.supervisor.wait().unwrap();

    wait_for("the end of all roles", || roles.iter().all(|pid| !lives(*pid)));
}

#[test]
fn a_terminated_relay_ends_its_roles_and_itself() {
    if root_is_missing("a_terminated_relay_ends_its_roles_and_itself") {
        return;
    }
    let site = Site::new("");
    let mut relay = Relay::start(&site);
    relay.line(0, &["event=ready"]);
    let roles = ROLES.map(|role| relay.pid(role, 0));

    relay.signal(Signal::SIGTERM);

    assert_eq!(relay.supervisor.wait().unwrap().code(), Some(0));
    assert!(roles.iter().all(|pid| !lives(*pid)));
    relay.line(0, &["event=ended"]);
}

#[test]
fn a_bad_reload_is_told_and_changes_nothing() {
    if root_is_missing("a_bad_reload_is_told_and_changes_nothing") {
        return;
    }
    let site = Site::new("");
    let relay = Relay::start(&site);
    relay.line(0, &["event=ready"]);
    let accepted = fs::read_to_string(site.path("run/active/pamrelay.yaml")).unwrap();

    site.write("limits: { recipient: 5 }\n");
    let asked = site.output(&["reload"]);
    relay.signal(Signal::SIGHUP);

    assert_eq!(asked.status.code(), Some(78));
    assert!(said(&asked).contains("did you mean recipients?"), "{}", said(&asked));
    let told = relay.line(0, &["event=reload_refused"]);
    assert!(told.contains("did you mean recipients?"), "{told}");
    assert_eq!(fs::read_to_string(site.path("run/active/pamrelay.yaml")).unwrap(), accepted);
}

/// The supervisor judges what it is told to use by the same laws as at its start: otherwise keys would end, and nobody could sign.
#[test]
fn a_reload_that_check_would_refuse_is_refused_by_the_supervisor_too() {
    if root_is_missing("a_reload_that_check_would_refuse_is_refused_by_the_supervisor_too") {
        return;
    }
    let site = Site::new("");
    let relay = Relay::start(&site);
    relay.line(0, &["event=ready"]);
    let keys = relay.pid("keys", 0);
    let accepted = fs::read_to_string(site.path("run/active/pamrelay.yaml")).unwrap();

    site.write("auth: { service: nonesuch }\n");
    relay.signal(Signal::SIGHUP);
    relay.line(0, &["event=reload_refused", "nonesuch"]);
    let good = fs::read_to_string(site.config()).unwrap().replace("auth: { service: nonesuch }\n", "");
    fs::write(site.config(), good.replace("/certs }", "/certs, certificate: missing.crt }")).unwrap();
    relay.signal(Signal::SIGHUP);

    relay.line(0, &["event=reload_refused", "missing.crt"]);
    assert!(lives(keys));
    assert_eq!(fs::read_to_string(site.path("run/active/pamrelay.yaml")).unwrap(), accepted);
}

#[test]
fn a_good_reload_restarts_those_concerned() {
    if root_is_missing("a_good_reload_restarts_those_concerned") {
        return;
    }
    let site = Site::new("");
    let relay = Relay::start(&site);
    relay.line(0, &["event=ready"]);
    let (keys, queue, front) = (relay.pid("keys", 0), relay.pid("queue", 0), relay.pid("front", 0));

    site.write("limits: { bad_commands: 5 }\n");
    let asked = site.output(&["reload"]);

    assert_eq!(asked.status.code(), Some(0), "{}", said(&asked));
    relay.line(0, &["event=reloaded"]);
    assert_ne!(relay.pid("front", 1), front);
    assert!(!lives(front) && lives(keys) && lives(queue));
    assert!(fs::read_to_string(site.path("run/active/pamrelay.yaml")).unwrap().contains("bad_commands"));
}

#[test]
fn a_second_relay_on_one_runtime_directory_is_refused() {
    if root_is_missing("a_second_relay_on_one_runtime_directory_is_refused") {
        return;
    }
    let site = Site::new("");
    let relay = Relay::start(&site);
    relay.line(0, &["event=ready"]);

    let second = site.output(&["run"]);

    assert_eq!(second.status.code(), Some(69));
    assert!(said(&second).contains(&format!("another pamrelay runs here already (pid {})", relay.supervisor.id())), "{}", said(&second));
    assert!(Path::new(&site.path("run/jail/keys")).exists(), "the first one's sockets are untouched");
}

#[test]
fn the_accepted_configuration_is_read_by_each_role_from_its_own_copy_and_by_nobody_else() {
    if root_is_missing("the_accepted_configuration_is_read_by_each_role_from_its_own_copy_and_by_nobody_else") {
        return;
    }
    let site = Site::new("");
    let activated = site.output(&["activate"]);
    assert_eq!(activated.status.code(), Some(0), "{}", said(&activated));

    for (name, gid, mode) in [
        ("front.yaml", 61_001, 0o640),
        ("keys.yaml", 61_002, 0o640),
        ("queue.yaml", 61_003, 0o640),
        ("pamrelay.yaml", 0, 0o600),
        ("auth.env", 0, 0o600),
    ] {
        let about = fs::metadata(site.path("run/active").join(name)).unwrap();
        assert_eq!((about.uid(), about.gid(), about.mode() & 0o7777), (0, gid, mode), "{name}");
    }
    let directory = fs::metadata(site.path("run/active")).unwrap();
    assert_eq!((directory.uid(), directory.mode() & 0o7777), (0, 0o711));
    assert_eq!(fs::read_dir(site.path("run/active")).unwrap().count(), 5, "nothing half written is left");
}

#[test]
fn activate_changes_nothing_behind_a_link_and_names_the_element() {
    if root_is_missing("activate_changes_nothing_behind_a_link_and_names_the_element") {
        return;
    }
    let site = Site::new("");
    site.output(&["activate"]);
    fs::create_dir(site.path("victim")).unwrap();
    fs::set_permissions(site.path("victim"), fs::Permissions::from_mode(0o750)).unwrap();
    for name in ["queue", "jail", "active"] {
        fs::rename(site.path("run").join(name), site.path("aside")).unwrap();
        std::os::unix::fs::symlink(site.path("victim"), site.path("run").join(name)).unwrap();

        let activated = site.output(&["activate"]);

        assert_eq!(activated.status.code(), Some(71), "{}", said(&activated));
        assert!(said(&activated).contains(&format!("run/{name} is not a directory")), "{}", said(&activated));
        let about = fs::metadata(site.path("victim")).unwrap();
        assert_eq!((about.uid(), about.mode() & 0o7777), (0, 0o750));
        fs::remove_file(site.path("run").join(name)).unwrap();
        fs::rename(site.path("aside"), site.path("run").join(name)).unwrap();
    }
}

#[test]
fn what_is_started_beside_a_relay_is_refused_and_takes_no_socket() {
    if root_is_missing("what_is_started_beside_a_relay_is_refused_and_takes_no_socket") {
        return;
    }
    let site = Site::new("");
    let relay = Relay::start(&site);
    relay.line(0, &["event=ready"]);
    let sockets = || ["jail/auth", "jail/keys", "jail/queue", "keys"].map(|name| fs::metadata(site.path("run").join(name)).unwrap().ino());
    let before = sockets();

    let keys = site.output(&["keys"]);
    let queue = site.output(&["queue"]);
    let helper = site.helper().output().unwrap();
    let activated = site.output(&["activate"]);
    fs::remove_file(site.path("run/supervisor.pid")).unwrap();
    let second = site.output(&["run"]);

    let us = format!("(pid {})", relay.supervisor.id());
    for (what, output) in [("keys", &keys), ("helper", &helper), ("run", &second)] {
        assert!(!output.status.success() && said(output).contains(&us) && said(output).contains("answers"), "{what}: {}", said(output));
    }
    assert!(!queue.status.success() && said(&queue).contains("in use by another process"), "{}", said(&queue));
    assert_eq!(activated.status.code(), Some(69), "{}", said(&activated));
    assert_eq!(second.status.code(), Some(69));
    assert_eq!(sockets(), before);
}

#[test]
fn a_relay_beside_a_helper_that_was_started_by_hand_is_refused() {
    if root_is_missing("a_relay_beside_a_helper_that_was_started_by_hand_is_refused") {
        return;
    }
    let site = Site::new("");
    assert_eq!(site.output(&["activate"]).status.code(), Some(0));
    let mut helper = site.helper().spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while std::os::unix::net::UnixStream::connect(site.path("run/jail/auth")).is_err() && Instant::now() < until {
        thread::sleep(Duration::from_millis(20));
    }

    let outputs = [site.output(&["run"]), site.output(&["activate"]), site.helper().output().unwrap()];
    helper.kill().unwrap();
    helper.wait().unwrap();

    for output in outputs {
        assert!(!output.status.success() && said(&output).contains("jail/auth") && said(&output).contains("answers"), "{}", said(&output));
    }
}

#[test]
fn the_number_of_a_supervisor_that_has_gone_is_sent_no_signal() {
    if root_is_missing("the_number_of_a_supervisor_that_has_gone_is_sent_no_signal") {
        return;
    }
    let site = Site::new("");
    let relay = Relay::start(&site);
    relay.line(0, &["event=ready"]);
    let pid_file = site.path("run/supervisor.pid");
    assert_eq!(fs::metadata(&pid_file).unwrap().mode() & 0o7777, 0o600);
    relay.signal(Signal::SIGTERM);
    relay.line(0, &["event=ended"]);
    let until = Instant::now() + Duration::from_secs(10);
    while pid_file.exists() && Instant::now() < until {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(!pid_file.exists(), "it is removed at the end");
    // SIGHUP would end it.
    let mut bystander = Command::new("sleep").arg("60").spawn().unwrap();
    fs::write(&pid_file, format!("{}\n", bystander.id())).unwrap();

    let asked = site.output(&["reload"]);
    let lives = bystander.try_wait().unwrap().is_none();
    bystander.kill().unwrap();
    bystander.wait().unwrap();

    assert_eq!(asked.status.code(), Some(69), "{}", said(&asked));
    assert!(said(&asked).contains("no relay runs here") && lives);
}

#[test]
fn a_reload_returns_when_the_restarted_roles_are_ready_and_a_second_waits_for_it() {
    if root_is_missing("a_reload_returns_when_the_restarted_roles_are_ready_and_a_second_waits_for_it") {
        return;
    }
    let site = Site::new("");
    let relay = Relay::start(&site);
    relay.line(0, &["event=ready"]);

    site.write("limits: { bad_commands: 5 }\n");
    let (first, second) = thread::scope(|scope| {
        let other = scope.spawn(|| site.output(&["reload"]));
        (site.output(&["reload"]), other.join().unwrap())
    });

    for output in [&first, &second] {
        assert_eq!(output.status.code(), Some(0), "{}", said(output));
    }
    let state = fs::read_to_string(site.path("run/supervisor.pid")).unwrap();
    assert!(state.contains("begun 2\ndone 2 ok\n"), "{state}");
    let ready = relay.line(1, &["event=role_ready", "role=front"]);
    let again = relay.line(1, &["event=reloaded"]);
    assert!(ready <= again, "the second reload began when the front end of the first was ready: {ready} {again}");
}

#[test]
fn a_relay_whose_role_cannot_start_ends_and_names_it() {
    if root_is_missing("a_relay_whose_role_cannot_start_ends_and_names_it") {
        return;
    }
    let site = Site::new("");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let text = fs::read_to_string(site.config()).unwrap().replace("127.0.0.1:0", &address);
    fs::write(site.config(), text).unwrap();

    let ended = site.output(&["run"]);

    assert_eq!(ended.status.code(), Some(71), "{}", said(&ended));
    assert!(said(&ended).contains("the role front cannot start") && said(&ended).contains(&address), "{}", said(&ended));
}
