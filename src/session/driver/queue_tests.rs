//! What a client hears when the queue is in trouble, with a queue that says what each test wants.

use std::path::Path;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use super::*;
use crate::auth::Answer as Verdict;
use crate::handoff::wire::{self, Frame, Said};
use crate::handoff::{Answer, Limits as PoolLimits, QueueId};
use crate::session::TlsPeer;
use crate::smtp::address::Domain;
use pamrelay_authwire::{Accepted, Outcome};

/// What a queue does when it is asked about room and about a message, and after a message's end.
#[derive(Clone, Copy)]
struct Mood {
    room: Option<Said>,
    end: Option<Said>,
    asked: Option<Said>,
}

/// A queue that answers each frame as it likes; without an answer it closes the connection.
fn queue(path: &Path, mood: Mood) {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = BytesMut::new();
                while stream.read_buf(&mut buffer).await.unwrap_or(0) > 0 {
                    let mut said = Vec::new();
                    let mut silent = false;
                    while let Some(frame) = wire::take_frame(&mut buffer).unwrap() {
                        let answer = match frame {
                            Frame::Opening(..) | Frame::Chunk(_) => continue,
                            Frame::Room => mood.room,
                            Frame::End => mood.end,
                            Frame::Ask(_) => mood.asked,
                        };
                        silent |= answer.is_none();
                        answer.into_iter().for_each(|answer| wire::put_said(&mut said, answer));
                    }
                    stream.write_all(&said).await.unwrap();
                    if silent {
                        break;
                    }
                }
            });
        }
    });
}

/// Somebody who is logged in sends `lines`; what comes back until the connection ends.
async fn heard(mood: Mood, lines: &str) -> String {
    let place = tempfile::tempdir().unwrap();
    queue(&place.path().join("queue"), mood);
    let (_close, closing) = watch::channel(false);
    let second = Duration::from_secs(1);
    let world = World {
        site: Site { host: "mail.example".into(), domain: Domain::parse("mail.example").unwrap(), message_size: 1000, recipients: 100 },
        helper: Helper::new(place.path().join("auth"), second),
        queue: Pool::new(place.path().join("queue"), PoolLimits { patience: Duration::from_millis(300), ..PoolLimits::default() }),
        limits: Limits {
            bad_commands: 10,
            command_timeout: 30 * second,
            data_timeout: 30 * second,
            login_timeout: 30 * second,
            session_timeout: 60 * second,
            failure_floor: second,
        },
        closing,
        scarce: Arc::default(),
        strangers: Strangers::default(),
    };
    let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
    let session = logged_in(&world.site);
    let mut client = Client::new(&world, "192.0.2.7:1000".parse().unwrap(), "submission".into());
    ours.write_all(lines.as_bytes()).await.unwrap();
    let talking = converse(theirs, session, None, &mut client);
    let (_, said) = tokio::join!(talking, async {
        let mut said = String::new();
        ours.read_to_string(&mut said).await.unwrap();
        said
    });
    said
}

fn logged_in(site: &Site) -> Session {
    let tls = TlsPeer { version: "TLS1.3", cipher: String::new() };
    let Step::Reply(session, _) = Session::Secured(Plain.secured(tls)).line(Ok(b"EHLO a.example"), site) else { panic!("no greeting") };
    let Step::Check(checking, _) = session.line(Ok(b"AUTH PLAIN AGFubgBzZWNyZXQ="), site) else { panic!("no question") };
    let accepted = Accepted { user: "ann".into(), uid: 1000, groups: vec![], ticket: vec![1] };
    checking.settle(Verdict::from(Outcome::Accept(accepted))).0
}

const MESSAGE: &str = "MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nSubject: x\r\n\r\ny\r\n.\r\nQUIT\r\n";

fn codes(said: &str) -> Vec<&str> {
    said.lines().filter_map(|line| line.get(..9)).collect()
}

fn plenty() -> Option<Said> {
    Some(Said::Room(1 << 40))
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_and_the_client_hears_it() {
    let id = QueueId::named("0000000000009").unwrap();
    let mood = Mood { room: plenty(), end: None, asked: Some(Said::Answer(Answer::Accepted(id))) };

    let said = heard(mood, MESSAGE).await;

    assert!(said.contains("250 2.0.0") && said.contains(&id.to_string()), "{said}");
}

#[tokio::test]
async fn a_message_that_did_not_come_in_is_451_and_the_session_goes_on() {
    let said = heard(Mood { room: plenty(), end: None, asked: Some(Said::Absent) }, MESSAGE).await;

    assert_eq!(codes(&said).last_chunk(), Some(&["451 4.3.0", "221 2.0.0"]), "{said}");
}

#[tokio::test]
async fn when_nobody_knows_what_became_of_a_message_the_connection_ends_without_a_reply() {
    let said = heard(Mood { room: plenty(), end: None, asked: None }, MESSAGE).await;

    assert!(said.lines().last().is_some_and(|line| line.starts_with("354")), "{said}");
}

#[tokio::test]
async fn a_full_disk_is_452_at_mail_and_a_silent_queue_is_no_reason_to_refuse() {
    let full = Mood { room: Some(Said::Room(0)), end: None, asked: None };
    let said = heard(full, "MAIL FROM:<a@b.example>\r\nMAIL FROM:<a@b.example> SIZE=10\r\nNOOP\r\nQUIT\r\n").await;
    assert_eq!(codes(&said), ["452 4.3.1", "452 4.3.1", "250 2.0.0", "221 2.0.0"], "{said}");

    let little = Mood { room: Some(Said::Room(16 * 1024 + 500)), end: None, asked: None };
    let said = heard(little, "MAIL FROM:<a@b.example> SIZE=501\r\nMAIL FROM:<a@b.example> SIZE=500\r\nQUIT\r\n").await;
    assert_eq!(codes(&said), ["452 4.3.1", "250 2.1.0", "221 2.0.0"], "{said}");

    let silent = Mood { room: None, end: None, asked: None };
    let said = heard(silent, "MAIL FROM:<a@b.example>\r\nQUIT\r\n").await;
    assert_eq!(codes(&said), ["250 2.1.0", "221 2.0.0"], "{said}");
}
