//! Before TLS: a stranger on an open line. Nothing it says is kept.

use super::hello::{self, Offer};
use super::secured::{Secured, TlsPeer};
use super::{Site, Step, answer};
use crate::smtp::command::Command;
use crate::smtp::reply::{Refusal, Reply};

/// A connection without TLS. It has no fields: there is nowhere to keep what was said in the clear.
#[derive(Debug, Default)]
pub struct Plain;

impl Plain {
    /// The handshake is done; nothing said in the clear crosses over (RFC 3207 §4.2).
    pub fn secured(self, tls: TlsPeer) -> Secured {
        Secured::new(tls)
    }

    pub(super) fn command(self, command: Command<'_>, site: &Site) -> Step {
        match command {
            Command::Ehlo(_) => answer(self, hello::ehlo(site, Offer::StartTls)),
            Command::Helo(_) => answer(self, Reply::helo(&site.host)),
            Command::StartTls => Step::StartTls(self),
            Command::Auth { .. } => Step::NoLogin(self.into(), Refusal::AUTH_NEEDS_TLS),
            Command::Noop | Command::Rset => answer(self, Reply::OK),
            Command::Help => answer(self, Reply::HELP),
            Command::Quit => Step::Close(Reply::BYE),
            Command::NotOffered => answer(self, Refusal::NOT_OFFERED),
            Command::Data | Command::Mail { .. } | Command::Rcpt { .. } | Command::Vrfy => answer(self, Refusal::TLS_FIRST),
        }
    }
}
