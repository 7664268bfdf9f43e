//! What the configuration takes, and in which words it refuses the rest.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use pamrelay::config::{Bytes, Config, Host, ListenTls, Login, Mistakes, Pattern, Sandbox, SmartHostTls, Target};

const LISTEN: &str = "listen: [{ address: \"127.0.0.1:2587\", tls: starttls }]\n";

fn parse(text: &str) -> Result<Config, Mistakes> {
    Config::parse(text, Path::new("t.yaml"))
}

/// What is said about `text` behind a good first line.
fn mistakes(text: &str) -> String {
    match parse(&format!("{LISTEN}{text}")) {
        Ok(_) => panic!("taken:\n{text}"),
        Err(mistakes) => mistakes.to_string(),
    }
}

#[test]
fn a_listener_is_all_that_must_be_written() {
    let config = parse(LISTEN).unwrap();

    assert_eq!(config.listen[0].tls, ListenTls::Starttls);
    assert_eq!(config.auth.service, "smtp");
    assert_eq!(config.auth.deadline, Duration::from_secs(10));
    assert_eq!(config.limits.message_size, Bytes(35 << 20));
    assert_eq!(config.limits.recipients, 1000);
    assert_eq!(config.delivery.give_up, Duration::from_secs(432_000));
    assert_eq!(config.sandbox, Sandbox::BestEffort);
    assert_eq!(config.spool, Path::new("/var/spool/pamrelay"));
    assert_eq!(config.routes[0].domains, [Pattern::Any]);
    assert_eq!(config.routes[0].target, Target::Mx);
}

#[test]
fn every_key_reaches_its_place() {
    let config = parse(
        r#"
hostname: mail.example.org
listen:
  - { address: "0.0.0.0:587", tls: starttls }
  - { address: "[::]:465", tls: implicit }
tls: { directory: /srv/certs/, certificate: a.crt, key: a.key, client_certificate: c.crt, client_key: c.key }
auth: { service: mail, min_uid: 500, groups: [staff, 'domain users'], deadline: 20s, workers: 4, failure_floor: 2s }
limits: { message_size: 1MiB, recipients: 100, sessions: 50, sessions_per_address: 5, sessions_per_site: 9, bad_commands: 3, command_timeout: 1m, data_timeout: 2m, session_timeout: 3m, login_timeout: 30s }
spool: /srv/spool
runtime_dir: /run/other
sandbox: required
log: debug
routes:
  - domains: [Archive.Example, .example.org]
    maildir: /srv/archive
  - domains: "*"
    smart_hosts:
      - { host: Relay.Example.NET, user: us, secret: relay.secret }
      - { host: "::1", tls: none }
delivery: { first_retry: 1m, longest_retry: 1h, give_up: 2d, connections: 3, resolver: ["127.0.0.1:53"], trust: /srv/ca.pem, postmaster: postmaster@bücher.example }
"#,
    )
    .unwrap();

    assert_eq!(config.hostname.to_string(), "mail.example.org");
    assert_eq!(config.listen[1].address, "[::]:465".parse().unwrap());
    assert_eq!(config.tls.directory, Path::new("/srv/certs"));
    assert_eq!(config.tls.client.unwrap().key, "c.key");
    assert_eq!(config.auth.groups, ["staff", "domain users"]);
    assert_eq!(config.limits.session_timeout, Duration::from_secs(180));
    assert_eq!(config.limits.login_timeout, Duration::from_secs(30));
    assert_eq!(config.limits.sessions_per_site, 9);
    assert_eq!(config.routes[0].domains, [Pattern::Exact("archive.example".into()), Pattern::Below("example.org".into())]);
    let Target::SmartHosts(hosts) = &config.routes[1].target else { panic!("no smart hosts") };
    assert_eq!((&hosts[0].host, hosts[0].port, hosts[0].tls), (&Host::Name("relay.example.net".into()), 587, SmartHostTls::Required));
    assert_eq!(hosts[0].login, Some(Login { user: "us".into(), secret: "relay.secret".into() }));
    assert_eq!((hosts[1].port, hosts[1].tls, &hosts[1].login), (25, SmartHostTls::None, &None));
    assert_eq!(config.delivery.resolver, ["127.0.0.1:53".parse().unwrap()]);
    assert_eq!(config.delivery.postmaster.unwrap().to_string(), "postmaster@xn--bcher-kva.example");
}

/// It is said in EHLO and in banners, before anybody can have agreed on SMTPUTF8.
#[test]
fn an_international_hostname_is_taken_as_dns_has_it() {
    let config = parse(&format!("{LISTEN}hostname: Bücher.example\n")).unwrap();

    assert_eq!(config.hostname.to_string(), "xn--bcher-kva.example");
}

#[test]
fn each_mistake_has_its_place_and_its_words() {
    let cases = [
        // Keys.
        ("limits: { recipient: 5 }", "t.yaml:2:11: limits.recipient: there is no such key; did you mean recipients?"),
        ("Hostname: a.example", "t.yaml:2:1: Hostname: there is no such key; did you mean hostname?"),
        (
            "xyzzy: 1",
            "t.yaml:2:1: xyzzy: there is no such key; the keys here are hostname, listen, tls, auth, limits, spool, runtime_dir, sandbox, log, routes, delivery",
        ),
        ("spool: /a\nlog: info\nspool: /b", "t.yaml:4:1: the key \"spool\" is repeated; it is already on line 2"),
        ("limits:\n  sessions: 5\n  sessions: 6", "t.yaml:4:3: the key \"sessions\" is repeated; it is already on line 3"),
        ("spool:", "t.yaml:2:1: spool: it has no value; write one, or leave the line out"),
        ("? [a]\n: b", "t.yaml:2:3: a key must be a word"),
        ("\"a\\eb\": 1", "\"a\\u{1b}b\": there is no such key"),
        // Values.
        (
            "limits: { command_timeout: 300 }",
            "t.yaml:2:28: limits.command_timeout: \"300\" cannot be taken: it has no unit; wanted is a duration from 1s to 1h, such as 30s, 5m or 1h30m",
        ),
        (
            "limits: { recipients: 99 }",
            "t.yaml:2:23: limits.recipients: \"99\" cannot be taken: it is less than 100; wanted is a whole number from 100 to 5000",
        ),
        (
            "limits: { message_size: 25mb }",
            "t.yaml:2:25: limits.message_size: \"25mb\" cannot be taken: there is no unit \"mb\", only KiB, MiB, GiB, kB, MB, GB; wanted is a size from 64KiB to 2GiB, such as 25MiB",
        ),
        ("limits: { sessions: -1 }", "t.yaml:2:21: limits.sessions: \"-1\" cannot be taken: it does not begin with a number"),
        ("limits: { sessions: 1e3 }", "\"e3\" is not part of a number"),
        ("limits: { sessions: 99999999999999999999 }", "the number is too large"),
        ("sandbox: yes", "t.yaml:2:10: sandbox: \"yes\" cannot be taken: there is no such word; wanted is one of best-effort, required"),
        ("spool: spool", "t.yaml:2:8: spool: \"spool\" cannot be taken: it does not begin with /; wanted is a path from the root"),
        ("spool: [/a]", "t.yaml:2:8: spool: there is a list where a path from the root such as /var/spool/pamrelay is wanted"),
        ("spool: /a/../b", "it has a \"..\" in it"),
        ("tls: server.crt", "t.yaml:2:6: tls: there is a single value where keys are wanted, such as directory, certificate, key"),
        ("tls: { certificate: /etc/x.crt }", "it has a / in it; wanted is the name of a file in tls.directory"),
        (
            "auth: { service: other }",
            "t.yaml:2:18: auth.service: \"other\" cannot be taken: that is the service PAM takes when there is no other",
        ),
        ("auth: { min_uid: 0 }", "it is less than 1"),
        ("auth: { groups: [] }", "t.yaml:2:17: auth.groups: the list is empty; leave the line out for the default"),
        ("auth: { groups: [\"\"] }", "auth.groups: \"\" cannot be taken: it is empty; leave the line out if you mean none"),
        ("auth: { groups: [staff, \" \"] }", "it begins or ends with a blank"),
        ("tls: { certificate: \"\" }", "tls.certificate: \"\" cannot be taken: it is empty"),
        (
            "routes: [{ domains: [\"*\"], smart_hosts: [{ host: a.example, user: \"\", secret: x }] }]",
            "user: \"\" cannot be taken: it is empty",
        ),
        ("hostname: 127.0.0.1", "t.yaml:2:11: hostname: \"127.0.0.1\" cannot be taken: it is an address; wanted is a domain name"),
        ("hostname: a..b", "the domain is malformed"),
        ("delivery: { postmaster: root }", "the address has no domain; wanted is a mail address such as postmaster@example.org"),
        ("delivery: { postmaster: \"a@[127.0.0.1]\" }", "it is at an IP address"),
        (
            "delivery: { resolver: [dns.example] }",
            "t.yaml:2:24: delivery.resolver: \"dns.example\" cannot be taken: names are not looked up here",
        ),
        ("delivery: { resolver: [127.0.0.1] }", "it has no port"),
        // Routes.
        ("routes: []", "t.yaml:2:9: routes: the list is empty"),
        ("routes: { domains: [\"*\"] }", "t.yaml:2:9: routes: there are keys where a list is wanted; begin each item with \"- \""),
        (
            "routes: [{ domains: [a.example] }]",
            "t.yaml:2:21: routes[].domains: a route has exactly one of smart_hosts, mx, maildir; it has none",
        ),
        ("routes: [{ domains: [a.example], mx: direct, maildir: /m }]", "it has more than one"),
        ("routes: [{ mx: direct }]", "t.yaml:2:10: routes[].domains: it is missing; wanted is a domain such as example.org"),
        (
            "routes:\n  - { domains: [\"*\"], mx: direct }\n  - { domains: [a.example], maildir: /m }",
            "t.yaml:4:17: routes[].domains: this is never reached, line 3 already takes it; the first route that fits wins",
        ),
        (
            "routes: [{ domains: [a.example, A.Example], mx: direct }]",
            "t.yaml:2:33: routes[].domains: this is never reached, line 2 already takes it",
        ),
        (
            "routes: [{ domains: [a_b.example], mx: direct }]",
            "the domain is malformed; wanted is a domain such as example.org, .example.org for all below it, or \"*\"",
        ),
        ("routes: [{ domains: [\"*\"], smart_hosts: [{ port: 25 }] }]", "t.yaml:2:42: routes[].smart_hosts[].host: it is missing"),
        (
            "routes: [{ domains: [\"*\"], smart_hosts: [relay.example] }]",
            "t.yaml:2:42: routes[].smart_hosts[]: there is a single value where keys are wanted, such as host, port",
        ),
        (
            "routes: [{ domains: [\"*\"], smart_hosts: [{ host: a.example, secret: x }] }]",
            "t.yaml:2:69: routes[].smart_hosts[].secret: there is no user beside it",
        ),
        (
            "routes: [{ domains: [\"*\"], smart_hosts: [{ host: a.example, user: x }] }]",
            "routes[].smart_hosts[].user: there is no secret beside it",
        ),
        (
            "routes: [{ domains: [\"*\"], smart_hosts: [{ host: a.example, user: x, secret: y, tls: none }] }]",
            "t.yaml:2:86: routes[].smart_hosts[].tls: with a login it must be required, else the password could go to a stranger",
        ),
        (
            "routes: [{ domains: [\"*\"], smart_hosts: [{ host: a.example, user: x, password: y }] }]",
            "t.yaml:2:70: routes[].smart_hosts[].password: there is no such key; a password has no place here, where everybody may read",
        ),
        // Together.
        ("delivery: { first_retry: 5h }", "t.yaml:2:26: delivery.first_retry: first_retry (5h) is longer than longest_retry (4h)"),
        ("delivery: { give_up: 1h }", "t.yaml:2:22: delivery.give_up: longest_retry (4h) is longer than give_up (1h)"),
        (
            "limits: { session_timeout: 1m, command_timeout: 2m }",
            "t.yaml:2:49: limits.command_timeout: command_timeout (2m) is longer than session_timeout (1m)",
        ),
        ("tls: { client_key: c.key }", "t.yaml:2:20: tls.client_key: client_certificate and client_key are wanted together"),
        ("spool: /run/pamrelay/spool", "t.yaml:2:8: spool: it is within runtime_dir, which is empty after a restart of the machine"),
        ("spool: /etc/pamrelay", "t.yaml:2:8: spool: spool and tls.directory must be apart"),
        (
            "runtime_dir: /a/path/that/is/so/long/that/no/socket/in/it/could/have/a/name/because/unix/allows/only/few/octets",
            "a Unix socket can have 107",
        ),
        // Form.
        ("a: &x 1", "t.yaml:2:4: anchors (&name) are not used here"),
        ("spool: *x", "this is not YAML"),
        ("spool: !!str /x", "t.yaml:2:8: tags (!name) are not used here"),
        ("spool: /x\n---\nspool: /y", "t.yaml:3:1: a second document begins here"),
        ("spool: /x\n]", "t.yaml:3:1: this is not YAML"),
        ("\tspool: /x", "t.yaml:2:2: this is not YAML"),
        ("spool: \"x", "this is not YAML"),
        ("a: [[[[[[[[[[[[[[[[", "t.yaml:2:11: nested deeper than 8 levels"),
    ];
    let mut wrong = String::new();
    for (text, wanted) in cases {
        let found = mistakes(text);

        if !found.contains(wanted) {
            wrong.push_str(&format!("\n--- text\n{text}\n--- found\n{found}\n--- wanted\n{wanted}\n"));
        }
        assert!(!found.chars().any(|c| c.is_control() && c != '\n'), "{found:?}");
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn there_is_no_listener_without_tls() {
    let missing = parse("listen: [{ address: \"127.0.0.1:25\" }]").unwrap_err().to_string();
    let none = parse("listen: [{ address: \"127.0.0.1:25\", tls: none }]").unwrap_err().to_string();
    let nothing = parse("log: info").unwrap_err().to_string();

    assert_eq!(missing, "t.yaml:1:10: listen[].tls: it is missing; wanted is one of starttls, implicit, such as starttls");
    assert_eq!(none, "t.yaml:1:42: listen[].tls: \"none\" cannot be taken: there is no such word; wanted is one of starttls, implicit");
    assert!(nothing.starts_with("t.yaml:1:1: listen: it is missing"), "{nothing}");
}

#[test]
fn listeners_in_each_others_way_are_refused() {
    let two = |a: &str, b: &str| {
        parse(&format!("listen:\n  - {{ address: \"{a}\", tls: starttls }}\n  - {{ address: \"{b}\", tls: starttls }}\n"))
    };

    assert_eq!(
        two("127.0.0.1:587", "127.0.0.1:587").unwrap_err().to_string(),
        "t.yaml:3:16: listen[].address: 127.0.0.1:587 and 127.0.0.1:587 on line 2 cannot both listen"
    );
    assert!(two("0.0.0.0:587", "127.0.0.1:587").is_err());
    assert!(two("[::]:587", "[::1]:587").is_err());
    assert!(two("0.0.0.0:587", "[::]:587").is_ok());
    assert!(two("127.0.0.1:587", "127.0.0.1:465").is_ok());
    assert!(two("127.0.0.1:0", "127.0.0.1:0").is_ok());
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_text() {
    let found = mistakes(
        "delivery: { first_retry: x }\nlimits: { recipients: 1, typo: 2 }\nspool: rel\nroutes: [{ domains: [a..b], mx: direct }]\nlog: loud\nlog: info\n",
    );

    let places: Vec<&str> = found.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(places, ["t.yaml:2:26", "t.yaml:3:23", "t.yaml:3:26", "t.yaml:4:8", "t.yaml:5:22", "t.yaml:6:6", "t.yaml:7:1"]);
}

#[test]
fn json_is_yaml() {
    let text = "{\n \"listen\": [\n  {\n   \"address\": \"127.0.0.1:2587\",\n   \"tls\": \"starttls\"\n  }\n ],\n \"limits\": {\n  \"sessions\": 3\n },\n \"auth\": {\"failure_floor\": \"200ms\"}\n}\n";

    let config = parse(text).unwrap();

    assert_eq!(config.limits.sessions, 3);
    assert_eq!(config.limits.sessions_per_site, 100, "a quarter of all, and what one address may have at least");
    assert_eq!(config.auth.failure_floor, Duration::from_millis(200));
}

#[test]
fn empty_text_and_empty_sections_are_no_trap() {
    assert!(parse("").unwrap_err().to_string().contains("listen: it is missing"));
    assert!(parse("# nothing\n").unwrap_err().to_string().contains("listen: it is missing"));
    assert!(parse("- a\n- b\n").unwrap_err().to_string().contains("there is a list where keys are wanted"));
    assert!(parse(&format!("{LISTEN}limits:\n# sessions: 5\nauth: {{}}\n")).is_ok());
}

#[test]
fn a_flood_of_brackets_or_mistakes_ends_soon() {
    let start = std::time::Instant::now();

    assert!(parse(&"[".repeat(1 << 20)).is_err());
    assert!(parse(&"{a: ".repeat(1 << 18)).is_err());
    assert!(parse(&"- ".repeat(1 << 19)).is_err());
    assert!(parse(&"a: 1\n".repeat(1 << 17)).is_err());
    let lines = parse(&"? []\n: 1\n".repeat(1 << 16)).unwrap_err().to_string().lines().count();

    assert!(lines < 100, "{lines} lines");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

/// A file with this content and mode, and what `load` says.
fn load(content: &[u8], mode: u32) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.yaml");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    Config::load(&path).map_err(|mistakes| mistakes.to_string().replace(&format!("{}/", directory.path().display()), ""))
}

#[test]
fn a_file_is_taken_only_if_nobody_else_may_write_it() {
    assert!(load(LISTEN.as_bytes(), 0o644).is_ok());
    assert!(load(LISTEN.as_bytes(), 0o600).is_ok());
    for mode in [0o664, 0o646, 0o666] {
        let found = load(LISTEN.as_bytes(), mode).unwrap_err();
        assert!(
            found.contains(&format!("its mode is {mode:04o}, so others than its owner may write it; mend it with: chmod go-w t.yaml")),
            "{found}"
        );
    }
}

#[test]
fn what_is_not_text_is_refused_by_place() {
    let with = |more: &[u8]| load(&[LISTEN.as_bytes(), more].concat(), 0o644).unwrap_err();

    assert_eq!(with(b"log: in\0fo\n"), "t.yaml:2:8: there is a NUL; the file is damaged or not text");
    assert_eq!(with(b"# \xc3\xbc\nlog: \xff\n"), "t.yaml:3:6: this is not UTF-8 text");
    assert_eq!(with(b"\0\0\0\0"), "t.yaml:2:1: there is a NUL; the file is damaged or not text");
    assert!(with(b"...\ntrailing: octets\n").starts_with("t.yaml:3:1: "));
}

#[test]
fn a_file_that_is_no_configuration_is_not_read_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let huge = directory.path().join("huge");
    fs::File::create(&huge).unwrap().set_len(1 << 30).unwrap();
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();

    let said = |path: &Path| Config::load(path).unwrap_err().to_string();

    assert!(said(&huge).ends_with("it has 1073741824 octets, more than a configuration can have (1048576)"), "{}", said(&huge));
    assert!(said(&fifo).ends_with("it is not a regular file"));
    assert!(said(directory.path()).ends_with("it is not a regular file"));
    assert!(said(&directory.path().join("absent")).contains("it cannot be opened"));
}
