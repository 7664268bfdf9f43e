//! Modules that misbehave in every way that real ones were seen to: each has one verdict, and it is never an accept
//! that was none. What they do ends with their question; who logs in beside them does not wait for it.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pamrelay_authwire::{Outcome, Question};

use crate::pam_stage::{Helper, Stage, UNIX, children, is_running, marked, patiently, words};

const DEADLINE: Duration = Duration::from_millis(1500);

/// A module's verdict on `hanger`, and the helper that gave it.
struct Played {
    helper: Helper,
    verdict: String,
    took: Duration,
}

/// The module stands behind a password that is right and misbehaves for `hanger` alone.
fn plays(how: &str) -> Played {
    play(Stage::misbehaving(&format!("{how} for=hanger"), "-DPLAIN"), "right")
}

/// The same as the only module of the account phase.
fn plays_in_the_account_phase(how: &str) -> Played {
    let service = format!("auth required pam_unix.so nodelay\naccount required FIXTURE {how} for=hanger\n");
    play(Stage::with_fixture(&service, "-DPLAIN"), "right")
}

/// `hanger` asks; until there is a verdict, and once after it, bob logs in, and each time he does not wait for the
/// deadline of `hanger`.
fn play(stage: Stage, password: &str) -> Played {
    let helper = stage.set("DEADLINE_MS", &DEADLINE.as_millis().to_string()).start();
    let patience = patience_of_bob(&helper, DEADLINE);
    let (verdict, took) = thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let start = Instant::now();
            (words(&helper.asks("hanger", password)), start.elapsed())
        });
        loop {
            let last = asked.is_finished();
            let waited = bob_logs_in(&helper);
            assert!(waited < patience, "bob waited {waited:?}, not {patience:?}");
            if last {
                return asked.join().unwrap();
            }
            thread::sleep(Duration::from_millis(50));
        }
    });
    Played { helper, verdict, took }
}

fn bob_logs_in(helper: &Helper) -> Duration {
    let start = Instant::now();
    assert_eq!(words(&helper.asks("bob", "right")), "accept");
    start.elapsed()
}

/// Half of the deadline that others may use up, and some for a machine on which a login takes long anyway.
fn patience_of_bob(helper: &Helper, deadline: Duration) -> Duration {
    let usual = (0..3).map(|_| bob_logs_in(helper)).max().unwrap_or_default();
    deadline / 2 + usual * 5
}

root_test! {
    fn a_module_that_ends_its_process_gives_no_verdict() {
        for (how, end) in [
            ("segfault", "killed by signal 11"),
            ("abort", "killed by signal 6"),
            ("overflow", "killed by signal"),
            ("exit", "ended with status 0"),
            ("exit-now", "ended with status 0"),
            ("exec=/bin/true", "ended with status 0"),
            ("orphan", "ended with status 0"),
            ("close", "ended with status 1"),
        ] {
            let played = plays(how);

            assert_eq!(played.verdict, "unavailable worker 0 crashed", "{how}");
            played.helper.waits_for_log(end);
        }
    }

    fn a_module_that_does_not_come_back_is_killed_at_the_deadline() {
        for how in ["loop", "sleep=60", "deaf=60", "handler=60", "stop", "exec=/bin/sleep"] {
            let played = plays(how);

            assert_eq!(played.verdict, "unavailable worker 0 deadline", "{how}");
            assert!(played.took < DEADLINE + Duration::from_secs(3), "{how}: {:?}", played.took);
            assert!(ends_alone(&played.helper), "{how}: a worker is left");
        }
    }

    fn modules_that_hang_in_many_workers_keep_nobody_else_waiting() {
        for how in ["sleep=60", "loop"] {
            let service = format!("{UNIX}auth required FIXTURE {how} for=hanger\nauth required FIXTURE {how} for=carol\n");
            let helper = Stage::with_fixture(&service, "-DPLAIN").set("DEADLINE_MS", "3000").start();
            let patience = patience_of_bob(&helper, Duration::from_millis(3000));
            thread::scope(|scope| {
                let users = ["hanger", "carol"].repeat(3); // two, because of one account only so many are asked at once
                let hung: Vec<_> = users.into_iter().map(|user| { let helper = &helper; scope.spawn(move || words(&helper.asks(user, "right"))) }).collect();
                while !hung.iter().all(|hung| hung.is_finished()) {
                    let waited = bob_logs_in(&helper);
                    assert!(waited < patience, "{how}: bob waited {waited:?}, not {patience:?}");
                    thread::sleep(Duration::from_millis(100));
                }
                for hung in hung {
                    assert_eq!(hung.join().unwrap(), "unavailable worker 0 deadline", "{how}");
                }
            });
        }
    }

    fn a_module_that_leaks_is_stopped_by_the_worker_s_bounds() {
        let played = play(Stage::misbehaving("leak for=hanger", "-DPLAIN").set("WORKER_MEMORY_MIB", "64"), "right");

        assert_eq!(played.verdict, "unavailable auth 5 fault");
        let log = played.helper.log();
        let leaked: u64 = log.split(" MiB were there to leak").next().unwrap().rsplit('"').next().unwrap().parse().unwrap();
        assert!((16..64).contains(&leaked), "{leaked} MiB");

        let played = plays("descriptors");
        assert_eq!(played.verdict, "unavailable auth 4 fault", "pam_unix finds none left");
        assert!(ends_alone(&played.helper));
    }

    fn whatever_a_module_says_is_one_bounded_line_of_the_log() {
        for (how, text) in [
            ("shout", "text=\"xxxxxxxxxx"),
            ("lines", "text=\"one line of many | one line of many"),
            ("crlf", "text=\"first  event=login verdict=accept  535 last\""),
            ("null-text", "account=\"hanger\" uid=20012 service=smtp reply=\"235 2.7.0\" role=auth"),
            ("print=CHATTER", "account=\"hanger\" uid=20012 service=smtp reply=\"235 2.7.0\" role=auth"),
        ] {
            let played = plays(how);

            assert_eq!(played.verdict, "accept", "{how}");
            played.helper.waits_for_log(text);
            let log = played.helper.log();
            assert_eq!(log.lines().filter(|line| line.contains("user=\"hanger\"")).count(), 1, "{log}");
            assert!(log.lines().all(|line| line.len() < 1000 && line.contains(" event=")), "{log}");
            assert!(!log.contains("CHATTER"), "standard output is nobody's: {log}");
        }
    }

    fn one_prompt_more_of_any_style_is_refused_without_an_answer() {
        for style in ["1", "2", "5", "7", "0", "-1", "99"] {
            assert_eq!(plays(&format!("prompt={style}")).verdict, "reject auth 19 asked-for-more", "{style}");
        }
    }

    fn a_module_that_wants_a_new_password_is_never_given_the_old_one() {
        let stage = Stage::new(UNIX);
        let record = stage.dir().join("answers");

        let played = plays(&format!("new-password={}", record.display()));

        assert_eq!(played.verdict, "reject auth 9 asked-for-more");
        assert_eq!(fs::read_to_string(record).unwrap(), "nothing\nnothing\n");
    }

    fn a_success_for_which_the_password_was_never_handed_over_is_none() {
        for how in ["none", "visible", "two"] {
            let service = format!("auth optional FIXTURE {how}\nauth required pam_permit.so\naccount required pam_permit.so\n");
            let helper = Stage::with_fixture(&service, "-DPLAIN").start();

            assert_eq!(words(&helper.asks("bob", "anything")), "unavailable auth 0 never-asked", "{how}");
        }
        for how in ["visible", "two"] {
            let service = format!("auth optional FIXTURE {how}\nauth required pam_unix.so nodelay\naccount required pam_unix.so\n");
            let helper = Stage::with_fixture(&service, "-DPLAIN").start();

            let verdict = words(&helper.asks("bob", "right"));
            assert!(verdict.starts_with("reject auth") && verdict.ends_with("asked-for-more"), "{how}: {verdict}");
        }
    }

    fn what_a_module_changes_in_its_process_ends_with_it() {
        let place = Stage::new(UNIX);
        let record = place.dir().join("witness");
        let service = format!(
            "auth required FIXTURE become=20002 for=hanger\nauth required FIXTURE rearrange=/tmp for=hanger\n\
             auth required FIXTURE childless for=hanger\nauth required FIXTURE threads=5 for=hanger\n\
             auth required FIXTURE witness={} for=bob\n{UNIX}",
            record.display()
        );

        let played = play(Stage::with_fixture(&service, "-DPLAIN"), "right");

        assert_eq!(played.verdict, "accept", "nothing of this is PAM's business, and nobody became somebody else");
        let found = fs::read_to_string(record).unwrap();
        assert_eq!(found, "uid 0, umask 077, in /, children waited for, LANG=C.UTF-8, PATH=/usr/sbin:/usr/bin:/sbin:/bin");
        assert!(ends_alone(&played.helper));
    }

    fn an_answer_is_a_whole_report_from_the_worker_itself() {
        for (how, expected) in [
            ("exit", "unavailable worker 0 crashed"),
            ("twice", "reject auth 7 refused"),
            ("close", "unavailable worker 0 crashed"),
            ("junk", "unavailable worker 0 garbled"),
            ("depart=1", "unavailable worker 0 crashed"),
            ("none", "accept"),
        ] {
            assert_eq!(plays(how).verdict, expected, "{how}");
        }
    }

    fn the_identity_is_whom_pam_names_in_the_end() {
        let helper = Stage::misbehaving("user=carol", "-DPLAIN").start();
        let Outcome::Accept(carol) = helper.asks("bob", "right") else { panic!("refused") };
        assert_eq!((carol.user.as_str(), carol.uid), ("carol", 20003));
        drop(helper);

        for (how, expected) in [
            ("user=root", "reject identity 0 root"),
            ("user=toor", "reject identity 0 root"),
            ("user=sysacct", "not-permitted identity 0 below-min-uid"),
            ("user=nobody-here", "unavailable acct 10 fault"),
            ("user", "unavailable acct 10 fault"),
        ] {
            assert_eq!(plays(how).verdict, expected, "{how}");
        }
        for (how, expected) in [
            ("user=root", "reject identity 0 root"),
            ("user=nobody-here", "unavailable identity 0 no-such-uid"),
            ("user", "unavailable identity 0 no-such-uid"),
        ] {
            assert_eq!(plays_in_the_account_phase(how).verdict, expected, "{how} in the account phase");
        }
    }

    fn what_modules_leave_behind_ends_with_the_question() {
        let sleeper = marked(65);
        let played = plays(&format!("child={sleeper}"));
        assert_eq!(played.verdict, "accept");
        assert!(patiently(|| (!is_running(&sleeper)).then_some(())).is_some());

        for how in ["copy=left-behind", "threads=20"] {
            let played = plays(how);

            assert_eq!(played.verdict, "accept", "{how}");
            assert!(ends_alone(&played.helper), "{how}");
        }
    }

    fn modules_that_start_threads_or_open_files_when_loaded_are_loaded_by_each_worker() {
        for built_with in ["-DTHREAD", "-DDESCRIPTOR"] {
            let helper = Stage::misbehaving("none", built_with).start();

            assert_eq!(words(&helper.asks("bob", "right")), "accept");
            assert_eq!(words(&helper.asks("bob", "wrong")), "reject auth 7 refused");
            helper.waits_for_log("event=template state=unfit extra=1");
        }
    }

    fn a_module_that_cannot_be_loaded_is_told_and_lets_nobody_in() {
        let helper = Stage::misbehaving("none", "-DCRASH").set("DEADLINE_MS", "1500").start();

        assert_eq!(words(&helper.asks("bob", "right")), "unavailable start 0 busy");
        helper.waits_for_log("event=template state=dies-at-start");

        fs::write(helper.service(), UNIX).unwrap();
        thread::sleep(Duration::from_millis(250));
        assert_eq!(words(&helper.asks("bob", "right")), "accept");
    }

    fn a_code_that_says_nothing_about_the_person_is_a_fault_and_one_that_pam_does_not_know_is_no_success() {
        for (code, expected) in [
            ("25", "accept"), // ignored, as the module asked for; the password's own module has spoken
            ("30", "unavailable auth 30 fault"),
            ("31", "unavailable auth 31 fault"),
            ("28", "unavailable auth 28 fault"),
            ("10", "reject auth 10 refused"),
            ("-1", "reject auth 6 refused"), // libpam's own word for codes that do not exist
            ("99", "reject auth 6 refused"),
        ] {
            assert_eq!(plays(&format!("code={code}")).verdict, expected, "{code}");
        }
        let alone = Stage::with_fixture("auth required FIXTURE code=25\naccount required FIXTURE none\n", "-DPLAIN").start();
        assert_eq!(words(&alone.asks("bob", "right")), "reject auth 6 refused");
    }

    fn the_account_phase_accepts_by_a_success_alone() {
        for (how, expected) in [
            ("none", "accept"),
            ("code=25", "not-permitted acct 6 account-refused"),
            ("code=-1", "not-permitted acct 6 account-refused"),
            ("code=99", "not-permitted acct 6 account-refused"),
            ("code=30", "unavailable acct 30 fault"),
            ("code=31", "unavailable acct 31 fault"),
            ("code=10", "unavailable acct 10 fault"),
            ("code=12", "must-change acct 12 password-aged"),
            ("prompt=1", "unavailable acct 19 fault"),
            ("exit", "unavailable worker 0 crashed"),
            ("segfault", "unavailable worker 0 crashed"),
            ("sleep=60", "unavailable worker 0 deadline"),
        ] {
            assert_eq!(plays_in_the_account_phase(how).verdict, expected, "{how}");
        }
    }

    fn a_delay_that_a_module_wants_is_not_served_by_a_worker() {
        let stage = || Stage::with_fixture("auth required FIXTURE delay=10 for=hanger\nauth required pam_unix.so\naccount required pam_unix.so\n", "-DPLAIN");

        let played = play(stage(), "wrong");

        assert_eq!(played.verdict, "reject auth 7 refused");
        assert!(played.took < Duration::from_secs(1), "{:?}", played.took);
        assert_eq!(play(stage(), "right").verdict, "accept");
    }

    fn a_module_that_takes_the_delay_into_its_own_hands_is_killed_at_the_deadline() {
        let service = "auth required FIXTURE true-delay=30 for=hanger\nauth required pam_unix.so\naccount required pam_unix.so\n";

        let played = play(Stage::with_fixture(service, "-DPLAIN"), "wrong");

        assert_eq!(played.verdict, "unavailable worker 0 deadline");
    }

    fn modules_that_tidy_up_slowly_or_badly_keep_nobody_waiting_and_change_no_verdict() {
        for how in ["sleep=60", "loop", "deaf=60", "segfault", "exit", "close", "child=60"] {
            let played = plays(&format!("{how} at=end"));

            assert_eq!(played.verdict, "accept", "{how}");
            assert!(played.took < Duration::from_secs(1), "{how}: {:?}", played.took);
            assert!(ends_alone(&played.helper), "{how}: a worker is left");
        }
        assert_eq!(play(Stage::misbehaving("exit for=hanger at=end", "-DPLAIN"), "wrong").verdict, "reject auth 7 refused");
    }

    fn a_module_that_kills_the_template_costs_the_questions_under_way() {
        let helper = Stage::misbehaving("kill-parent=60 for=hanger", "-DPLAIN").start();
        assert_eq!(words(&helper.asks("bob", "right")), "accept");

        let verdict = words(&helper.asks("hanger", "right"));

        assert!(verdict.starts_with("unavailable worker 0 "), "{verdict}");
        let start = Instant::now();
        assert_eq!(words(&helper.asks("bob", "right")), "accept");
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }

    fn nothing_keeps_a_helper_that_is_asked_to_end() {
        for how in ["deaf=60", "handler=60", "stop", "loop"] {
            let mut helper = Stage::misbehaving(&format!("{how} for=hanger"), "-DPLAIN").start();
            let frame = Question { id: 1, session: 1, peer: [0; 16], listener: "", user: b"hanger", password: b"right" }.encode().unwrap();
            let mut hung = UnixStream::connect(&helper.socket).unwrap();
            hung.write_all(frame.as_bytes()).unwrap();
            let worker = helper.worker();

            kill(Pid::from_raw(helper.pid()), Signal::SIGTERM).unwrap();

            assert_eq!(helper.ends(), Some(0), "{how}");
            assert!(!fs::exists(format!("/proc/{worker}")).unwrap(), "{how}: the worker outlived its helper");
        }
    }
}

/// Whether the template soon has no child any more.
fn ends_alone(helper: &Helper) -> bool {
    patiently(|| children(helper.template()).is_empty().then_some(())).is_some()
}
