//! The wire between front end and helper, with the real helper at one end: whatever is not one question drops its peer,
//! and whatever is not one answer in time is *unavailable* to the asker. Names start with the number of the input in
//! the list of hostile inputs.

use std::fs;
use std::io::{IoSlice, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;
use pamrelay::auth::{self, Answer, AuthError, Trouble, Visit};
use pamrelay_authwire::{MAX_LISTENER, MAX_ORDER, MAX_PASSWORD, MAX_USER, Order, Question, QuestionFrame, Verdict};
use zeroize::Zeroizing;

use crate::pam_stage::{Helper, Stage, UNIX, patiently, words};

/// Where a question has its lengths, and where what they count begins.
const USER_LENGTH: usize = 2;
const PASSWORD_LENGTH: usize = 4;
const LISTENER_LENGTH: usize = 38;
const HEADER: usize = 39;
/// The longest text behind the header of an order.
const ORDER_REST: usize = MAX_ORDER - 4;

fn frame(user: &[u8], password: &[u8]) -> QuestionFrame {
    Question { id: 1, session: 1, peer: [0; 16], listener: "", user, password }.encode().unwrap()
}

/// Bob's question with some of its bytes changed.
fn altered(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut changed = frame(b"bob", b"right").as_bytes().to_vec();
    changed[at..at + bytes.len()].copy_from_slice(bytes);
    changed
}

/// A question that is as long as it says, however long.
fn honest(listener: u8, user: u16, password: u16) -> Vec<u8> {
    let mut bytes = altered(USER_LENGTH, &user.to_le_bytes());
    bytes[PASSWORD_LENGTH..PASSWORD_LENGTH + 2].copy_from_slice(&password.to_le_bytes());
    bytes[LISTENER_LENGTH] = listener;
    bytes.truncate(HEADER);
    bytes.extend(vec![b'l'; listener.into()]);
    bytes.extend(vec![b'u'; user.into()]);
    bytes.extend(vec![b'p'; password.into()]);
    bytes
}

/// Sends bytes and the end of them, and gives back all that is answered.
fn sends_all(helper: &Helper, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(&helper.socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut answer = Vec::new();
    // A peer that is dropped in the middle of a long frame may see a reset.
    if stream.write_all(bytes).is_ok() && stream.shutdown(Shutdown::Write).is_ok() {
        let _ = stream.read_to_end(&mut answer);
    }
    answer
}

/// Asks as the front end does, by its own client.
fn front_asks(helper: &Helper, user: &str, password: &str, deadline: Duration) -> Answer {
    let client = auth::Helper::new(helper.socket.clone(), deadline);
    let password = Zeroizing::new(password.as_bytes().to_vec());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(client.ask(
        Visit { session: 42, peer: IpAddr::V4(Ipv4Addr::LOCALHOST), listener: "" },
        user.as_bytes(),
        password.into(),
    ))
}

/// A number that fits.
fn small<T: TryFrom<usize, Error: std::fmt::Debug>>(number: usize) -> T {
    number.try_into().unwrap()
}

/// A helper in which `hanger` takes a minute.
fn with_a_slow_user() -> Helper {
    Stage::misbehaving("sleep=60 for=hanger", "-DPLAIN").start()
}

root_test! {
    fn input_86_every_length_at_its_ends_is_answered_or_drops_the_peer() {
        let helper = Stage::new(UNIX).start();

        for (listener, user, password, expected) in [
            (0, 3, 5, "reject auth 10 refused"),
            (MAX_LISTENER, 3, 5, "unavailable start 0 no-listener"),
            (0, 0, 5, "reject check 0 bad-name"),
            (0, 0, 0, "reject check 0 bad-name"),
            (0, MAX_USER, 5, "reject auth 10 refused"),
            (0, 3, 0, "reject check 0 bad-password"),
            (0, 3, MAX_PASSWORD, "reject check 0 bad-password"),
            (MAX_LISTENER, MAX_USER, MAX_PASSWORD, "reject check 0 bad-password"),
        ] {
            let verdict = Verdict::decode(&sends_all(&helper, &honest(small(listener), small(user), small(password))));
            assert_eq!(words(&verdict.expect("an answer").outcome), expected, "{listener} {user} {password}");
        }
        for (listener, user, password) in [
            (MAX_LISTENER + 1, 3, 5),
            (255, 3, 5),
            (0, MAX_USER + 1, 5),
            (0, 65535, 5),
            (0, 3, MAX_PASSWORD + 1),
            (0, 3, 65535),
            (255, 65535, 65535),
        ] {
            let frame = honest(small(listener), small(user), small(password));
            assert_eq!(sends_all(&helper, &frame), b"", "{listener} {user} {password}");
        }
        let lengths = |most: usize| [0, most, most + 1, 65535].map(|length| small::<u16>(length).to_le_bytes());
        let mut lies: Vec<_> = lengths(MAX_USER).iter().map(|length| altered(USER_LENGTH, length)).collect();
        lies.extend(lengths(MAX_PASSWORD).iter().map(|length| altered(PASSWORD_LENGTH, length)));
        lies.extend([1, MAX_LISTENER, MAX_LISTENER + 1, 255].map(|length| altered(LISTENER_LENGTH, &[small(length)])));
        let order = Order::Status.encode().unwrap();
        lies.extend(lengths(ORDER_REST).iter().map(|length| [&order[..2], length, &order[4..]].concat()));
        for lie in lies {
            assert_eq!(sends_all(&helper, &lie), b"", "a length without such a text behind it: {lie:?}");
        }
        assert!(!sends_all(&helper, &order).is_empty(), "an order as it should be");
        assert_eq!(words(&helper.asks("bob", "right")), "accept");
    }

    fn input_86_a_short_frame_drops_the_peer() {
        let helper = Stage::new(UNIX).start();
        let good = frame(b"bob", b"right");
        let good = good.as_bytes();

        for cut in 0..good.len() {
            assert_eq!(sends_all(&helper, &good[..cut]), b"", "cut at {cut}");
        }
        for unfinished in [&good[..1], &good[..HEADER - 1], &good[..good.len() - 1]] {
            let start = Instant::now();
            assert_eq!(helper.sends(unfinished), b"");
            assert!(start.elapsed() < Duration::from_secs(2), "one second is all a frame has");
        }
        for reason in ["short", "slow"] {
            helper.waits_for_log(&format!("event=dropped reason={reason}"));
        }
        assert_eq!(words(&helper.asks("bob", "right")), "accept");
    }

    fn input_86_two_frames_in_one_write_are_no_question() {
        let helper = Stage::new(UNIX).start();
        let good = frame(b"bob", b"right");
        let good = good.as_bytes();

        for surplus in [good, b"x", &[0; 5000]] {
            assert_eq!(helper.sends(&[good, surplus].concat()), b"");
        }
        helper.waits_for_log("event=dropped reason=surplus");
        assert!(!helper.log().contains("event=login"), "nobody was asked for");
    }

    fn input_86_an_unknown_version_or_operation_drops_the_peer() {
        let helper = Stage::new(UNIX).start();

        for at in [0, 1] {
            for byte in (0..=255).filter(|byte| *byte != 1) {
                assert_eq!(helper.sends(&altered(at, &[byte])), b"", "byte {at} is {byte}");
            }
        }
        let status = Order::Status.encode().unwrap();
        for what in [0, 9, 255] {
            assert_eq!(helper.sends(&[&status[..4], &[what]].concat()), b"", "order {what}");
        }
        assert_eq!(helper.sends(b"GET / HTTP/1.1\r\n\r\n"), b"");
        assert_eq!(helper.sends(&[0; 5000]), b"");
        helper.waits_for_log("event=dropped reason=malformed");
        assert_eq!(words(&helper.asks("bob", "right")), "accept");
    }

    fn input_87_a_helper_killed_in_the_middle_of_a_question_is_unavailable() {
        let helper = with_a_slow_user();

        let answer = std::thread::scope(|scope| {
            let asked = scope.spawn(|| front_asks(&helper, "hanger", "right", Duration::from_secs(20)));
            helper.worker();
            kill(Pid::from_raw(helper.pid()), Signal::SIGKILL).unwrap();
            asked.join().unwrap()
        });

        assert!(matches!(answer, Answer::Unavailable(Trouble::NoAnswer(AuthError::Nonsense | AuthError::Cut(_)))), "{answer:?}");
    }

    fn input_87_a_stopped_helper_is_unavailable_and_its_late_answer_is_nobody_s() {
        let helper = Stage::new(UNIX).start();
        assert!(matches!(front_asks(&helper, "bob", "right", Duration::from_secs(5)), Answer::Accept(_)));
        kill(Pid::from_raw(helper.pid()), Signal::SIGSTOP).unwrap();

        let start = Instant::now();
        let given_up = front_asks(&helper, "bob", "right", Duration::from_millis(500));
        assert!(matches!(given_up, Answer::Unavailable(Trouble::NoAnswer(AuthError::TimedOut(_)))), "{given_up:?}");
        assert!(start.elapsed() < Duration::from_secs(3));

        // Bob's question was in the socket when carol's came behind it; the right answer to his is none to hers.
        let (first, second) = std::thread::scope(|scope| {
            let asked = ["carol", "nobody-here"].map(|user| {
                let helper = &helper;
                scope.spawn(move || front_asks(helper, user, "wrong", Duration::from_secs(10)))
            });
            std::thread::sleep(Duration::from_millis(200));
            kill(Pid::from_raw(helper.pid()), Signal::SIGCONT).unwrap();
            let [first, second] = asked.map(|asked| asked.join().unwrap());
            (first, second)
        });

        assert!(matches!(first, Answer::Reject(_)), "{first:?}");
        assert!(matches!(second, Answer::Reject(_)), "{second:?}");
        assert!(matches!(front_asks(&helper, "bob", "right", Duration::from_secs(5)), Answer::Accept(_)));
    }

    fn input_87_a_slow_helper_is_unavailable_at_the_front_end_s_deadline_and_at_its_own() {
        let helper = Stage::misbehaving("sleep=60 for=hanger", "-DPLAIN").set("DEADLINE_MS", "1500").start();

        let impatient = front_asks(&helper, "hanger", "right", Duration::from_millis(500));
        let patient = front_asks(&helper, "hanger", "right", Duration::from_secs(10));

        assert!(matches!(impatient, Answer::Unavailable(Trouble::NoAnswer(AuthError::TimedOut(_)))), "{impatient:?}");
        assert!(matches!(patient, Answer::Unavailable(Trouble::Helper(_))), "{patient:?}");
        assert_eq!(patient.to_string(), "worker deadline");
    }

    fn input_87_a_worker_that_answers_twice_or_late_answers_nobody_else() {
        let helper = Stage::misbehaving("twice for=hanger", "-DPLAIN").start();

        std::thread::scope(|scope| {
            let asked: Vec<_> = (0..20).map(|number| {
                let (helper, user) = (&helper, if number % 2 == 0 { "hanger" } else { "carol" });
                scope.spawn(move || (user, words(&helper.asks(user, if user == "hanger" { "right" } else { "wrong" }))))
            }).collect();
            for asked in asked {
                let (user, verdict) = asked.join().unwrap();
                let same_again = verdict == "reject limit 0 same-again"; // and PAM was not asked
                assert!(verdict == "reject auth 7 refused" || same_again || verdict.starts_with("throttled "), "{user}: {verdict}");
            }
        });
        assert_eq!(words(&helper.asks("bob", "right")), "accept");
    }

    fn input_88_descriptors_sent_along_drop_the_peer_and_stay_nowhere() {
        let helper = Stage::new(UNIX).start();
        assert_eq!(words(&helper.asks("bob", "right")), "accept");
        let held = || fs::read_dir(format!("/proc/{}/fd", helper.pid())).unwrap().count();
        std::thread::sleep(Duration::from_millis(300)); // that worker's end is dealt with
        let before = held();
        let good = frame(b"bob", b"right");
        let null = fs::File::open("/dev/null").unwrap();

        for (bytes, count) in [(good.as_bytes(), 1), (good.as_bytes(), 200), (&good.as_bytes()[..1], 1)] {
            let mut stream = UnixStream::connect(&helper.socket).unwrap();
            let rights = vec![null.as_raw_fd(); count];
            sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(bytes)], &[ControlMessage::ScmRights(&rights)], MsgFlags::empty(), None).unwrap();

            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer); // a dropped peer may see a reset
            assert_eq!(answer, b"", "{count} descriptors");
        }

        helper.waits_for_log("event=dropped reason=descriptors");
        assert!(patiently(|| (held() == before).then_some(())).is_some(), "{} descriptors, and before {before}", held());
        assert_eq!(words(&helper.asks("bob", "right")), "accept");
    }

    fn idle_connections_keep_nobody_out() {
        let helper = Stage::new(UNIX).start();
        let _idle: Vec<UnixStream> = (0..200).map(|_| UnixStream::connect(&helper.socket).unwrap()).collect();

        assert_eq!(words(&helper.asks("bob", "right")), "accept");
    }

    fn strangers_are_not_heard() {
        let helper = Stage::new(UNIX).start();
        for path in [helper.dir.path(), &helper.dir.path().join("run"), &helper.dir.path().join("run/jail")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        assert_eq!(fs::metadata(&helper.socket).unwrap().mode() & 0o777, 0o660);
        fs::set_permissions(&helper.socket, fs::Permissions::from_mode(0o666)).unwrap();
        let ask = format!("use IO::Socket::UNIX; $SIG{{PIPE}} = 'IGNORE'; my $s = IO::Socket::UNIX->new(Peer => '{}') or die; print $s 'x'; print scalar(<$s>) // 'closed'", helper.socket.display());

        let stranger = std::process::Command::new("setpriv").args(["--reuid=65534", "--regid=65534", "--clear-groups", "perl", "-e", &ask]).output().unwrap();

        assert_eq!(String::from_utf8_lossy(&stranger.stdout), "closed", "{}", String::from_utf8_lossy(&stranger.stderr));
        helper.waits_for_log("event=dropped reason=stranger uid=65534");
    }

    fn a_peer_that_goes_away_does_not_keep_its_place_in_line() {
        let helper = Stage::misbehaving("sleep=1 for=hanger", "-DPLAIN").set("WORKERS", "1").set("SLOW_WORKERS", "0").start();
        let mut first = UnixStream::connect(&helper.socket).unwrap();
        first.write_all(frame(b"hanger", b"right").as_bytes()).unwrap();
        helper.worker();
        let mut second = UnixStream::connect(&helper.socket).unwrap();
        second.write_all(frame(b"carol", b"right").as_bytes()).unwrap();
        drop(second);

        helper.waits_for_log("event=abandoned");
        let mut answer = Vec::new();
        first.read_to_end(&mut answer).unwrap();
        assert!(!answer.is_empty());
        assert_eq!(words(&helper.asks("bob", "right")), "accept");
    }
}
