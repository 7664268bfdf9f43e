//! The client against helpers that answer right, wrong, twice, late and not at all.

use std::io::IoSlice;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use pamrelay_authwire::{Accepted, Cause, Outcome, Phase, QuestionFrame, Reason, Status};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixListener;
use zeroize::Zeroizing;

use super::*;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A helper that answers every question with what `reply` makes of it; an empty reply is silence.
struct Fake {
    dir: tempfile::TempDir,
    uid: u32,
}

impl Fake {
    fn new(reply: impl Fn(Question<'_>) -> Vec<u8> + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("auth")).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut frame = QuestionFrame::empty();
                let count = stream.read(frame.room()).await.unwrap();
                frame.filled(count);
                let said = reply(Question::decode(frame.as_bytes()).unwrap());
                let _ = stream.write_all(&said).await;
                if said.is_empty() {
                    sleep(Duration::from_secs(60)).await;
                }
            }
        });
        Self { dir, uid: nix::unistd::geteuid().as_raw() }
    }

    fn served_by(&self, uid: u32) -> Helper {
        Helper::served_by(self.dir.path().join("auth"), Duration::from_millis(500), uid)
    }

    async fn asked(&self) -> Answer {
        self.served_by(self.uid).ask(visit(42), b"alice", password(b"secret")).await
    }
}

fn visit(session: u64) -> Visit<'static> {
    Visit { session, peer: PEER, listener: "submission" }
}

fn password(bytes: &[u8]) -> Password {
    Password::from(Zeroizing::new(bytes.to_vec()))
}

fn accepted(id: u64, ticket: &[u8]) -> Vec<u8> {
    let accepted = Accepted { user: "alice".into(), uid: 1000, groups: vec!["staff".into()], ticket: ticket.into() };
    Verdict { id, outcome: Outcome::Accept(accepted) }.encode().unwrap()
}

#[tokio::test]
async fn an_accept_becomes_an_identity() {
    let fake = Fake::new(|question| {
        assert_eq!((question.session, question.user, question.password), (42, &b"alice"[..], &b"secret"[..]));
        assert_eq!(question.listener, "submission");
        assert_eq!(question.peer_addr(), PEER);
        accepted(question.id, b"ticket")
    });

    let Answer::Accept(identity) = fake.asked().await else { panic!("not accepted") };

    assert_eq!((identity.user(), identity.uid(), identity.ticket()), ("alice", 1000, &b"ticket"[..]));
    assert_eq!(identity.groups(), ["staff"]);
}

#[tokio::test]
async fn every_other_outcome_keeps_its_kind_and_cause() {
    let cause = Cause { phase: Phase::Account, code: 12, reason: Reason::PasswordAged };
    let outcomes: [(fn(Cause) -> Outcome, &str); 6] = [
        (Outcome::Reject, "reject"),
        (Outcome::Throttled, "throttled"),
        (Outcome::MustChange, "must-change"),
        (Outcome::Expired, "expired"),
        (Outcome::NotPermitted, "not-permitted"),
        (Outcome::Unavailable, "unavailable"),
    ];
    for (outcome, word) in outcomes {
        let fake = Fake::new(move |question| Verdict { id: question.id, outcome: outcome(cause) }.encode().unwrap());

        let answer = fake.asked().await;

        assert_eq!(answer.kind().word(), word);
        assert_eq!(answer.to_string(), "acct password-aged (PAM 12)");
    }
}

fn is_nonsense(answer: &Answer) -> bool {
    matches!(answer, Answer::Unavailable(Trouble::NoAnswer(AuthError::Nonsense | AuthError::Cut(_))))
}

#[tokio::test]
async fn input_86_whatever_is_not_exactly_one_verdict_on_this_question_is_doubt() {
    let with_rest = |length: u16| {
        move |question: Question<'_>| {
            let mut bytes = accepted(question.id, b"ticket");
            bytes[2..4].copy_from_slice(&length.to_le_bytes());
            bytes
        }
    };
    let fakes = [
        Fake::new(|question| accepted(question.id + 1, b"ticket")),
        Fake::new(|question| accepted(question.id, b"")),
        Fake::new(|question| accepted(question.id, b"ticket")[1..].to_vec()),
        Fake::new(|question| accepted(question.id, b"ticket")[..20].to_vec()),
        Fake::new(|question| [accepted(question.id, b"ticket"), b"x".to_vec()].concat()),
        Fake::new(with_rest(0)),
        Fake::new(with_rest(9212)),
        Fake::new(with_rest(9213)),
        Fake::new(with_rest(u16::MAX)),
        Fake::new(|_| vec![1; 100_000]),
        Fake::new(|_| b"OK\n".to_vec()),
    ];
    for fake in fakes {
        let answer = fake.asked().await;
        assert!(is_nonsense(&answer), "{answer:?}");
    }
}

#[tokio::test]
async fn input_87_a_helper_that_answers_twice_has_not_answered() {
    let reject =
        |id| Verdict { id, outcome: Outcome::Reject(Cause { phase: Phase::Auth, code: 7, reason: Reason::Refused }) }.encode().unwrap();
    let fakes = [
        Fake::new(|question| [accepted(question.id, b"ticket"), accepted(question.id, b"ticket")].concat()),
        Fake::new(move |question| [reject(question.id), accepted(question.id, b"ticket")].concat()),
        Fake::new(move |question| [accepted(question.id, b"ticket"), reject(question.id)].concat()),
    ];
    for fake in fakes {
        let answer = fake.asked().await;
        assert!(is_nonsense(&answer), "{answer:?}");
    }
}

#[tokio::test]
async fn input_87_an_answer_that_comes_too_late_is_not_the_next_question_s() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("auth")).unwrap();
    let helper = Helper::served_by(dir.path().join("auth"), Duration::from_millis(300), nix::unistd::geteuid().as_raw());
    // It accepts the first question when the second has come, and says so to both under the first one's id.
    let late = tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        for stream in [&mut first, &mut second] {
            assert!(stream.read(QuestionFrame::empty().room()).await.unwrap() > 0);
            let _ = stream.write_all(&accepted(1, b"ticket")).await; // the first asker is gone
        }
    });

    let first = helper.ask(visit(1), b"alice", password(b"secret")).await;
    let second = helper.ask(visit(2), b"mallory", password(b"guess")).await;

    late.await.unwrap();
    assert!(matches!(first, Answer::Unavailable(Trouble::NoAnswer(AuthError::TimedOut(_)))), "{first:?}");
    assert!(is_nonsense(&second), "{second:?}");
}

#[tokio::test]
async fn input_88_descriptors_sent_along_with_an_answer_make_it_none() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("auth")).unwrap();
    let helper = Helper::served_by(dir.path().join("auth"), Duration::from_secs(5), nix::unistd::geteuid().as_raw());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(QuestionFrame::empty().room()).await.unwrap() > 0);
        let (given, said) = ([stream.as_raw_fd()], accepted(1, b"ticket"));
        let rights = [ControlMessage::ScmRights(&given)];
        sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&said)], &rights, MsgFlags::empty(), None).unwrap();
    });

    let answer = helper.ask(visit(1), b"alice", password(b"secret")).await;

    assert!(is_nonsense(&answer), "{answer:?}");
}

#[tokio::test]
async fn silence_ends_at_the_deadline_and_absence_at_once() {
    let silent = Fake::new(|_| Vec::new());
    assert!(matches!(silent.asked().await, Answer::Unavailable(Trouble::NoAnswer(AuthError::TimedOut(_)))));

    let away = Helper::new(silent.dir.path().join("nobody"), Duration::from_secs(10));
    let answer = away.ask(visit(1), b"alice", password(b"x")).await;
    assert!(matches!(answer, Answer::Unavailable(Trouble::NoAnswer(AuthError::Unreachable(_)))));
}

#[tokio::test]
async fn a_socket_of_somebody_else_gets_no_password() {
    let fake = Fake::new(|_| panic!("the question was sent"));

    let answer = fake.served_by(fake.uid + 1).ask(visit(1), b"alice", password(b"secret")).await;

    assert!(matches!(answer, Answer::Unavailable(Trouble::NoAnswer(AuthError::Impostor(_)))));
}

#[tokio::test]
async fn a_full_backlog_is_waited_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("auth");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    socket.set_nonblocking(true).unwrap();
    let _first = UnixStream::connect(&path).await.unwrap();
    assert_eq!(UnixStream::connect(&path).await.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let listener = UnixListener::from_std(std::os::fd::OwnedFd::from(socket).into()).unwrap();
    tokio::spawn(async move {
        sleep(Duration::from_millis(100)).await;
        listener.accept().await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut frame = QuestionFrame::empty();
        let count = stream.read(frame.room()).await.unwrap();
        frame.filled(count);
        stream.write_all(&accepted(Question::decode(frame.as_bytes()).unwrap().id, b"ticket")).await.unwrap();
    });

    let helper = Helper::served_by(path, Duration::from_secs(5), nix::unistd::geteuid().as_raw());

    assert!(matches!(helper.ask(visit(1), b"alice", password(b"x")).await, Answer::Accept(_)));
}

#[test]
fn what_does_not_fit_a_question_is_asked_in_a_form_that_is_refused() {
    let asked = |user: usize, password: usize| {
        let frame = frame(1, PEER, "submission", &vec![b'u'; user], &vec![b'p'; password]).unwrap();
        let question = Question::decode(frame.as_bytes()).unwrap();
        (question.user.len(), question.user.contains(&0), question.password.len())
    };

    assert_eq!(asked(255, 1023), (255, false, 1023));
    assert_eq!(asked(256, 1), (255, true, 1));
    assert_eq!(asked(100_000, 100_000), (255, true, 0));
    assert_eq!(asked(1, 1024), (1, false, 0));
}

#[tokio::test]
async fn what_the_helper_says_of_itself_is_heard_whole() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("auth")).unwrap();
    let helper = Helper::served_by(dir.path().join("auth"), Duration::from_secs(5), nix::unistd::geteuid().as_raw());
    let said = Statement::Status(Status { accepted: 7, ..Status::default() });
    let frame = said.encode().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut order = [0; 5];
        stream.read_exact(&mut order).await.unwrap();
        assert_eq!(Order::decode(&order), Some(Order::Status));
        stream.write_all(&frame).await.unwrap();
    });

    assert_eq!(helper.order(&Order::Status).await.unwrap(), said);
}

#[test]
fn a_password_and_a_ticket_are_not_in_debug_output() {
    assert_eq!(format!("{:?}", password(b"hunter2")), "Password(hidden)");
    let Some(Verdict { outcome, .. }) = Verdict::decode(&accepted(1, b"hunter2")) else { panic!("no verdict") };
    assert!(!format!("{:?}", Answer::from(outcome)).contains("104, 117"), "the ticket's bytes");
}
