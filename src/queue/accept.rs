//! The door: the one place where a message that somebody sends becomes ours.
//!
//! ```text
//! opening ─▶ proof ─▶ size, room ─▶ Small ──64 KiB──▶ Large ─▶ end ─▶ store.accept ─▶ Accepted(id)
//!               └───────────┴───────────┴───────────────┴──────▶ Declined ─▶ end ─▶ Refused(why)
//! ```
//!
//! Invariant: `Answer::Accepted` is made in `Intake::finish`, from an id that `QueueStore::accept` gave; the front
//! end's word about who sends is never believed, only the ticket's; what it checks of an envelope is checked again. A
//! message takes at most 64 KiB of memory here beside its envelope, and envelopes share a fixed amount, of which one user
//! has a quarter at most. A refused message is read to its end, so that the connection stays good for the next; nothing of
//! it is kept meanwhile.

use std::sync::Arc;

use bytes::Bytes;
use jiff::tz::TimeZone;
use tokio::sync::{Notify, mpsc};

use super::footprint;
use super::message::{Arrival, Author, Message, NewMessage};
use super::moment::Moment;
use super::places::{Place, Places, domains};
use super::receipts::Receipts;
use super::store::{Claim, Draft as _, NewBody, QueueStore, SMALL_BODY, StoreError};
use super::tickets::{TicketBook, TicketError};
use crate::handoff::bounds::{self, Beyond};
use crate::handoff::shares::{Share, Shares};
use crate::handoff::{Answer, Opening, Proof, QueueId, Refused, Token};
use crate::message::message_id::MessageId;
use crate::message::trace::Trace;
use crate::smtp::SessionId;
use crate::smtp::envelope::Envelope;

/// Octets of body beyond which nothing is taken.
#[derive(Clone, Copy, Debug)]
pub struct SizeLimit(pub u64);

/// Recipients of one message beyond which it is not taken.
#[derive(Clone, Copy, Debug)]
pub struct RecipientLimit(pub usize);

/// Messages of one user that may be coming in at once: no fewer than the front end has connections, which keeps each user
/// to fewer large ones.
const OF_ONE_USER: usize = 512;
/// Messages of all users that may be coming in at once: as many as there can be connections.
const OF_ALL: usize = 1024;
/// Octets of envelopes that may be in memory while their texts come in, in KiB.
const ENVELOPES: usize = 64 * 1024;
/// Those of one user. Some of the largest ones fit, and whoever lets their texts drip leaves room to the others.
const ENVELOPES_OF_ONE_USER: usize = ENVELOPES / 4;

/// How much of a large body comes in before the disk is asked for room again.
const STRIDE: u64 = 256 * 1024;

/// Takes messages in. One for the role, shared by its connections.
#[derive(Debug)]
pub struct Door<S> {
    store: Arc<S>,
    tickets: TicketBook,
    limit: SizeLimit,
    most_recipients: RecipientLimit,
    zone: TimeZone,
    active: Active,
    users: Arc<Shares<String>>,
    envelopes: Arc<Shares<String>>,
    receipts: Receipts,
}

/// The way from the door to delivery: what is accepted while there is room goes out from memory.
#[derive(Clone, Debug)]
pub struct Active {
    /// One for each message in memory.
    pub(super) places: Arc<Places>,
    pub(super) fresh: mpsc::UnboundedSender<Fresh>,
    /// Something waits in the store that was not there before.
    pub(super) look: Arc<Notify>,
}

/// A message that was just accepted, claimed, with its place in memory.
#[derive(Debug)]
pub struct Fresh {
    pub(super) message: Message,
    pub(super) place: Place,
}

/// One message coming in.
pub(super) struct Intake<'a, S: QueueStore> {
    door: &'a Door<S>,
    session: SessionId,
    token: Token,
    size: u64,
    message_id: MessageId,
    state: State<S>,
}

/// What is kept of a message while its text comes in.
struct Coming {
    author: Author,
    envelope: Envelope,
    trace: Trace,
    _room: Room,
}

/// What a message that is coming in takes from the others.
struct Room {
    _of_user: Share<String>,
    _envelope: Share<String>,
}

/// A message that is declined has nothing here: its sender may take an hour to come to its end.
enum State<S: QueueStore> {
    Small {
        coming: Box<Coming>,
        body: Vec<u8>,
    },
    /// `asked` is the size at which the disk was last asked for room.
    Large {
        coming: Box<Coming>,
        draft: S::Draft,
        asked: u64,
    },
    Declined(Refused),
}

impl<S: QueueStore> Door<S> {
    pub(super) fn new(
        store: Arc<S>,
        tickets: TicketBook,
        (limit, most_recipients): (SizeLimit, RecipientLimit),
        zone: TimeZone,
        active: Active,
        receipts: Receipts,
    ) -> Self {
        let (users, envelopes) = (Shares::new(OF_ALL, OF_ONE_USER), Shares::new(ENVELOPES, ENVELOPES_OF_ONE_USER));
        Self { store, tickets, limit, most_recipients, zone, active, users, envelopes, receipts }
    }

    /// Looks at the opening; whatever comes of it is said after the end.
    pub(super) fn open(&self, opening: Opening, token: Token) -> Intake<'_, S> {
        let session = opening.session;
        let state = match self.admit(&opening) {
            Ok((author, room)) => {
                let Opening { envelope, trace, .. } = opening;
                State::Small { coming: Box::new(Coming { author, envelope, trace, _room: room }), body: Vec::new() }
            }
            Err(refused) => {
                tracing::info!(event = "declined", session = %session, from = %opening.envelope.sender, reason = ?refused);
                State::Declined(refused)
            }
        };
        Intake { door: self, session, token, size: 0, message_id: MessageId::default(), state }
    }

    fn admit(&self, opening: &Opening) -> Result<(Author, Room), Refused> {
        let session = opening.session;
        let Proof::Ticket(ticket) = &opening.proof;
        let author = self.tickets.author(ticket, session, Moment::now()).map_err(|error| {
            tracing::warn!(event = "ticket_refused", session = %session, from = %opening.envelope.sender, reason = %error);
            match error {
                // The keys may have changed a moment ago, or cannot be read: that is not the sender's fault.
                TicketError::UnknownKey => Refused::Fault,
                TicketError::Expired => Refused::LoginExpired,
                TicketError::Malformed | TicketError::Forged | TicketError::OtherSession => Refused::NotPermitted,
            }
        })?;
        bounds::check(opening, self.most_recipients.0).map_err(|beyond| {
            tracing::error!(event = "opening_refused", session = %session, reason = %beyond, hint = "the front end checks this; look whether it is still ours");
            match beyond {
                // The limit may have changed a moment ago.
                Beyond::Recipients(_) => Refused::Fault,
                Beyond::Twice | Beyond::Literal | Beyond::Number => Refused::NotPermitted,
            }
        })?;
        let room = self.room(&author, opening)?;
        let declared = opening.declared_size.unwrap_or(0);
        if declared > self.limit.0 {
            return Err(Refused::TooLarge);
        }
        let cost = declared.saturating_add(footprint::disk(&opening.envelope));
        self.store.room_for(cost).map_err(|error| refusal(&error, session))?;
        Ok((author, room))
    }

    /// Room for one more message of this user, whatever the front end thinks.
    fn room(&self, author: &Author, opening: &Opening) -> Result<Room, Refused> {
        let user = match author {
            Author::User { user, .. } => user.clone(),
            Author::Report { .. } => String::new(),
        };
        let of_user = self.users.take(vec![user.clone()]);
        let octets = footprint::incoming(&opening.envelope);
        let envelope = self.envelopes.take_together(vec![user], usize::try_from(octets / 1024 + 1).unwrap_or(usize::MAX));
        match (of_user, envelope) {
            (Some(of_user), Some(envelope)) => Ok(Room { _of_user: of_user, _envelope: envelope }),
            (_, _) => {
                tracing::warn!(event = "door_crowded", session = %opening.session, reason = "too many messages are coming in");
                Err(Refused::Fault)
            }
        }
    }
}

impl<'a, S: QueueStore> Intake<'a, S> {
    /// Takes in some of the body.
    pub(super) async fn chunk(&mut self, bytes: Bytes) {
        self.size = self.size.saturating_add(bytes.len() as u64);
        self.message_id.read(&bytes);
        if self.size > self.door.limit.0 {
            self.decline(Refused::TooLarge);
        }
        let written = match &mut self.state {
            State::Declined(_) => Ok(()),
            State::Small { body, .. } if body.len() + bytes.len() < SMALL_BODY => {
                body.extend_from_slice(&bytes);
                Ok(())
            }
            State::Small { .. } => self.grow(bytes).await,
            State::Large { draft, asked, .. } => {
                let room = if self.size - *asked >= STRIDE {
                    *asked = self.size;
                    self.door.store.room_for(STRIDE)
                } else {
                    Ok(())
                };
                match room {
                    Ok(()) => draft.write(bytes).await,
                    Err(error) => Err(error),
                }
            }
        };
        if let Err(error) = written {
            self.decline(refusal(&error, self.session));
        }
    }

    /// The text goes on, and nobody wants it any more.
    fn decline(&mut self, refused: Refused) {
        if let State::Small { coming, .. } | State::Large { coming, .. } = &self.state {
            tracing::info!(event = "declined", session = %self.session, from = %coming.envelope.sender, size = self.size, reason = ?refused);
            self.state = State::Declined(refused);
        }
    }

    /// The body does not fit in memory any more.
    async fn grow(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.door.store.room_for(SMALL_BODY as u64)?;
        let mut draft = self.door.store.draft().await?;
        if let State::Small { body, .. } = &mut self.state {
            draft.write(Bytes::from(std::mem::take(body))).await?;
        }
        draft.write(bytes).await?;
        self.state = match std::mem::replace(&mut self.state, State::Declined(Refused::Fault)) {
            State::Small { coming, .. } => State::Large { coming, draft, asked: self.size },
            other @ (State::Large { .. } | State::Declined(_)) => other,
        };
        Ok(())
    }

    /// Accepts the message, which has come whole; nowhere else is one accepted. `None` means that nobody can know whether it
    /// was, so the front end hears nothing either.
    pub(super) async fn finish(self) -> Option<Finished<'a, S>> {
        let (coming, body) = match self.state {
            State::Declined(refused) => return Some(Finished::refused(self.door, refused)),
            State::Small { coming, body } => (coming, NewBody::Small(Bytes::from(body))),
            State::Large { coming, draft, .. } => (coming, NewBody::Large(draft)),
        };
        let session = self.session;
        let Coming { author, envelope, trace, _room } = *coming;
        let Some(pending) = self.door.receipts.begin(self.token) else {
            tracing::warn!(event = "not_accepted", session = %session, reason = "the front end has asked for it and heard that it is absent");
            return Some(Finished::refused(self.door, Refused::Fault));
        };
        let peer = trace.peer;
        let in_memory = match &body {
            NewBody::Small(bytes) => bytes.len() as u64,
            NewBody::Large(_) => 0,
        };
        let place = self.door.active.places.take(domains(&envelope, None), footprint::memory(&envelope, in_memory));
        let new = NewMessage {
            author,
            envelope,
            arrived: Moment::now(),
            arrival: Arrival::Smtp(trace, self.door.zone.clone()),
            token: Some(self.token),
        };
        let claim = if place.is_some() { Claim::Mine } else { Claim::Leave };
        match self.door.store.accept(new, body, claim).await {
            Ok(message) => {
                let user = match &message.author {
                    Author::User { user, .. } => user.as_str(),
                    Author::Report { .. } => "",
                };
                tracing::info!(
                    event = "accepted", id = %message.id, session = %session, user, peer = %peer.ip(),
                    from = %message.envelope.sender, rcpts = message.envelope.recipients().len(), size = self.size,
                    message_id = self.message_id.found()
                );
                let id = message.id;
                pending.accepted(id);
                Some(Finished { door: self.door, answer: Answer::Accepted(id), taken: Some((message, place)) })
            }
            Err(error @ StoreError::Closed) => {
                tracing::error!(event = "unknown", session = %session, size = self.size, reason = %error);
                None
            }
            Err(error) => {
                pending.refused();
                tracing::error!(event = "not_accepted", session = %session, size = self.size, reason = %error);
                Some(Finished::refused(self.door, kind(&error)))
            }
        }
    }
}

/// What became of a message. It goes on to delivery after the answer was written, so that a message that was delivered
/// and is gone from the store is never one that the front end has to ask for.
pub(super) struct Finished<'a, S: QueueStore> {
    door: &'a Door<S>,
    answer: Answer,
    taken: Option<(Message, Option<Place>)>,
}

impl<'a, S: QueueStore> Finished<'a, S> {
    fn refused(door: &'a Door<S>, why: Refused) -> Self {
        Self { door, answer: Answer::Refused(why), taken: None }
    }

    pub(super) fn answer(&self) -> Answer {
        self.answer
    }
}

impl<S: QueueStore> Drop for Finished<'_, S> {
    fn drop(&mut self) {
        if let Some((message, place)) = self.taken.take() {
            self.door.pass_on(message, place);
        }
    }
}

impl<S: QueueStore> Door<S> {
    /// The message with this token, if it is in; if it is not, it will not come in any more.
    pub(super) async fn find(&self, token: Token) -> Option<QueueId> {
        self.receipts.find(token).await
    }

    /// How many octets may come in; none when the disk cannot be asked.
    pub(super) fn room_left(&self) -> u64 {
        self.store.room().unwrap_or(0)
    }

    /// To delivery, from memory if there was room; else it waits in the store like any other.
    fn pass_on(&self, message: Message, place: Option<Place>) {
        let Some(place) = place else {
            self.active.look.notify_one();
            return;
        };
        let id = message.id;
        if self.active.fresh.send(Fresh { message, place }).is_err() {
            self.store.unclaim(id);
        }
    }
}

fn refusal(error: &StoreError, session: SessionId) -> Refused {
    tracing::error!(event = "not_accepted", session = %session, reason = %error);
    kind(error)
}

fn kind(error: &StoreError) -> Refused {
    match error {
        StoreError::Full => Refused::Full,
        StoreError::Closed | StoreError::File { .. } | StoreError::Database(_) => Refused::Fault,
    }
}
