//! What the helper said, as the session understands it.

use std::fmt;

use pamrelay_authwire::{Accepted, Cause, Outcome, OutcomeKind};

use super::AuthError;

/// Somebody root vouched for. Made only from an accepting verdict.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity(Accepted);

impl Identity {
    /// The name PAM settled on, which need not be the name that was typed.
    pub fn user(&self) -> &str {
        &self.0.user
    }

    pub fn uid(&self) -> u32 {
        self.0.uid
    }

    /// Those of the configured groups that the user is in.
    pub fn groups(&self) -> &[String] {
        &self.0.groups
    }

    /// The proof for the queue; opaque here.
    pub fn ticket(&self) -> &[u8] {
        &self.0.ticket
    }
}

/// A ticket lets its bearer send mail, so it is not for logs.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("user", &self.0.user).field("uid", &self.0.uid).finish_non_exhaustive()
    }
}

/// One answer to one question; what the client hears of each is decided in `session`.
#[derive(Debug)]
pub enum Answer {
    Accept(Identity),
    Reject(Cause),
    Throttled(Cause),
    /// The password is right and must be changed first.
    MustChange(Cause),
    /// The password is right and the account has expired.
    Expired(Cause),
    /// The password is right and the account may not send.
    NotPermitted(Cause),
    /// Nobody knows; never held against the user.
    Unavailable(Trouble),
}

/// Why nobody knows.
#[derive(Debug)]
pub enum Trouble {
    /// The helper or PAM behind it is in trouble, and says so.
    Helper(Cause),
    NoAnswer(AuthError),
}

impl Answer {
    /// What it comes to for the client.
    pub fn kind(&self) -> OutcomeKind {
        match self {
            Self::Accept(_) => OutcomeKind::Accept,
            Self::Reject(_) => OutcomeKind::Reject,
            Self::Throttled(_) => OutcomeKind::Throttled,
            Self::MustChange(_) => OutcomeKind::MustChange,
            Self::Expired(_) => OutcomeKind::Expired,
            Self::NotPermitted(_) => OutcomeKind::NotPermitted,
            Self::Unavailable(_) => OutcomeKind::Unavailable,
        }
    }
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            // The queue would not believe an identity without its proof, so it is none.
            Outcome::Accept(accepted) if accepted.ticket.is_empty() => Self::Unavailable(Trouble::NoAnswer(AuthError::Nonsense)),
            Outcome::Accept(accepted) => Self::Accept(Identity(accepted)),
            Outcome::Reject(cause) => Self::Reject(cause),
            Outcome::Throttled(cause) => Self::Throttled(cause),
            Outcome::MustChange(cause) => Self::MustChange(cause),
            Outcome::Expired(cause) => Self::Expired(cause),
            Outcome::NotPermitted(cause) => Self::NotPermitted(cause),
            Outcome::Unavailable(cause) => Self::Unavailable(Trouble::Helper(cause)),
        }
    }
}

/// Why, for the log: `auth refused (7)`; empty for an accept.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept(_) => Ok(()),
            Self::Reject(cause) | Self::Throttled(cause) | Self::MustChange(cause) | Self::Expired(cause) | Self::NotPermitted(cause) => {
                write_cause(f, cause)
            }
            Self::Unavailable(Trouble::Helper(cause)) => write_cause(f, cause),
            Self::Unavailable(Trouble::NoAnswer(error)) => write!(f, "{error}"),
        }
    }
}

fn write_cause(f: &mut fmt::Formatter<'_>, cause: &Cause) -> fmt::Result {
    write!(f, "{} {}", cause.phase, cause.reason)?;
    if cause.code == 0 { Ok(()) } else { write!(f, " (PAM {})", cause.code) }
}
