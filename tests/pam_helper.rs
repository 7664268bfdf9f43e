//! The real helper with real PAM modules, real hashes and a real name service.

macro_rules! root_test {
    ($(fn $name:ident() $body:block)+) => {
        $(#[test]
        fn $name() {
            if crate::pam_stage::needs_root(stringify!($name)) $body
        })+
    };
}

#[path = "pam_helper/frames.rs"]
mod frames;
#[path = "pam_helper/limits.rs"]
mod limits;
#[path = "pam_helper/modules.rs"]
mod modules;
#[path = "support/pam_stage.rs"]
mod pam_stage;
#[path = "pam_helper/places.rs"]
mod places;
#[path = "pam_helper/services.rs"]
mod services;
#[path = "pam_helper/tickets.rs"]
mod tickets;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pam_stage::{Stage, UNIX, children, is_running, marked, patiently, waits_for, words};
use pamrelay_authwire::{Outcome, Question, Ticket, TicketKeys};

/// A stack whose first module runs a program that decides by the user's name.
const SCRIPTED: &str = "auth required pam_exec.so quiet DIR/first\nauth required pam_unix.so nodelay\naccount required pam_unix.so\n";

root_test! {
    fn the_debian_stack_lets_the_right_password_in_and_no_other() {
        let helper = Stage::new(include_str!("../pam.d/debian/smtp")).start();

        let Outcome::Accept(alice) = helper.asks("alice", "right horse") else { panic!("refused") };
        assert_eq!((alice.user.as_str(), alice.uid), ("alice", 20001));
        assert_eq!(words(&helper.asks("alice", "right horse ")), "reject auth 7 refused");
        assert_eq!(words(&helper.asks("alice", "")), "reject check 0 bad-password");
        assert_eq!(words(&helper.asks("nobody-here", "right horse")), "reject auth 7 refused");
        assert_eq!(words(&helper.asks("empty", "anything")), "reject auth 7 refused", "nullok must not count");
        helper.waits_for_log(r#"event=login session=000000000001a user="alice" peer=192.0.2.25 ms="#);
        assert!(!helper.log().contains("horse"), "{}", helper.log());
    }

    fn the_debian_stack_tells_the_owner_of_an_account_what_is_wrong_with_it() {
        let helper = Stage::new(include_str!("../pam.d/debian/smtp")).start();

        for (user, expected) in [
            ("bob", "accept"),
            ("expired", "expired acct 13 account-expired"),
            ("inactive", "expired acct 27 account-expired"),
            ("mustchange", "must-change acct 12 password-aged"),
            ("aged", "must-change acct 12 password-aged"),
            ("locked", "reject auth 7 refused"),
        ] {
            assert_eq!(words(&helper.asks(user, "right")), expected, "{user}");
            assert_eq!(words(&helper.asks(user, "wrong")), "reject auth 7 refused", "{user}");
        }
    }

    fn the_red_hat_stack_works_with_a_password_auth_like_theirs() {
        let stage = Stage::new(include_str!("../pam.d/redhat/smtp"));
        let theirs = "auth required pam_env.so\nauth sufficient pam_unix.so nullok\nauth required pam_deny.so\n\
            account required pam_unix.so\naccount sufficient pam_localuser.so\naccount required pam_permit.so\n";
        fs::write(stage.dir().join("pam.d/password-auth"), theirs).unwrap();
        let helper = stage.start();

        for (user, password, expected) in [
            ("bob", "right", "accept"),
            ("bob", "wrong", "reject auth 7 refused"),
            ("empty", "x", "reject auth 7 refused"),
            ("expired", "right", "expired acct 13 account-expired"),
            ("mustchange", "right", "must-change acct 12 password-aged"),
        ] {
            assert_eq!(words(&helper.asks(user, password)), expected, "{user}");
        }
    }

    fn accounts_that_may_not_log_in_are_told_apart() {
        let helper = Stage::new(UNIX).start();

        for (user, expected) in [
            ("bob", "accept"),
            ("locked", "reject auth 7 refused"),
            ("expired", "expired acct 13 account-expired"),
            ("mustchange", "must-change acct 12 password-aged"),
            ("aged", "must-change acct 12 password-aged"),
            ("inactive", "expired acct 27 account-expired"),
            ("sysacct", "not-permitted identity 0 below-min-uid"),
            ("toor", "reject identity 0 root"),
            ("root", "reject check 0 root"),
        ] {
            assert_eq!(words(&helper.asks(user, "right")), expected, "{user}");
        }
        for user in ["expired", "mustchange", "inactive", "sysacct", "toor"] {
            assert_eq!(words(&helper.asks(user, "wrong")), "reject auth 7 refused", "{user}: a wrong password learns nothing");
        }
    }

    fn passwords_reach_pam_unchanged_up_to_511_bytes() {
        let helper = Stage::new(UNIX).start();

        assert_eq!(words(&helper.asks_bytes(b"latin", b"p\xe4ss")), "accept");
        assert_eq!(words(&helper.asks_bytes(b"longpass", &[b'x'; 511])), "accept");
        assert_eq!(words(&helper.asks_bytes(b"longpass", &[b'x'; 512])), "reject check 0 bad-password");
        assert_eq!(words(&helper.asks_bytes(b"bob", b"right\0x")), "reject check 0 bad-password");
    }

    fn names_that_could_mean_something_else_never_reach_pam() {
        let helper = Stage::new(SCRIPTED).script("first", "echo \"$PAM_USER\" >> DIR/asked\n").start();

        for user in [&b"bob\0"[..], b"-froot", b"../bob", b"bob:x", b"", b"bob\n", b"\xff\xfe", &[b'b'; 255][..3], b"bo\x7fb"] {
            let expected = if user == b"bbb" { "reject auth 10 refused" } else { "reject check 0 bad-name" };
            assert_eq!(words(&helper.asks_bytes(user, b"right")), expected, "{user:?}");
        }
        assert_eq!(fs::read_to_string(helper.dir.path().join("asked")).unwrap(), "bbb\n");
    }

    fn only_members_of_the_configured_groups_may_send() {
        let helper = Stage::new(UNIX).set("GROUPS", "senders, no-such-group, mailers").start();
        let Outcome::Accept(bob) = helper.asks("bob", "right") else { panic!("refused") };
        assert_eq!(bob.groups, ["senders", "mailers"]);
        drop(helper);

        let helper = Stage::new(UNIX).set("GROUPS", "senders").start();
        let Outcome::Accept(bob) = helper.asks("bob", "right") else { panic!("refused") };
        assert_eq!(bob.groups, ["senders"]);
        assert_eq!(words(&helper.asks("alice", "right horse")), "not-permitted identity 0 not-in-groups");
    }

    fn without_its_service_file_the_helper_does_not_start() {
        let (status, log) = Stage::new(UNIX).without_service_file().fails();

        assert_eq!(status, Some(78));
        assert!(log.contains("/etc/pam.d/smtp") && log.contains("other"), "{log}");
        let (status, log) = Stage::new("auth required pam_unix.so\n").fails();
        assert_eq!(status, Some(78));
        assert!(log.contains("no account line"), "{log}");
    }

    fn wrong_settings_are_told_and_nothing_starts() {
        let (status, log) = Stage::new(UNIX).set("WORKERS", "0").set("SERVISE", "smtp").fails();

        assert_eq!(status, Some(78));
        assert!(log.contains("PAMRELAY_WORKERS") && log.contains("PAMRELAY_SERVISE"), "{log}");
    }

    fn a_helper_that_cannot_start_tells_systemd_why_and_does_not_fill_the_log() {
        let stage = Stage::new(UNIX);
        let notify = stage.dir().join("notify");
        let manager = std::os::unix::net::UnixDatagram::bind(&notify).unwrap();
        fs::create_dir_all(stage.dir().join("run/tickets/in-the-way")).unwrap();
        let began = std::time::Instant::now();

        let (status, log) = stage.through(&format!("env NOTIFY_SOCKET={}", notify.display())).fails();

        assert_eq!(status, Some(69), "{log}");
        assert!(began.elapsed() >= Duration::from_secs(4), "systemd would start it twice a second");
        let mut heard = [0; 1024];
        manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let length = manager.recv(&mut heard).unwrap();
        let said = String::from_utf8_lossy(&heard[..length]);
        assert!(said.starts_with("STATUS=") && said.contains("tickets"), "{said}");
    }

    fn a_service_file_that_goes_away_lets_nobody_in_until_it_is_back() {
        let helper = Stage::new(UNIX).start();
        assert_eq!(words(&helper.asks("bob", "right")), "accept");

        fs::remove_file(helper.service()).unwrap();
        std::thread::sleep(Duration::from_millis(250));
        assert_eq!(words(&helper.asks("bob", "right")), "unavailable start 0 no-service");

        fs::write(helper.service(), UNIX).unwrap();
        std::thread::sleep(Duration::from_millis(250));
        assert_eq!(words(&helper.asks("bob", "right")), "accept");
    }

    fn a_service_file_that_goes_while_a_worker_loads_it_lets_nobody_in() {
        let helper = Stage::misbehaving("none", "-DVANISH").start();

        assert_eq!(words(&helper.asks("bob", "right")), "unavailable start 0 no-service");
        assert!(!helper.service().exists(), "the module was loaded by a worker");
        helper.waits_for_log("event=template state=unfit extra=1");
    }

    fn a_changed_stack_is_used_from_the_next_question_on() {
        let helper = Stage::new(UNIX).start();
        assert_eq!(words(&helper.asks("bob", "right")), "accept");

        fs::write(helper.service(), format!("auth requisite pam_deny.so\n{UNIX}")).unwrap();
        std::thread::sleep(Duration::from_millis(250));

        assert_eq!(words(&helper.asks("bob", "right")), "reject auth 7 refused");
    }

    fn a_stack_that_never_looks_at_the_password_lets_nobody_in() {
        let helper = Stage::new("auth required pam_permit.so\naccount required pam_permit.so\n").start();

        assert_eq!(words(&helper.asks("bob", "right")), "unavailable auth 0 never-asked");
    }

    fn a_module_that_asks_again_gets_nothing() {
        let helper = Stage::new("auth required pam_unix.so nodelay\nauth required pam_stress.so\naccount required pam_unix.so\n").start();

        let outcome = helper.asks("bob", "right");

        assert!(words(&outcome).starts_with("reject auth") && words(&outcome).ends_with("asked-for-more"), "{outcome:?}");
    }

    fn a_missing_module_is_a_fault_and_not_a_refusal() {
        let helper = Stage::new("auth required pam_no_such_module.so\naccount required pam_unix.so\n").start();

        assert_eq!(words(&helper.asks("bob", "right")), "unavailable auth 28 fault");
    }

    fn an_unknown_user_is_an_outage_while_the_name_service_is_one() {
        let stage = Stage::new(UNIX);
        let names = stage.dir().join("nsswitch.conf");
        std::fs::write(&names, "passwd: files\nshadow: files\n").unwrap();
        let helper = stage.through(&format!("sh -c 'mount --bind {} /etc/nsswitch.conf; exec \"$0\"'", names.display())).start();

        assert_eq!(words(&helper.asks("nobody-here", "right")), "reject auth 10 refused");
        std::fs::write(&names, "passwd: files hesiod\nshadow: files\n").unwrap(); // a part of libc, out of order without its configuration
        assert_eq!(words(&helper.asks("nobody-here", "right")), "unavailable auth 10 fault");
        assert!(words(&helper.asks("bob", "right")).starts_with("accept"));
        assert_eq!(words(&helper.asks("bob", "wrong")), "reject auth 7 refused");
    }

    fn a_hung_module_costs_its_own_question_and_nobody_else_s() {
        let helper = Stage::new(SCRIPTED).script("first", &format!("[ \"$PAM_USER\" != hanger ] || sleep {}\n", marked(61))).set("WORKERS", "2").set("DEADLINE_MS", "2500").start();
        std::thread::scope(|scope| {
            let hung: Vec<_> = (0..4).map(|_| scope.spawn(|| (Instant::now(), words(&helper.asks("hanger", "right")), Instant::now()))).collect();
            waits_for("hung programs", || is_running(&marked(61)).then_some(()));
            std::thread::sleep(Duration::from_millis(300));

            let start = Instant::now();
            for _ in 0..5 {
                assert_eq!(words(&helper.asks("bob", "right")), "accept");
            }
            assert!(start.elapsed() < Duration::from_millis(2000), "{:?}", start.elapsed());
            for hung in hung {
                let (from, outcome, to) = hung.join().unwrap();
                assert!(outcome.starts_with("unavailable "), "{outcome}");
                assert!(to - from < Duration::from_millis(3000), "{:?}", to - from);
            }
        });
        helper.waits_for_log("reason=deadline");
        assert!(patiently(|| (!is_running(&marked(61))).then_some(())).is_some(), "what the module started outlived its worker");
    }

    fn a_killed_worker_is_unavailable_and_the_next_one_works() {
        let helper = Stage::new(SCRIPTED).script("first", &format!("[ \"$PAM_USER\" != hanger ] || sleep {}\n", marked(62))).start();
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| helper.asks("hanger", "right"));

            kill(Pid::from_raw(helper.worker()), Signal::SIGKILL).unwrap();

            assert_eq!(words(&asked.join().unwrap()), "unavailable worker 0 crashed");
        });
        helper.waits_for_log("killed by signal 9");
        assert_eq!(words(&helper.asks("bob", "right")), "accept");
        assert!(patiently(|| (!is_running(&marked(62))).then_some(())).is_some());
    }

    fn one_capability_and_two_groups_are_enough_even_with_red_hat_s_file_modes() {
        let stage = Stage::new(UNIX).through("setpriv --bounding-set=-all,+dac_read_search --inh-caps=-all --groups=20000,20101");
        fs::set_permissions(stage.dir().join("shadow"), fs::Permissions::from_mode(0o000)).unwrap();
        let helper = stage.start();

        assert_eq!(words(&helper.asks("bob", "right")), "accept");
        assert_eq!(words(&helper.asks("bob", "wrong")), "reject auth 7 refused");
        assert_eq!(words(&helper.asks("mustchange", "right")), "must-change acct 12 password-aged");
    }

    fn a_starter_that_ignores_the_end_of_children_does_no_harm() {
        let helper = Stage::new(SCRIPTED).script("first", "exit 0\n").through("perl -e '$SIG{CHLD} = \"IGNORE\"; exec @ARGV' --").start();

        for _ in 0..3 {
            assert_eq!(words(&helper.asks("bob", "right")), "accept");
        }
        assert_eq!(children(helper.pid()), [helper.template()], "no template is left over");
    }

    fn a_supervisor_s_end_is_the_helper_s() {
        let stage = Stage::new(UNIX).set("SUPERVISED", &std::process::id().to_string());
        let helper = stage.start();
        assert_eq!(words(&helper.asks("bob", "right")), "accept");
        drop(helper);

        let (status, log) = Stage::new(UNIX).set("SUPERVISED", "1").fails();
        assert_eq!(status, Some(69), "{log}");
    }

    fn a_helper_that_is_asked_to_end_leaves_nothing_running() {
        let script = format!("[ \"$PAM_USER\" != hanger ] || sleep {}\n", marked(66));
        let mut helper = Stage::new(SCRIPTED).script("first", &script).start();
        let frame = Question { id: 1, session: 1, peer: [0; 16], listener: "", user: b"hanger", password: b"right" }.encode().unwrap();
        let mut hung = UnixStream::connect(&helper.socket).unwrap();
        hung.write_all(frame.as_bytes()).unwrap();
        waits_for("the module's program", || is_running(&marked(66)).then_some(()));

        kill(Pid::from_raw(helper.pid()), Signal::SIGTERM).unwrap();

        assert_eq!(helper.ends(), Some(0));
        assert!(!is_running(&marked(66)));
        assert_eq!(hung.read_to_end(&mut Vec::new()).unwrap(), 0, "a question without an answer");
    }

    fn a_killed_template_is_replaced() {
        let helper = Stage::new(SCRIPTED).script("first", &format!("[ \"$PAM_USER\" != hanger ] || sleep {}\n", marked(63))).start();
        let first = helper.template();
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| helper.asks("hanger", "right"));
            helper.worker();

            kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();

            assert!(words(&asked.join().unwrap()).starts_with("unavailable worker 0"));
        });
        let start = Instant::now();
        assert_eq!(words(&helper.asks("bob", "right")), "accept");
        assert!(start.elapsed() < Duration::from_secs(1));
        assert_ne!(helper.template(), first);
        assert!(patiently(|| (!is_running(&marked(63))).then_some(())).is_some());
    }

    fn a_stopped_template_is_replaced_within_seconds() {
        let helper = Stage::new(UNIX).start();
        assert_eq!(words(&helper.asks("bob", "right")), "accept");
        kill(Pid::from_raw(helper.template()), Signal::SIGSTOP).unwrap();

        assert_eq!(words(&helper.asks("bob", "right")), "unavailable worker 0 no-worker");
        assert_eq!(words(&helper.asks("bob", "right")), "accept");
    }

    fn many_right_logins_of_one_account_are_all_accepted() {
        let helper = Stage::new(UNIX).start();
        std::thread::scope(|scope| {
            let asked: Vec<_> = (0..40).map(|_| scope.spawn(|| words(&helper.asks("bob", "right")))).collect();
            for asked in asked {
                assert_eq!(asked.join().unwrap(), "accept");
            }
        });
    }

    fn a_ticket_proves_the_account_to_whoever_has_the_key() {
        let helper = Stage::new(UNIX).set("TICKET_LIFETIME_S", "600").start();
        let Outcome::Accept(bob) = helper.asks("bob", "right") else { panic!("refused") };
        let file = helper.dir.path().join("run/tickets");
        let meta = fs::metadata(&file).unwrap();

        let keys = TicketKeys::parse(&fs::read_to_string(file).unwrap()).unwrap();
        let ticket = Ticket::decode(&bob.ticket).unwrap();
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &keys.find(ticket.key_id).unwrap().key);

        aws_lc_rs::hmac::verify(&key, &ticket.signed_part().unwrap(), &ticket.mac).unwrap();
        assert_eq!((ticket.user.as_str(), ticket.uid, ticket.session), ("bob", 20002, 42));
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (0, 20101, 0o640));
    }

    fn listener_template_and_workers_have_one_capability_and_no_way_up() {
        let helper = Stage::new(SCRIPTED).script("first", &format!("[ \"$PAM_USER\" != hanger ] || sleep {}\n", marked(64))).set("DEADLINE_MS", "1500").start();
        std::thread::scope(|scope| {
            scope.spawn(|| helper.asks("hanger", "right"));
            let worker = helper.worker();
            waits_for("the module's program", || children(worker).first().copied());
            for pid in [helper.template(), worker] {
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
                assert!(status.contains("SigBlk:\t0000000000000000"), "{pid}: nothing is blocked\n{status}");
            }
            for pid in [helper.pid(), helper.template(), worker] {
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
                for line in ["NoNewPrivs:\t1", "CapBnd:\t0000000000000004", "CapPrm:\t0000000000000004", "CapInh:\t0000000000000000", "CapAmb:\t0000000000000000", "Threads:\t1"] {
                    assert!(status.contains(line), "{pid}: {line}\n{status}");
                }
                let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
                assert!(limits.lines().any(|line| line.starts_with("Max core file size        0                    0 ")), "{limits}");
            }
            let descriptors = fs::read_dir(format!("/proc/{worker}/fd")).unwrap().count();
            assert!(descriptors <= 5, "a worker has its three and its answer: {descriptors}");
            let environment = fs::read_to_string(format!("/proc/{}/environ", helper.template())).unwrap();
            assert!(!environment.contains("PAMRELAY"), "{environment:?}");
        });
    }

    fn the_listener_stays_small_and_keeps_no_password() {
        let helper = Stage::new(UNIX).set("FAILURES_PER_SECOND", "1000").set("PEER_FAILURES_PER_MINUTE", "0").start();
        for n in 0..50 {
            helper.asks("bob", "right");
            helper.asks(&format!("user{n}"), "MyVerySecretPassphrase");
        }

        let status = fs::read_to_string(format!("/proc/{}/status", helper.pid())).unwrap();
        let private: u64 = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap().trim().trim_end_matches(" kB").parse().unwrap();
        assert!(private < 4096, "{private} kB");
        for pid in [helper.pid(), helper.template()] {
            assert!(!memory_of(pid).windows(22).any(|part| part == b"MyVerySecretPassphrase"), "found in {pid}");
        }
        assert!(!helper.log().contains("MyVerySecretPassphrase"));
    }

    fn a_socket_that_was_passed_is_used() {
        let stage = Stage::new(UNIX);
        let passes = format!(
            "perl -e 'use Socket; use POSIX; socket(S, PF_UNIX, SOCK_STREAM, 0); bind(S, pack_sockaddr_un(\"{}/run/jail/auth\")); listen(S, 9);
                POSIX::dup2(fileno(S), 3); $^F = 3; $ENV{{LISTEN_FDS}} = 1; $ENV{{LISTEN_PID}} = $$; open(my $keep, \"<&=3\"); exec @ARGV' --",
            stage.dir().display()
        );
        let helper = stage.through(&passes).start();

        assert_eq!(words(&helper.asks("bob", "right")), "accept");
    }

    fn a_service_manager_hears_when_the_helper_is_ready() {
        let stage = Stage::new(UNIX);
        let path = stage.dir().join("notify");
        let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _helper = stage.through(&format!("env NOTIFY_SOCKET={}", path.display())).start();

        let mut heard = [0; 32];
        let count = manager.recv(&mut heard).unwrap();
        assert_eq!(&heard[..count], b"READY=1");
    }
}

/// All writable memory of a process.
fn memory_of(pid: i32) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut all = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let Some((from, to)) = line.split(' ').next().and_then(|range| range.split_once('-')) else { continue };
        let (Ok(from), Ok(to)) = (u64::from_str_radix(from, 16), u64::from_str_radix(to, 16)) else { continue };
        let mut part = vec![0; usize::try_from(to - from).unwrap()];
        if memory.read_exact_at(&mut part, from).is_ok() {
            all.extend(part);
        }
    }
    assert!(!all.is_empty(), "nothing could be read of {pid}");
    all
}
