//! Guesses: what reaches PAM, whom it holds back and whom it does not, and what root can see and do about it.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use pamrelay_authwire::{HeldSubject, Logins, Order, OutcomeKind, Question, Statement, Subject};

use crate::pam_stage::{Helper, Stage, UNIX, marked, waits_for, words};

/// A stack that locks an account at the third wrong password within 15 minutes, as faillock does unless told otherwise.
const FAILLOCK: &str = "auth required pam_faillock.so preauth dir=DIR/faillock\n\
    auth [success=1 default=ignore] pam_unix.so nodelay\n\
    auth [default=die] pam_faillock.so authfail dir=DIR/faillock\n\
    auth required pam_faillock.so authsucc dir=DIR/faillock\n\
    account required pam_unix.so\n";

/// The verdicts on guesses at one account, each from another address.
fn guesses(helper: &Helper, user: &str, count: usize) -> Vec<String> {
    let guess =
        |n: usize| words(&helper.asks_from(&format!("198.51.{}.{}", n / 250, n % 250), user.as_bytes(), format!("guess{n}").as_bytes()));
    thread::scope(|scope| {
        let asked: Vec<_> = (0..8).map(|part| scope.spawn(move || (part..count).step_by(8).map(guess).collect::<Vec<_>>())).collect();
        asked.into_iter().flat_map(|asked| asked.join().unwrap()).collect()
    })
}

fn time_of_refusal(helper: &Helper, user: &str) -> Duration {
    let began = Instant::now();
    assert_eq!(helper.asks(user, "wrong").kind(), OutcomeKind::Reject, "{user}");
    began.elapsed()
}

fn throttled(helper: &Helper) -> Vec<HeldSubject> {
    let Statement::Throttled(held) = helper.orders(&Order::Throttled) else { panic!("another statement") };
    held.into_iter().map(|held| held.subject).collect()
}

root_test! {
    fn wrong_passwords_are_counted_and_the_right_one_from_elsewhere_then_waits_too() {
        let helper = Stage::new(UNIX).start();

        let outcomes = guesses(&helper, "bob", 40);

        assert_eq!(outcomes.iter().filter(|outcome| *outcome == "reject auth 7 refused").count(), 3, "{outcomes:?}");
        assert_eq!(outcomes.iter().filter(|outcome| *outcome == "throttled limit 0 account-failures").count(), 37, "{outcomes:?}");
        for spelling in ["bob", "BOB", "LAB\\bob", "bob@lab.test"] {
            assert_eq!(words(&helper.asks(spelling, "right")), "throttled limit 0 account-failures", "{spelling}");
        }
        assert_eq!(words(&helper.asks("carol", "right")), "accept");
    }

    fn at_home_and_on_a_journey_mistakes_cost_seconds_where_nothing_locks_accounts() {
        let helper = Stage::new(UNIX).start();
        let says = |peer: &str, password: &str| words(&helper.asks_from(peer, b"bob", password.as_bytes()));
        assert_eq!(says("203.0.113.1", "right"), "accept");

        for n in 0..4 {
            assert_eq!(says("203.0.113.1", &format!("mistyped{n}")), "reject auth 7 refused");
        }
        assert_eq!(says("203.0.113.1", "right"), "accept", "one accept, four wrong, then the right password");
        for n in 0..3 {
            assert_eq!(says("198.51.100.1", &format!("forgotten{n}")), "reject auth 7 refused");
        }
        assert_eq!(says("198.51.100.1", "right"), "throttled limit 0 account-failures");
        let Statement::Status(fares) = helper.orders(&Order::Status) else { panic!("another statement") };
        assert_eq!((fares.account_failures, fares.account_window, fares.account_pauses), (10, 1800, true));
        let held = throttled(&helper);
        assert!(held.contains(&HeldSubject::Account("bob".into())), "{held:?}");
        assert!(held.contains(&HeldSubject::AccountFrom("bob".into(), "198.51.100.1".parse().unwrap())), "{held:?}");
        let began = Instant::now();
        while says("198.51.100.1", "right") != "accept" {
            assert!(began.elapsed() < Duration::from_secs(30));
            thread::sleep(Duration::from_millis(500));
        }
        helper.waits_for_log("event=limits account_failures=10 seconds=1800 text=\"no service locks");
    }

    fn a_directory_that_may_lock_accounts_keeps_the_exact_limit_until_the_administrator_knows_better() {
        let asks_elsewhere = format!("auth [success=ignore default=ignore] pam_exec.so quiet /bin/true\n{UNIX}");
        for (lockout, refused) in [("detect", 3), ("none", 3)] {
            let helper = Stage::new(&asks_elsewhere).set("LOCKOUT", lockout).start();

            let outcomes = guesses(&helper, "bob", 40);

            assert_eq!(outcomes.iter().filter(|outcome| *outcome == "reject auth 7 refused").count(), refused, "{outcomes:?}");
            let Statement::Status(fares) = helper.orders(&Order::Status) else { panic!("another statement") };
            let expected = if lockout == "none" { (10, true) } else { (4, false) };
            assert_eq!((fares.account_failures, fares.account_pauses), expected, "{lockout}");
        }
    }

    fn many_networks_of_one_site_leave_the_others_their_share() {
        let helper = Stage::new(UNIX).set("PEER_FAILURES_PER_MINUTE", "8").start();
        let guess = |peer: String, n: usize| words(&helper.asks_from(&peer, format!("user{n}").as_bytes(), b"x"));

        let outcomes: Vec<String> = (0..40).map(|n| guess(format!("2001:db8:1:{n:x}::1"), n)).collect();

        assert!(outcomes.iter().take(16).all(|outcome| outcome == "reject auth 10 refused"), "{outcomes:?}");
        assert_eq!(outcomes.last().unwrap(), "throttled limit 0 peer-failures");
        assert!(throttled(&helper).contains(&HeldSubject::Site("2001:db8:1::".parse().unwrap())));
        assert_eq!(guess("2001:db8:2::1".into(), 99), "reject auth 10 refused");
        assert_eq!(helper.orders(&Order::Release(Subject::Network(Question::peer_bytes("2001:db8:1::1".parse().unwrap())))), Statement::Released(true));
        assert_eq!(guess("2001:db8:1:99::1".into(), 98), "reject auth 10 refused");
    }

    fn the_stack_s_own_lock_out_is_never_reached_and_the_owner_logs_in_from_where_he_did() {
        let stage = Stage::new(&FAILLOCK.replace("account required", "account required pam_faillock.so dir=DIR/faillock\naccount required"));
        let service = fs::read_to_string(stage.dir().join("pam.d/smtp")).unwrap().replace("DIR", stage.dir().to_str().unwrap());
        fs::write(stage.dir().join("pam.d/smtp"), service).unwrap();
        fs::create_dir(stage.dir().join("faillock")).unwrap();
        let helper = stage.set("FAILURES_PER_SECOND", "100000").start();
        assert_eq!(words(&helper.asks_from("203.0.113.1", b"bob", b"right")), "accept");

        let outcomes = guesses(&helper, "bob", 1000);

        assert_eq!(outcomes.iter().filter(|outcome| outcome.starts_with("reject")).count(), 1, "one of three stays to the owner, and three lock");
        for _ in 0..3 {
            assert_eq!(words(&helper.asks_from("203.0.113.1", b"bob", b"right")), "accept");
        }
        assert_eq!(words(&helper.asks_from("203.0.113.1", b"bob", b"mistyped")), "reject auth 6 refused", "faillock says so");
        helper.waits_for_log("event=limits account_failures=2 seconds=1800");
        let tally = Command::new("faillock").args(["--dir"]).arg(helper.dir.path().join("faillock")).args(["--user", "bob"]).output().unwrap();
        let tally = String::from_utf8_lossy(&tally.stdout).into_owned();
        assert!(tally.lines().filter(|line| line.trim_end().ends_with('V')).count() < 3, "{tally}");
    }

    fn a_device_with_an_old_password_keeps_nobody_out() {
        let helper = Stage::new(UNIX).start();
        assert_eq!(words(&helper.asks("bob", "right")), "accept");

        let outcomes: Vec<_> = (0..200).map(|_| words(&helper.asks("bob", "last year's"))).collect();

        let asked = outcomes.iter().filter(|outcome| *outcome == "reject auth 7 refused").count();
        assert_eq!(asked, 2, "{outcomes:?}");
        assert!(outcomes.iter().skip(2).all(|outcome| outcome == "reject limit 0 same-again"), "{outcomes:?}");
        assert_eq!(words(&helper.asks("bob", "right")), "accept");
        assert_eq!(words(&helper.asks_from("203.0.113.7", b"bob", b"right")), "accept", "also from elsewhere");
        assert_eq!(words(&helper.asks("carol", "right")), "accept", "and the others behind the same address");
    }

    fn six_guessers_write_few_lines_and_no_line_of_a_real_login_is_missing() {
        let helper = Stage::new(UNIX).set("ACCOUNT_FAILURES", "2").start();

        thread::scope(|scope| {
            for guesser in 0..6 {
                let helper = &helper;
                let guess = move |n: usize| words(&helper.asks_from(&format!("198.51.100.{guesser}"), b"bob", format!("{guesser} {n}").as_bytes()));
                scope.spawn(move || (0..80).map(guess).filter(|outcome| outcome.starts_with("throttled")).count());
            }
            for n in 0..20 {
                assert_eq!(words(&helper.asks_from("192.0.2.1", b"carol", b"right")), "accept");
                assert_eq!(words(&helper.asks_from("192.0.2.1", format!("user{n}").as_bytes(), b"wrong")), "reject auth 10 refused");
            }
            for n in 0..50 {
                assert_eq!(words(&helper.asks_from("192.0.2.2", format!("-{n}").as_bytes(), b"x")), "reject check 0 bad-name");
            }
        });

        let log = helper.log();
        let lines = |word: &str| log.lines().filter(|line| line.contains("event=login ") && line.contains(word)).count();
        assert!((1..=6).contains(&lines("verdict=throttled")), "{log}");
        assert_eq!((lines("verdict=accept"), lines("reason=bad-name")), (20, 1), "{log}");
        assert_eq!(lines("user=\"user"), 20, "refusals of PAM\n{log}");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(helper.pid()), nix::sys::signal::Signal::SIGTERM).unwrap();
        helper.waits_for_log("event=stopped");
        helper.waits_for_log("event=repeats network=192.0.2.2 logins=49");
    }

    fn failures_in_all_are_bounded_whoever_is_named() {
        let helper = Stage::new(UNIX).set("FAILURES_PER_SECOND", "1").start();
        let outcomes: Vec<_> = (0..15).map(|n| words(&helper.asks_from(&format!("198.51.{n}.1"), format!("user{n}").as_bytes(), b"x"))).collect();

        assert!(outcomes.iter().take(10).all(|outcome| outcome == "reject auth 10 refused"), "{outcomes:?}");
        assert_eq!(outcomes.last().unwrap(), "throttled limit 0 all-failures");
    }

    fn a_network_that_fails_fast_is_throttled_and_nobody_else_is() {
        let helper = Stage::new(UNIX).set("PEER_FAILURES_PER_MINUTE", "12").start();
        let guess = |peer: &str, n: i32| words(&helper.asks_from(peer, format!("user{n}").as_bytes(), b"x"));

        for n in 0..6 {
            assert_eq!(guess("2001:db8:0:1::25", n), "reject auth 10 refused", "{n}");
        }
        for n in 6..300 {
            assert_eq!(guess(&format!("2001:db8:0:1::{n:x}"), n), "throttled limit 0 peer-failures", "{n}");
        }
        assert_eq!(words(&helper.asks_from("2001:db8:0:1::1", b"bob", b"right")), "throttled limit 0 peer-failures");
        for peer in ["2001:db8:0:2::25", "192.0.2.1", "::1"] {
            assert_eq!(words(&helper.asks_from(peer, b"bob", b"right")), "accept", "{peer}");
        }
    }

    fn whoever_logged_in_lately_from_there_passes_while_strangers_are_held_back() {
        let helper = Stage::new(UNIX).set("FAILURES_PER_SECOND", "1").start();
        let login = |peer: &str, user: &str| words(&helper.asks_from(peer, user.as_bytes(), b"right"));
        assert_eq!(login("192.0.2.1", "bob"), "accept");

        std::thread::scope(|scope| {
            for client in 0..100 {
                let helper = &helper;
                let guess = move |n: i32| words(&helper.asks_from(&format!("198.51.{client}.1"), format!("user{client}.{n}").as_bytes(), b"x"));
                scope.spawn(move || (0..5).for_each(|n| drop(guess(n))));
            }
        });

        assert_eq!(login("192.0.2.2", "carol"), "throttled limit 0 all-failures");
        assert_eq!(login("192.0.2.2", "bob"), "throttled limit 0 all-failures", "known from elsewhere only");
        assert_eq!(login("192.0.2.1", "bob"), "accept");
    }

    fn a_name_that_there_is_not_hears_what_one_hears_that_there_is() {
        let helper = Stage::new(UNIX).start();
        let heard = |user: &str, password: &str| helper.asks_from("203.0.113.77", user.as_bytes(), password.as_bytes()).kind().reply();

        for n in 0..12 {
            assert_eq!(heard("bob", "the same"), heard("no-such-user", "the same"), "{n}");
            assert_eq!(heard("locked", "the same"), "535 5.7.8", "{n}");
            assert_eq!(heard("carol", &format!("guess{n}")), heard("another-one", &format!("guess{n}")), "{n}");
        }
    }

    fn what_can_be_no_name_waits_in_line_like_any_other() {
        let helper = Stage::new(UNIX).set("WORKERS", "1").set("SLOW_WORKERS", "0").set("ACCOUNT_FAILURES", "0").start();
        let alone = (0..5).map(|_| time_of_refusal(&helper, "alice")).min().unwrap();
        thread::scope(|scope| {
            for n in 0..24 {
                let helper = &helper;
                scope.spawn(move || helper.asks_from(&format!("198.51.100.{n}"), b"alice", b"wrong"));
            }
            waits_for("a line", || match helper.orders(&Order::Status) {
                Statement::Status(fares) if fares.waiting >= 12 => Some(()),
                _ => None,
            });
            let began = Instant::now();

            assert_eq!(words(&helper.asks("root", "x")), "reject check 0 root");
            assert!(began.elapsed() > alone * 3, "{:?}, and one alone {alone:?}", began.elapsed());
        });
    }

    fn want_of_descriptors_delays_and_takes_nothing_down() {
        // Each refusal is held for as long as a login takes here, and each has a descriptor.
        let helper = Stage::new("auth required pam_exec.so quiet DIR/first\nauth required pam_unix.so nodelay\naccount required pam_unix.so\n")
            .script("first", "sleep 0.3\n")
            .through("prlimit --nofile=96:96")
            .start();
        assert_eq!(words(&helper.asks("bob", "right")), "accept");

        thread::scope(|scope| {
            for _ in 0..200 {
                scope.spawn(|| helper.asks("root", "x"));
            }
            for _ in 0..3 {
                assert_eq!(words(&helper.asks("bob", "right")), "accept");
            }
        });

        assert_eq!(words(&helper.asks("carol", "right")), "accept");
        for mishap in ["state=lost", "state=stuck", "state=replaced", "state=unusable", "reason=crashed"] {
            assert!(!helper.log().contains(mishap), "{mishap}\n{}", helper.log());
        }
    }

    fn root_sees_who_is_held_back_and_lets_go() {
        let helper = Stage::new(UNIX).set("PEER_FAILURES_PER_MINUTE", "8").start();
        guesses(&helper, "Bob", 40);
        for n in 0..8 {
            helper.asks_from("203.0.113.9", format!("user{n}").as_bytes(), b"x");
        }
        let (bob, network) = (HeldSubject::Account("Bob".into()), HeldSubject::Network("203.0.113.9".parse().unwrap()));
        assert_eq!(throttled(&helper), [bob, network]);

        assert_eq!(helper.orders(&Order::Release(Subject::Account("bob@lab.test".into()))), Statement::Released(true));
        assert_eq!(helper.orders(&Order::Release(Subject::Network(Question::peer_bytes("203.0.113.9".parse().unwrap())))), Statement::Released(true));

        assert_eq!(throttled(&helper), []);
        assert_eq!(helper.orders(&Order::Release(Subject::Account("bob".into()))), Statement::Released(false));
        assert_eq!(words(&helper.asks_from("203.0.113.9", b"bob", b"right")), "accept");
        helper.waits_for_log("event=released account=\"bob@lab.test\"");
    }

    fn root_hears_why_a_login_was_answered_as_it_was() {
        let stage = Stage::new("auth optional pam_echo.so for %u from %H\nauth required pam_unix.so nodelay\naccount required pam_unix.so\n");
        let helper = stage.set("NAMES", "strip-realm=lab.test").start();
        helper.asks_from("198.51.100.7", b"bob@LAB.test", b"wrong");
        helper.asks_from("198.51.100.8", b"bob", b"right");
        helper.asks("carol", "right");

        let Statement::Attempts(attempts) = helper.orders(&Order::Explain(Logins::OfUser("bob".into()))) else { panic!("another statement") };

        let [accepted, refused] = attempts.as_slice() else { panic!("{attempts:?}") };
        assert_eq!((refused.typed.as_str(), refused.asked.as_str(), refused.service.as_str()), ("bob@LAB.test", "bob", "smtp"));
        assert_eq!((refused.outcome, refused.cause.unwrap().code, refused.session), (OutcomeKind::Reject, 7, 42));
        assert_eq!(Question::address(refused.peer).to_string(), "198.51.100.7");
        assert_eq!(refused.text, "for bob from 198.51.100.7", "PAM_RHOST is the client's address in numbers");
        assert_eq!((accepted.outcome, accepted.account.as_str(), accepted.cause), (OutcomeKind::Accept, "bob", None));
        let Statement::Attempts(of_session) = helper.orders(&Order::Explain(Logins::OfSession(42))) else { panic!("another statement") };
        assert_eq!(of_session.len(), 3);
    }

    fn root_sees_how_many_workers_hang_and_that_they_are_bounded() {
        let hang = format!("[ \"$PAM_USER\" != hanger ] || sleep {}\n", marked(71));
        let helper = Stage::new("auth required pam_exec.so quiet DIR/first\nauth required pam_unix.so nodelay\naccount required pam_unix.so\n")
            .script("first", &hang)
            .set("WORKERS", "2")
            .set("SLOW_WORKERS", "3")
            .set("DEADLINE_MS", "4000")
            .set("ACCOUNT_FAILURES", "0")
            .start();
        thread::scope(|scope| {
            for n in 0..12 {
                let helper = &helper;
                scope.spawn(move || helper.asks_from(&format!("198.51.100.{n}"), b"hanger", b"right"));
            }
            let fares = waits_for("hung workers", || match helper.orders(&Order::Status) {
                Statement::Status(fares) if fares.busy + fares.slow == 5 && fares.slow >= 3 => Some(fares),
                _ => None,
            });

            assert_eq!((fares.workers, fares.slow_workers), (2, 3));
            assert!(fares.workers_kib > 0 && fares.template_kib > 0, "{fares:?}");
            assert!((1..8192).contains(&fares.listener_kib), "{fares:?}");
        });
        let Statement::Status(after) = helper.orders(&Order::Status) else { panic!("another statement") };
        assert!(after.killed >= 5 && after.unavailable >= 12, "{after:?}");
    }

    fn a_front_end_may_not_give_orders() {
        let helper = Stage::new(UNIX).start();
        let order = Order::Release(Subject::All).encode().unwrap();

        // The socket is reached as the front's user does: by its group, as its uid.
        let program = "use IO::Socket::UNIX; $SIG{PIPE} = 'IGNORE'; my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die; print $s pack('H*', $ARGV[1]); $s->flush; print defined(my $l = <$s>) ? 'answered' : 'dropped'";
        for path in [helper.dir.path(), &helper.dir.path().join("run"), &helper.dir.path().join("run/jail")] {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        let hex: String = order.iter().map(|byte| format!("{byte:02x}")).collect();
        let asked = Command::new("setpriv")
            .args(["--reuid=20100", "--regid=20000", "--clear-groups", "perl", "-e", program])
            .arg(&helper.socket)
            .arg(hex)
            .output()
            .unwrap();

        assert_eq!(String::from_utf8_lossy(&asked.stdout), "dropped", "{}", String::from_utf8_lossy(&asked.stderr));
        helper.waits_for_log("event=dropped reason=presumptuous");
    }

    fn a_refusal_takes_as_long_whatever_it_was_for() {
        // The wrong password of an account with a dear hash first, so that there is something to level with.
        let helper = Stage::new(UNIX).set("ACCOUNT_FAILURES", "0").set("PEER_FAILURES_PER_MINUTE", "0").start();
        let dear = (0..8).map(|_| time_of_refusal(&helper, "alice")).min().unwrap();

        for user in ["no-such-user", "locked", "root", "a:b"] {
            let least = (0..3).map(|_| time_of_refusal(&helper, user)).min().unwrap();
            assert!(least >= dear / 2, "{user}: {least:?}, and alice {dear:?}");
        }
        let began = Instant::now();
        helper.orders(&Order::Status);
        assert!(began.elapsed() < dear / 4, "an answer takes {:?} by itself: too long to see a difference", began.elapsed());
    }
}
