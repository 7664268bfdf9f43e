//! The front end's way to ask root about one password.
//!
//! One connection carries one question and one answer, then both sides close, so an answer that comes late has
//! nobody to be credited to. Whatever is doubtful (no helper, a wrong peer, a frame that does not decode, silence)
//! is *unavailable*, never *accept*.

mod answer;
mod password;
#[cfg(test)]
mod tests;

use std::io::{self, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recvmsg};
use pamrelay_authwire::{MAX_PASSWORD, MAX_STATEMENT, MAX_USER, MAX_VERDICT, Order, Question, QuestionFrame, Statement, Verdict};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

pub use answer::{Answer, Identity, Trouble};
pub use password::Password;

/// The pause before another try while the helper's backlog is full.
const CROWDED: Duration = Duration::from_millis(20);

/// Where the helper listens, and how long a question may take in all.
#[derive(Clone, Debug)]
pub struct Helper {
    path: PathBuf,
    deadline: Duration,
    /// The only uid whose word counts.
    uid: u32,
}

/// Where a client came from, and in which session.
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    /// What the ticket will be bound to.
    pub session: u64,
    pub peer: IpAddr,
    /// The name of the listener; empty for none in particular.
    pub listener: &'a str,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("cannot reach the helper: {0}")]
    Unreachable(io::Error),
    #[error("the process behind the helper's socket is uid {0}, not root")]
    Impostor(u32),
    #[error("the helper went away: {0}")]
    Cut(io::Error),
    #[error("the helper's answer makes no sense")]
    Nonsense,
    #[error("the helper did not answer within {0:?}")]
    TimedOut(Duration),
}

impl Helper {
    /// The real helper is root.
    pub fn new(path: PathBuf, deadline: Duration) -> Self {
        Self::served_by(path, deadline, 0)
    }

    /// A helper that some other uid plays, in tests that are not run by root.
    pub fn served_by(path: PathBuf, deadline: Duration, uid: u32) -> Self {
        Self { path, deadline, uid }
    }

    /// May `user`, with this password, from there, send?
    pub async fn ask(&self, visit: Visit<'_>, user: &[u8], password: Password) -> Answer {
        let Visit { session, peer, listener } = visit;
        let Some(frame) = frame(session, peer, listener, user, password.as_bytes()) else {
            return Answer::Unavailable(Trouble::NoAnswer(AuthError::Nonsense)); // a listener's name is never too long
        };
        drop(password);
        let verdict = self.exchange(frame.as_bytes(), MAX_VERDICT).await;
        match verdict.map(|bytes| Verdict::decode(&bytes).filter(|verdict| verdict.id == session)) {
            Ok(Some(verdict)) => Answer::from(verdict.outcome),
            Ok(None) => Answer::Unavailable(Trouble::NoAnswer(AuthError::Nonsense)),
            Err(error) => Answer::Unavailable(Trouble::NoAnswer(error)),
        }
    }

    /// What the helper says of itself. It answers root alone.
    pub async fn order(&self, order: &Order) -> Result<Statement, AuthError> {
        let frame = order.encode().ok_or(AuthError::Nonsense)?;
        let bytes = self.exchange(&frame, MAX_STATEMENT).await?;
        Statement::decode(&bytes).ok_or(AuthError::Nonsense)
    }

    /// One frame there, and all that comes back.
    async fn exchange(&self, frame: &[u8], longest: usize) -> Result<Vec<u8>, AuthError> {
        timeout(self.deadline, self.converse(frame, longest)).await.unwrap_or(Err(AuthError::TimedOut(self.deadline)))
    }

    async fn converse(&self, frame: &[u8], longest: usize) -> Result<Vec<u8>, AuthError> {
        let mut stream = self.connect().await.map_err(AuthError::Unreachable)?;
        let uid = stream.peer_cred().map_err(AuthError::Unreachable)?.uid();
        if uid != self.uid {
            return Err(AuthError::Impostor(uid));
        }
        stream.write_all(frame).await.map_err(AuthError::Cut)?;
        hear(&stream, longest).await
    }

    /// A full backlog is told at once on a Unix socket, and passes: the deadline bounds the wait.
    async fn connect(&self) -> io::Result<UnixStream> {
        loop {
            match UnixStream::connect(&self.path).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(CROWDED).await,
                reached => return reached,
            }
        }
    }
}

/// One question to a connection: its id can be the session's. What is too long for a frame is asked all the same, in a form
/// that the helper refuses, so that it is refused in the time of any other: a name with a NUL, no password.
fn frame(session: u64, peer: IpAddr, listener: &str, user: &[u8], password: &[u8]) -> Option<QuestionFrame> {
    let mut cut = user.to_vec();
    if user.len() > MAX_USER {
        cut.truncate(MAX_USER - 1);
        cut.push(0);
    }
    let password = if password.len() > MAX_PASSWORD { b"" } else { password };
    Question { id: session, session, peer: Question::peer_bytes(peer), listener, user: &cut, password }.encode()
}

/// All that is said until the end, though no more than makes it too much. What came with descriptors is no answer; there
/// is no room for them here, so the kernel closes them and says so.
async fn hear(stream: &UnixStream, longest: usize) -> Result<Vec<u8>, AuthError> {
    let mut bytes = Vec::with_capacity(512);
    let mut piece = [0; 512];
    while bytes.len() <= longest {
        stream.readable().await.map_err(AuthError::Cut)?;
        let received = stream.try_io(Interest::READABLE, || {
            let mut parts = [IoSliceMut::new(&mut piece)];
            let received = recvmsg::<()>(stream.as_raw_fd(), &mut parts, None, MsgFlags::MSG_DONTWAIT)?;
            Ok((received.bytes, received.flags.contains(MsgFlags::MSG_CTRUNC)))
        });
        match received {
            Ok((_, true)) => return Err(AuthError::Nonsense),
            Ok((0, false)) if bytes.is_empty() => return Err(AuthError::Cut(io::ErrorKind::UnexpectedEof.into())),
            Ok((0, false)) => break,
            Ok((count, false)) => bytes.extend_from_slice(piece.get(..count).unwrap_or_default()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(AuthError::Cut(error)),
        }
    }
    Ok(bytes)
}
