//! Who gets a worker, and who first: a crowd of strangers does not keep out those who were accepted before.

use std::fs;
use std::thread;

use pamrelay_authwire::{Order, Outcome, Statement, Status};

use crate::pam_stage::{Helper, Stage, children, waits_for, words};

/// A service in which `hanger` hangs while there is a file `hang`; all have a password.
fn stage() -> Stage {
    Stage::new("auth required pam_exec.so quiet DIR/first\nauth required pam_unix.so nodelay\naccount required pam_unix.so\n")
        .script("first", "[ \"$PAM_USER\" != hanger ] || while [ -e DIR/hang ]; do sleep 0.05; done\n")
        .set("ACCOUNT_FAILURES", "0")
        .set("SLOW_WORKERS", "0")
}

/// From now on `hanger` hangs. The workers of earlier questions are gone.
fn hangs(helper: &Helper) {
    fs::write(helper.dir.path().join("hang"), "").unwrap();
    fills_up(helper, 0, 0);
}

fn status(helper: &Helper) -> Status {
    match helper.orders(&Order::Status) {
        Statement::Status(fares) => fares,
        other => panic!("{other:?}"),
    }
}

/// Waits until so many workers are taken and so many questions wait.
fn fills_up(helper: &Helper, workers: u32, waiting: u32) {
    waits_for("full house", || {
        let fares = status(helper);
        (fares.busy + fares.slow == workers && fares.waiting == waiting).then_some(())
    });
}

fn accepted(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Accept(_))
}

/// Who was accepted, when there are so many.
fn accepted_in_order(helper: &Helper, count: usize) -> Vec<String> {
    let account = |line: &str| Some(line.split("account=\"").nth(1)?.split('"').next()?.to_owned());
    waits_for("so many accepted", || {
        let log = helper.log();
        let names: Vec<String> = log.lines().filter(|line| line.contains("verdict=accept")).filter_map(account).collect();
        (names.len() == count).then_some(names)
    })
}

/// The worker of a question that hangs: it has become what it is, and its program runs.
fn worker(helper: &Helper) -> i32 {
    let is_worker = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "auth-worker");
    waits_for("a worker", || children(helper.template()).into_iter().find(|pid| is_worker(pid) && !children(*pid).is_empty()))
}

/// The numbers after the name in `/proc/PID/stat`, from the third field on.
fn numbers(pid: i32) -> Vec<i64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect()
}

fn group_session_nice(pid: i32) -> (i64, i64, i64) {
    let numbers = numbers(pid);
    (numbers[2], numbers[3], numbers[16])
}

root_test! {
    fn strangers_that_hang_leave_a_place_for_those_who_were_accepted_there_before() {
        let helper = stage().set("WORKERS", "4").start();
        assert!(accepted(&helper.asks("bob", "right")));
        hangs(&helper);

        thread::scope(|scope| {
            for n in 0..10 {
                let helper = &helper;
                scope.spawn(move || helper.asks_from(&format!("198.51.100.{n}"), b"hanger", b"right"));
            }
            fills_up(&helper, 3, 7);

            assert_eq!(words(&helper.asks("bob", "right")), "accept");
        });
    }

    fn those_who_were_accepted_there_before_do_not_wait_behind_strangers() {
        let helper = stage().set("WORKERS", "1").start();
        assert!(accepted(&helper.asks("bob", "right")));
        hangs(&helper);

        thread::scope(|scope| {
            let helper = &helper;
            scope.spawn(|| helper.asks_from("198.51.100.1", b"hanger", b"right"));
            fills_up(helper, 1, 0);
            scope.spawn(|| helper.asks_from("198.51.100.2", b"carol", b"right"));
            fills_up(helper, 1, 1);
            scope.spawn(|| helper.asks("bob", "right"));
            fills_up(helper, 1, 2);
            fs::remove_file(helper.dir.path().join("hang")).unwrap();
        });

        assert_eq!(accepted_in_order(&helper, 4), ["bob", "hanger", "bob", "carol"]);
    }

    fn who_is_accepted_does_not_wait_behind_strangers_when_he_already_waits_again() {
        let helper = stage().set("WORKERS", "1").start();
        hangs(&helper);

        thread::scope(|scope| {
            let helper = &helper;
            scope.spawn(|| helper.asks_from("198.51.100.1", b"hanger", b"right"));
            fills_up(helper, 1, 0);
            for (waiting, (peer, user)) in (1..).zip([("192.0.2.25", "bob"), ("198.51.100.2", "carol"), ("192.0.2.25", "bob")]) {
                scope.spawn(move || helper.asks_from(peer, user.as_bytes(), b"right"));
                fills_up(helper, 1, waiting);
            }
            fs::remove_file(helper.dir.path().join("hang")).unwrap();
        });

        assert_eq!(accepted_in_order(&helper, 4), ["hanger", "bob", "bob", "carol"]);
    }

    fn a_stranger_s_worker_yields_the_processor_to_those_who_were_accepted_there_before() {
        let helper = stage().set("WORKERS", "1").set("DEADLINE_MS", "1500").start();
        assert!(accepted(&helper.asks("hanger", "right")));
        hangs(&helper);
        let template = helper.template();
        let worker_for = |peer: &'static str| {
            thread::scope(|scope| {
                scope.spawn(|| helper.asks_from(peer, b"hanger", b"right"));
                let worker = worker(&helper);
                (worker, group_session_nice(worker))
            })
        };

        let (known, (_, _, nice)) = worker_for("192.0.2.25");
        fills_up(&helper, 0, 0); // it is gone
        let (stranger, (group, session, nicer)) = worker_for("198.51.100.1");

        assert_ne!(known, stranger);
        assert_eq!((nice, nicer), (group_session_nice(template).2, nice + 10));
        // Where the kernel shares out the processor by sessions, niceness counts only within one.
        assert_eq!((group, session), (i64::from(stranger), i64::from(template)));
    }

    fn what_is_throttled_anyway_is_told_so_while_all_workers_hang() {
        let helper = stage().set("WORKERS", "1").set("ACCOUNT_FAILURES", "1").start();
        helper.asks("carol", "wrong");
        hangs(&helper);

        thread::scope(|scope| {
            scope.spawn(|| helper.asks_from("198.51.100.1", b"hanger", b"right"));
            fills_up(&helper, 1, 0);

            assert_eq!(words(&helper.asks_from("198.51.100.2", b"carol", b"other")), "throttled limit 0 account-failures");
            assert_eq!(status(&helper).busy + status(&helper).slow, 1, "nobody has been waited for");
        });
    }
}
