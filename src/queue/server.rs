//! The hand-off socket: connections from the front end, one message after another on each.
//!
//! Invariant: only peers whose uid is in `Peers` are read from (SO_PEERCRED). One answer follows each end or question, and
//! nothing else is ever written. What does not decode closes the connection and leaves nothing behind. The front end may
//! be in other hands: the memory that frames take is bounded for all connections together, and a front end that does not
//! read its answer keeps no message from delivery.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::accept::Door;
use super::store::QueueStore;
use crate::handoff::wire::{self, Frame, FrameError, Said};
use crate::handoff::{Answer, Opening, Token};

/// Connections at once; the front end keeps itself to fewer.
const CONNECTIONS: usize = 1024;
/// Silence in the middle of a message, longer than the front end can be told to allow its clients (`limits.data_timeout`, an
/// hour at most).
const SILENCE: Duration = Duration::from_secs(65 * 60);
/// An opening is in the front end's memory when it is sent, so it comes at once or not at all.
const OPENING: Duration = Duration::from_secs(30);
/// Openings above 64 KiB that may be in memory at once; others wait for one of them to be decoded.
const LONG_OPENINGS: usize = 16;
/// How long a front end may take to read an answer. It waits for it, so it needs no time at all.
const ANSWER: Duration = if cfg!(test) { Duration::from_secs(1) } else { Duration::from_secs(10) };
/// What messages on their way get when the role ends.
const GRACE: Duration = Duration::from_secs(5);
/// Octets read at once.
const READ: usize = 16 * 1024;
/// A buffer that grew beyond this goes with its message.
const KEEP: usize = 64 * 1024;

/// Uids that may connect.
#[derive(Clone, Debug)]
pub struct Peers(pub Vec<u32>);

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("a frame out of order")]
    Order,
    #[error("silent in the middle of a message")]
    Silent,
    #[error("an opening that does not come to its end")]
    Slow,
    #[error("it does not read its answers")]
    Deaf,
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The front end's client went away, or it died: nothing is queued.
    #[error("gone in the middle of a message")]
    Cut,
    #[error("it cannot be known what became of the message")]
    Unknown,
}

/// Serves until `stop` is true, then lets what is on its way finish for a while.
pub async fn serve<S: QueueStore>(listener: UnixListener, door: Arc<Door<S>>, peers: Peers, mut stop: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let long = Arc::new(Semaphore::new(LONG_OPENINGS));
    let mut conversations = JoinSet::new();
    loop {
        let next = async {
            let room = Arc::clone(&room).acquire_owned().await.map_err(io::Error::other)?;
            let (stream, _) = listener.accept().await?;
            Ok::<_, io::Error>((stream, room))
        };
        let accepted = tokio::select! {
            accepted = next => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, room)) if peers.include(&stream) => {
                let (door, long, stop) = (Arc::clone(&door), Arc::clone(&long), stop.clone());
                conversations.spawn(async move {
                    let _room = room;
                    if let Err(ended) = converse(stream, &door, &long, stop).await {
                        tracing::info!(event = "handoff_ended", reason = %ended);
                    }
                });
            }
            Ok(_) => {} // `include` has logged why
            Err(error) => {
                // Too many open files, as a rule. The connection stays in the backlog until there is one.
                tracing::error!(event = "handoff_accept", error = %error);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while conversations.try_join_next().is_some() {}
    }
    drop(listener);
    let all = async { while conversations.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, all).await.is_err() {
        tracing::warn!(event = "handoff_cut", reason = "the role ends and these messages are not finished");
    }
}

impl Peers {
    pub(super) fn include(&self, stream: &UnixStream) -> bool {
        match stream.peer_cred() {
            Ok(peer) if self.0.contains(&peer.uid()) => true,
            Ok(peer) => {
                tracing::warn!(event = "peer_refused", uid = peer.uid(), pid = peer.pid());
                false
            }
            Err(error) => {
                tracing::warn!(event = "peer_refused", error = %error);
                false
            }
        }
    }
}

async fn converse<S: QueueStore>(
    mut stream: UnixStream,
    door: &Door<S>,
    long: &Semaphore,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Ended> {
    let mut buffer = BytesMut::new();
    let mut answer = Vec::with_capacity(wire::ANSWER_LIMIT);
    loop {
        let asked = tokio::select! {
            biased;
            asked = next_request(&mut stream, &mut buffer, long) => match asked? {
                Some(asked) => asked,
                None => return Ok(()),
            },
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        shrink(&mut buffer);
        answer.clear();
        let mut intake = match asked {
            Asked::Message(opening, token) => door.open(*opening, token),
            Asked::Find(token) => {
                let found = door.find(token).await;
                wire::put_said(&mut answer, found.map_or(Said::Absent, |id| Said::Answer(Answer::Accepted(id))));
                say(&mut stream, &answer).await?;
                continue;
            }
            Asked::Room => {
                wire::put_said(&mut answer, Said::Room(door.room_left()));
                say(&mut stream, &answer).await?;
                continue;
            }
        };
        let finished = loop {
            let frame = tokio::time::timeout(SILENCE, next_frame(&mut stream, &mut buffer)).await.map_err(|_| Ended::Silent)?;
            match frame? {
                Some(Frame::Chunk(bytes)) => intake.chunk(bytes).await,
                Some(Frame::End) => break intake.finish().await.ok_or(Ended::Unknown)?,
                Some(Frame::Opening(..) | Frame::Ask(_) | Frame::Room) => return Err(Ended::Order),
                None => return Err(Ended::Cut),
            }
        };
        wire::put_said(&mut answer, Said::Answer(finished.answer()));
        let written = say(&mut stream, &answer).await;
        drop(finished); // only now it goes to delivery
        written?;
        shrink(&mut buffer);
    }
}

async fn say(stream: &mut UnixStream, answer: &[u8]) -> Result<(), Ended> {
    Ok(tokio::time::timeout(ANSWER, stream.write_all(answer)).await.map_err(|_| Ended::Deaf)??)
}

/// Gives back what a long frame needed.
fn shrink(buffer: &mut BytesMut) {
    if buffer.capacity() > KEEP {
        *buffer = BytesMut::from(&buffer[..]);
    }
}

/// What a front end begins with.
enum Asked {
    Message(Box<Opening>, Token),
    /// Whether this message is in.
    Find(Token),
    Room,
}

/// The next opening or question; `None` when the peer closed between two messages. A connection may be idle before its first
/// octet, for as long as it likes; from there on it may not.
async fn next_request(stream: &mut UnixStream, buffer: &mut BytesMut, long: &Semaphore) -> Result<Option<Asked>, Ended> {
    if buffer.is_empty() && read(stream, buffer).await? == 0 {
        return Ok(None);
    }
    let frame = async {
        while !wire::is_long(buffer) {
            if let Some(frame) = wire::take_frame(buffer)? {
                return Ok(Some(frame));
            }
            if read(stream, buffer).await? == 0 {
                return Err(Ended::Cut);
            }
        }
        let _one = long.acquire().await.map_err(io::Error::other)?;
        next_frame(stream, buffer).await
    };
    match tokio::time::timeout(OPENING, frame).await.map_err(|_| Ended::Slow)?? {
        Some(Frame::Opening(opening, token)) => Ok(Some(Asked::Message(opening, token))),
        Some(Frame::Ask(token)) => Ok(Some(Asked::Find(token))),
        Some(Frame::Room) => Ok(Some(Asked::Room)),
        Some(Frame::Chunk(_) | Frame::End) => Err(Ended::Order),
        None => Err(Ended::Cut),
    }
}

async fn read(stream: &mut UnixStream, buffer: &mut BytesMut) -> io::Result<usize> {
    buffer.reserve(wire::missing(buffer).max(READ));
    stream.read_buf(buffer).await
}

/// The next whole frame; `None` when the peer closed between two frames.
async fn next_frame(stream: &mut UnixStream, buffer: &mut BytesMut) -> Result<Option<Frame>, Ended> {
    loop {
        if let Some(frame) = wire::take_frame(buffer)? {
            return Ok(Some(frame));
        }
        if read(stream, buffer).await? == 0 {
            return if buffer.is_empty() { Ok(None) } else { Err(Ended::Cut) };
        }
    }
}
