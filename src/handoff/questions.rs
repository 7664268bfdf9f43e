//! What the front end asks the queue beside handing messages over: what became of one whose answer
//! did not come, and how much may come in.
//!
//! Invariant: each question has a connection of its own and a deadline, so a queue that is away or
//! stuck holds a session for a known time.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout_at};

use super::client::hear;
use super::wire::{self, Said};
use super::{Answer, HandoffError, Token};

/// The pause after a question that found nobody, at first and at most.
const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(1);
/// How long an answer about room is good for, and how long one is waited for.
const FRESH: Duration = Duration::from_secs(1);
const ROOM_PATIENCE: Duration = Duration::from_secs(2);
/// What a message needs beyond the size that was declared: its envelope, and some text where none was.
const LEAST: u64 = 16 * 1024;

/// Whether a message may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Enough,
    TooLittle,
    /// The queue does not say; the answer to the message will.
    Unknown,
}

#[derive(Debug)]
pub(super) struct Questions {
    path: PathBuf,
    patience: Duration,
    known: Mutex<Option<Known>>,
    /// One question at a time; the others wait for its answer.
    asking: tokio::sync::Mutex<()>,
}

/// What the queue said about room; `None` when it did not answer.
#[derive(Clone, Copy, Debug)]
struct Known {
    at: Instant,
    octets: Option<u64>,
}

impl Questions {
    pub(super) fn new(path: PathBuf, patience: Duration) -> Self {
        Self { path, patience, known: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    /// What became of a message whose end was written and not answered, because of `lost`. Asks the
    /// queue that comes back until it answers or the patience ends.
    pub(super) async fn outcome(&self, token: &Token, lost: io::Error) -> Result<Answer, HandoffError> {
        tracing::warn!(event = "handoff_unanswered", error = %lost, reason = "asking the queue what became of the message");
        let (deadline, mut pause) = (Instant::now() + self.patience, SHORT);
        let mut question = Vec::new();
        wire::put_ask(&mut question, token);
        while Instant::now() < deadline {
            match self.ask(&question, deadline).await {
                Ok(Said::Answer(answer @ Answer::Accepted(_))) => return Ok(answer),
                Ok(Said::Absent) => return Err(HandoffError::Lost(lost)),
                Ok(Said::Answer(Answer::Refused(_)) | Said::Room(_)) => return Err(HandoffError::Unanswered(lost)),
                // One line for the message is enough: hundreds may wait for a queue that is away for minutes.
                Err(error) => tracing::debug!(event = "handoff_unanswered", error = %error, reason = "asking again"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONG);
        }
        Err(HandoffError::Unanswered(lost))
    }

    /// Whether a message of that size may come in, as far as the queue said a moment ago.
    pub(super) async fn room(&self, declared: Option<u64>) -> Room {
        let octets = match self.fresh() {
            Some(known) => known.octets,
            None => self.ask_for_room().await,
        };
        match octets {
            Some(octets) if octets < declared.unwrap_or(0).saturating_add(LEAST) => Room::TooLittle,
            Some(_) => Room::Enough,
            None => Room::Unknown,
        }
    }

    /// A message was refused for want of room. A smaller one may still come in, so the queue is asked again.
    pub(super) fn doubt(&self) {
        *self.known() = None;
    }

    async fn ask_for_room(&self) -> Option<u64> {
        let _one = self.asking.lock().await;
        if let Some(known) = self.fresh() {
            return known.octets;
        }
        let mut question = Vec::new();
        wire::put_room(&mut question);
        let octets = match self.ask(&question, Instant::now() + ROOM_PATIENCE).await {
            Ok(Said::Room(octets)) => Some(octets),
            Ok(Said::Answer(_) | Said::Absent) | Err(_) => None,
        };
        self.learn(octets);
        octets
    }

    fn fresh(&self) -> Option<Known> {
        self.known().filter(|it| it.at.elapsed() < FRESH)
    }

    fn learn(&self, octets: Option<u64>) {
        *self.known() = Some(Known { at: Instant::now(), octets });
    }

    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, question: &[u8], deadline: Instant) -> Result<Said, HandoffError> {
        let connected = timeout_at(deadline, UnixStream::connect(&self.path)).await;
        let connected = connected.map_err(|_| io::ErrorKind::TimedOut.into()).and_then(|it| it);
        let mut stream = connected.map_err(HandoffError::Unreachable)?;
        let written = timeout_at(deadline, stream.write_all(question)).await;
        written.map_err(|_| io::ErrorKind::TimedOut.into()).and_then(|it| it).map_err(HandoffError::Cut)?;
        Ok(hear(stream, deadline).await?.0)
    }
}
