//! TLS is up and nobody is known yet: the login (RFC 4954).
//!
//! ```text
//! Secured --AUTH, no initial response--> Challenged --response--> Checking --verdict--> Authenticated | Secured
//! ```

use std::fmt;

use zeroize::Zeroizing;

use super::authenticated::Authenticated;
use super::hello::{self, Offer};
use super::{Session, Site, Step, answer};
use crate::auth::{Answer, Identity};
use crate::smtp::command::Command;
use crate::smtp::line::LineFault;
use crate::smtp::reply::{Refusal, Reply};
use crate::smtp::sasl::{self, Credentials, Malformed, Mechanism, PASSWORD_PROMPT, USERNAME_PROMPT};

/// The TLS that was agreed on, for logs and the `Received:` field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsPeer {
    /// Such as `TLS1.3`.
    pub version: &'static str,
    /// Such as `TLS13_AES_256_GCM_SHA384`.
    pub cipher: String,
}

impl fmt::Display for TlsPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with cipher {}", self.version, self.cipher)
    }
}

#[derive(Debug)]
pub struct Secured {
    tls: TlsPeer,
    greeting: Greeting,
}

/// AUTH needs EHLO (RFC 4954 §3): HELO leaves no room for extensions.
#[derive(Debug)]
enum Greeting {
    None,
    Helo,
    Ehlo(String),
}

impl Secured {
    pub(super) fn new(tls: TlsPeer) -> Self {
        Self { tls, greeting: Greeting::None }
    }

    pub(super) fn command(self, command: Command<'_>, site: &Site) -> Step {
        match command {
            Command::Ehlo(name) => answer(Self { greeting: Greeting::Ehlo(name.into_text()), ..self }, hello::ehlo(site, Offer::Auth)),
            Command::Helo(_) => answer(Self { greeting: Greeting::Helo, ..self }, Reply::helo(&site.host)),
            Command::Auth { mechanism, initial } => match self.greeting {
                Greeting::Ehlo(hello) => Greeted { tls: self.tls, hello }.auth(mechanism, initial),
                Greeting::None | Greeting::Helo => Step::NoLogin(self.into(), Refusal::EHLO_FIRST),
            },
            Command::StartTls => answer(self, Refusal::ALREADY_SECURE),
            Command::Noop | Command::Rset => answer(self, Reply::OK),
            Command::Help => answer(self, Reply::HELP),
            Command::Quit => Step::Close(Reply::BYE),
            Command::NotOffered => answer(self, Refusal::NOT_OFFERED),
            Command::Data | Command::Mail { .. } | Command::Rcpt { .. } | Command::Vrfy => answer(self, Refusal::AUTH_FIRST),
        }
    }
}

/// A client that may log in: TLS is up and it said EHLO.
#[derive(Debug)]
struct Greeted {
    tls: TlsPeer,
    hello: String,
}

impl From<Greeted> for Secured {
    fn from(client: Greeted) -> Self {
        Self { tls: client.tls, greeting: Greeting::Ehlo(client.hello) }
    }
}

impl From<Greeted> for Session {
    fn from(client: Greeted) -> Self {
        Self::Secured(client.into())
    }
}

impl Greeted {
    fn auth(self, mechanism: &str, initial: Option<&str>) -> Step {
        match (Mechanism::parse(mechanism), initial) {
            (None, _) => Step::NoLogin(self.into(), Refusal::MECHANISM),
            (Some(Mechanism::Plain), None) => Challenged { client: self, awaits: Awaits::Plain }.asks(""),
            (Some(Mechanism::Login), None) => Challenged { client: self, awaits: Awaits::User }.asks(USERNAME_PROMPT),
            (Some(Mechanism::Plain), Some(response)) => Challenged { client: self, awaits: Awaits::Plain }.response(response.as_bytes()),
            (Some(Mechanism::Login), Some(response)) => Challenged { client: self, awaits: Awaits::User }.response(response.as_bytes()),
        }
    }
}

/// In the middle of AUTH: the next line is a response.
#[derive(Debug)]
pub struct Challenged {
    client: Greeted,
    awaits: Awaits,
}

#[derive(Debug)]
enum Awaits {
    /// PLAIN's one message.
    Plain,
    /// LOGIN's name.
    User,
    /// LOGIN's password, for this name.
    Password(Zeroizing<Vec<u8>>),
}

impl Challenged {
    fn asks(self, prompt: &'static str) -> Step {
        answer(self, Reply::challenge(prompt))
    }

    pub(super) fn response(self, response: &[u8]) -> Step {
        if response.trim_ascii_end() == b"*" {
            return Step::NoLogin(self.client.into(), Refusal::AUTH_CANCELLED);
        }
        let Ok(message) = sasl::decode(response) else {
            return Step::NoLogin(self.client.into(), Refusal::AUTH_MALFORMED);
        };
        let credentials = match self.awaits {
            Awaits::User => return Self { awaits: Awaits::Password(message), ..self }.asks(PASSWORD_PROMPT),
            Awaits::Plain => Credentials::from_plain(&message),
            Awaits::Password(user) => Ok(Credentials::new(&user, &message)),
        };
        match credentials {
            Ok(credentials) => Step::Check(Checking { client: self.client }, credentials),
            Err(Malformed) => Step::NoLogin(self.client.into(), Refusal::AUTH_MALFORMED),
        }
    }

    pub(super) fn unreadable(self, fault: LineFault) -> Step {
        match fault {
            LineFault::TooLong => Step::NoLogin(self.client.into(), Refusal::AUTH_TOO_LONG),
            LineFault::BareLineEnd => Step::NoLogin(self.client.into(), Refusal::BARE_LINE_END),
            LineFault::Endless => Step::Close(Refusal::ENDLESS_LINE.into()),
        }
    }
}

/// The helper has been asked; only its answer leads on.
#[derive(Debug)]
pub struct Checking {
    client: Greeted,
}

impl Checking {
    /// What the client hears, and who it is from now on (the table in ARCHITECTURE.md, "The verdict").
    pub fn settle(self, verdict: Answer) -> (Session, Reply) {
        let refusal = match verdict {
            Answer::Accept(user) => return (self.client.authenticated(user).into(), Reply::AUTHENTICATED),
            Answer::Reject(_) => Refusal::CREDENTIALS,
            Answer::MustChange(_) => Refusal::MUST_CHANGE,
            Answer::Expired(_) => Refusal::EXPIRED,
            Answer::NotPermitted(_) => Refusal::NOT_PERMITTED,
            Answer::Throttled(_) => Refusal::THROTTLED,
            Answer::Unavailable(_) => Refusal::AUTH_UNAVAILABLE,
        };
        (self.client.into(), refusal.into())
    }
}

impl Greeted {
    /// Root vouched for `user`. This is the only way to reach a state that can send mail.
    fn authenticated(self, user: Identity) -> Authenticated {
        Authenticated::new(self.tls, self.hello, user)
    }
}
