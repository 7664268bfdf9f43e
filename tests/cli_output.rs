//! What the program prints when nobody reads it, when it cannot be written, and when a stranger chose the characters.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_pamrelay");

/// How a command ended, and its words on the stream that was left.
fn ended(mut command: Command) -> (Option<i32>, String) {
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    let mut said = String::new();
    if let Some(out) = &mut child.stdout {
        out.read_to_string(&mut said).unwrap();
    }
    if let Some(err) = &mut child.stderr {
        err.read_to_string(&mut said).unwrap();
    }
    (child.wait().unwrap().code(), said)
}

fn program(arguments: &[String]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments);
    command
}

fn full_device() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// The end of a pipe that nobody reads.
fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// `--help` of every command, however deep.
fn helps(command: &clap::Command, path: &[String], found: &mut Vec<Vec<String>>) {
    found.push([path, &["--help".to_owned()]].concat());
    for sub in command.get_subcommands() {
        helps(sub, &[path, &[sub.get_name().to_owned()]].concat(), found);
    }
}

/// A queue that answers everything with the same lines. Everybody is attended to who connects, also those who only look.
struct FakeQueue {
    directory: TempDir,
}

impl FakeQueue {
    fn start(notes: String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        fs::create_dir_all(at.join("run/queue")).unwrap();
        let config = format!("listen: [{{ address: \"127.0.0.1:0\", tls: starttls }}]\nruntime_dir: {}/run\n", at.display());
        fs::write(at.join("pamrelay.yaml"), config).unwrap();
        let listener = UnixListener::bind(at.join("run/queue/control")).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut line = String::new();
                if BufReader::new(&stream).read_line(&mut line).is_ok_and(|count| count > 0) {
                    let _ = (&stream).write_all(notes.as_bytes()); // who has gone hears nothing
                }
            }
        });
        Self { directory }
    }

    fn config(&self) -> &Path {
        self.directory.path()
    }

    fn command(&self, line: &str) -> Command {
        let mut command = program(&words(line));
        command.arg("--config").arg(self.config().join("pamrelay.yaml"));
        command
    }
}

fn entry(sender: &str) -> serde_json::Value {
    serde_json::json!({
        "id": "0123456789abc", "state": "deferred", "arrived": "2026-11-20T10:00:00Z", "next": "2026-11-20T12:00:00Z", "attempts": 1, "size": 1000,
        "sender": sender, "user": "alice", "uid": 1000,
        "recipients": [{ "address": "bob@b.example", "state": "deferred", "status": "4.4.1", "remote": "mx", "reason": sender }],
    })
}

/// A listing that fills every pipe.
fn long_listing() -> String {
    let mut notes = format!("{}\n", serde_json::json!({ "entry": entry("alice@a.example") })).repeat(5000);
    notes.push_str("{\"done\":{\"count\":5000}}\n");
    notes
}

#[test]
fn a_reader_that_has_gone_ends_a_command_quietly_and_not_with_success() {
    let queue = FakeQueue::start(long_listing());
    let mut commands: Vec<Command> = Vec::new();
    let mut found = Vec::new();
    helps(&pamrelay::cli::command(), &[], &mut found);
    assert!(found.len() > 20, "{found:?}");
    commands.extend(found.iter().map(|arguments| program(arguments)));
    commands.push(program(&words("--version")));
    commands.push(program(&words("check --config /nonexistent")));
    commands.push(program(&words("check --json --config /nonexistent")));
    commands.extend(["queue list", "queue list --json"].map(|line| queue.command(line)));
    for mut command in commands {
        command.stdout(unread()).stderr(Stdio::piped());
        let shown = format!("{command:?}");

        assert_eq!(ended(command), (Some(141), String::new()), "{shown}");
    }
}

#[test]
fn a_reader_that_goes_after_the_first_line_ends_a_long_listing() {
    let queue = FakeQueue::start(long_listing());
    for line in ["queue list", "queue list --json"] {
        let mut command = queue.command(line);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();

        assert!(!first.is_empty());
        assert_eq!((child.wait().unwrap().code(), said), (Some(141), String::new()), "{line}");
    }
}

#[test]
fn a_full_device_is_said_and_is_no_success() {
    let queue = FakeQueue::start(long_listing());
    let mut commands: Vec<Command> = Vec::new();
    let mut found = Vec::new();
    helps(&pamrelay::cli::command(), &[], &mut found);
    commands.extend(found.iter().map(|arguments| program(arguments)));
    commands.push(program(&words("--version")));
    commands.push(program(&words("check --config /nonexistent")));
    commands.extend(["queue list", "queue list --json"].map(|line| queue.command(line)));
    for mut command in commands {
        command.stdout(full_device()).stderr(Stdio::piped());
        let shown = format!("{command:?}");

        let (status, said) = ended(command);

        assert_eq!(status, Some(74), "{shown}: {said}");
        assert_eq!(said, "pamrelay: cannot write the answer: No space left on device (os error 28)\n", "{shown}");
    }
}

#[test]
fn a_message_that_cannot_be_written_changes_no_status() {
    let cases = [
        ("", 64),
        ("frobnicate", 64),
        ("run --config /nonexistent", 78),
        ("queue list --config /nonexistent", 78),
        ("front --config /nonexistent", 78),
        ("auth test", 64),
    ];
    for (line, wanted) in cases {
        for stream in [full_device().into(), unread()] {
            let mut command = program(&words(line));
            command.stdout(Stdio::piped()).stderr(stream);

            assert_eq!(ended(command).0, Some(wanted), "{line}");
        }
    }
}

/// One of each kind that a terminal would obey, or that nobody sees.
const UNSEEN: &str =
    "a\u{1b}[31m\u{7f}\u{9b}2J\u{85}\u{a0}\u{ad}\u{200b}\u{200e}\u{2028}\u{2029}\u{202e}\u{2066}\u{feff}\u{e000}\u{e0041}\u{3164}z";

#[test]
fn nothing_that_cannot_be_seen_leaves_in_json_or_in_words_and_json_keeps_its_meaning() {
    let hostile = entry(UNSEEN);
    let mut notes = format!("{}\n", serde_json::json!({ "shown": { "entry": hostile, "headers": format!("Subject: {UNSEEN}\r\n") } }));
    notes.push_str("{\"done\":{\"count\":1}}\n");
    let shown = FakeQueue::start(notes);
    let listed = FakeQueue::start(format!("{}\n{{\"done\":{{\"count\":1}}}}\n", serde_json::json!({ "entry": hostile })));
    let changed = FakeQueue::start(format!("{}\n{{\"done\":{{\"count\":1}}}}\n", serde_json::json!({ "changed": [UNSEEN] })));
    let refused = FakeQueue::start(format!("{}\n", serde_json::json!({ "error": UNSEEN })));
    for (queue, line) in
        [(&shown, "queue show 0123456789abc"), (&listed, "queue list"), (&changed, "queue hold --all"), (&refused, "queue list")]
    {
        for json in ["", " --json"] {
            let mut command = queue.command(&format!("{line}{json}"));
            command.stdout(Stdio::piped()).stderr(Stdio::piped());

            let output = command.output().unwrap();

            let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
            assert!(said.contains('z') && said.bytes().all(|octet| matches!(octet, b'\n' | b' '..=b'~')), "{line}{json}: {said:?}");
            if !json.is_empty() && output.status.success() {
                let read: serde_json::Value = serde_json::from_str(&said).unwrap();
                assert!(read.to_string().contains(&serde_json::Value::from(UNSEEN).to_string()), "{read}");
            }
        }
    }
}

#[test]
fn a_long_listing_that_is_read_late_is_whole() {
    let queue = FakeQueue::start(long_listing());
    let mut command = queue.command("queue list --json");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    thread::sleep(Duration::from_millis(100)); // longer than a pipe takes to fill
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();

    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(serde_json::from_str::<Vec<serde_json::Value>>(&said).unwrap().len(), 5000);
}
