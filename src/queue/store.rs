//! What a durable queue must be able to do, whatever it is made of.
//!
//! Invariants, which the conformance suite holds every store to:
//! 1. `accept` answers `Ok` only when message and body would survive a power cut.
//! 2. A claimed message is given out to nobody else until it is settled with a new time, finished, or unclaimed; claims
//!    die with their holder.
//! 3. A settlement is all or nothing: recipients, next attempt and report become durable together.
//! 4. A message that cannot be read whole is set aside and told of, never skipped or deleted in silence.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::message::{Message, NewMessage, Progress, Timing};
use super::moment::Moment;
use crate::delivery::job::{Account, RecipientNo};
use crate::handoff::{QueueId, Token};
use crate::smtp::envelope::Envelope;

/// Bodies below this stay in memory until they are accepted; larger ones go to a draft as they come.
pub const SMALL_BODY: usize = 64 * 1024;

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("there is no room left in the spool")]
    Full,
    #[error("the store has ended")]
    Closed,
    #[error("cannot {what} {}: {source}", path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("the database failed: {0}")]
    Database(String),
}

/// A durable queue.
pub trait QueueStore: Send + Sync + 'static {
    type Draft: Draft;

    /// Whether so many octets may come in now: `Full` early, so that settlements always find room.
    fn room_for(&self, octets: u64) -> Result<(), StoreError>;

    /// How many octets may come in now.
    fn room(&self) -> Result<u64, StoreError>;

    /// The newest messages that were handed over, at most `limit`, so that nobody who asks for one hears that it is lost.
    fn recent(&self, limit: usize) -> impl Future<Output = Result<Vec<(Token, QueueId)>, StoreError>> + Send;

    /// Begins a large body.
    fn draft(&self) -> impl Future<Output = Result<Self::Draft, StoreError>> + Send;

    /// Takes responsibility for a message: once this is `Ok`, 250 may be said (RFC 5321 §6.1).
    fn accept(&self, new: NewMessage, body: NewBody<Self::Draft>, claim: Claim)
    -> impl Future<Output = Result<Message, StoreError>> + Send;

    /// Claims messages that are due, the longest due first, with their contents.
    fn claim_due(&self, query: DueQuery) -> impl Future<Output = Result<Due, StoreError>> + Send;

    /// Gives a claimed message back as it is.
    fn unclaim(&self, id: QueueId);

    /// Records deliveries in the middle of an attempt; the claim goes on. Not waited for: it is durable soon, and before
    /// any later settlement of the message. What is written grows with `delivered`, not with the message.
    fn note(&self, id: QueueId, delivered: &[Noted]);

    /// Records what an attempt made of a claimed message. A message that was deleted meanwhile stays deleted, and its
    /// report is not written. Gives the id of the report.
    fn settle(&self, settlement: Settlement<Self::Draft>) -> impl Future<Output = Result<Option<QueueId>, StoreError>> + Send;

    /// Up to `limit` messages after `after`, in the order of their ids.
    fn page(&self, after: Option<QueueId>, limit: usize) -> impl Future<Output = Result<Vec<Entry>, StoreError>> + Send;

    /// One message, with its content.
    fn inspect(&self, id: QueueId) -> impl Future<Output = Result<Option<(Message, Hold)>, StoreError>> + Send;

    /// Changes those of `ids` that exist and tells which they were.
    fn alter(&self, ids: Vec<QueueId>, change: Change) -> impl Future<Output = Result<Vec<QueueId>, StoreError>> + Send;
}

/// A recipient that was delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    pub no: RecipientNo,
    /// What a success report that is not written yet has to say.
    pub owed: Option<Account>,
}

/// A large body being written. Dropped without being accepted, it leaves nothing behind.
pub trait Draft: Send + 'static {
    fn write(&mut self, bytes: Bytes) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// The body of a message to accept.
#[derive(Debug)]
pub enum NewBody<D> {
    Small(Bytes),
    Large(D),
}

/// Whether the one who accepts will also deliver at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    Mine,
    Leave,
}

#[derive(Clone)]
pub struct DueQuery {
    pub now: Moment,
    /// No pause is longer than this: what is due later was put there by a wrong clock and is due now.
    pub horizon: Duration,
    pub limit: usize,
    /// Goes on behind what an earlier look came to.
    from: Option<Reached>,
    admit: Option<Arc<Admit>>,
}

/// Whether a message is wanted now; if not, it stays as it is. The number is how many octets of its
/// body would come into memory.
pub type Admit = dyn Fn(QueueId, &Envelope, &Progress, u64) -> bool + Send + Sync;

/// How far a look came in the order of `due`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    pub due: Moment,
    pub id: QueueId,
}

impl DueQuery {
    /// For all messages from the start.
    pub fn new(now: Moment, horizon: Duration, limit: usize) -> Self {
        Self { now, horizon, limit, from: None, admit: None }
    }

    pub fn only(self, admit: Arc<Admit>) -> Self {
        Self { admit: Some(admit), ..self }
    }

    pub fn from(self, from: Option<Reached>) -> Self {
        Self { from, ..self }
    }

    pub(super) fn beginning(&self) -> Option<Reached> {
        self.from
    }

    pub(super) fn admits(&self) -> Option<&Admit> {
        self.admit.as_deref()
    }
}

/// Messages that are due, now claimed, and when the next one will be.
#[derive(Debug, Default)]
pub struct Due {
    pub messages: Vec<Message>,
    pub next: Option<Moment>,
    /// Where to go on, when so many were passed over that the look ended before the last.
    pub rest: Option<Reached>,
}

/// What to record about a claimed message.
#[derive(Debug)]
pub struct Settlement<D> {
    pub id: QueueId,
    pub then: Then,
    pub report: Option<(NewMessage, NewBody<D>)>,
}

#[derive(Debug)]
pub enum Then {
    /// To be tried again at `timing.due`; the claim ends.
    Retry { progress: Progress, timing: Timing },
    /// Nobody is left: the message goes.
    Finished,
}

/// A message as a listing shows it.
#[derive(Clone, Debug)]
pub struct Entry {
    pub id: QueueId,
    pub author: super::message::Author,
    pub envelope: Envelope,
    pub timing: Timing,
    pub progress: Progress,
    pub size: u64,
    pub hold: Hold,
    pub claimed: Claimed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    Free,
    /// An administrator's word: not tried until released.
    Held,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    No,
    /// Being delivered now.
    Yes,
}

/// What an administrator may do to messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Hold,
    /// Free again, and due at this moment.
    Release(Moment),
    /// Due at this moment, unless held.
    Retry(Moment),
    Delete,
}

/// Brings a body that is whole in memory into the form that `accept` takes.
pub async fn new_body<S: QueueStore>(store: &S, bytes: Bytes) -> Result<NewBody<S::Draft>, StoreError> {
    if bytes.len() < SMALL_BODY {
        return Ok(NewBody::Small(bytes));
    }
    let mut draft = store.draft().await?;
    draft.write(bytes).await?;
    Ok(NewBody::Large(draft))
}
