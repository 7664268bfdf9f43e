//! A front end in other hands: frames that ours never writes, on the real socket.

use std::fmt::Write as _;

use super::*;
use crate::handoff::{Token, wire};
use crate::queue::accept::{Door, RecipientLimit, SizeLimit};
use crate::queue::conformance::new_message;
use crate::queue::dispatch::Dispatch;
use crate::queue::receipts::Receipts;
use crate::queue::report::Reports;
use crate::queue::sqlite::SqliteStore;
use crate::queue::store::{Claim, NewBody, QueueStore as _};
use crate::queue::tickets::TicketBook;
use crate::queue::tickets::tests::ticket_of;
use crate::smtp::envelope::{NotifyOn, OriginalRecipient};

/// What the queue says to these octets; nothing when it closes the connection.
async fn said_to(role: &Role, octets: &[u8]) -> Option<Answer> {
    let mut stream = UnixStream::connect(role.path("handoff")).await.unwrap();
    let _ = stream.write_all(octets).await; // it may be closed before it has read all of them
    let mut answer = [0; wire::ANSWER_LIMIT];
    let count = timeout(SOON, stream.read(&mut answer)).await.expect("the queue answers or hangs up").unwrap_or(0);
    match wire::hear(&answer[..count]) {
        wire::Heard::Said(wire::Said::Answer(answer)) => Some(answer),
        wire::Heard::Said(wire::Said::Absent | wire::Said::Room(_)) => None,
        wire::Heard::Part | wire::Heard::Nonsense => None,
    }
}

fn frames(opening: &Opening) -> Vec<u8> {
    let mut octets = Vec::new();
    assert!(wire::put_opening(&mut octets, opening, &Token::fresh()));
    let at = wire::open_chunk(&mut octets);
    octets.extend_from_slice(b"Subject: x\r\n\r\n");
    wire::close_frame(&mut octets, at);
    wire::put_end(&mut octets);
    octets
}

fn to(names: &[&str]) -> Opening {
    Opening { envelope: envelope(names), ..opening() }
}

fn numbered(count: usize) -> Opening {
    let names: Vec<_> = (0..count).map(|number| format!("{number}@b.example")).collect();
    to(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

#[tokio::test]
async fn an_envelope_beyond_what_a_client_may_ask_for_is_refused_and_the_queue_goes_on() {
    let mut role = Role::start().await;

    assert_eq!(said_to(&role, &frames(&numbered(4001))).await, Some(Answer::Refused(Refused::Fault)), "above limits.recipients");
    assert_eq!(said_to(&role, &frames(&numbered(5001))).await, None, "above what can be configured");
    let literal = said_to(&role, &frames(&to(&["a@b.example", "root@[127.0.0.1]"]))).await;
    assert_eq!(literal, Some(Answer::Refused(Refused::NotPermitted)));
    let twice = said_to(&role, &frames(&to(&["a@b.example", "c@b.example", "a@B.example"]))).await;
    assert_eq!(twice, Some(Answer::Refused(Refused::NotPermitted)));
    role.no_job().await;

    accepted(&role.pool(), b"good").await;
    role.job().await;
}

#[tokio::test]
async fn an_opening_that_no_client_can_have_caused_closes_the_connection() {
    let role = Role::start().await;
    let original = |kind: &str, address: &str| OriginalRecipient { kind: kind.into(), address: address.into() };
    let mut openings = vec![opening(); 8];
    openings[0].envelope.first.original = Some(original("rfc822", &"x".repeat(501)));
    openings[1].envelope.first.original = Some(original(&"x".repeat(65), "x"));
    openings[2].envelope.first.original = Some(original("rfc822", ""));
    openings[3].envelope.first.original = Some(original("rfc822", "x\r\nBcc: y"));
    openings[4].envelope.first.notify = Notify::On(NotifyOn::default());
    openings[5].trace.helo = "x\r\nBcc: y".into();
    openings[6].trace.host = "x\u{85}y".into();
    openings[7].trace.tls = Some("x\0y".into());

    for opening in openings {
        assert_eq!(said_to(&role, &frames(&opening)).await, None, "{opening:?}");
    }

    accepted(&role.pool(), b"good").await;
}

#[tokio::test]
async fn the_longest_opening_full_of_the_shortest_recipients_is_refused_by_its_count() {
    let role = Role::start().await;
    let mut octets = Vec::new();
    assert!(wire::put_opening(&mut octets, &to(&["a@b"]), &Token::fresh()));
    // The list of recipients is the end of the frame: a count, and for each NOTIFY, a length, an address, no ORCPT.
    octets.truncate(octets.len() - 11);
    let count = (wire::OPENING_LIMIT + wire::HEADER - octets.len() - 4) / 7;
    octets.extend_from_slice(&(count as u32).to_le_bytes());
    for _ in 0..count {
        octets.extend_from_slice(b"\0\x03\0a@b\0");
    }
    wire::close_frame(&mut octets, 0);
    wire::put_end(&mut octets);

    assert!(count > 290_000);
    assert_eq!(said_to(&role, &octets).await, None);
    accepted(&role.pool(), b"good").await;
}

#[tokio::test]
async fn a_message_of_an_older_version_that_is_beyond_the_bounds_is_set_aside_and_the_others_go_on() {
    let mut role = Role::start().await;
    role.end().await;
    let mut names = Vec::new();
    for number in 0..5001 {
        let mut name = String::new();
        write!(name, "{number}@b.example").unwrap();
        names.push(name);
    }
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    {
        let store = SqliteStore::open(&role.path("spool")).unwrap();
        for message in [new_message(&names), new_message(&names[..5000])] {
            store.accept(message, NewBody::Small(Bytes::from_static(b"x")), Claim::Leave).await.unwrap();
        }
    }

    role.resume().await;

    assert_eq!(role.job().await.recipients.len(), 5000, "it is within what was ever permitted");
    role.no_job().await;
    let heads = std::fs::read_dir(role.path("spool/damaged")).unwrap().flatten();
    assert_eq!(heads.filter(|it| it.file_name().to_string_lossy().ends_with(".head")).count(), 1);
}

/// A door of a queue that delivers nothing.
struct Alone {
    _place: tempfile::TempDir,
    _outcomes: mpsc::Sender<Outcomes>,
    _dispatch: Dispatch<SqliteStore>,
    door: Door<SqliteStore>,
}

fn alone() -> Alone {
    let place = tempfile::tempdir().unwrap();
    write_keys(&place.path().join("tickets"), 1, None);
    let store = Arc::new(SqliteStore::open(&place.path().join("spool")).unwrap());
    let (outcomes, from_delivery) = mpsc::channel(1);
    let reports = Reports { reporter: Arc::new(|_, _, _| None), postmaster: None, undelivered: Arc::default() };
    let (dispatch, active) = Dispatch::new(Arc::clone(&store), Schedule::default(), reports, ActiveLimits::default(), from_delivery);
    let limits = (SizeLimit(LIMIT), RecipientLimit(5000));
    let book = TicketBook::new(place.path().join("tickets"));
    let door = Door::new(store, book, limits, jiff::tz::TimeZone::UTC, active, Receipts::of([]));
    Alone { _place: place, _outcomes: outcomes, _dispatch: dispatch, door }
}

fn is_accepted(answer: Answer) -> bool {
    match answer {
        Answer::Accepted(_) => true,
        Answer::Refused(_) => false,
    }
}

#[tokio::test]
async fn one_user_cannot_fill_the_door() {
    let alone = alone();
    let open = || alone.door.open(opening(), Token::fresh());

    let mut coming: Vec<_> = (0..512).map(|_| open()).collect();
    let refused = open().finish().await.unwrap().answer();
    coming.pop();
    let accepted = open().finish().await.unwrap().answer();

    assert_eq!(refused, Answer::Refused(Refused::Fault));
    assert!(is_accepted(accepted), "{accepted:?}");
}

#[tokio::test]
async fn a_message_that_was_declined_takes_nothing_from_the_others_while_its_text_goes_on() {
    let alone = alone();
    let open = || alone.door.open(opening(), Token::fresh());
    let mut coming: Vec<_> = (0..512).map(|_| open()).collect();

    for intake in &mut coming {
        intake.chunk(Bytes::from(vec![b'x'; LIMIT as usize + 1])).await;
    }

    let accepted = open().finish().await.unwrap().answer();
    assert!(is_accepted(accepted), "{accepted:?}");
}

#[tokio::test]
async fn one_user_with_long_lists_of_recipients_leaves_room_for_those_of_others() {
    let alone = alone();
    let of = |user: &str, count: usize| {
        let mut opening = Opening { proof: Proof::Ticket(ticket_of(user, 1, FAR)), ..numbered(count) };
        for recipient in &mut opening.envelope.rest {
            recipient.original = Some(OriginalRecipient { kind: "rfc822".into(), address: "x".repeat(380) });
        }
        alone.door.open(opening, Token::fresh())
    };

    // As many as the front end lets one user have.
    let dripping: Vec<_> = (0..112).map(|_| of("alice", 4900)).collect();

    let small = of("bob", 1).finish().await.unwrap().answer();
    let large = of("bob", 4900).finish().await.unwrap().answer();
    let mut accepted = 0;
    for intake in dripping {
        accepted += usize::from(is_accepted(intake.finish().await.unwrap().answer()));
    }
    assert!(is_accepted(small) && is_accepted(large), "{small:?} {large:?}");
    assert!((4..20).contains(&accepted), "{accepted}");
}

#[tokio::test]
async fn a_front_end_that_does_not_read_its_answers_keeps_no_message_from_delivery() {
    let mut role = Role::start().await;
    let mut stream = UnixStream::connect(role.path("handoff")).await.unwrap();
    let message = frames(&opening());

    let writing = tokio::spawn(async move {
        // Far more answers than the kernel keeps for somebody who does not read.
        for _ in 0..5000 {
            if stream.write_all(&message).await.is_err() {
                break;
            }
        }
        stream
    });

    let mut handed_over = 0;
    while let Ok(Some(job)) = timeout(Duration::from_secs(5), role.running().jobs.recv()).await {
        handed_over += 1;
        role.say(job.id, &[(0, delivered()), (1, delivered())]).await;
    }
    assert!((1..5000).contains(&handed_over), "{handed_over}");
    role.empties().await;
    drop(writing.await.unwrap());
}
