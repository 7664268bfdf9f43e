//! Delivery as a whole, against servers on the loopback interface that misbehave in every way we could think of.

use std::collections::HashMap;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::fake::{At, Does, Fake, Skills, acceptor, says};
use super::job::{Account, Body, Job, Origin, Outcome, Outcomes, PassedOn, RecipientNo};
use super::resolver::{Hosts, NameServers, Resolver};
use super::route::{Login, Pattern, Route, Routes, Rule, SmartHost, TlsDemand};
use super::*;
use crate::smtp::envelope::{BodyType, International};

mod channel;
mod misbehaving;

const ALL: [&str; 5] = ["PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "SIZE 1000000"];

fn host(address: SocketAddr, tls: TlsDemand) -> SmartHost {
    SmartHost { host: address.ip().to_string(), port: address.port(), tls, login: None }
}

fn to_hosts(hosts: Vec<SmartHost>) -> Settings {
    to(Route::SmartHosts(hosts))
}

fn to(route: Route) -> Settings {
    let routes = Routes::new(vec![Rule { domains: vec![Pattern::Any], route: Arc::new(route) }]);
    let mut settings = Settings::new("us.example", routes);
    settings.timeouts = patience(Duration::from_secs(10));
    settings.idle = Duration::from_millis(100);
    // The servers of the tests are on the loopback interface.
    settings.private_networks = PrivateNetworks::Allow;
    settings.resolver = Arc::new(Resolver::new(NameServers::configured(Vec::new()), Hosts::parse("127.0.0.1 relay.example wrong.example")));
    settings
}

fn patience(limit: Duration) -> Timeouts {
    Timeouts {
        connect: limit,
        handshake: limit,
        command: limit,
        data: limit,
        block: limit,
        end: limit,
        opening: limit,
        dialogue: limit,
        odd: limit.min(Duration::from_millis(200)),
        quit: limit,
        secret: limit,
    }
}

fn to_one(address: SocketAddr) -> Settings {
    to_hosts(vec![host(address, TlsDemand::None)])
}

/// Everything that came out for these jobs, each recipient once; fails if one is missing, doubled or late.
async fn outcomes_of(settings: Settings, jobs: Vec<Job>) -> HashMap<(String, RecipientNo), Outcome> {
    let wanted: usize = jobs.iter().map(|job| job.recipients.len()).sum();
    let (job_sender, job_receiver) = mpsc::channel(16);
    let (sender, mut receiver) = mpsc::channel::<Outcomes>(16);
    let delivery = Delivery::start(settings, job_receiver, sender);
    tokio::spawn(async move {
        for job in jobs {
            job_sender.send(job).await.unwrap();
        }
    });
    let mut found = HashMap::new();
    let collect = async {
        while let Some(outcomes) = receiver.recv().await {
            for (number, outcome) in outcomes.settled {
                let doubled = found.insert((outcomes.id.to_string(), number), outcome);
                assert!(doubled.is_none(), "{number:?} of {} was answered twice", outcomes.id);
            }
            if found.len() == wanted {
                break;
            }
        }
        delivery.drained().await;
    };
    tokio::time::timeout(Duration::from_secs(60), collect).await.expect("an answer is missing");
    assert_eq!(found.len(), wanted);
    assert!(receiver.try_recv().is_err(), "somebody was answered after the end");
    found
}

/// The outcomes of a message to `count` recipients, in their order.
async fn outcomes(settings: Settings, count: usize) -> Vec<Outcome> {
    let addresses: Vec<String> = (0..count).map(|number| format!("r{number}@b.example")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    in_order(outcomes_of(settings, vec![samples::job("s@a.example", &addresses)]).await)
}

fn in_order(found: HashMap<(String, RecipientNo), Outcome>) -> Vec<Outcome> {
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found.into_iter().map(|(_, outcome)| outcome).collect()
}

/// `D2.0.0`, `T4.2.1`, `F5.1.1`
fn brief(outcomes: &[Outcome]) -> Vec<String> {
    outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Delivered(account) => format!("D{}", account.status),
            Outcome::Deferred(account) => format!("T{}", account.status),
            Outcome::Failed(account) => format!("F{}", account.status),
        })
        .collect()
}

fn account(outcome: &Outcome) -> &Account {
    match outcome {
        Outcome::Delivered(account) | Outcome::Deferred(account) | Outcome::Failed(account) => account,
    }
}

fn numbered(count: u64) -> Vec<Job> {
    (0..count)
        .map(|number| {
            let mut job = samples::job("s@a.example", &["x@b.example", "y@b.example"]);
            job.id = samples::id(number + 1);
            job.content = samples::content(&format!("Subject: {}\r\n\r\nbody\r\n", job.id));
            job
        })
        .collect()
}

#[tokio::test]
async fn delivers_byte_for_byte_with_and_without_pipelining() {
    for offers in [&ALL[..], &[]] {
        let fake = Fake::good(offers).await;

        let found = outcomes(to_one(fake.address), 2).await;

        assert_eq!(brief(&found), ["D2.0.0", "D2.0.0"]);
        let with_dsn = if offers.is_empty() { PassedOn::WithoutDsn } else { PassedOn::WithDsn };
        let remote = format!("127.0.0.1[127.0.0.1]:{}", fake.address.port());
        let account = account(&found[0]);
        assert_eq!((account.passed_on, account.origin), (with_dsn, Origin::Remote));
        assert_eq!((account.remote.as_deref(), account.diagnostic.as_str()), (Some(remote.as_str()), "250 2.0.0 queued"));
        let taken = fake.messages();
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].content, b"Received: x\r\nSubject: x\r\n\r\nhello\r\n.dot\r\n");
        assert_eq!(taken[0].recipients, ["r0@b.example", "r1@b.example"]);
        let quits = async {
            while fake.commands(0).last().map(String::as_str) != Some("QUIT") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), quits).await.expect("an idle connection is ended politely");
    }
}

#[tokio::test]
async fn sends_large_bodies_from_memory_and_from_a_file() {
    let fake = Fake::good(&["PIPELINING"]).await;
    let body = [b"Subject: x\r\n\r\n".to_vec(), b".line of a message\r\n".repeat(50_000)].concat();
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), &body).unwrap();
    let bodies = [
        Body::Memory(Bytes::from(body.clone())),
        Body::File { file: Arc::new(std::fs::File::open(path.path()).unwrap()), size: body.len() as u64 },
    ];
    for kind in bodies {
        let mut job = samples::job("s@a.example", &["x@b.example"]);
        job.content.body = kind;

        let found = in_order(outcomes_of(to_one(fake.address), vec![job]).await);

        assert_eq!(brief(&found), ["D2.0.0"]);
    }
    let wanted = [b"Received: x\r\n", &body[..]].concat();
    assert!(fake.messages().iter().all(|taken| taken.content == wanted));
    assert_eq!(fake.messages().len(), 2);
}

#[tokio::test]
async fn a_text_without_a_header_does_not_become_part_of_our_field() {
    let fake = Fake::good(&ALL).await;
    let mut jobs = Vec::new();
    for (number, text) in (1..).zip([" folded\r\nSubject: x\r\n", "From a@b.example Fri\r\nSubject: y\r\n\r\nbody\r\n"]) {
        let mut job = samples::job("s@a.example", &["x@b.example"]);
        job.id = samples::id(number);
        job.content.body = samples::in_file(text.as_bytes());
        jobs.push(job);
    }

    outcomes_of(to_one(fake.address), jobs).await;

    let mut contents: Vec<_> = fake.messages().into_iter().map(|taken| String::from_utf8(taken.content).unwrap()).collect();
    contents.sort();
    assert_eq!(contents, ["Received: x\r\n\r\n folded\r\nSubject: x\r\n", "Received: x\r\nSubject: y\r\n\r\nbody\r\n"]);
    let size = fake.commands(0).into_iter().find_map(|line| line.split("SIZE=").nth(1).map(str::to_owned));
    assert!(contents.iter().any(|content| size == Some(content.len().to_string())), "{size:?}");
}

/// Takes no octet above 127.
async fn seven_bit_server() -> Fake {
    Fake::good(&["PIPELINING", "SIZE 1000000"]).await
}

#[tokio::test]
async fn mail_with_8_bit_text_is_converted_for_a_server_that_takes_none() {
    for body in [BodyType::EightBitMime, BodyType::SevenBit] {
        for (text, wanted) in [
            ("Subject: x\r\n\r\nein für alle mal\r\n.\r\n", "\r\n\r\nein f=C3=BCr alle mal\r\n=2E\r\n"),
            ("Subject: Grüße\r\n\r\nplain\r\n", "\r\nSubject: =?utf-8?b?R3LDvMOfZQ==?=\r\n\r\nplain\r\n"),
            (" ohne Kopf für alle\r\n", "\r\n\r\n ohne Kopf f=C3=BCr alle\r\n"),
        ] {
            let fake = seven_bit_server().await;
            let mut job = samples::job("s@a.example", &["x@b.example"]);
            job.body = body;
            job.content.body = samples::in_file(text.as_bytes());

            let found = in_order(outcomes_of(to_one(fake.address), vec![job]).await);

            assert_eq!(brief(&found), ["D2.0.0"]);
            let taken = String::from_utf8(fake.messages().remove(0).content).unwrap();
            assert!(taken.is_ascii() && taken.ends_with(wanted), "{taken}");
            let mail = fake.commands(0).into_iter().find(|line| line.starts_with("MAIL")).unwrap();
            assert_eq!(mail, format!("MAIL FROM:<s@a.example> SIZE={}", taken.len()));
        }
    }
}

#[tokio::test]
async fn undeclared_8_bit_text_is_declared_where_it_is_taken() {
    let fake = Fake::good(&ALL).await;
    let mut job = samples::job("s@a.example", &["x@b.example"]);
    job.content = samples::content("Subject: x\r\n\r\nfür\r\n");

    outcomes_of(to_one(fake.address), vec![job]).await;

    assert!(fake.commands(0).iter().any(|line| line.starts_with("MAIL") && line.contains(" BODY=8BITMIME")));
    assert!(fake.messages()[0].content.ends_with("für\r\n".as_bytes()));
}

#[tokio::test]
async fn signed_8_bit_text_is_returned_and_never_changed() {
    let fake = seven_bit_server().await;
    let mut job = samples::job("s@a.example", &["x@b.example"]);
    job.content = samples::content("Content-Type: multipart/signed; boundary=s\r\n\r\n--s\r\n\r\nfür\r\n--s--\r\n");

    let found = in_order(outcomes_of(to_one(fake.address), vec![job]).await);

    assert_eq!(brief(&found), ["F5.6.3"]);
    assert!(fake.messages().is_empty());
}

#[tokio::test]
async fn smtputf8_on_a_message_in_ascii_asks_nothing_of_the_next_server() {
    let fake = seven_bit_server().await;
    let mut job = samples::job("s@a.example", &["x@b.example"]);
    (job.international, job.body) = (International::Utf8, BodyType::EightBitMime);
    let trace = crate::message::trace::Trace {
        helo: "MÜLLER-PC".into(),
        peer: "192.0.2.1:1".parse().unwrap(),
        protocol: crate::message::trace::Protocol::Utf8Smtpsa,
        tls: None,
        host: "us.example".into(),
    };
    job.content.trace = Bytes::from(trace.received("1", &jiff::Zoned::now()));

    let found = in_order(outcomes_of(to_one(fake.address), vec![job]).await);

    assert_eq!(brief(&found), ["D2.0.0"]);
}

#[tokio::test]
async fn an_unreadable_body_defers_and_never_sends_half_a_message() {
    let fake = Fake::good(&ALL).await;
    let mut job = samples::job("s@a.example", &["x@b.example"]);
    job.content.body = Body::File { file: Arc::new(tempfile::tempfile().unwrap()), size: 100 };

    let found = in_order(outcomes_of(to_one(fake.address), vec![job]).await);

    assert_eq!(brief(&found), ["T4.3.0"]);
    assert!(fake.messages().is_empty());
}

#[tokio::test]
async fn many_messages_share_few_connections_and_ride_behind_each_other() {
    let fake = Fake::good(&ALL).await;
    let settings = Settings { per_destination: 2, ..to_one(fake.address) };

    let found = outcomes_of(settings, numbered(500)).await;

    assert!(found.values().all(|outcome| matches!(outcome, Outcome::Delivered(_))));
    assert!(fake.connections() <= 2, "{}", fake.connections());
    let mut bodies: Vec<Vec<u8>> = fake.messages().into_iter().map(|taken| taken.content).collect();
    bodies.sort();
    bodies.dedup();
    assert_eq!((bodies.len(), fake.messages().len()), (500, 500));
}

/// A reply to each kind of command, and what becomes of two recipients of whom the first was refused where RCPT was the command.
#[tokio::test]
async fn replies_at_each_step_have_their_meaning() {
    let cases = [
        ("banner", "421 4.3.2 not now", ["T4.3.2", "T4.3.2"]),
        ("banner", "554 5.7.1 go away", ["T4.7.1", "T4.7.1"]),
        ("EHLO", "421 4.3.2 x", ["T4.3.2", "T4.3.2"]),
        ("EHLO", "450 x", ["T4.0.0", "T4.0.0"]),
        ("MAIL", "451 4.7.1 later", ["T4.7.1", "T4.7.1"]),
        ("MAIL", "550-5.7.1 never\r\n550 5.7.1 ever", ["F5.7.1", "F5.7.1"]),
        ("RCPT TO:<r0", "450 4.2.1 later", ["T4.2.1", "D2.0.0"]),
        ("RCPT TO:<r0", "550 5.1.1 nobody", ["F5.1.1", "D2.0.0"]),
        ("RCPT", "550 nobody", ["F5.0.0", "F5.0.0"]),
        ("DATA", "451 4.3.0 x", ["T4.3.0", "T4.3.0"]),
        ("DATA", "554 5.6.0 x", ["F5.6.0", "F5.6.0"]),
        ("content", "452 4.3.1 full", ["T4.3.1", "T4.3.1"]),
        ("content", "554 5.7.1 spam", ["F5.7.1", "F5.7.1"]),
        ("content", "421 4.3.2 going", ["T4.3.2", "T4.3.2"]),
    ];
    for offers in [&ALL[..], &[]] {
        for (command, reply, wanted) in cases {
            let fake =
                Fake::start(Skills::with(offers), move |_, heard| if heard.starts_with(command) { says(reply) } else { Does::Right }).await;

            let found = outcomes(to_one(fake.address), 2).await;

            assert_eq!(brief(&found), wanted, "{command} {reply} {offers:?}");
        }
    }
}

#[tokio::test]
async fn a_connection_that_ends_at_any_point_defers_and_delivers_to_nobody() {
    for offers in [&ALL[..], &[]] {
        for command in ["banner", "EHLO", "MAIL", "RCPT", "DATA"] {
            for hangs in [false, true] {
                let manner = move |_: At, heard: &str| match heard.starts_with(command) {
                    true if hangs => Does::Hangs,
                    true => Does::HangsUp,
                    false => Does::Right,
                };
                let fake = Fake::start(Skills::with(offers), manner).await;
                let settings = Settings { timeouts: patience(Duration::from_millis(200)), ..to_one(fake.address) };

                let found = outcomes(settings, 2).await;

                assert!(found.iter().all(|outcome| matches!(outcome, Outcome::Deferred(_))), "{command} {offers:?} {found:?}");
                assert!(fake.messages().is_empty());
                assert!(fake.connections() <= 2);
            }
        }
    }
}

#[tokio::test]
async fn garbage_and_endless_replies_end_the_connection() {
    let endless = "250-x\r\n".repeat(20_000);
    let long = format!("250 {}\r\n", "x".repeat(70_000));
    for garbage in ["hello\r\n", "\0\0\0\r\n", "999 x\r\n", &endless, &long] {
        for command in ["banner", "EHLO", "MAIL", "DATA"] {
            let text = garbage.to_owned();
            let manner = move |_: At, heard: &str| if heard.starts_with(command) { Does::Says(text.clone()) } else { Does::Right };
            let fake = Fake::start(Skills::with(&ALL), manner).await;

            let found = outcomes(to_one(fake.address), 1).await;

            assert!(matches!(found[0], Outcome::Deferred(_)), "{command} {:?}", &garbage[..5]);
        }
    }
}

#[tokio::test]
async fn without_a_reply_to_the_content_the_outcome_is_unknown_and_not_tried_again_at_once() {
    let fake = Fake::start(Skills::with(&ALL), |_, heard| if heard == "content" { Does::HangsUp } else { Does::Right }).await;

    let found = outcomes(to_one(fake.address), 1).await;

    assert_eq!(brief(&found), ["T4.4.2"]);
    assert!(account(&found[0]).diagnostic.contains("may have arrived"));
    assert_eq!(fake.messages().len(), 1);
}

#[tokio::test]
async fn a_connection_that_ends_for_its_age_costs_nothing() {
    for ending in [0, 1] {
        // Each connection takes two messages and then hangs up on MAIL, or says that it is going to.
        let manner = move |at: At, heard: &str| match (heard.starts_with("MAIL") && at.messages == 2, ending) {
            (true, 0) => Does::HangsUp,
            (true, _) => Does::LastSays("421 4.7.0 too many messages\r\n".to_owned()),
            (false, _) => Does::Right,
        };
        let fake = Fake::start(Skills::with(&ALL), manner).await;
        let settings = Settings { per_destination: 1, ..to_one(fake.address) };

        let found = outcomes_of(settings, numbered(20)).await;

        assert!(found.values().all(|outcome| matches!(outcome, Outcome::Delivered(_))), "{found:?}");
        assert_eq!(fake.messages().len(), 20);
    }
}

#[tokio::test]
async fn refused_recipients_leave_the_next_message_clean() {
    for offers in [&ALL[..], &[]] {
        let manner = |_: At, heard: &str| if heard.starts_with("RCPT TO:<bad") { says("550 5.1.1 no") } else { Does::Right };
        let fake = Fake::start(Skills::with(offers), manner).await;
        let jobs = (0..20)
            .map(|number| {
                let to = if number % 2 == 0 { "bad@b.example" } else { "good@b.example" };
                let mut job = samples::job("s@a.example", &[to]);
                job.id = samples::id(number + 1);
                job
            })
            .collect();
        let settings = Settings { per_destination: 1, ..to_one(fake.address) };

        let found = brief(&in_order(outcomes_of(settings, jobs).await));

        assert!(found.chunks(2).all(|pair| pair == ["F5.1.1", "D2.0.0"]), "{found:?}");
        assert_eq!(fake.connections(), 1);
    }
}

#[tokio::test]
async fn too_many_recipients_go_in_several_transactions() {
    let taken = Arc::new(AtomicU32::new(0));
    let count = taken.clone();
    let manner = move |_: At, heard: &str| match heard.split([' ', ':']).next() {
        Some("MAIL") => {
            count.store(0, Ordering::SeqCst);
            Does::Right
        }
        Some("RCPT") if count.fetch_add(1, Ordering::SeqCst) >= 30 => says("452 4.5.3 too many"),
        _ => Does::Right,
    };
    let fake = Fake::start(Skills::with(&ALL), manner).await;
    let settings = Settings { per_destination: 1, ..to_one(fake.address) };

    let found = outcomes(settings, 250).await;

    assert!(found.iter().all(|outcome| matches!(outcome, Outcome::Delivered(_))));
    assert!(fake.messages().iter().all(|taken| taken.recipients.len() <= 30));
    assert_eq!(fake.messages().iter().map(|taken| taken.recipients.len()).sum::<usize>(), 250);
}

#[tokio::test]
async fn the_next_smart_host_is_asked_when_one_cannot_be_reached_or_does_not_want_to_talk() {
    let refused = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let busy = Fake::start(Skills::default(), |_, heard| if heard == "banner" { says("421 4.3.2 busy") } else { Does::Right }).await;
    let good = Fake::good(&ALL).await;
    let unknown = SmartHost { host: "nowhere..example".to_owned(), port: 25, tls: TlsDemand::None, login: None };
    let mut hosts = vec![unknown];
    hosts.extend([refused, busy.address, good.address].map(|address| host(address, TlsDemand::None)));

    let found = outcomes(to_hosts(hosts), 1).await;

    assert_eq!(brief(&found), ["D2.0.0"]);
}

#[tokio::test]
async fn a_4yz_from_mail_on_is_the_answer_and_the_next_host_is_not_asked() {
    let grey =
        Fake::start(Skills::with(&ALL), |_, heard| if heard.starts_with("RCPT") { says("450 4.7.1 grey") } else { Does::Right }).await;
    let backup = Fake::good(&ALL).await;

    let found = outcomes(to_hosts(vec![host(grey.address, TlsDemand::None), host(backup.address, TlsDemand::None)]), 1).await;

    assert_eq!(brief(&found), ["T4.7.1"]);
    assert_eq!(backup.connections(), 0);
}

#[tokio::test]
async fn a_silent_host_is_waited_for_once_not_for_each_message() {
    let silent = Fake::start(Skills::default(), |_, _| Does::Hangs).await;
    let settings = Settings { timeouts: patience(Duration::from_millis(200)), ..to_one(silent.address) };
    let begun = Instant::now();

    let found = outcomes_of(settings, numbered(100)).await;

    assert!(found.values().all(|outcome| brief(std::slice::from_ref(outcome)) == ["T4.4.1"]));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(silent.connections() <= 2, "{}", silent.connections());
}

#[tokio::test]
async fn connections_beyond_what_the_server_takes_do_no_harm() {
    let manner = |at: At, heard: &str| match heard {
        "banner" if at.connection > 0 => Does::LastSays("421 4.7.0 too many connections\r\n".to_owned()),
        _ => Does::Right,
    };
    let fake = Fake::start(Skills::with(&ALL), manner).await;

    let found = outcomes_of(to_one(fake.address), numbered(300)).await;

    assert!(found.values().all(|outcome| matches!(outcome, Outcome::Delivered(_))));
    assert!(fake.connections() <= 3, "{}", fake.connections());
}

#[tokio::test]
async fn tls_is_as_demanded() {
    use TlsDemand::{None as No, Opportunistic, Required};
    let (right, roots) = acceptor("relay.example");
    let roots = Arc::new(roots);
    // Host, whether the server has TLS and from the start, demand, outcome, commands in clear.
    let cases = [
        ("relay.example", true, false, Required, "D2.0.0"),
        ("relay.example", true, true, Required, "D2.0.0"),
        ("wrong.example", true, false, Required, "T4.7.5"),
        ("wrong.example", true, true, Required, "T4.7.5"),
        ("relay.example", false, false, Required, "T4.7.4"),
        ("wrong.example", true, false, Opportunistic, "D2.0.0"),
        ("relay.example", false, false, Opportunistic, "D2.0.0"),
        ("relay.example", true, false, No, "D2.0.0"),
    ];
    for (name, able, implicit, tls, wanted) in cases {
        let skills = Skills { tls: able.then(|| right.clone()), implicit, ..Skills::with(&ALL) };
        let fake = Fake::start(skills, |_, _| Does::Right).await;
        let smart_host = SmartHost { host: name.to_owned(), port: fake.address.port(), tls, login: None };
        let settings = Settings { roots: roots.clone(), ..to_hosts(vec![smart_host.clone()]) };
        let found = match implicit {
            false => outcomes(settings, 1).await,
            true => vec![implicitly(settings, &fake, name).await],
        };

        assert_eq!(brief(&found), [wanted], "{name} {able} {implicit} {tls:?}");
        assert_eq!(fake.messages().len(), usize::from(wanted.starts_with('D')));
        let asked = fake.commands(0).contains(&"STARTTLS".to_owned());
        assert_eq!(asked, able && !implicit && tls != No, "{name} {able} {tls:?}");
    }
}

/// Port 465 cannot be bound in a test, so the connection is made by hand.
async fn implicitly(settings: Settings, fake: &Fake, name: &str) -> Outcome {
    use super::client::dialer::{Dialer, Endpoint, Start};
    use super::client::tls::TlsClients;
    use super::client::transaction::Fate;
    let dialer = Dialer {
        hostname: settings.hostname.clone(),
        tls: TlsClients::new(settings.roots.clone(), None),
        secrets: settings.secrets.clone(),
        timeouts: settings.timeouts,
    };
    let endpoint = Endpoint { name: name.to_owned(), address: fake.address, tls: TlsDemand::Required, start: Start::Tls, login: None };
    let mut job = samples::job("s@a.example", &["x@b.example"]);
    let recipients = std::mem::take(&mut job.recipients);
    let (sender, _receiver) = mpsc::channel(1);
    let place = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
    let parcel = parcel::Parcel::new(parcel::Errand::new(job, sender, place), recipients);
    let mut connection = match dialer.dial(&endpoint).await {
        Ok(connection) => connection,
        Err(trouble) => return Outcome::Deferred(trouble.account("x")),
    };
    assert!(connection.tls().ends_with(":verified"), "{}", connection.tls());
    let Ok(mut attempt) = connection.begin(parcel).await else { panic!("the message is in memory") };
    connection.carry(&mut attempt, || None, &mut None).await.unwrap();
    match attempt.transaction.into_fates().remove(0) {
        Fate::Settled(outcome) => outcome,
        fate => panic!("{fate:?}"),
    }
}

#[tokio::test]
async fn an_untrusted_certificate_is_refused_where_it_matters() {
    let (tls, _) = acceptor("relay.example");
    let fake = Fake::start(Skills { tls: Some(tls), ..Skills::with(&ALL) }, |_, _| Does::Right).await;
    let smart_host = SmartHost { host: "relay.example".to_owned(), port: fake.address.port(), tls: TlsDemand::Required, login: None };

    let found = outcomes(to_hosts(vec![smart_host]), 1).await;

    assert_eq!(brief(&found), ["T4.7.5"]);
    assert!(fake.messages().is_empty());
}

#[tokio::test]
async fn a_broken_handshake_goes_clear_only_where_tls_was_a_courtesy() {
    for (demand, login, wanted) in [
        (TlsDemand::Opportunistic, None, "D2.0.0"),
        (TlsDemand::Opportunistic, Some(Login { user: "us".into(), secret: "s".into() }), "T4.7.5"),
        (TlsDemand::Required, None, "T4.7.5"),
    ] {
        // Promises TLS, and talks on in clear.
        let manner = |_: At, heard: &str| match heard {
            "STARTTLS" => Does::LastSays("220 go\r\n".to_owned()),
            _ => Does::Right,
        };
        let fake = Fake::start(Skills::with(&["PIPELINING", "STARTTLS", "AUTH PLAIN"]), manner).await;
        let smart_host = SmartHost { login, ..host(fake.address, demand) };

        let found = outcomes(to_hosts(vec![smart_host]), 1).await;

        assert_eq!(brief(&found), [wanted], "{demand:?}");
        assert!(!fake.commands(0).iter().chain(&fake.commands(1)).any(|line| line.starts_with("AUTH")));
    }
}

#[tokio::test]
async fn words_put_behind_the_reply_to_starttls_end_the_connection() {
    let (tls, roots) = acceptor("relay.example");
    let manner = |_: At, heard: &str| match heard {
        "STARTTLS" => says("220 go\r\n250-fake.example\r\n250 AUTH PLAIN"),
        _ => Does::Right,
    };
    for demand in [TlsDemand::Required, TlsDemand::Opportunistic] {
        let fake = Fake::start(Skills { tls: Some(tls.clone()), ..Skills::with(&ALL) }, manner).await;
        let smart_host = SmartHost { host: "relay.example".to_owned(), port: fake.address.port(), tls: demand, login: None };
        let settings = Settings { roots: Arc::new(roots.clone()), ..to_hosts(vec![smart_host]) };

        let found = outcomes(settings, 1).await;

        assert_eq!(brief(&found), ["T4.7.4"]);
        assert!(account(&found[0]).diagnostic.contains("before the handshake"));
        assert_eq!(fake.connections(), 1);
    }
}

struct OneSecret;

impl Secrets for OneSecret {
    fn secret<'a>(&'a self, name: &'a str) -> Asked<'a> {
        Box::pin(async move {
            match name {
                "relay.secret" => Ok(Zeroizing::new("pw".to_owned())),
                _ => Err(SecretError::Unknown(name.to_owned())),
            }
        })
    }
}

#[tokio::test]
async fn logs_in_with_the_named_secret_before_the_first_message() {
    let (tls, roots) = acceptor("relay.example");
    let roots = Arc::new(roots);
    for (secret, refuses, wanted) in [("relay.secret", false, "D2.0.0"), ("relay.secret", true, "T4.7.8"), ("other", false, "T4.3.5")] {
        let manner = move |_: At, heard: &str| if refuses && heard.starts_with("AUTH") { says("535 5.7.8 no") } else { Does::Right };
        let skills = Skills { tls: Some(tls.clone()), ..Skills::with(&["PIPELINING", "AUTH LOGIN PLAIN"]) };
        let fake = Fake::start(skills, manner).await;
        let login = Some(Login { user: "us".to_owned(), secret: secret.to_owned() });
        let smart_host = SmartHost { host: "relay.example".to_owned(), port: fake.address.port(), tls: TlsDemand::Required, login };
        let settings = Settings { roots: roots.clone(), secrets: Arc::new(OneSecret), ..to_hosts(vec![smart_host]) };

        let found = outcomes(settings, 1).await;

        assert_eq!(brief(&found), [wanted]);
        let logged_in = fake.commands(0).contains(&"AUTH PLAIN AHVzAHB3".to_owned());
        assert_eq!(logged_in, secret == "relay.secret");
        assert!(!account(&found[0]).diagnostic.contains("pw"));
    }
}

/// A client certificate with its key; counts who asked.
#[derive(Debug)]
struct Noted {
    asked: AtomicU32,
    shown: Arc<rustls::sign::CertifiedKey>,
}

impl rustls::client::ResolvesClientCert for Noted {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Some(self.shown.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A server that asks for a certificate, what trusts it, and a certificate that it takes.
fn curious(versions: &[&'static rustls::SupportedProtocolVersion]) -> (tokio_rustls::TlsAcceptor, Arc<rustls::RootCertStore>, Arc<Noted>) {
    let pair = rcgen::generate_simple_self_signed(vec!["relay.example".to_owned()]).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pair.cert.der().clone()).unwrap();
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    let key = || rustls_pki_types::PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
        .with_single_cert(vec![pair.cert.der().clone()], key())
        .unwrap();
    let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key()).unwrap();
    let shown = Arc::new(rustls::sign::CertifiedKey::new(vec![pair.cert.der().clone()], signer));
    (Arc::new(config).into(), roots, Arc::new(Noted { asked: AtomicU32::new(0), shown }))
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_who_asks_in_tls_1_3_and_an_older_server_gets_the_mail_encrypted_without() {
    for (version, connections) in [(&rustls::version::TLS13, 1), (&rustls::version::TLS12, 2)] {
        for demand in [TlsDemand::Required, TlsDemand::Opportunistic] {
            let (tls, roots, noted) = curious(&[version]);
            let fake = Fake::start(Skills { tls: Some(tls), ..Skills::with(&ALL) }, |_, _| Does::Right).await;
            let smart_host = SmartHost { host: "relay.example".to_owned(), port: fake.address.port(), tls: demand, login: None };
            let settings = Settings { roots, client_certificate: Some(noted.clone()), ..to_hosts(vec![smart_host]) };

            let found = outcomes(settings, 1).await;

            assert_eq!(brief(&found), ["D2.0.0"], "{version:?} {demand:?}: {found:?}");
            assert_eq!(noted.asked.load(Ordering::SeqCst), 1);
            assert_eq!(fake.connections(), connections, "{version:?} {demand:?}");
            assert!(fake.commands(connections - 1).contains(&"STARTTLS".to_owned()), "never in clear");
        }
    }
}

#[tokio::test]
async fn a_domain_literal_goes_to_its_address_and_a_maildir_to_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    let fake = Fake::good(&ALL).await;
    let rules = vec![
        Rule { domains: vec![Pattern::parse("archive.example").unwrap()], route: Arc::new(Route::Maildir(directory.path().join("m"))) },
        Rule { domains: vec![Pattern::parse("[127.0.0.1]").unwrap()], route: Arc::new(Route::Mx) },
    ];
    let settings = Settings { routes: Routes::new(rules), mx_port: fake.address.port(), ..to_one(fake.address) };
    let job = samples::job("s@a.example", &["x@archive.example", "y@[127.0.0.1]", "z@elsewhere.example"]);

    let found = in_order(outcomes_of(settings, vec![job]).await);

    assert_eq!(brief(&found), ["D2.0.0", "D2.0.0", "F5.4.4"]);
    assert_eq!(fake.messages()[0].recipients, ["y@[127.0.0.1]"]);
    assert_eq!(std::fs::read_dir(directory.path().join("m/new")).unwrap().count(), 1);
}

#[tokio::test]
async fn the_next_message_rides_behind_the_content_and_survives_the_loss_of_the_connection() {
    // The first content is taken only after the next MAIL must have been sent, and then the connection ends.
    let manner = |at: At, heard: &str| match (at.connection, at.messages, heard) {
        (0, 1, "content") => Does::HangsUp,
        _ => Does::Right,
    };
    let fake = Fake::start(Skills::with(&ALL), manner).await;
    let settings = Settings { per_destination: 1, ..to_one(fake.address) };

    let found = outcomes_of(settings, numbered(10)).await;

    let deferred = found.values().filter(|outcome| matches!(outcome, Outcome::Deferred(_))).count();
    assert_eq!(deferred, 2, "both recipients of the message whose reply is missing");
    let mut bodies: Vec<_> = fake.messages().into_iter().map(|taken| taken.content).collect();
    bodies.sort();
    bodies.dedup();
    assert_eq!((bodies.len(), fake.messages().len(), fake.connections()), (10, 10, 2));
}

#[tokio::test]
async fn a_server_that_answers_before_it_is_asked_is_left() {
    let manner = |_: At, heard: &str| if heard == "content" { says("250 2.0.0 queued\r\n250 2.1.0 ok") } else { Does::Right };
    let fake = Fake::start(Skills::with(&["8BITMIME"]), manner).await;
    let settings = Settings { per_destination: 1, ..to_one(fake.address) };

    let found = outcomes_of(settings, numbered(5)).await;

    assert!(found.values().all(|outcome| matches!(outcome, Outcome::Delivered(_))));
    assert_eq!(fake.connections(), 5);
}

#[tokio::test]
async fn mail_by_mx_goes_to_the_exchangers_in_order_and_each_no_has_its_status() {
    use super::resolver::fake::{NameServer, a, mx};
    let fake = Fake::good(&ALL).await;
    let names = NameServer::zone(&[
        ("good.example", &[mx(20, "second.example"), mx(10, "first.example")]),
        ("first.example", &[a([127, 0, 0, 9])]),
        ("second.example", &[a([127, 0, 0, 1])]),
        ("direct.example", &[a([127, 0, 0, 1])]),
        ("null.example", &[mx(0, ".")]),
        ("loop.example", &[mx(10, "us.example"), mx(20, "second.example")]),
        ("nowhere.example", &[mx(10, "missing.example")]),
        ("nothing.example", &[]),
        ("multicast.example", &[a([224, 0, 0, 1])]),
    ])
    .await;
    let cases = [
        ("good.example", "D2.0.0"),
        ("direct.example", "D2.0.0"),
        ("null.example", "F5.1.10"),
        ("loop.example", "F5.4.6"),
        ("nowhere.example", "F5.4.4"),
        ("nothing.example", "F5.1.2"),
        ("missing.example", "F5.1.2"),
        ("broken.example", "T4.4.3"),
        ("multicast.example", "F5.4.4"),
    ];
    let addresses: Vec<String> = cases.iter().map(|(domain, _)| format!("x@{domain}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let settings = Settings { resolver: Arc::new(names.resolver()), mx_port: fake.address.port(), ..to(Route::Mx) };

    let found = in_order(outcomes_of(settings, vec![samples::job("s@a.example", &addresses)]).await);

    assert_eq!(brief(&found), cases.map(|(_, wanted)| wanted));
    let relay = account(&found[0]).remote.clone().unwrap_or_default();
    assert!(relay.starts_with("second.example[127.0.0.1]:"), "{relay}");
}

#[tokio::test]
async fn mail_by_mx_goes_neither_to_this_host_nor_into_private_networks() {
    use super::resolver::fake::{NameServer, a, mx};
    let fake = Fake::good(&ALL).await;
    let names = NameServer::zone(&[
        ("loopback.example", &[a([127, 0, 0, 1])]),
        ("zero.example", &[a([0, 0, 0, 0])]),
        ("private.example", &[mx(10, "inside.example")]),
        ("inside.example", &[a([10, 0, 0, 1]), a([192, 168, 0, 1]), a([100, 64, 0, 1]), a([169, 254, 0, 1])]),
        ("named.example", &[mx(10, "localhost"), mx(20, "inside.example")]),
        ("alias.example", &[mx(10, "us-too.example"), mx(10, "inside.example"), mx(20, "inside.example")]),
        ("us-too.example", &[a([127, 0, 0, 9])]),
        ("us.example", &[a([127, 0, 0, 1])]),
        ("number.example", &[mx(10, "127.0.0.1")]),
        ("hosts.example", &[mx(10, "relay.example")]),
    ])
    .await;
    let cases = [
        ("loopback.example", "F5.4.6"),
        ("zero.example", "F5.4.6"),
        ("private.example", "F5.4.4"),
        ("named.example", "F5.4.6"),
        ("alias.example", "F5.4.6"),
        ("us.example", "F5.4.6"),
        ("number.example", "F5.4.4"),
        ("hosts.example", "F5.4.4"),
        ("localhost", "F5.4.6"),
        ("[127.0.0.1]", "F5.4.6"),
        ("[IPv6:::1]", "F5.4.6"),
        ("[IPv6:::ffff:127.0.0.1]", "F5.4.6"),
        ("[10.0.0.1]", "F5.4.4"),
        ("[IPv6:fd00::1]", "F5.4.4"),
    ];
    let addresses: Vec<String> = cases.iter().map(|(domain, _)| format!("x@{domain}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let settings = Settings {
        resolver: Arc::new(names.resolver()),
        mx_port: fake.address.port(),
        private_networks: PrivateNetworks::Refuse,
        ..to(Route::Mx)
    };

    let found = in_order(outcomes_of(settings, vec![samples::job("s@a.example", &addresses)]).await);

    assert_eq!(brief(&found), cases.map(|(_, wanted)| wanted));
    assert_eq!(fake.connections(), 0);
    assert!(account(&found[2]).diagnostic.contains("private_networks"), "{:?}", found[2]);
}

#[tokio::test]
async fn a_better_exchanger_than_ourselves_is_used_and_a_worse_one_is_not() {
    use super::resolver::fake::{NameServer, a, mx};
    let fake = Fake::good(&ALL).await;
    let names = NameServer::zone(&[
        ("backup.example", &[mx(10, "good.example"), mx(20, "ours.example"), mx(30, "good.example")]),
        ("primary.example", &[mx(10, "ours.example"), mx(20, "good.example")]),
        ("good.example", &[a([127, 0, 0, 1])]),
        ("ours.example", &[a([127, 0, 0, 2])]),
    ])
    .await;
    // Port and address of our own listener, which the option does not open either.
    let settings = Settings {
        resolver: Arc::new(names.resolver()),
        mx_port: fake.address.port(),
        listeners: vec![SocketAddr::from(([127, 0, 0, 2], fake.address.port()))],
        ..to(Route::Mx)
    };

    let job = samples::job("s@a.example", &["x@backup.example", "x@primary.example"]);
    let found = in_order(outcomes_of(settings, vec![job]).await);

    assert_eq!(brief(&found), ["D2.0.0", "F5.4.6"]);
}

#[tokio::test]
async fn a_smart_host_that_is_ourselves_is_passed_over_and_alone_defers_the_mail() {
    let (own, other) = (Fake::good(&ALL).await, Fake::good(&ALL).await);
    let ours = SmartHost { host: "relay.example".to_owned(), ..host(own.address, TlsDemand::None) };
    let listeners = vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, own.address.port()))];

    let alone = Settings { listeners: listeners.clone(), ..to_hosts(vec![ours.clone()]) };
    let with_another = Settings { listeners, ..to_hosts(vec![ours, host(other.address, TlsDemand::None)]) };

    assert_eq!(brief(&outcomes(alone, 1).await), ["T4.4.6"]);
    assert_eq!(brief(&outcomes(with_another, 1).await), ["D2.0.0"]);
    assert_eq!(own.connections(), 0);
}

#[tokio::test]
async fn every_address_of_a_domain_is_tried_in_time_however_many_are_dead() {
    use super::resolver::fake::{NameServer, a};
    let fake = Fake::good(&ALL).await;
    let dead = (10..60).map(|last| a([127, 0, 1, last]));
    let records: Vec<_> = dead.chain([a([127, 0, 0, 1])]).collect();
    let names = NameServer::zone(&[("many.example", &records)]).await;
    let settings = Settings { resolver: Arc::new(names.resolver()), mx_port: fake.address.port(), ..to(Route::Mx) };
    let (jobs, job_receiver) = mpsc::channel(1);
    let (sender, mut receiver) = mpsc::channel::<Outcomes>(1);
    let _delivery = Delivery::start(settings, job_receiver, sender);

    let mut attempts = 0;
    let delivered = async {
        loop {
            attempts += 1;
            jobs.send(samples::job("s@a.example", &["x@many.example"])).await.unwrap();
            let outcomes = receiver.recv().await.unwrap();
            if matches!(outcomes.settled[0].1, Outcome::Delivered(_)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1100)).await; // until what was found dead may be tried again
        }
    };
    tokio::time::timeout(Duration::from_secs(60), delivered).await.expect("the living address is never tried");

    assert!((2..=12).contains(&attempts), "{attempts}");
}

#[tokio::test]
async fn hosts_that_break_every_new_connection_do_not_hide_the_one_that_works() {
    let mut hosts = Vec::new();
    for _ in 0..4 {
        let breaks = Fake::start(Skills::with(&ALL), |_, heard| if heard.starts_with("MAIL") { Does::HangsUp } else { Does::Right }).await;
        hosts.push(host(breaks.address, TlsDemand::None));
    }
    let good = Fake::good(&ALL).await;
    hosts.push(host(good.address, TlsDemand::None));
    let (jobs, job_receiver) = mpsc::channel(1);
    let (sender, mut receiver) = mpsc::channel::<Outcomes>(1);
    let _delivery = Delivery::start(to_hosts(hosts), job_receiver, sender);

    for _ in 0..3 {
        jobs.send(samples::job("s@a.example", &["x@b.example"])).await.unwrap();
        receiver.recv().await.unwrap();
    }

    assert!(!good.messages().is_empty(), "the last host was not asked in three attempts");
}

#[tokio::test]
async fn a_connection_that_ends_in_the_middle_of_the_list_goes_on_where_it_stopped() {
    for offers in [&ALL[..], &[]] {
        for says_421 in [true, false] {
            let asked = Arc::new(std::sync::Mutex::new(HashMap::<usize, usize>::new()));
            let manner = move |at: At, heard: &str| {
                let mut asked = asked.lock().unwrap();
                let count = asked.entry(at.connection).or_default();
                match heard.starts_with("RCPT") {
                    true if *count >= 30 && says_421 => Does::LastSays("421 4.7.0 that is enough\r\n".to_owned()),
                    true if *count >= 30 => Does::HangsUp,
                    true => {
                        *count += 1;
                        Does::Right
                    }
                    false => Does::Right,
                }
            };
            let fake = Fake::start(Skills::with(offers), manner).await;
            let settings = Settings { per_destination: 1, ..to_one(fake.address) };

            let found = outcomes(settings, 100).await;

            assert!(found.iter().all(|outcome| matches!(outcome, Outcome::Delivered(_))), "{offers:?} {says_421} {found:?}");
            assert_eq!(fake.messages().iter().map(|taken| taken.recipients.len()).sum::<usize>(), 100);
        }
    }
}

#[tokio::test]
async fn one_recipient_that_ends_the_connection_does_not_keep_the_others_from_theirs() {
    for offers in [&ALL[..], &[]] {
        let manner = |_: At, heard: &str| match heard.starts_with("RCPT TO:<r0@") {
            true => Does::LastSays("421 4.7.0 not him\r\n".to_owned()),
            false => Does::Right,
        };
        let fake = Fake::start(Skills::with(offers), manner).await;

        let found = outcomes(to_one(fake.address), 10).await;

        assert_eq!(brief(&found)[0], "T4.7.0", "{offers:?}");
        assert!(found[1..].iter().all(|outcome| matches!(outcome, Outcome::Delivered(_))), "{offers:?} {found:?}");
    }
}

#[tokio::test]
async fn a_list_that_is_refused_for_its_length_after_all_were_accepted_is_split() {
    let count = Arc::new(AtomicU32::new(0));
    let manner = move |_: At, heard: &str| match heard.split([' ', ':']).next() {
        Some("MAIL") => {
            count.store(0, Ordering::SeqCst);
            Does::Right
        }
        Some("RCPT") => {
            count.fetch_add(1, Ordering::SeqCst);
            Does::Right
        }
        Some("DATA") if count.load(Ordering::SeqCst) > 20 => says("452 4.5.3 too many recipients"),
        _ => Does::Right,
    };
    for offers in [&ALL[..], &[]] {
        let fake = Fake::start(Skills::with(offers), manner.clone()).await;
        let settings = Settings { per_destination: 1, ..to_one(fake.address) };

        let found = outcomes(settings, 90).await;

        assert!(found.iter().all(|outcome| matches!(outcome, Outcome::Delivered(_))), "{offers:?}");
        assert!(fake.messages().iter().all(|taken| taken.recipients.len() <= 20));
    }
}

/// A server on this address and port that answers everything from the banner on with 521.
async fn takes_no_mail(address: [u8; 4], port: u16, words: &'static str) -> Fake {
    let never = move |_: At, heard: &str| if heard == "banner" { Does::LastSays(words.to_owned()) } else { Does::Right };
    Fake::start_at(SocketAddr::from((address, port)), Skills::with(&ALL), never).await
}

#[tokio::test]
async fn a_host_that_never_takes_mail_is_reported_now_if_there_is_no_other() {
    use super::resolver::fake::{NameServer, a, mx};
    let good = Fake::good(&ALL).await;
    let port = good.address.port();
    let _first = takes_no_mail([127, 0, 3, 1], port, "521 5.3.2 no mail here\r\n").await;
    let _second = takes_no_mail([127, 0, 3, 2], port, "521 no\r\n").await;
    let _busy = takes_no_mail([127, 0, 3, 3], port, "421 4.3.2 busy\r\n").await;
    let (first, second, busy, good) = (a([127, 0, 3, 1]), a([127, 0, 3, 2]), a([127, 0, 3, 3]), a([127, 0, 0, 1]));
    let names = NameServer::zone(&[
        ("never.example", std::slice::from_ref(&first)),
        ("bare.example", std::slice::from_ref(&second)),
        ("both.example", &[first.clone(), second.clone()]),
        ("another.example", &[mx(10, "never.example"), mx(20, "good.example")]),
        ("good.example", &[good]),
        ("busy.example", &[first.clone(), busy]),
    ])
    .await;
    for (domain, wanted) in [
        ("never.example", "F5.3.2"),
        ("bare.example", "F5.3.2"),
        ("both.example", "F5.3.2"),
        ("another.example", "D2.0.0"),
        ("busy.example", "T"),
    ] {
        let settings = Settings { resolver: Arc::new(names.resolver()), mx_port: port, ..to(Route::Mx) };
        let job = samples::job("s@a.example", &[&format!("x@{domain}")]);

        let found = brief(&in_order(outcomes_of(settings, vec![job]).await));

        assert!(found[0].starts_with(wanted), "{domain} {found:?}");
    }
    let manner = |_: At, heard: &str| if heard.starts_with("RCPT") { says("556 5.1.10 takes no mail") } else { Does::Right };
    let forwards = Fake::start(Skills::with(&ALL), manner).await;
    assert_eq!(brief(&outcomes(to_one(forwards.address), 1).await), ["F5.1.10"], "said of the recipient's domain");
}

#[tokio::test]
async fn a_smart_host_that_takes_no_mail_defers_it() {
    let at_ehlo = |_: At, heard: &str| if heard.starts_with("EHLO") { says("521 no mail here") } else { Does::Right };
    let first = takes_no_mail([127, 0, 0, 1], 0, "521 5.3.2 no mail here\r\n").await;
    let second = Fake::start(Skills::with(&ALL), at_ehlo).await;
    let third = takes_no_mail([127, 0, 0, 1], 0, "556 no mail here\r\n").await;
    let good = Fake::good(&ALL).await;
    let to = |all: &[&Fake]| to_hosts(all.iter().map(|fake| host(fake.address, TlsDemand::None)).collect());

    for alone in [&first, &second, &third] {
        assert!(brief(&outcomes(to(&[alone]), 1).await)[0].starts_with('T'));
    }
    assert!(brief(&outcomes(to(&[&first, &second, &third]), 1).await)[0].starts_with('T'));
    assert_eq!(brief(&outcomes(to(&[&first, &good]), 1).await), ["D2.0.0"]);
}

/// Each domain to a server of its own.
fn by_domain(servers: &[(&str, &Fake)]) -> Settings {
    let rule = |(domain, fake): &(&str, &Fake)| Rule {
        domains: vec![Pattern::parse(domain).unwrap()],
        route: Arc::new(Route::SmartHosts(vec![host(fake.address, TlsDemand::None)])),
    };
    Settings { routes: Routes::new(servers.iter().map(rule).collect()), ..to_one(servers[0].1.address) }
}

fn of_user(user: &str, number: u64, to: &str) -> Job {
    Job { user: user.into(), id: samples::id(number), ..samples::job("s@a.example", &[to]) }
}

#[tokio::test]
async fn a_user_whose_servers_never_answer_leaves_connections_to_the_others() {
    let hanging = || Fake::start(Skills::with(&ALL), |_, heard| if heard.starts_with("MAIL") { Does::Hangs } else { Does::Right });
    let (first, second, third, good) = (hanging().await, hanging().await, hanging().await, Fake::good(&ALL).await);
    let servers = [("h1.example", &first), ("h2.example", &second), ("h3.example", &third), ("good.example", &good)];
    let settings = Settings { connections: 4, per_destination: 4, ..by_domain(&servers) };
    let (jobs, job_receiver) = mpsc::channel(1);
    let (sender, mut receiver) = mpsc::channel::<Outcomes>(1);
    let _delivery = Delivery::start(settings, job_receiver, sender);

    for number in 1..=30 {
        jobs.send(of_user("eve", number, &format!("x@h{}.example", number % 3 + 1))).await.unwrap();
    }
    jobs.send(of_user("ann", 99, "x@good.example")).await.unwrap();

    let outcomes = tokio::time::timeout(Duration::from_secs(5), receiver.recv()).await.expect("ann waits behind eve").unwrap();
    assert_eq!(outcomes.id, samples::id(99));
    assert!(first.connections() + second.connections() + third.connections() <= 4);
}

#[tokio::test]
async fn one_destination_uses_the_connections_it_may_have_when_nobody_else_wants_them() {
    let slow = Fake::start(Skills::with(&ALL), |_, heard| if heard.starts_with("MAIL") { Does::Hangs } else { Does::Right }).await;
    let settings = Settings { connections: 8, per_destination: 8, ..to_one(slow.address) };
    let (jobs, job_receiver) = mpsc::channel(1);
    let (sender, _receiver) = mpsc::channel::<Outcomes>(1);
    let _delivery = Delivery::start(settings, job_receiver, sender);

    for number in 1..=30 {
        jobs.send(of_user("ann", number, "x@b.example")).await.unwrap();
    }

    let all = async {
        while slow.connections() < 8 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("the relay is idle, and the server gets all connections");
}

#[tokio::test]
async fn users_who_share_a_server_take_turns() {
    let fake = Fake::good(&["8BITMIME"]).await;
    let mut all: Vec<Job> = (1..=300).map(|number| of_user("eve", number, "x@b.example")).collect();
    for job in &mut all {
        job.sender = crate::smtp::address::ReversePath::Mailbox(samples::mailbox("eve@a.example"));
    }
    all.push(of_user("ann", 999, "x@b.example"));
    let settings = Settings { per_destination: 1, ..to_one(fake.address) };

    outcomes_of(settings, all).await;

    let place = fake.messages().iter().position(|taken| taken.sender == "s@a.example").unwrap();
    assert!(place < 290, "ann's message came as number {place} of 301");
}

#[tokio::test]
async fn an_attempt_is_over_at_its_deadline_whatever_the_server_does() {
    for command in ["banner", "MAIL", "RCPT", "DATA"] {
        let fake = Fake::start(Skills::with(&[]), move |_, heard| if heard.starts_with(command) { Does::Hangs } else { Does::Right }).await;
        // The second waits for the connection that the first has.
        let jobs = (1..=2).map(|number| {
            let deadline = tokio::time::Instant::now() + Duration::from_millis(500);
            Job { deadline, ..of_user("ann", number, "x@b.example") }
        });
        let settings = Settings { timeouts: patience(Duration::from_secs(600)), connections: 1, ..to_one(fake.address) };
        let (job_sender, job_receiver) = mpsc::channel(16);
        let (sender, mut receiver) = mpsc::channel::<Outcomes>(16);
        let _delivery = Delivery::start(settings, job_receiver, sender);
        for job in jobs {
            job_sender.send(job).await.unwrap();
        }

        for _ in 0..2 {
            let outcomes = tokio::time::timeout(Duration::from_secs(20), receiver.recv()).await.expect("it hangs").unwrap();
            assert_eq!(brief(&[outcomes.settled[0].1.clone()]), ["T4.4.7"], "{command}");
        }
    }
}

#[tokio::test]
async fn a_message_cut_short_in_its_content_may_have_arrived() {
    let fake = Fake::start(Skills::with(&ALL), |_, heard| if heard == "content" { Does::Hangs } else { Does::Right }).await;
    let deadline = tokio::time::Instant::now() + Duration::from_millis(500);
    let job = Job { deadline, ..of_user("ann", 1, "x@b.example") };
    let settings = Settings { timeouts: patience(Duration::from_secs(50)), ..to_one(fake.address) };

    let found = in_order(outcomes_of(settings, vec![job]).await);

    assert_eq!(brief(&found), ["T4.4.7"]);
    assert!(account(&found[0]).diagnostic.contains("may have arrived"));
}

#[tokio::test]
async fn a_task_that_dies_answers_for_all_it_had() {
    struct Deadly;
    impl Secrets for Deadly {
        fn secret<'a>(&'a self, _: &'a str) -> Asked<'a> {
            panic!("on purpose");
        }
    }
    let fake = Fake::good(&["AUTH PLAIN"]).await;
    let login = Some(Login { user: "us".to_owned(), secret: "s".to_owned() });
    let smart_host = SmartHost { login, ..host(fake.address, TlsDemand::None) };
    let settings = Settings { secrets: Arc::new(Deadly), ..to_hosts(vec![smart_host]) };

    let found = outcomes_of(settings, numbered(10)).await;

    assert!(found.values().all(|outcome| brief(std::slice::from_ref(outcome)) == ["T4.3.0"]));
}

#[tokio::test]
async fn new_settings_hold_for_the_jobs_that_come_after_them() {
    let (first, second) = (Fake::good(&ALL).await, Fake::good(&ALL).await);
    let (jobs, job_receiver) = mpsc::channel(1);
    let (sender, mut receiver) = mpsc::channel::<Outcomes>(1);
    let delivery = Delivery::start(to_one(first.address), job_receiver, sender);

    jobs.send(samples::job("s@a.example", &["x@b.example"])).await.unwrap();
    receiver.recv().await.unwrap();
    delivery.reload(to_one(second.address));
    jobs.send(samples::job("s@a.example", &["x@b.example"])).await.unwrap();
    receiver.recv().await.unwrap();

    assert_eq!((first.messages().len(), second.messages().len()), (1, 1));
}

/// Runs a future on a runtime of several threads, where orders differ.
fn on_threads(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap().block_on(test);
}

#[test]
fn every_recipient_is_answered_once_by_a_server_that_dies_at_random() {
    on_threads(async {
        for offers in [&ALL[..], &[]] {
            let dice = Arc::new(AtomicU32::new(1));
            let manner = move |_: At, heard: &str| {
                // A small linear congruential generator: the same in every run.
                let roll =
                    dice.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |x| Some(x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223)));
                let roll = roll.unwrap_or_default() >> 16;
                match roll % 50 {
                    0 => Does::HangsUp,
                    1 => Does::LastSays("421 4.3.2 going\r\n".to_owned()),
                    2 if heard != "content" => says("451 4.3.0 later"),
                    3 if heard.starts_with("RCPT") => says("550 5.1.1 no"),
                    4 => says("what?"),
                    _ => Does::Right,
                }
            };
            let fake = Fake::start(Skills::with(offers), manner).await;

            let found = outcomes_of(to_one(fake.address), numbered(600)).await;

            // What was called delivered has arrived; nothing has arrived twice by our doing.
            let mut arrived: HashMap<Vec<u8>, Vec<String>> = HashMap::new();
            for taken in fake.messages() {
                arrived.entry(taken.content).or_default().extend(taken.recipients);
            }
            for ((id, number), outcome) in &found {
                let content = format!("Received: x\r\nSubject: {id}\r\n\r\nbody\r\n").into_bytes();
                let address = if number.0 == 0 { "x@b.example" } else { "y@b.example" };
                let times = arrived.get(&content).map_or(0, |all| all.iter().filter(|to| *to == address).count());
                match outcome {
                    Outcome::Delivered(_) => assert_eq!(times, 1, "{id} {number:?}"),
                    Outcome::Deferred(_) => assert!(times <= 1, "{id} {number:?}"),
                    Outcome::Failed(_) => assert_eq!(times, 0, "{id} {number:?}"),
                }
            }
        }
    });
}
