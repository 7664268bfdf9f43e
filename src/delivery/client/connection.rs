//! One connection to a server: moves octets for `Transaction`, many messages one after the other.
//!
//! The end of a message's data is the point of no return. Before it went out the message can go elsewhere; after it, only
//! a reply says what happened, and without one the outcome is unknown.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::content::{Outgoing, Pieces, prepare};
use super::dialer::within;
use super::features::Features;
use super::reply::{Meaning, Owed, Progress, Replies, Reply, skip_empty_lines};
use super::stream::Stream;
use super::stuffing::Stuffing;
use super::transaction::{Stage, State, Step, Transaction};
use super::trouble::{Kind, Trouble};
use crate::delivery::parcel::Parcel;

/// Content is sent in writes of about this size.
const WRITE: usize = 64 * 1024;

/// A connection is not used for longer, so that mail returns to a preferred host that is back.
pub(crate) const LIFETIME: Duration = Duration::from_secs(300);

/// The slowest transfer of a content that goes on, in octets a second. The slots for connections
/// are shared by all domains.
const SLOWEST: u64 = 1024;

/// How long a server may take (RFC 5321 §4.5.3.2). Each limit is for the whole of what it names,
/// however many pieces that comes in: a server that sends an octet a minute gains nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    pub handshake: Duration,
    /// For the banner and for each command but DATA.
    pub command: Duration,
    pub data: Duration,
    /// For each block of content to go out.
    pub block: Duration,
    /// From the end of the content to its reply.
    pub end: Duration,
    /// To get ready for the first MAIL, second connections without a certificate or TLS included.
    pub opening: Duration,
    /// From a message's first command to the reply to DATA, which is more than one command may take
    /// and less than all may.
    pub dialogue: Duration,
    /// For the rest of a reply whose first line has no code. Most servers that write such a line do
    /// not speak SMTP.
    pub odd: Duration,
    /// For QUIT's reply.
    pub quit: Duration,
    /// For a smart host's secret.
    pub secret: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            handshake: Duration::from_secs(60),
            command: Duration::from_secs(300),
            data: Duration::from_secs(120),
            block: Duration::from_secs(180),
            end: Duration::from_secs(600),
            opening: Duration::from_secs(600),
            dialogue: Duration::from_secs(1200),
            odd: Duration::from_secs(30),
            quit: Duration::from_secs(5),
            secret: Duration::from_secs(10),
        }
    }
}

pub(crate) struct Connection {
    stream: Option<Stream>,
    input: BytesMut,
    out: Vec<u8>,
    replies: Replies,
    features: Features,
    stuffing: Stuffing,
    timeouts: Timeouts,
    state: State,
    /// Messages answered so far.
    answered: u64,
    closing: Closing,
    since: Instant,
    label: String,
    tls: String,
}

/// Whether the connection ends after this message: the server announced that it hangs up (RFC 5321
/// §3.8), or takes no mail without TLS or a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    NotSaid,
    Said,
}

/// A parcel on this connection.
pub(crate) struct Attempt {
    pub(crate) parcel: Parcel,
    outgoing: Outgoing,
    pub(crate) transaction: Transaction,
}

/// The connection is gone, in the middle of a message.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) trouble: Trouble,
    pub(crate) end_of_data: EndOfData,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndOfData {
    NotSent,
    Sent,
}

impl Connection {
    pub(crate) fn new(label: String, timeouts: Timeouts) -> Self {
        Self {
            stream: None,
            input: BytesMut::new(),
            out: Vec::new(),
            replies: Replies::default(),
            features: Features::default(),
            stuffing: Stuffing::new(),
            timeouts,
            state: State::Clean,
            answered: 0,
            closing: Closing::NotSaid,
            since: Instant::now(),
            label,
            tls: "none".to_owned(),
        }
    }

    pub(crate) fn attach(&mut self, stream: Stream) {
        self.stream = Some(stream);
    }

    /// Takes the stream out for the handshake. Octets that came behind the reply to STARTTLS were put there by somebody who
    /// wants them read as if they had come through TLS: the connection ends (RFC 3207 §5, CVE-2011-0411).
    pub(crate) fn detach_clear(&mut self) -> Result<TcpStream, Trouble> {
        if !self.input.is_empty() {
            return Err(Trouble::security("the server sent more than its reply to STARTTLS before the handshake"));
        }
        match self.stream.take() {
            Some(Stream::Clear(stream)) => Ok(stream),
            Some(Stream::Encrypted(_)) | None => Err(Trouble::protocol("TLS was begun twice")),
        }
    }

    pub(crate) fn set_tls(&mut self, tls: String) {
        self.tls = tls;
    }

    /// The opening is over. A server that has said more than it was asked for is out of step.
    pub(crate) fn ready(&mut self, features: Features) -> Result<(), Trouble> {
        // Where lines without a code stand in front of replies, each reply needs its own command.
        let pipelining = features.pipelining && !self.replies.have_been_odd();
        self.features = Features { pipelining, ..features };
        skip_empty_lines(&mut self.input);
        if self.input.is_empty() { Ok(()) } else { Err(Trouble::protocol("the server spoke out of turn")) }
    }

    /// The last reply, and the buffer for what is said to it.
    pub(crate) fn reply_and_out(&mut self) -> (Reply<'_>, &mut Vec<u8>) {
        (self.replies.current(), &mut self.out)
    }

    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    pub(crate) fn tls(&self) -> &str {
        &self.tls
    }

    /// Whether no message was answered on it yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.answered == 0
    }

    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Whether the server has said nothing beyond its replies. One that has is out of step and cannot be trusted with another message.
    pub(crate) fn is_quiet(&mut self) -> bool {
        skip_empty_lines(&mut self.input);
        self.input.is_empty()
    }

    pub(crate) fn closing(&self) -> Closing {
        self.closing
    }

    /// Puts a parcel's first flight into the buffer; it goes out with the next write.
    pub(crate) async fn begin(&mut self, parcel: Parcel) -> Result<Attempt, (Parcel, Trouble)> {
        let (outgoing, needs) = match prepare(parcel.job(), self.features).await {
            Ok(prepared) => prepared,
            Err(error) => return Err((parcel, Trouble::content(&error))),
        };
        // A connection that broke under this parcel may have done so because its replies were not
        // told apart.
        let features = Features { pipelining: self.features.pipelining && parcel.losses == 0, ..self.features };
        let transaction = Transaction::begin(parcel.job(), parcel.recipients(), features, needs, self.state, &mut self.out);
        Ok(Attempt { parcel, outgoing, transaction })
    }

    /// Carries an attempt that was begun to its end. With the content, another parcel's first flight may go out: `more` gives
    /// one, and it is found begun in `next` afterwards, whether the connection was lost or not.
    pub(crate) async fn carry(
        &mut self,
        attempt: &mut Attempt,
        more: impl Fn() -> Option<Parcel>,
        next: &mut Option<Result<Attempt, (Parcel, Trouble)>>,
    ) -> Result<(), Lost> {
        let begun = Instant::now();
        let mut end_of_data = EndOfData::NotSent;
        let mut step = if matches!(attempt.transaction.stage(), Stage::Done(_)) { Step::Done } else { Step::Send };
        loop {
            match step {
                Step::Done => break,
                Step::Leave(trouble) => {
                    // A server that wants TLS or a login has taken nothing. What any other
                    // misplaced reply means is unknown.
                    let end_of_data = if trouble.kind == Kind::Channel { EndOfData::NotSent } else { end_of_data };
                    return Err(Lost { trouble, end_of_data });
                }
                Step::Read => {}
                Step::Send => {
                    let limit = self.timeouts.command.min(self.timeouts.dialogue.saturating_sub(begun.elapsed()));
                    self.flush(limit).await.map_err(|trouble| Lost { trouble, end_of_data })?;
                }
                Step::Content => {
                    if let Err(trouble) = self.content(attempt).await {
                        // A server that takes no more may say why before it hangs up or stops
                        // reading.
                        let limit = self.timeouts.quit;
                        let said =
                            matches!(trouble.kind, Kind::Lost | Kind::Slow) && self.read_reply(limit, "a reply", Owed::One).await.is_ok();
                        let reply = self.replies.current();
                        if !said || matches!(reply.meaning(), Meaning::Yes | Meaning::More | Meaning::Nonsense) {
                            return Err(Lost { trouble, end_of_data });
                        }
                        self.closing = Closing::Said;
                        step = attempt.transaction.reply(&reply, attempt.parcel.job(), attempt.parcel.recipients(), &mut self.out);
                        continue;
                    }
                    // The next MAIL, RCPT and DATA ride behind the content (RFC 2920 §3.1): the end leaves the server clean.
                    if self.features.pipelining
                        && self.age() < LIFETIME
                        && !attempt.transaction.is_barred()
                        && let Some(parcel) = more()
                    {
                        self.state = State::Clean;
                        *next = Some(self.begin(parcel).await);
                    }
                    end_of_data = EndOfData::Sent;
                    self.flush(self.timeouts.block).await.map_err(|trouble| Lost { trouble, end_of_data })?;
                }
            }
            let owed = if next.is_some() { Owed::Several } else { attempt.transaction.owed() };
            let read = match attempt.transaction.stage() {
                Stage::Rset | Stage::Mail | Stage::Rcpt => self.read_in_dialogue(begun, self.timeouts.command, owed).await,
                Stage::Data => self.read_in_dialogue(begun, self.timeouts.data, owed).await,
                Stage::Content | Stage::LoneDot | Stage::Done(_) => self.read_reply(self.timeouts.end, "a reply", owed).await,
            };
            read.map_err(|trouble| Lost { trouble, end_of_data })?;
            let reply = self.replies.current();
            if reply.is(421) {
                self.closing = Closing::Said;
                if end_of_data == EndOfData::NotSent {
                    return Err(Lost { trouble: Trouble::of_reply("a command", &reply), end_of_data });
                }
            }
            if begun.elapsed() > self.timeouts.dialogue / 2 {
                attempt.transaction.hurry();
            }
            step = attempt.transaction.reply(&reply, attempt.parcel.job(), attempt.parcel.recipients(), &mut self.out);
        }
        if let Stage::Done(state) = attempt.transaction.stage() {
            self.state = state;
        }
        if attempt.transaction.is_barred() {
            self.closing = Closing::Said;
        }
        self.answered += 1;
        Ok(())
    }

    /// A reply to a command of a message that began at `begun`; all of them together have a limit
    /// too.
    async fn read_in_dialogue(&mut self, begun: Instant, limit: Duration, owed: Owed) -> Result<(), Trouble> {
        let all = self.timeouts.dialogue;
        let left = all.saturating_sub(begun.elapsed());
        let read = self.read_reply(limit.min(left), "a reply", owed).await;
        match read {
            Err(trouble) if trouble.kind == Kind::Slow && left < limit => Err(Trouble::slow("the commands of one message", all)),
            read => read,
        }
    }

    /// Sends what is in the buffer.
    pub(crate) async fn flush(&mut self, limit: Duration) -> Result<(), Trouble> {
        if self.out.is_empty() {
            return Ok(());
        }
        let Some(stream) = &mut self.stream else { return Err(Trouble::lost(None)) };
        let sent = within(limit, "sending", stream.write(&self.out)).await;
        self.out.clear();
        sent?.map_err(|error| Trouble::lost(Some(&error)))
    }

    /// Reads until a reply is complete, within `limit` from now; it is then the current one.
    pub(crate) async fn read_reply(&mut self, limit: Duration, doing: &str, owed: Owed) -> Result<(), Trouble> {
        let deadline = Instant::now() + limit;
        while self.replies.take(&mut self.input, owed)? == Progress::NeedsMore {
            let Some(stream) = &mut self.stream else { return Err(Trouble::lost(None)) };
            let left = deadline.saturating_duration_since(Instant::now());
            let is_odd = self.replies.is_odd();
            let left = if is_odd { left.min(self.timeouts.odd) } else { left };
            let trouble = match timeout(left, stream.read(&mut self.input)).await {
                Ok(Ok(1..)) => continue,
                Ok(Ok(0)) => Trouble::lost(None),
                Ok(Err(error)) => Trouble::lost(Some(&error)),
                Err(_) if is_odd => Trouble::protocol("the server sent what is no SMTP reply"),
                Err(_) => Trouble::silent(doing, limit),
            };
            return Err(match self.replies.unfinished() {
                Some(words) => trouble.after(&words),
                None => trouble,
            });
        }
        Ok(())
    }

    /// Comes back when the server says something or hangs up, which an idle server should not.
    pub(crate) async fn disturbed(&mut self) {
        if let Some(stream) = &mut self.stream
            && self.input.is_empty()
        {
            // Whatever it is, the connection is not used again.
            let _ = stream.read(&mut self.input).await;
        }
    }

    /// Ends politely, without waiting long.
    pub(crate) async fn quit(mut self) {
        self.out.clear();
        self.out.extend_from_slice(b"QUIT\r\n");
        let limit = self.timeouts.quit;
        if self.flush(limit).await.is_ok()
            && self.read_reply(limit, "QUIT", Owed::One).await.is_ok()
            && let Some(stream) = &mut self.stream
        {
            let _ = within(limit, "closing", stream.close()).await;
        }
    }

    /// Sends the content up to its last part, fast enough for its size.
    async fn content(&mut self, attempt: &Attempt) -> Result<(), Trouble> {
        let limit = self.timeouts.block + Duration::from_secs(attempt.outgoing.size / SLOWEST);
        timeout(limit, self.send_content(attempt)).await.map_err(|_| Trouble::slow("sending the message", limit))?
    }

    /// Stuffs the content into the buffer and sends it; the last part, with the end, stays in the
    /// buffer.
    async fn send_content(&mut self, attempt: &Attempt) -> Result<(), Trouble> {
        self.stuffing.restart();
        let mut pieces = Pieces::of(&attempt.parcel.job().content, &attempt.outgoing);
        while let Some(piece) = pieces.next().await.map_err(|error| Trouble::content(&error))? {
            if self.out.len() + piece.len() > WRITE {
                self.flush(self.timeouts.block).await?;
            }
            self.stuffing.copy(piece, &mut self.out);
        }
        self.stuffing.finish(&mut self.out);
        Ok(())
    }
}
