//! Somebody root vouched for, between two messages.

use super::hello::{self, Offer};
use super::secured::TlsPeer;
use super::transaction::Addressing;
use super::{Session, Site, Step, answer, argument};
use crate::auth::Identity;
use crate::handoff::Room;
use crate::smtp::address::ReversePath;
use crate::smtp::command::{self, Command};
use crate::smtp::params::MailParams;
use crate::smtp::reply::{Refusal, Reply};

/// MAIL was understood; the queue is asked whether it has room, so that nobody sends a message in vain.
#[derive(Debug)]
pub struct Admitting {
    client: Authenticated,
    sender: ReversePath,
    params: MailParams,
}

impl Admitting {
    /// The size that the client declared (RFC 1870 §3).
    pub fn declared(&self) -> Option<u64> {
        self.params.size
    }

    /// When the queue does not say, the message goes on: its own answer will.
    pub fn settle(self, room: Room) -> (Session, Reply) {
        match room {
            Room::Enough | Room::Unknown => (Addressing::new(self.client, self.sender, self.params).into(), Reply::SENDER_OK),
            Room::TooLittle => (self.client.into(), Refusal::FULL.into()),
        }
    }
}

#[derive(Debug)]
pub struct Authenticated {
    pub tls: TlsPeer,
    /// The argument of the last EHLO or HELO.
    pub hello: String,
    pub user: Identity,
}

impl Authenticated {
    pub(super) fn new(tls: TlsPeer, hello: String, user: Identity) -> Self {
        Self { tls, hello, user }
    }

    pub(super) fn command(self, command: Command<'_>, site: &Site) -> Step {
        match command {
            Command::Ehlo(name) => answer(Self { hello: name.into_text(), ..self }, hello::ehlo(site, Offer::Nothing)),
            Command::Helo(name) => answer(Self { hello: name.into_text(), ..self }, Reply::helo(&site.host)),
            Command::Mail { path, params } => self.mail(path, params, site),
            Command::Auth { .. } => answer(self, Refusal::AUTH_ONCE),
            Command::StartTls => answer(self, Refusal::ALREADY_SECURE),
            Command::Rcpt { .. } | Command::Data => answer(self, Refusal::NEED_MAIL),
            Command::Noop | Command::Rset => answer(self, Reply::OK),
            Command::Vrfy => answer(self, Reply::VRFY),
            Command::Help => answer(self, Reply::HELP),
            Command::Quit => Step::Close(Reply::BYE),
            Command::NotOffered => answer(self, Refusal::NOT_OFFERED),
        }
    }

    fn mail(self, path: &str, params: &str, site: &Site) -> Step {
        match command::mail(path, params) {
            Ok((_, params)) if params.size.is_some_and(|size| size > site.message_size) => answer(self, Refusal::TOO_LARGE),
            Ok((sender, params)) => Step::Admit(Admitting { client: self, sender, params }),
            Err(error) => answer(self, argument::OF_MAIL.refuse(error)),
        }
    }
}
