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

#[tokio::test]
async fn one_user_cannot_fill_the_door() {
    let role = Role::start().await;
    let place = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(&place.path().join("spool")).unwrap());
    let (_outcomes, from_delivery) = mpsc::channel(1);
    let reports = Reports { reporter: Arc::new(|_, _, _| None), postmaster: None, undelivered: Arc::default() };
    let (_dispatch, active) = Dispatch::new(Arc::clone(&store), Schedule::default(), reports, ActiveLimits::default(), from_delivery);
    let limits = (SizeLimit(LIMIT), RecipientLimit(100));
    let book = TicketBook::new(role.path("tickets"));
    let door = Door::new(store, book, limits, jiff::tz::TimeZone::UTC, active, Receipts::of([]));
    let open = || door.open(opening(), Token::fresh());

    let mut coming: Vec<_> = (0..512).map(|_| open()).collect();
    let refused = open().finish().await.unwrap().answer();
    coming.pop();
    let accepted = open().finish().await.unwrap().answer();

    assert_eq!(refused, Answer::Refused(Refused::Fault));
    assert!(matches!(accepted, Answer::Accepted(_)), "{accepted:?}");
}
