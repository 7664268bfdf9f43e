//! The asker's connections to the key process: a stopped or restarted one must not stop the asker.
//!
//! Invariant: no question takes longer than [`LIMIT`], whatever the other side does; and the thread that asks is
//! held for [`INLINE`] at most before tokio is told to let others run. A connection on which anything went wrong
//! is closed, never used again: an answer that comes late can reach nobody else.
//!
//! Connections wait in one pool, not one for each thread: `block_in_place` makes threads come and go, and the
//! number of connections then follows the handshakes in progress, not the threads there have been.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::runtime::{Handle, RuntimeFlavor};
use zeroize::Zeroizing;

use super::wire::{Answer, Question, Reason};

/// A signature takes a fraction of a millisecond (RSA: two): within this time most answers are there.
const INLINE: Duration = Duration::from_millis(5);
/// A peer waits for its handshake; longer than this it is better told no.
const LIMIT: Duration = Duration::from_secs(2);
/// Questions that may wait aside at once: each holds a thread, and a handshake beyond them fails at once, so that a key
/// process that stands still takes no thread from established sessions.
const ASIDE: usize = 64;
/// Connections that wait for the next question.
const IDLE: usize = 32;

/// Why the key process did not give what was asked.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("the key process is not there ({path}): {source}")]
    Away { path: PathBuf, source: io::Error },
    #[error("the key process did not answer within {} s", LIMIT.as_secs())]
    Slow,
    #[error("the key process refused: {0}")]
    Refused(#[from] Reason),
    #[error("the key process answered nonsense: {0}")]
    Nonsense(String),
    #[error("the question was given up")]
    GivenUp,
}

#[derive(Debug)]
pub(super) struct Link {
    path: PathBuf,
    idle: Mutex<Vec<UnixStream>>,
    /// Questions that wait for longer than [`INLINE`].
    late: AtomicUsize,
}

/// Whether tokio has been told that this thread will not come back soon.
#[derive(Clone, Copy)]
enum Wait {
    Inline,
    Aside,
}

/// What went wrong on one connection.
enum Broken {
    /// The other side is gone: worth a fresh connection.
    Gone(io::Error),
    Final(KeysError),
}

impl Link {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::new(Vec::new()), late: AtomicUsize::new(0) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Asks, on a waiting connection first and once more on a fresh one.
    pub(super) fn ask(&self, question: &Question) -> Result<Answer, KeysError> {
        let frame = question.encode();
        let until = Instant::now() + LIMIT;

        if let Some(stream) = self.waiting() {
            match self.exchange(stream, &frame, until) {
                Ok(answer) => return Ok(answer),
                Err(Broken::Gone(_)) => self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear(),
                Err(Broken::Final(error)) => return Err(error),
            }
        }
        // A process that was restarted while the question lay in its backlog resets even a fresh connection once.
        let mut last = io::Error::from(io::ErrorKind::NotConnected);
        for _ in 0..2 {
            let attempt = self.connect(until).and_then(|stream| self.exchange(stream, &frame, until));
            match attempt {
                Ok(answer) => return Ok(answer),
                Err(Broken::Gone(error)) => last = error,
                Err(Broken::Final(error)) => return Err(error),
            }
        }
        Err(KeysError::Away { path: self.path.clone(), source: last })
    }

    fn waiting(&self) -> Option<UnixStream> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn keep(&self, stream: UnixStream) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE {
            idle.push(stream);
        }
    }

    /// A connection that gives up connecting too: the backlog of a stopped process fills.
    fn connect(&self, until: Instant) -> Result<UnixStream, Broken> {
        let attempt = |patience: Duration| -> io::Result<UnixStream> {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.set_write_timeout(Some(patience))?;
            socket.connect(&SockAddr::unix(&self.path)?)?;
            socket.set_read_timeout(Some(INLINE))?;
            Ok(UnixStream::from(std::os::fd::OwnedFd::from(socket)))
        };
        match attempt(INLINE) {
            Ok(stream) => Ok(stream),
            Err(error) if is_timeout(&error) => aside(|| attempt(left(until)?))
                .map_err(|error| if is_timeout(&error) { Broken::Final(KeysError::Slow) } else { Broken::Gone(error) }),
            Err(error) => Err(Broken::Gone(error)),
        }
    }

    fn exchange(&self, stream: UnixStream, frame: &[u8], until: Instant) -> Result<Answer, Broken> {
        // While others wait for long, this one would too: it does not try inline, which costs a worker thread 5 ms.
        let first = if self.late.load(Ordering::Relaxed) == 0 { Some(talk(&stream, frame, until, Wait::Inline)) } else { None };
        let crowded = self.late.load(Ordering::Relaxed) >= ASIDE;
        let answer = match first {
            None if crowded => return Err(Broken::Final(KeysError::Slow)),
            Some(Err(error)) if is_timeout(&error) && crowded => return Err(Broken::Final(KeysError::Slow)),
            None => self.patiently(|| talk(&stream, frame, until, Wait::Aside)),
            Some(Err(error)) if is_timeout(&error) => self.patiently(|| talk(&stream, &[], until, Wait::Aside)),
            Some(other) => other,
        };
        match answer {
            Ok(answer) => {
                self.keep(stream);
                Ok(answer)
            }
            Err(error) if is_timeout(&error) => Err(Broken::Final(KeysError::Slow)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(Broken::Final(KeysError::Nonsense(error.to_string()))),
            Err(error) => Err(Broken::Gone(error)),
        }
    }

    /// Blocks aside, and lets others know that questions take long now.
    fn patiently<T>(&self, work: impl FnOnce() -> T) -> T {
        self.late.fetch_add(1, Ordering::Relaxed);
        let result = aside(work);
        self.late.fetch_sub(1, Ordering::Relaxed);
        result
    }
}

/// Sends the question, if any is left to send, and reads the answer.
///
/// A time-out inline happens before the first byte of the answer, or else the answer is lost with the connection:
/// the frame comes in one write, and a process stopped in the middle of one is not worth more care than that.
fn talk(mut stream: &UnixStream, frame: &[u8], until: Instant, wait: Wait) -> io::Result<Answer> {
    match wait {
        Wait::Inline => {} // the time-out every waiting connection has
        Wait::Aside => stream.set_read_timeout(Some(left(until)?))?,
    }
    if !frame.is_empty() {
        stream.write_all(frame)?;
    }
    let mut head = [0; 5];
    let count = stream.read(&mut head)?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    stream.read_exact(head.get_mut(count..).unwrap_or_default()).map_err(cut_short)?;
    let (kind, length) = Answer::head(head)?;
    let mut body = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut body).map_err(cut_short)?;
    match wait {
        Wait::Inline => {}
        Wait::Aside => stream.set_read_timeout(Some(INLINE))?,
    }
    Ok(Answer::decode(kind, &body)?)
}

/// A time-out in the middle of an answer is no time-out to wait on: the place in the stream is lost.
fn cut_short(error: io::Error) -> io::Error {
    if is_timeout(&error) { io::ErrorKind::UnexpectedEof.into() } else { error }
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Blocks, after telling tokio (where there is one that can be told) to move its other work elsewhere.
fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        Ok(_) | Err(_) => work(),
    }
}
