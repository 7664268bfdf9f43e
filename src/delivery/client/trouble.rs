//! Why a connection cannot be used. Never the fault of a message: whatever was to cross it is tried again.

use std::io;
use std::time::Duration;

use zeroize::Zeroizing;

use super::reply::{Meaning, Reply, ReplyError};
use crate::delivery::job::{Account, Origin, PassedOn};
use crate::smtp::status::{Class, EnhancedStatus};

/// Instead of a word that may be a part of a password.
const HIDDEN: &str = "(hidden)";
/// Octets in a row that a word shares with a password only when it repeats it.
const RUN: usize = 8;

/// What went wrong with a server before or between transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    status: EnhancedStatus,
    words: String,
    origin: Origin,
    pub(crate) kind: Kind,
}

/// What the trouble says about the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Found out at once: asking again soon costs little.
    Quick,
    /// It took a time-out to find out.
    Slow,
    /// TLS was begun and failed.
    Handshake,
    /// STARTTLS was offered and then refused, or the server hung up or stayed silent at the word:
    /// TLS was never begun.
    NoTls,
    /// TLS 1.2, and it wanted the client certificate.
    TooOld,
    /// The server wants TLS or a login before it takes mail. No other message may use the
    /// connection.
    Channel,
    /// Our login was refused: asking again soon could lock the account.
    Login,
    /// There was a connection, and it broke.
    Lost,
    /// 521 or 556: the host takes no mail at all (RFC 7504 §2).
    NoMail,
}

impl Trouble {
    /// A reply that ends the opening or the connection. It is temporary for the message even when
    /// it is 5yz: it speaks about us or the server, not about the message, and another attempt or
    /// another host may fare better. Without a negative code it is no answer at all, and a protocol
    /// error.
    pub(crate) fn of_reply(to: &str, reply: &Reply<'_>) -> Self {
        let kind = match reply.meaning() {
            Meaning::Yes | Meaning::More | Meaning::Nonsense => return Self::unexpected(to, reply),
            Meaning::Channel => Kind::Channel,
            Meaning::NotNow | Meaning::Never if reply.is(521) || reply.is(556) => Kind::NoMail,
            Meaning::NotNow | Meaning::Never => Kind::Quick,
        };
        Self {
            status: EnhancedStatus { class: Class::Transient, ..reply.status() },
            words: format!("{} (in reply to {to})", reply.words()),
            origin: Origin::Remote,
            kind,
        }
    }

    /// A reply that is no answer to what was asked: a positive code where none is due, or lines
    /// that contradict each other. Its own status is never used, because that may be 2yz.
    pub(crate) fn unexpected(to: &str, reply: &Reply<'_>) -> Self {
        Self::protocol(&format!("unexpected reply to {to}: {}", reply.words()))
    }

    pub(crate) fn security(words: &str) -> Self {
        Self::local(7, 4, words.to_owned(), Kind::Quick)
    }

    pub(crate) fn protocol(words: &str) -> Self {
        Self::local(5, 0, words.to_owned(), Kind::Quick)
    }

    pub(crate) fn handshake(error: &dyn std::fmt::Display) -> Self {
        Self::local(7, 5, format!("the TLS handshake failed: {error}"), Kind::Handshake)
    }

    pub(crate) fn too_old(error: &dyn std::fmt::Display) -> Self {
        Self { kind: Kind::TooOld, ..Self::handshake(error) }
    }

    pub(crate) fn connect(error: &io::Error) -> Self {
        Self::local(4, 1, format!("cannot connect: {error}"), Kind::Quick)
    }

    pub(crate) fn silent(doing: &str, waited: Duration) -> Self {
        Self::local(4, 1, format!("no answer within {} s ({doing})", waited.as_secs()), Kind::Slow)
    }

    /// Each step was in time, and together they were not.
    pub(crate) fn slow(doing: &str, limit: Duration) -> Self {
        Self::local(4, 1, format!("{doing} took longer than {} s", limit.as_secs()), Kind::Slow)
    }

    pub(crate) fn lost(error: Option<&io::Error>) -> Self {
        let words = match error {
            Some(error) => format!("the connection broke: {error}"),
            None => "the server closed the connection".to_owned(),
        };
        Self::local(4, 2, words, Kind::Lost)
    }

    /// The message's time is over (X.4.7).
    pub(crate) fn late() -> Self {
        Self::local(4, 7, "the time for this attempt was over before the server had answered".to_owned(), Kind::Slow)
    }

    /// The server hung up or fell silent in the middle of a reply; these are the words that did
    /// arrive.
    pub(crate) fn after(mut self, words: &str) -> Self {
        self.words = format!("{}, after it had said: {words}", self.words);
        self
    }

    /// The same with each word hidden that has one of these texts in it, or eight octets in a row
    /// of one.
    pub(crate) fn without(mut self, said: &[Zeroizing<String>]) -> Self {
        for text in said.iter().filter(|text| !text.is_empty()) {
            self.words = self.words.replace(text.as_str(), HIDDEN);
        }
        let repeats = |word: &str| {
            let mut runs = word.as_bytes().windows(RUN);
            runs.any(|run| said.iter().any(|text| memchr::memmem::find(text.as_bytes(), run).is_some()))
        };
        if !said.is_empty() {
            let words: Vec<&str> = self.words.split(' ').map(|word| if repeats(word) { HIDDEN } else { word }).collect();
            self.words = words.join(" ");
        }
        self
    }

    /// The same trouble, where the stage shows what it means for the next attempt.
    pub(crate) fn of_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    pub(crate) fn content(error: &io::Error) -> Self {
        Self::local(3, 0, format!("the message cannot be read from the spool: {error}"), Kind::Quick)
    }

    pub(crate) fn secret(error: &dyn std::fmt::Display) -> Self {
        Self::local(3, 5, format!("the login's secret cannot be had: {error}"), Kind::Quick)
    }

    /// Whether a connection without TLS, or without our certificate, could fare better.
    pub(crate) fn is_about_tls(&self) -> bool {
        match self.kind {
            Kind::Handshake | Kind::TooOld | Kind::NoTls => true,
            Kind::Quick | Kind::Slow | Kind::Channel | Kind::Login | Kind::Lost | Kind::NoMail => false,
        }
    }

    /// What is recorded for a recipient whose message met this trouble at `remote`.
    pub(crate) fn account(&self, remote: &str) -> Account {
        Account { remote: Some(remote.to_owned()), ..self.account_so_far() }
    }

    /// The same where `remote` is filled in later.
    pub(crate) fn account_so_far(&self) -> Account {
        Account { status: self.status, remote: None, diagnostic: self.words.clone(), origin: self.origin, passed_on: PassedOn::WithoutDsn }
    }

    fn local(subject: u16, detail: u16, words: String, kind: Kind) -> Self {
        Self { status: EnhancedStatus::new(Class::Transient, subject, detail), words, origin: Origin::Local, kind }
    }
}

impl From<ReplyError> for Trouble {
    fn from(error: ReplyError) -> Self {
        Self::local(5, 0, error.to_string(), Kind::Quick)
    }
}
