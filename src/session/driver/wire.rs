//! A client's stream with what was read and not yet understood, and what is to be said and not yet sent.
//!
//! An idle session keeps one KiB: memory for a text is taken when it comes and given back after it.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::input::Input;
use crate::smtp::data::{Decoder, Progress};
use crate::smtp::line::{Cut, Lines};
use crate::smtp::reply::Reply;

/// Octets read at a time while commands are expected.
const COMMAND_BUFFER: usize = 1024;
/// Octets read at a time while a text is received: most texts are small, and the others come in whole TLS records.
const SMALL_TEXT_BUFFER: usize = 6 * 1024;
const TEXT_BUFFER: usize = 16 * 1024;
/// From here on a text is not small.
const LARGE_TEXT: u64 = 8 * 1024;
/// How long a last reply may take to leave.
const FAREWELL: Duration = Duration::from_secs(5);

/// The conversation is over; nobody's fault.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    #[error("the client went away")]
    ByPeer,
    /// With our last words.
    #[error("{0}")]
    ByUs(Cow<'static, str>),
    #[error("the client does not take our reply")]
    Deaf,
    /// Without a reply.
    #[error("what became of the message is not known")]
    Undecided,
    #[error("{0}")]
    Error(io::Error),
}

impl From<io::Error> for Closed {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::ByPeer, // without a farewell in TLS, as many clients go
            _ => Self::Error(error),
        }
    }
}

pub(super) struct Wire<S> {
    stream: S,
    input: Input,
    /// What the memory of `input` was last made for.
    room: Room,
    output: String,
    lines: Lines,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    Commands,
    Text,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, input: Input::default(), room: Room::Commands, output: String::new(), lines: Lines::default() }
    }

    pub(super) fn into_stream(self) -> S {
        self.stream
    }

    pub(super) fn cut(&mut self, limit: usize) -> Cut<'_> {
        self.lines.cut(self.input.unread(), limit)
    }

    /// Decodes what is there as text after DATA; true at its end.
    pub(super) fn decode(&mut self, decoder: &mut Decoder, text: &mut Vec<u8>) -> bool {
        let (consumed, ended) = match decoder.decode(self.input.unread(), text) {
            Progress::More => (self.input.unread().len(), false),
            Progress::End { consumed } => (consumed, true),
        };
        self.input.consume(consumed);
        ended
    }

    /// Drops the front of the input, which may hold a password, and wipes it.
    pub(super) fn forget(&mut self, consumed: usize) {
        self.input.consume(consumed);
    }

    pub(super) fn input_is_empty(&self) -> bool {
        self.input.is_empty()
    }

    /// A TLS handshake record where a command should be.
    pub(super) fn starts_like_tls(&self) -> bool {
        self.input.unread().starts_with(&[0x16, 0x03])
    }

    pub(super) fn say(&mut self, reply: &Reply) {
        reply.write(&mut self.output);
    }

    /// Sends all that was said, in one write.
    pub(super) async fn flush(&mut self, patience: Duration) -> Result<(), Closed> {
        if self.output.is_empty() {
            return Ok(());
        }
        let send = async {
            self.stream.write_all(self.output.as_bytes()).await?;
            self.stream.flush().await
        };
        tokio::time::timeout(patience, send).await.map_err(|_| Closed::Deaf)??;
        self.output.clear();
        Ok(())
    }

    /// Reads some more of what the client has to say.
    pub(super) async fn fill(&mut self) -> Result<(), Closed> {
        self.rest();
        self.read(COMMAND_BUFFER / 2).await
    }

    /// The same with room for a text, of which `size` octets have come.
    pub(super) async fn fill_text(&mut self, size: u64) -> Result<(), Closed> {
        self.room = Room::Text;
        self.read(if size < LARGE_TEXT { SMALL_TEXT_BUFFER } else { TEXT_BUFFER }).await
    }

    async fn read(&mut self, room: usize) -> Result<(), Closed> {
        match self.input.fill(&mut self.stream, room).await? {
            0 => Err(Closed::ByPeer),
            _ => Ok(()),
        }
    }

    /// Gives back large buffers before waiting for a client that may be idle for long.
    fn rest(&mut self) {
        if self.input.is_empty() && (self.room == Room::Text || self.input.capacity() > 2 * COMMAND_BUFFER) {
            self.input = Input::with_capacity(COMMAND_BUFFER);
            self.room = Room::Commands;
        }
        if self.output.is_empty() && self.output.capacity() > COMMAND_BUFFER {
            self.output = String::new();
        }
    }

    /// Says a last reply and ends the stream; a client that does not listen is not waited for.
    pub(super) async fn close(&mut self, reply: &Reply) -> Closed {
        self.say(reply);
        if let Err(closed) = self.flush(FAREWELL).await {
            return closed;
        }
        let _ = tokio::time::timeout(FAREWELL, self.stream.shutdown()).await;
        Closed::ByUs(reply.text.clone())
    }
}
