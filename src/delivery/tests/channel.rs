//! Servers that want another kind of connection: TLS that breaks or is refused, logins, and what EHLO offers.

use super::*;

/// Speaks no TLS behind its 220 where `broken` says so; takes mail only through TLS.
async fn insists_on_tls(broken: impl Fn(At) -> bool + Send + Sync + 'static, refusing: &'static str) -> (Fake, Arc<AtomicU32>) {
    let (tls, _) = acceptor("relay.example");
    let refused = Arc::new(AtomicU32::new(0));
    let count = refused.clone();
    let secured = std::sync::Mutex::new(std::collections::HashSet::new());
    let manner = move |at: At, heard: &str| match heard {
        "STARTTLS" if broken(at) => Does::LastSays("220 go\r\n".to_owned()),
        "STARTTLS" => {
            secured.lock().unwrap().insert(at.connection);
            Does::Right
        }
        _ if heard.starts_with(refusing) && !secured.lock().unwrap().contains(&at.connection) => {
            count.fetch_add(1, Ordering::SeqCst);
            says("530 5.7.0 Must issue a STARTTLS command first")
        }
        _ => Does::Right,
    };
    (Fake::start(Skills { tls: Some(tls), ..Skills::with(&ALL) }, manner).await, refused)
}

#[tokio::test]
async fn after_one_broken_handshake_no_mail_is_lost_to_530_and_tls_is_tried_afresh() {
    for refusing in ["MAIL", "RCPT", "DATA", "content"] {
        // The first connection breaks the handshake, the second one is in clear and hears 530.
        let (fake, refused) = insists_on_tls(|at| at.connection == 0, refusing).await;
        let settings = Settings { per_destination: 1, ..to_hosts(vec![host(fake.address, TlsDemand::Opportunistic)]) };

        let found = outcomes_of(settings, numbered(6)).await;

        assert!(found.values().all(|outcome| matches!(outcome, Outcome::Delivered(_))), "{refusing} {found:?}");
        assert!(refused.load(Ordering::SeqCst) <= 3, "one message, at one connection");
        assert!(fake.commands(2).contains(&"STARTTLS".to_owned()), "{refusing} {:?}", fake.commands(2));
        assert_eq!(fake.connections(), 3, "{refusing}");
    }
}

#[tokio::test]
async fn a_server_that_wants_what_we_cannot_do_defers_at_every_stage_and_never_fails() {
    let stages = ["banner", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "content"];
    for offers in [&["PIPELINING", "AUTH LOGIN PLAIN"][..], &["AUTH LOGIN PLAIN"]] {
        for stage in stages {
            for code in [530, 523, 538, 534, 535, 454, 504] {
                let from_mail = matches!(stage, "MAIL" | "RCPT" | "DATA" | "content");
                if from_mail && code == 504 {
                    continue; // there it is about a parameter
                }
                let (tls, roots) = acceptor("relay.example");
                let manner = move |_: At, heard: &str| if heard.starts_with(stage) { says(&format!("{code} x")) } else { Does::Right };
                let fake = Fake::start(Skills { tls: Some(tls), ..Skills::with(offers) }, manner).await;
                let login = Some(Login { user: "us".to_owned(), secret: "relay.secret".to_owned() });
                let smart_host = SmartHost { host: "relay.example".to_owned(), port: fake.address.port(), tls: TlsDemand::Required, login };
                let settings = Settings { roots: Arc::new(roots), secrets: Arc::new(OneSecret), ..to_hosts(vec![smart_host]) };

                let found = outcomes(settings, 1).await;

                assert!(matches!(found[0], Outcome::Deferred(_)), "{stage} {code} {found:?}");
                assert!(account(&found[0]).diagnostic.contains(&code.to_string()), "{stage} {code} {found:?}");
            }
        }
    }
}

#[tokio::test]
async fn another_host_gets_the_next_try_when_one_wants_a_login_or_tls() {
    for stage in ["banner", "EHLO", "MAIL", "RCPT", "DATA", "content"] {
        let manner = move |_: At, heard: &str| if heard.starts_with(stage) { says("530 5.7.0 log in first") } else { Does::Right };
        let wants = Fake::start(Skills::with(&ALL), manner).await;
        let good = Fake::good(&ALL).await;

        let found = outcomes(to_hosts(vec![host(wants.address, TlsDemand::None), host(good.address, TlsDemand::None)]), 2).await;

        assert_eq!(brief(&found), ["D2.0.0", "D2.0.0"], "{stage}");
        assert_eq!((wants.messages().len(), good.messages().len()), (0, 1));
    }
}

#[tokio::test]
async fn every_host_gets_its_try_when_several_want_a_login_or_tls() {
    let mut hosts = Vec::new();
    for _ in 0..4 {
        let manner = |_: At, heard: &str| if heard.starts_with("MAIL") { says("530 5.7.0 log in first") } else { Does::Right };
        hosts.push(Fake::start(Skills::with(&ALL), manner).await);
    }
    let good = Fake::good(&ALL).await;
    let list = |hosts: &[&Fake]| to_hosts(hosts.iter().map(|fake| host(fake.address, TlsDemand::None)).collect());

    let found = outcomes(list(&[&hosts[0], &hosts[1], &hosts[2], &hosts[3], &good]), 1).await;
    assert_eq!(brief(&found), ["D2.0.0"]);

    let found = outcomes(list(&[&hosts[0], &hosts[1], &hosts[2]]), 1).await;
    assert_eq!(brief(&found), ["T4.7.0"]);
    assert!(hosts.iter().all(|fake| fake.connections() <= 3), "each at most once more");
}

#[tokio::test]
async fn whatever_a_server_does_at_the_word_starttls_but_begin_it_counts_as_a_broken_handshake() {
    for (demand, wanted) in [(TlsDemand::Opportunistic, 'D'), (TlsDemand::Required, 'T')] {
        for behaviour in 0..6 {
            let manner = move |_: At, heard: &str| match (heard, behaviour) {
                ("STARTTLS", 0) => Does::HangsUp,
                ("STARTTLS", 1) => Does::Hangs,
                ("STARTTLS", 2) => says("454 4.7.0 TLS not available"),
                ("STARTTLS", 3) => Does::LastSays("421 4.3.0 going\r\n".to_owned()),
                ("STARTTLS", 4) => says("999 what"),
                ("STARTTLS", _) => Does::LastSays("220 go\r\n".to_owned()),
                _ => Does::Right,
            };
            let fake = Fake::start(Skills::with(&["PIPELINING", "STARTTLS"]), manner).await;
            let mut settings = to_hosts(vec![host(fake.address, demand)]);
            settings.timeouts.handshake = Duration::from_millis(300);

            let found = outcomes(settings, 1).await;

            assert!(brief(&found)[0].starts_with(wanted), "{demand:?} {behaviour} {found:?}");
            let clear = fake.connections() - 1;
            assert_eq!(fake.commands(clear).iter().any(|line| line.starts_with("MAIL")), wanted == 'D');
            assert_eq!(fake.connections(), if wanted == 'D' { 2 } else { 1 }, "{behaviour}");
        }
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_before_its_first_word_through_tls_counts_as_a_broken_handshake() {
    let (tls, _) = acceptor("relay.example");
    let ehlos = AtomicU32::new(0);
    let manner = move |at: At, heard: &str| match heard.starts_with("EHLO") && at.connection == 0 {
        true if ehlos.fetch_add(1, Ordering::SeqCst) == 1 => Does::HangsUp,
        _ => Does::Right,
    };
    let fake = Fake::start(Skills { tls: Some(tls), ..Skills::with(&ALL) }, manner).await;

    let found = outcomes(to_hosts(vec![host(fake.address, TlsDemand::Opportunistic)]), 1).await;

    assert_eq!(brief(&found), ["D2.0.0"]);
    assert!(!fake.commands(1).contains(&"STARTTLS".to_owned()));
}

#[tokio::test]
async fn no_list_of_keywords_hides_starttls_or_auth() {
    let (tls, roots) = acceptor("relay.example");
    let (roots, secrets): (_, Arc<dyn Secrets>) = (Arc::new(roots), Arc::new(OneSecret));
    let keywords = |count: usize| (0..count).map(|number| format!("250-X-KEYWORD-{number:05} with some words\r\n")).collect::<String>();
    let mechanisms = format!("250-AUTH {} PLAIN\r\n", "X-MECHANISM ".repeat(3000));
    for (middle, fine) in [(keywords(90), true), (keywords(1000), true), (mechanisms, true), (keywords(2000), false)] {
        let text = middle.clone();
        let started = Arc::new(AtomicU32::new(0));
        let manner = move |_: At, heard: &str| match heard.starts_with("EHLO") {
            true if started.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) => says(&format!("250-x\r\n{text}250 STARTTLS")),
            true => says(&format!("250-x\r\n{text}250 AUTH PLAIN")),
            false => Does::Right,
        };
        let fake = Fake::start(Skills { tls: Some(tls.clone()), ..Skills::default() }, manner).await;
        for demand in [TlsDemand::Required, TlsDemand::Opportunistic] {
            let login = Some(Login { user: "us".to_owned(), secret: "relay.secret".to_owned() });
            let smart_host = SmartHost { host: "relay.example".to_owned(), port: fake.address.port(), tls: demand, login };
            let settings = Settings { roots: roots.clone(), secrets: secrets.clone(), ..to_hosts(vec![smart_host]) };

            let found = outcomes(settings, 1).await;

            if fine {
                assert_eq!(brief(&found), ["D2.0.0"], "{demand:?} {}", middle.len());
            } else {
                assert_eq!(brief(&found), ["T4.5.0"], "{demand:?} {}", middle.len());
                assert!(account(&found[0]).diagnostic.contains("longer than 65536 octets"), "{found:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_login_with_a_long_secret_or_another_mechanism_works() {
    struct LongSecret;
    impl Secrets for LongSecret {
        fn secret<'a>(&'a self, _: &'a str) -> Asked<'a> {
            Box::pin(async { Ok(Zeroizing::new("p".repeat(700))) })
        }
    }
    for refused in ["", "AUTH PLAIN"] {
        for code in ["504 5.5.4 no", "534 5.7.9 no"] {
            let manner = move |_: At, heard: &str| match heard {
                _ if !refused.is_empty() && heard.starts_with(refused) => says(code),
                "AUTH PLAIN" => says("334 "),
                "AUTH LOGIN" => says("334 VXNlcm5hbWU6"),
                // Neither a command nor anything the fake server knows: a response.
                _ if heard.len() > 900 => says("235 in"),
                "dXM=" => says("334 UGFzc3dvcmQ6"),
                _ => Does::Right,
            };
            let fake = Fake::start(Skills::with(&["AUTH PLAIN LOGIN"]), manner).await;
            let login = Some(Login { user: "us".to_owned(), secret: "s".to_owned() });
            let smart_host = SmartHost { login, ..host(fake.address, TlsDemand::None) };
            let settings = Settings { secrets: Arc::new(LongSecret), ..to_hosts(vec![smart_host]) };

            let found = outcomes(settings, 1).await;

            assert_eq!(brief(&found), ["D2.0.0"], "{refused} {code} {:?}", fake.commands(0));
            let commands = fake.commands(0);
            assert!(commands.contains(&"AUTH PLAIN".to_owned()), "without an initial response");
            assert!(commands.iter().filter(|line| line.contains(' ')).all(|line| line.len() + 2 <= 512));
            assert_eq!(commands.contains(&"AUTH LOGIN".to_owned()), !refused.is_empty());
        }
    }
}
