//! A message whose answer does not come: what the front end asks, and what it may say.

use super::*;
use crate::handoff::wire::{self, Frame, Said};
use crate::handoff::{Room, Token};

/// A queue that hears a message and dies without a word, then says `then` to each question, or
/// nothing. Gives the tokens it saw: the message's first, then one for each question.
fn dies_once(path: &Path, then: Option<Said>) -> JoinHandle<Vec<Token>> {
    let listener = tokio::net::UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Ok(Ok((mut stream, _))) = timeout(Duration::from_millis(500), listener.accept()).await {
            let mut buffer = bytes::BytesMut::new();
            let frame = loop {
                stream.read_buf(&mut buffer).await.unwrap();
                if let Some(frame) = wire::take_frame(&mut buffer).unwrap() {
                    break frame;
                }
            };
            match frame {
                Frame::Opening(_, token) => seen.push(token),
                Frame::Ask(token) => {
                    seen.push(token);
                    if let Some(said) = then {
                        let mut octets = Vec::new();
                        wire::put_said(&mut octets, said);
                        stream.write_all(&octets).await.unwrap();
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        seen
    })
}

async fn sent_once(then: Option<Said>) -> Result<Answer, HandoffError> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("handoff");
    let queue = dies_once(&path, then);
    let pool = Pool::new(&path, Limits { patience: Duration::from_millis(800), ..Limits::default() });

    let answer = send(&pool, &opening(), b"once").await;

    let seen = queue.await.unwrap();
    assert!(seen.len() > 1, "it asked");
    assert!(seen.iter().all(|it| *it == seen[0]), "it asked for this message and never sent it again");
    answer
}

#[tokio::test]
async fn a_message_that_is_in_is_answered_with_its_id_although_its_answer_was_lost() {
    let id = QueueId::named("0000000000009").unwrap();

    let answer = sent_once(Some(Said::Answer(Answer::Accepted(id)))).await;

    assert_eq!(answer.unwrap(), Answer::Accepted(id));
}

#[tokio::test]
async fn a_message_that_is_not_in_is_lost_and_one_that_nobody_knows_of_stays_unanswered() {
    let absent = sent_once(Some(Said::Absent)).await;
    assert!(matches!(absent, Err(HandoffError::Lost(_))), "{absent:?}");

    let unknown = sent_once(None).await;
    assert!(matches!(unknown, Err(HandoffError::Unanswered(_))), "{unknown:?}");
}

/// Asks the role about a token.
async fn ask(role: &Role, token: &Token) -> Said {
    let mut question = Vec::new();
    wire::put_ask(&mut question, token);
    let mut stream = UnixStream::connect(role.path("handoff")).await.unwrap();
    stream.write_all(&question).await.unwrap();
    let mut answer = [0; wire::ANSWER_LIMIT];
    let count = timeout(SOON, stream.read(&mut answer)).await.expect("it answers").unwrap();
    match wire::hear(&answer[..count]) {
        wire::Heard::Said(said) => said,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_queue_knows_what_is_in_also_after_a_restart_and_keeps_out_what_it_called_absent() {
    let mut role = Role::start().await;
    let (token, other) = (Token::fresh(), Token::fresh());
    let mut message = Vec::new();
    assert!(wire::put_opening(&mut message, &opening(), &token));
    wire::put_end(&mut message);
    let mut stream = UnixStream::connect(role.path("handoff")).await.unwrap();
    stream.write_all(&message).await.unwrap();
    let job = role.job().await;

    assert_eq!(ask(&role, &token).await, Said::Answer(Answer::Accepted(job.id)));
    assert_eq!(ask(&role, &other).await, Said::Absent);
    drop(stream);
    role.end().await;
    role.resume().await;
    assert_eq!(role.job().await.id, job.id);
    assert_eq!(ask(&role, &token).await, Said::Answer(Answer::Accepted(job.id)));
    role.say(job.id, &[(0, delivered()), (1, delivered())]).await;
    role.empties().await;
    assert_eq!(ask(&role, &token).await, Said::Answer(Answer::Accepted(job.id)), "it was in, and that remains true");

    // An end that comes after the question was answered is refused.
    let late = Token::fresh();
    let mut message = Vec::new();
    assert!(wire::put_opening(&mut message, &opening(), &late));
    let mut stream = UnixStream::connect(role.path("handoff")).await.unwrap();
    stream.write_all(&message).await.unwrap();
    assert_eq!(ask(&role, &late).await, Said::Absent);
    message.clear();
    wire::put_end(&mut message);
    stream.write_all(&message).await.unwrap();
    let mut answer = [0; wire::ANSWER_LIMIT];
    let count = stream.read(&mut answer).await.unwrap();
    assert_eq!(wire::hear(&answer[..count]), wire::Heard::Said(Said::Answer(Answer::Refused(Refused::Fault))));
    role.no_job().await;
    assert!(role.listed().await.is_empty());
}

#[tokio::test]
async fn the_front_end_learns_before_the_text_whether_there_is_room() {
    let role = Role::start().await;
    let pool = role.pool();

    assert_eq!(pool.room(None).await, Room::Enough);
    assert_eq!(pool.room(Some(u64::MAX)).await, Room::TooLittle);

    let nobody = Pool::new("/nonexistent/queue", Limits::default());
    assert_eq!(nobody.room(None).await, Room::Unknown);
}

#[tokio::test]
async fn a_message_that_is_too_large_for_the_disk_does_not_keep_smaller_ones_out() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("handoff");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let queue = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut buffer, mut octets) = (bytes::BytesMut::new(), Vec::new());
            while octets.is_empty() {
                stream.read_buf(&mut buffer).await.unwrap();
                while let Some(frame) = wire::take_frame(&mut buffer).unwrap() {
                    match frame {
                        Frame::Opening(..) | Frame::Chunk(_) | Frame::Ask(_) => {}
                        Frame::End => wire::put_said(&mut octets, Said::Answer(Answer::Refused(Refused::Full))),
                        Frame::Room => wire::put_said(&mut octets, Said::Room(1_000_000)),
                    }
                }
            }
            stream.write_all(&octets).await.unwrap();
        }
    });
    let pool = Pool::new(&path, Limits { patience: SOON, ..Limits::default() });

    assert_eq!(send(&pool, &opening(), b"x").await.unwrap(), Answer::Refused(Refused::Full));

    assert_eq!(pool.room(Some(1000)).await, Room::Enough);
    assert_eq!(pool.room(Some(1_000_000)).await, Room::TooLittle);
    queue.abort();
}
