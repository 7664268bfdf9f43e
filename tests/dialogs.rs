//! Plays every conversation in `tests/dialogs` on real sockets: the real front end, key process and queue, and a
//! pretended helper whose users' names are the verdicts they get.
//!
//! | line | meaning |
//! |---|---|
//! | `C: text` | send the text and CR LF |
//! | `R: "text"` | send just this; `\r \n \0 \xNN` are octets; `"text*N"` sends it N times |
//! | `S: text` | the next line of a reply is this; `...` at the end stands for anything |
//! | `S*: text` | skip lines up to one like this |
//! | `TLS` | shake hands |
//! | `SECURE` | greeting, EHLO, STARTTLS, handshake, EHLO |
//! | `ENTER` | the same, and log in as ann |
//! | `LOGIN name` | AUTH PLAIN with this name |
//! | `AGAIN` | a new connection |
//! | `CLOSED`, `ALERT`, `HANGUP` | the relay closes; closes without a word of SMTP; we close |
//! | `WAIT n` | let n seconds pass |
//! | `QUEUED from -> to: "text"` | this message is in the queue next |
//! | `NOTHING QUEUED` | no message is |

#[path = "hostile/strangers.rs"]
mod strangers;
mod support;

use std::path::Path;

use support::relay::Relay;

#[test]
fn every_dialog_goes_as_written() {
    let relay = Relay::start();
    let only = std::env::var("DIALOG").ok();
    let mut failures = Vec::new();
    let mut played = 0;
    let mut files: Vec<_> = std::fs::read_dir("tests/dialogs").unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        if only.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        played += 1;
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(&relay, &file))) {
            Ok(()) => println!("dialog {name} ... ok"),
            Err(panic) => {
                let words = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "it panicked".to_owned());
                println!("dialog {name} ... FAILED: {words}");
                failures.push(name);
            }
        }
    }
    assert!(played > 0, "no dialog was played");
    assert!(failures.is_empty(), "these went otherwise: {failures:?}");
}

fn play(relay: &Relay, file: &Path) {
    let text = std::fs::read_to_string(file).unwrap();
    let implicit = text.lines().any(|line| line == "@ implicit");
    let mut client = relay.connect(implicit);
    for (number, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line)) {
        client.at(file, number);
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "" | "#" | "@" => {}
            "C:" => client.say(rest),
            "R:" => client.send(&octets(rest)),
            "S:" => client.expect(rest),
            "S*:" => client.skip_to(rest),
            "TLS" => client.secure(),
            "SECURE" => client.enter_tls(),
            "ENTER" => {
                client.enter_tls();
                client.login("ann");
                client.expect("235 ...");
            }
            "LOGIN" => client.login(rest),
            "AGAIN" => client = relay.connect(implicit),
            "CLOSED" => client.expect_closed(),
            "ALERT" => client.expect_alert(),
            "HANGUP" => client.hang_up(),
            "WAIT" => std::thread::sleep(std::time::Duration::from_secs(rest.parse().unwrap())),
            "QUEUED" => relay.expect_queued(rest),
            "NOTHING" => relay.expect_nothing_queued(),
            _ => panic!("{}:{number}: no such line: {line}", file.display()),
        }
    }
    client.hang_up();
    relay.forget_queued();
}

/// `"text*N"` with escapes, as octets.
fn octets(quoted: &str) -> Vec<u8> {
    let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).expect("quoted text");
    let (text, times) = match inner.rsplit_once('*') {
        Some((text, times)) if times.parse::<usize>().is_ok() => (text, times.parse().unwrap()),
        _ => (inner, 1),
    };
    let mut once = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&octet, after)) = rest.split_first() {
        rest = after;
        if octet != b'\\' {
            once.push(octet);
            continue;
        }
        let (&kind, after) = rest.split_first().expect("an escape");
        rest = after;
        match kind {
            b'r' => once.push(b'\r'),
            b'n' => once.push(b'\n'),
            b'0' => once.push(0),
            b'x' => {
                once.push(u8::from_str_radix(std::str::from_utf8(&rest[..2]).unwrap(), 16).unwrap());
                rest = &rest[2..];
            }
            other => panic!("no such escape: {}", char::from(other)),
        }
    }
    once.repeat(times)
}
