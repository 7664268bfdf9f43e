//! A message as the queue knows it: who brought it, for whom, how far it has come.
//!
//! Invariant: `standings` has one entry for each recipient, in the envelope's order; a recipient that is `Delivered`
//! or `Failed` is never tried again.

use std::time::Duration;

use bytes::Bytes;
use jiff::Zoned;
use jiff::tz::TimeZone;

use super::moment::Moment;
use super::store::Noted;
use crate::delivery::job::{Account, Content, RecipientNo};
use crate::handoff::{QueueId, Token};
use crate::message::trace::Trace;
use crate::smtp::SessionId;
use crate::smtp::envelope::{Envelope, Recipient};

/// On whose word a message is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Author {
    /// Somebody who logged in; all of it is from a ticket that was checked.
    User { user: String, uid: u32, session: SessionId },
    /// The queue itself reports about another message.
    Report { about: QueueId },
}

impl Author {
    pub fn is_report(&self) -> bool {
        match self {
            Self::User { .. } => false,
            Self::Report { .. } => true,
        }
    }
}

/// How far one recipient has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Never tried.
    #[default]
    New,
    /// Tried without success; the last word about it.
    Deferred(Account),
    /// Delivered. `owed` is what a success report that is not written yet has to say.
    Delivered { owed: Option<Account> },
    /// Given up, and reported if it was to be.
    Failed,
}

impl Standing {
    pub fn is_open(&self) -> bool {
        match self {
            Self::New | Self::Deferred(_) => true,
            Self::Delivered { .. } | Self::Failed => false,
        }
    }

    pub fn is_owed(&self) -> bool {
        match self {
            Self::Delivered { owed } => owed.is_some(),
            Self::New | Self::Deferred(_) | Self::Failed => false,
        }
    }
}

/// How far a message has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub standings: Vec<Standing>,
    /// Whether the sender was told of the delay.
    pub warned: Warned,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Warned {
    #[default]
    NotYet,
    Once,
}

impl Progress {
    pub fn fresh(recipients: usize) -> Self {
        Self { standings: vec![Standing::New; recipients], warned: Warned::NotYet }
    }

    /// Adds deliveries that were noted since; `None` if one is about nobody in this message.
    pub fn with(mut self, noted: impl IntoIterator<Item = Noted>) -> Option<Self> {
        for Noted { no, owed } in noted {
            *self.standings.get_mut(usize::try_from(no.0).ok()?)? = Standing::Delivered { owed };
        }
        Some(self)
    }

    pub fn is_fresh(&self) -> bool {
        self.warned == Warned::NotYet && self.standings.iter().all(|it| *it == Standing::New)
    }
}

/// When a message was tried and will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub arrived: Moment,
    /// When the present pause began: at the arrival or after the last attempt.
    pub last: Moment,
    pub due: Moment,
    /// The pauses so far, as they really were; never longer than they were meant to be.
    pub waited: Duration,
    pub attempts: u32,
}

impl Timing {
    pub fn fresh(now: Moment) -> Self {
        Self { arrived: now, last: now, due: now, waited: Duration::ZERO, attempts: 0 }
    }
}

/// One message of the queue, with its content.
#[derive(Clone, Debug)]
pub struct Message {
    pub id: QueueId,
    pub author: Author,
    pub envelope: Envelope,
    pub timing: Timing,
    pub progress: Progress,
    pub content: Content,
}

impl Message {
    /// The recipients that still need delivery.
    pub fn open_recipients(&self) -> Vec<(RecipientNo, Recipient)> {
        let numbered = (0..).map(RecipientNo).zip(self.envelope.recipients());
        let standing = self.progress.standings.iter();
        numbered.zip(standing).filter(|(_, it)| it.is_open()).map(|((no, recipient), _)| (no, recipient.clone())).collect()
    }
}

/// A message that was let in, before it is durable and has a name.
#[derive(Clone, Debug)]
pub struct NewMessage {
    pub author: Author,
    pub envelope: Envelope,
    pub arrived: Moment,
    pub arrival: Arrival,
    /// By which the front end may ask whether it is in; a report has none.
    pub token: Option<Token>,
}

/// What becomes the trace field once the id is known.
#[derive(Clone, Debug)]
pub enum Arrival {
    /// By SMTP; the date is shown in this zone.
    Smtp(Trace, TimeZone),
    /// Made here: its fields are complete.
    Here,
}

impl NewMessage {
    /// The `Received:` field, or nothing for a message that was made here.
    pub fn trace_field(&self, id: QueueId) -> Bytes {
        match &self.arrival {
            Arrival::Smtp(trace, zone) => {
                let at = Zoned::new(self.arrived.timestamp(), zone.clone());
                Bytes::from(trace.received(&id.to_string(), &at))
            }
            Arrival::Here => Bytes::new(),
        }
    }
}
