//! What the queue asks of delivery, and what it hears back.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use crate::handoff::QueueId;
use crate::message::start::{LOOK, Start};
use crate::smtp::address::ReversePath;
use crate::smtp::envelope::{BodyType, EnvelopeId, International, Recipient, Ret};
use crate::smtp::status::{Class, EnhancedStatus};

/// One message and those of its recipients that are due.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: QueueId,
    /// Whose mail it is, for the user's share of the connections; empty for our own reports.
    pub user: Arc<str>,
    pub sender: ReversePath,
    pub body: BodyType,
    pub international: International,
    pub ret: Option<Ret>,
    pub envid: Option<EnvelopeId>,
    /// Never empty. The number is the queue's name for the recipient within the message.
    pub recipients: Vec<(RecipientNo, Recipient)>,
    pub content: Content,
    /// When the attempt is over: who is not answered by then is deferred.
    pub deadline: Instant,
}

/// A recipient's place in its message, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecipientNo(pub u32);

/// The bytes to send: our trace field, then what the client sent, without dot-stuffing, lines ended by CRLF. What stands
/// between the two, and what of the client's text is left out, is said by `start`.
#[derive(Clone, Debug)]
pub struct Content {
    pub trace: Bytes,
    pub body: Body,
}

#[derive(Clone, Debug)]
pub enum Body {
    /// Small or fresh: still in memory.
    Memory(Bytes),
    /// A file of the spool, opened by the queue; read it with positioned reads, others share the descriptor.
    File { file: Arc<File>, size: u64 },
}

impl Content {
    /// Octets that are stored.
    pub fn size(&self) -> u64 {
        self.trace.len() as u64 + self.body.size()
    }

    /// Octets that are delivered, as SIZE counts them (RFC 1870 §3).
    pub fn size_from(&self, start: Start) -> u64 {
        (self.size() + start.separator.octets().len() as u64).saturating_sub(start.skip as u64)
    }

    /// How the body follows the trace field. Reads the beginning of a body that is in a file.
    pub fn start(&self) -> io::Result<Start> {
        self.body.beginning(LOOK, 0).map(|text| Start::of(&text))
    }

    /// The first `limit` octets of what is delivered, or all of it.
    pub fn beginning(&self, limit: usize) -> io::Result<Vec<u8>> {
        let start = self.start()?;
        let mut text = [&self.trace, start.separator.octets()].concat();
        let body = self.body.beginning(limit.saturating_sub(text.len()), start.skip as u64)?;
        text.extend_from_slice(&body);
        text.truncate(limit);
        Ok(text)
    }
}

impl Body {
    pub fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
        }
    }

    /// Up to `limit` octets from `from` on.
    fn beginning(&self, limit: usize, from: u64) -> io::Result<Cow<'_, [u8]>> {
        match self {
            Self::Memory(bytes) => {
                let rest = usize::try_from(from).ok().and_then(|from| bytes.get(from..)).unwrap_or_default();
                Ok(Cow::Borrowed(rest.get(..limit).unwrap_or(rest)))
            }
            Self::File { file, size } => {
                let mut octets = vec![0; usize::try_from(size.saturating_sub(from)).unwrap_or(limit).min(limit)];
                file.read_exact_at(&mut octets, from)?;
                Ok(Cow::Owned(octets))
            }
        }
    }
}

/// What became of some recipients of a job. One job is answered by one or more of these; together they name every recipient once.
#[derive(Debug)]
pub struct Outcomes {
    pub id: QueueId,
    pub settled: Vec<(RecipientNo, Outcome)>,
}

/// What became of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The next server took responsibility, or the message is in the maildir and synced.
    Delivered(Account),
    /// Try again later.
    Deferred(Account),
    /// Never will.
    Failed(Account),
}

impl Outcome {
    /// With a status of the class that belongs to it, whatever the server wrote: no delivery fails
    /// with 2.0.0 (RFC 3463 §3.1).
    pub fn in_its_class(mut self) -> Self {
        let class = match &self {
            Self::Delivered(_) => Class::Success,
            Self::Deferred(_) => Class::Transient,
            Self::Failed(_) => Class::Permanent,
        };
        self.account_mut().status.class = class;
        self
    }

    pub fn account_mut(&mut self) -> &mut Account {
        match self {
            Self::Delivered(account) | Self::Deferred(account) | Self::Failed(account) => account,
        }
    }
}

/// Who said so, for the log and for a delivery report (RFC 3464 §2.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub status: EnhancedStatus,
    /// The server or directory asked, such as `relay.example.net[192.0.2.1]:587`; `None` when none could be found.
    pub remote: Option<String>,
    /// The server's own words with its code, cleaned of control characters, at most 2 KiB; or what went wrong here.
    pub diagnostic: String,
    /// Whether `diagnostic` is an SMTP reply (Diagnostic-Code: smtp) or our own finding.
    pub origin: Origin,
    /// Whether the next server announced DSN, so that a success report is its business (RFC 3461 §5.2.2).
    pub passed_on: PassedOn,
}

/// Octets of diagnostics that one message may keep, shared equally by its recipients.
const WORDS_IN_ALL: usize = 256 * 1024;
/// Even with many recipients, a diagnostic keeps this many octets: a code, a status, a sentence.
const FEWEST_WORDS: usize = 256;
/// No diagnostic is longer.
const MOST_WORDS: usize = 2048;

/// Most octets of a diagnostic that a message with this many recipients keeps for each of them.
pub fn words_kept(recipients: usize) -> usize {
    (WORDS_IN_ALL / recipients.max(1)).clamp(FEWEST_WORDS, MOST_WORDS)
}

impl Account {
    /// Cuts the diagnostic to what a message with this many recipients keeps.
    pub fn cut(&mut self, recipients: usize) {
        let most = words_kept(recipients);
        if self.diagnostic.len() > most {
            let mark = "...";
            self.diagnostic.truncate(self.diagnostic.floor_char_boundary(most.saturating_sub(mark.len())));
            self.diagnostic.push_str(mark);
            self.diagnostic.shrink_to_fit();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Remote,
    Local,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassedOn {
    /// The next server takes over the sender's NOTIFY wishes.
    WithDsn,
    WithoutDsn,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::conformance::account;

    #[test]
    fn a_diagnostic_keeps_two_kilobytes_for_one_recipient_and_a_sentence_for_each_of_a_thousand() {
        for (recipients, longest) in [(0, 2048), (1, 2048), (128, 2048), (256, 1024), (1000, 262), (5000, 256)] {
            let mut words = account(&"ü".repeat(2000));

            words.cut(recipients);

            assert!(words.diagnostic.len() <= longest && words.diagnostic.len() + 4 > longest, "{recipients}");
            assert!(words.diagnostic.ends_with("ü..."));
            assert_eq!(words_kept(recipients), longest);
        }
        let mut short = account("450 4.2.0 later");
        short.cut(1000);
        assert_eq!(short.diagnostic, "450 4.2.0 later");
    }
}
