//! Receives the text after DATA and hands it to the queue while it comes.
//!
//! Whatever is wrong with it, the text is read to its end, so that no line of it is taken for a command; and a
//! client that goes away in the middle leaves nothing behind.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::Client;
use super::wire::{Closed, Wire};
use crate::handoff::{Answer, HandoffError, Opening, Proof, Room, Transfer};
use crate::message::hops::Hops;
use crate::message::trace::{Protocol, Trace};
use crate::session::transaction::{Received, Receiving};
use crate::session::{Admitting, Session, Who};
use crate::smtp::data::Decoder;
use crate::smtp::envelope::International;
use crate::smtp::reply::{Refusal, Reply};

/// Octets of text that go to the queue at a time.
const CHUNK: usize = 32 * 1024;

/// Room for the text of most messages.
const SMALL: usize = 6 * 1024;
/// Octets in a second that a text must have beyond one pause: the slowest line that anybody sends mail over.
const SLOWEST: u64 = 1024;

/// How often a pause is compared with what may be paused now.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// A text on its way to the queue, until something is wrong with it.
enum Way {
    Open(Transfer),
    Refused(Refusal),
}

impl Way {
    /// How long the client may pause now; `longest` if nobody else waits for its connection.
    fn pause(&self, longest: Duration) -> Duration {
        match self {
            Self::Open(transfer) => transfer.pause(longest),
            Self::Refused(_) => longest,
        }
    }
}

impl Client<'_> {
    pub(super) async fn receive<S>(&mut self, wire: &mut Wire<S>, receiving: Receiving) -> Result<(Session, Reply), Closed>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut way = match self.world.queue.begin(&self.opening(&receiving), receiving.client.user.user()).await {
            Ok(transfer) => Way::Open(transfer),
            Err(error) => return Ok(receiving.settle(Received::Refused(self.unavailable(&error)))),
        };
        wire.say(&Reply::GO_AHEAD);
        wire.flush(way.pause(self.world.limits.command_timeout)).await?;
        let begun = Instant::now();
        let (mut decoder, mut hops, mut text, mut size) = (Decoder::default(), Hops::default(), Vec::with_capacity(SMALL), 0_u64);
        loop {
            let before = text.len();
            let ended = wire.decode(&mut decoder, &mut text);
            let fresh = text.get(before..).unwrap_or_default();
            size += fresh.len() as u64;
            hops.read(fresh);
            if size > self.world.site.message_size {
                way = Way::Refused(Refusal::TOO_LARGE);
                text.clear();
            }
            if ended || text.len() >= CHUNK {
                way = self.pass(way, &mut text).await;
            }
            if ended {
                break;
            }
            if size > self.world.site.message_size.saturating_mul(2) {
                return Err(wire.close(&Refusal::TOO_LARGE.into()).await);
            }
            self.more_text(wire, &way, begun, size).await?;
        }
        let received = match way {
            Way::Refused(refusal) => Received::Refused(refusal),
            Way::Open(transfer) => match decoder.verdict() {
                Err(fault) => Received::Refused(fault.into()),
                Ok(()) if hops.too_many() => Received::Refused(Refusal::LOOP),
                Ok(()) => self.finish(transfer).await?,
            },
        };
        if matches!(received, Received::Queued(_)) {
            self.faults = 0;
        }
        self.log_received(&receiving, &received, size);
        Ok(receiving.settle(received))
    }

    fn opening(&self, receiving: &Receiving) -> Opening {
        let Receiving { client, envelope, declared } = receiving;
        let protocol = match envelope.international {
            International::Ascii => Protocol::Esmtpsa,
            International::Utf8 => Protocol::Utf8Smtpsa,
        };
        Opening {
            session: self.id,
            proof: Proof::Ticket(client.user.ticket().to_vec()),
            envelope: envelope.clone(),
            declared_size: *declared,
            trace: Trace {
                helo: client.hello.clone(),
                peer: self.peer,
                protocol,
                tls: Some(client.tls.to_string()),
                host: self.world.site.host.clone(),
            },
        }
    }

    /// Hands over what was decoded; a queue that fails now is told to the client at the end of the text.
    async fn pass(&self, way: Way, text: &mut Vec<u8>) -> Way {
        let way = match way {
            Way::Open(mut transfer) => match transfer.chunk(text).await {
                Ok(()) => Way::Open(transfer),
                Err(error) => Way::Refused(self.unavailable(&error)),
            },
            Way::Refused(refusal) => Way::Refused(refusal),
        };
        text.clear();
        way
    }

    /// When nobody knows what became of the message, the connection ends without a reply: any reply could be wrong
    /// (RFC 5321 §4.2.5), and a client without one tries again.
    async fn finish(&self, transfer: Transfer) -> Result<Received, Closed> {
        match transfer.finish().await {
            Ok(Answer::Accepted(id)) => Ok(Received::Queued(id)),
            Ok(Answer::Refused(refused)) => Ok(Received::Refused(refused.into())),
            Err(error @ HandoffError::Unanswered(_)) => {
                tracing::error!(event = "handoff_failed", session = %self.id, error = %error);
                Err(Closed::Undecided)
            }
            Err(error) => Ok(Received::Refused(self.unavailable(&error))),
        }
    }

    /// What the client hears of MAIL.
    pub(super) fn admit(&self, admitting: Admitting, room: Room) -> (Session, Reply) {
        if room == Room::TooLittle {
            tracing::warn!(event = "no_room", session = %self.id, peer = %self.peer.ip(), reason = "the disk of the queue is full");
        }
        admitting.settle(room)
    }

    /// Waits for more of the text. A client that drips holds its way to the queue no longer than one at the slowest rate
    /// would. While connections to the queue are scarce, a text that holds one may pause for a short time only; that is
    /// looked at again and again, because it may become so during the pause.
    async fn more_text<S>(&self, wire: &mut Wire<S>, way: &Way, begun: Instant, size: u64) -> Result<(), Closed>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let now = Instant::now();
        loop {
            let longest = self.world.limits.data_timeout;
            let pause = way.pause(longest);
            let slowest = begun + pause + Duration::from_secs(size / SLOWEST);
            let (until, refusal) = self.patience(Who::User, slowest.min(now + pause));
            let look = until.min(Instant::now() + LOOK_AGAIN);
            match tokio::time::timeout_at(look, wire.fill_text(size)).await {
                Ok(read) => return read,
                Err(_) if look < until => {}
                Err(_) => return Err(wire.close(&refusal.into()).await),
            }
        }
    }

    fn unavailable(&self, error: &HandoffError) -> Refusal {
        if matches!(error, HandoffError::Busy) {
            tracing::warn!(event = "handoff_crowded", session = %self.id, peer = %self.peer.ip(), error = %error);
            return Refusal::QUEUE_UNAVAILABLE;
        }
        tracing::error!(event = "handoff_failed", session = %self.id, error = %error);
        Refusal::QUEUE_UNAVAILABLE
    }

    fn log_received(&self, receiving: &Receiving, received: &Received, size: u64) {
        let Receiving { client, envelope, .. } = receiving;
        let (user, peer, rcpts) = (client.user.user(), self.peer.ip(), envelope.recipients().len());
        match received {
            // The queue says so, with the session's id.
            Received::Queued(_) => {}
            Received::Refused(Refusal(reply)) => {
                tracing::info!(event = "refused", session = %self.id, user, peer = %peer, from = %envelope.sender, rcpts, size, code = reply.code, reason = %reply.text);
            }
        }
    }
}
