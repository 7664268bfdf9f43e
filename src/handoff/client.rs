//! The front end's side of the hand-off: a pool of connections, each lent to one message at a time.
//!
//! Invariant: an end is written to one connection only. A message that is still whole in memory (up to 64 KiB) may
//! meet a connection that the queue closed long ago; writing then fails, the queue cannot have read the end, and the
//! message goes once more to a fresh connection. Once the end is written and no answer comes, the queue is asked what it
//! made of the message (`questions`); there is never a second attempt.
//!
//! A small message takes a connection only for its one write and one read, so a slow client cannot hold one; a large
//! message holds one from its 64th KiB, or from the start if it was announced, to its end. Large messages share their
//! connections by user and by network, and leave some to small ones. Whoever finds none hears so at once, because the
//! client can come back and a waiting session helps nobody. Dropping a `Transfer` closes what it holds: nothing is queued.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use pamrelay_authwire::network;

use super::questions::{Questions, Room};
use super::shares::{Share, Shares};
use super::wire::{self, CHUNK_LIMIT, HEADER, Heard, Said};
use super::{Answer, Opening, Refused, Token};

/// What is gathered before a connection is taken.
const GATHER: usize = 64 * 1024;

/// A pause of a client while connections are scarce. Nobody has to pause for longer in the middle of a text.
const CROWDED_PAUSE: Duration = Duration::from_secs(30);

/// How much of the queue one front end may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once: each is a message on its way.
    pub connections: usize,
    /// Those of them that only small messages may have.
    pub for_small: usize,
    /// Large messages of one user, or of one network, at once.
    pub each: usize,
    /// Connections kept open while nothing is on its way.
    pub idle: usize,
    /// How long a message that may have a connection waits for one. Those that hold one for a moment give it back sooner.
    pub wait: Duration,
    /// How long to wait for the queue to take what is written, and then for its answer.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 512, for_small: 64, each: 112, idle: 32, wait: Duration::from_secs(2), patience: Duration::from_secs(120) }
    }
}

/// Why there is no answer. Each of them but `Unanswered` is 451 4.3.0 to the client.
#[derive(Debug, thiserror::Error)]
pub enum HandoffError {
    #[error("the queue cannot be reached: {0}")]
    Unreachable(#[source] io::Error),
    #[error("as many messages as permitted are on their way to the queue, in all or from this user or network")]
    Busy,
    #[error("the queue closed the connection in the middle of a message: {0}")]
    Cut(#[source] io::Error),
    /// The message is not queued.
    #[error("the queue lost the message: {0}")]
    Lost(#[source] io::Error),
    /// Nothing may be said to the client (RFC 5321 §4.2.5).
    #[error("the queue did not answer, so the message may or may not be queued: {0}")]
    Unanswered(#[source] io::Error),
    #[error("the queue's answer makes no sense")]
    Nonsense,
    #[error("the envelope is longer than the queue takes")]
    Envelope,
}

/// Connections to the queue, shared by all sessions of the front end.
#[derive(Clone, Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    limits: Limits,
    idle: Mutex<Vec<UnixStream>>,
    room: Arc<Semaphore>,
    large: Arc<Shares<Holder>>,
    questions: Questions,
}

/// Whom a large message counts for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Holder {
    User(String),
    Network(IpAddr),
}

/// A connection, for the length of one message.
struct Link {
    stream: UnixStream,
    _room: OwnedSemaphorePermit,
}

/// One message on its way to the queue.
pub struct Transfer {
    shared: Arc<Shared>,
    token: Token,
    /// Not yet written: on the first connection everything, later what came since the last write.
    buffer: Vec<u8>,
    /// Where the last chunk began, if it can still grow.
    chunk: Option<usize>,
    link: Option<Link>,
    holders: Vec<Holder>,
    /// What a large message has of those of its user and network.
    share: Option<Share<Holder>>,
}

/// How long a message holds the connection that it is about to take.
#[derive(Clone, Copy)]
enum Hold {
    /// For one write and one answer.
    Shortly,
    /// As long as the client likes.
    ForTheText,
}

impl Pool {
    /// Opens nothing yet; the queue may come later.
    pub fn new(path: impl Into<PathBuf>, limits: Limits) -> Self {
        let room = Arc::new(Semaphore::new(limits.connections));
        let large = Shares::new(limits.connections.saturating_sub(limits.for_small).max(1), limits.each);
        let path = path.into();
        let questions = Questions::new(path.clone(), limits.patience);
        Self { shared: Arc::new(Shared { path, limits, idle: Mutex::default(), room, large, questions }) }
    }

    /// Whether a message of that size may come in, so that its client hears of it at MAIL.
    pub async fn room(&self, declared: Option<u64>) -> Room {
        self.shared.questions.room(declared).await
    }

    /// Starts a message of `user`. What the queue thinks of the opening is in its answer, after the end.
    pub async fn begin(&self, opening: &Opening, user: &str) -> Result<Transfer, HandoffError> {
        let mut buffer = Vec::with_capacity(1024);
        let token = Token::fresh();
        if !wire::put_opening(&mut buffer, opening, &token) {
            return Err(HandoffError::Envelope);
        }
        let holders = vec![Holder::User(user.to_owned()), Holder::Network(network(opening.trace.peer.ip()))];
        let mut transfer = Transfer { shared: Arc::clone(&self.shared), token, buffer, chunk: None, link: None, holders, share: None };
        if opening.declared_size.is_some_and(|size| size >= GATHER as u64) {
            transfer.share()?;
        }
        if transfer.buffer.len() >= GATHER {
            transfer.flush(Hold::ForTheText).await?;
        }
        Ok(transfer)
    }
}

impl Shared {
    /// Room for one more message on its way.
    async fn room(&self) -> Result<OwnedSemaphorePermit, HandoffError> {
        match timeout(self.limits.wait, Arc::clone(&self.room).acquire_owned()).await {
            Ok(Ok(room)) => Ok(room),
            Ok(Err(_)) | Err(_) => Err(HandoffError::Busy),
        }
    }

    async fn connect(&self, deadline: Instant) -> Result<UnixStream, HandoffError> {
        let connected = timeout_at(deadline, UnixStream::connect(&self.path)).await;
        connected.map_err(|_| io::ErrorKind::TimedOut.into()).and_then(|it| it).map_err(HandoffError::Unreachable)
    }

    fn pooled(&self) -> Option<UnixStream> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give_back(&self, stream: UnixStream) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.limits.idle {
            idle.push(stream);
        }
    }
}

impl Transfer {
    /// Adds to the body: the message's own octets, without dot-stuffing.
    pub async fn chunk(&mut self, mut bytes: &[u8]) -> Result<(), HandoffError> {
        while !bytes.is_empty() {
            let at = *self.chunk.get_or_insert_with(|| wire::open_chunk(&mut self.buffer));
            let room = CHUNK_LIMIT - (self.buffer.len() - at - HEADER);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if now.len() == room {
                self.end_chunk();
            }
            if self.buffer.len() >= GATHER {
                self.flush(Hold::ForTheText).await?;
            }
        }
        Ok(())
    }

    /// How long its client may pause now: `longest`, or less while others wait for the connection that it holds.
    pub fn pause(&self, longest: Duration) -> Duration {
        if self.share.is_some() && self.shared.large.are_scarce() { longest.min(CROWDED_PAUSE) } else { longest }
    }

    /// Takes one of the connections for large messages, unless it has one or its user or network has its share.
    fn share(&mut self) -> Result<(), HandoffError> {
        if self.share.is_none() {
            self.share = Some(self.shared.large.take(self.holders.clone()).ok_or(HandoffError::Busy)?);
        }
        Ok(())
    }

    /// Ends the message and hears what became of it.
    pub async fn finish(mut self) -> Result<Answer, HandoffError> {
        self.end_chunk();
        wire::put_end(&mut self.buffer);
        self.flush(Hold::Shortly).await?;
        let Some(link) = self.link.take() else { return Err(HandoffError::Nonsense) };
        let deadline = Instant::now() + self.shared.limits.patience;
        let (said, stream) = match hear(link.stream, deadline).await {
            Ok(heard) => heard,
            Err(HandoffError::Unanswered(error)) => return self.shared.questions.outcome(&self.token, error).await,
            Err(error) => return self.shared.questions.outcome(&self.token, io::Error::other(error)).await,
        };
        let Said::Answer(answer) = said else { return Err(HandoffError::Nonsense) };
        self.shared.give_back(stream);
        if answer == Answer::Refused(Refused::Full) {
            self.shared.questions.doubt();
        }
        Ok(answer)
    }

    fn end_chunk(&mut self) {
        if let Some(at) = self.chunk.take() {
            wire::close_frame(&mut self.buffer, at);
        }
    }

    /// Writes what was gathered. Only the first write of a message may meet a stale connection.
    async fn flush(&mut self, hold: Hold) -> Result<(), HandoffError> {
        self.end_chunk();
        let deadline = Instant::now() + self.shared.limits.patience;
        if self.link.is_none() {
            match hold {
                Hold::Shortly => {}
                Hold::ForTheText => self.share()?,
            }
            let room = self.shared.room().await?;
            let stream = self.first_write(deadline).await?;
            self.link = Some(Link { stream, _room: room });
        } else if let Some(link) = &mut self.link {
            write(&mut link.stream, &self.buffer, deadline).await.map_err(HandoffError::Cut)?;
        }
        self.buffer.clear();
        Ok(())
    }

    /// Writes the start of the message, or all of it, to a pooled connection or else to a fresh one.
    async fn first_write(&self, deadline: Instant) -> Result<UnixStream, HandoffError> {
        while let Some(mut stream) = self.shared.pooled() {
            // An error means that not everything was written. The end comes last, so the queue has not seen it.
            if write(&mut stream, &self.buffer, deadline).await.is_ok() {
                return Ok(stream);
            }
        }
        let mut stream = self.shared.connect(deadline).await?;
        write(&mut stream, &self.buffer, deadline).await.map_err(HandoffError::Cut)?;
        Ok(stream)
    }
}

async fn write(stream: &mut UnixStream, bytes: &[u8], deadline: Instant) -> io::Result<()> {
    timeout_at(deadline, stream.write_all(bytes)).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Reads exactly one answer; the connection is good for another message afterwards.
pub(super) async fn hear(mut stream: UnixStream, deadline: Instant) -> Result<(Said, UnixStream), HandoffError> {
    // One octet more than an answer has, so that a second one is noticed.
    let mut bytes = [0; wire::ANSWER_LIMIT + 1];
    let mut filled = 0;
    loop {
        let space = bytes.get_mut(filled..).unwrap_or_default();
        let read = timeout_at(deadline, stream.read(space)).await;
        match read.map_err(|_| io::ErrorKind::TimedOut.into()).and_then(|it| it) {
            Ok(0) => return Err(HandoffError::Unanswered(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => filled += count,
            Err(error) => return Err(HandoffError::Unanswered(error)),
        }
        match wire::hear(bytes.get(..filled).unwrap_or_default()) {
            Heard::Said(said) => return Ok((said, stream)),
            Heard::Part => {}
            Heard::Nonsense => return Err(HandoffError::Nonsense),
        }
    }
}
