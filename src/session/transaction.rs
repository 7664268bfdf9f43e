//! A mail transaction: MAIL was taken, then recipients, then the text (RFC 5321 §3.3).

use std::collections::HashSet;

use super::authenticated::Authenticated;
use super::{Session, Site, Step, answer, argument};
use crate::handoff::{OPENING_LIMIT, QueueId, Refused, bounds};
use crate::smtp::address::{ForwardPath, Mailbox, ReversePath};
use crate::smtp::command::{self, Command};
use crate::smtp::data::TextFault;
use crate::smtp::envelope::{Envelope, Recipient};
use crate::smtp::params::{MailParams, RcptParams};
use crate::smtp::reply::{Refusal, Reply};

/// A sender and no recipient yet.
#[derive(Debug)]
pub struct Addressing {
    client: Authenticated,
    sender: ReversePath,
    params: MailParams,
}

/// At least one recipient: DATA may come.
#[derive(Debug)]
pub struct Addressed {
    client: Authenticated,
    params: MailParams,
    envelope: Envelope,
    /// The recipients' delivery keys: the same mailbox again is one delivery.
    known: HashSet<String>,
    /// Octets of the recipients and their parameters.
    octets: usize,
}

/// Octets that the recipients of one message may have with their parameters: what the queue takes in one opening, with room
/// for the rest of it.
const RECIPIENTS_LIMIT: usize = OPENING_LIMIT - 64 * 1024;

fn octets(recipient: &Recipient) -> usize {
    let original = recipient.original.as_ref().map_or(0, |original| original.kind.len() + original.address.len());
    recipient.mailbox.local().len() + recipient.mailbox.domain().to_string().len() + original + 16
}

/// 354 was said; the text is on its way.
#[derive(Debug)]
pub struct Receiving {
    pub client: Authenticated,
    /// Octets the client said it would send.
    pub declared: Option<u64>,
    pub envelope: Envelope,
}

/// What became of a text.
#[derive(Debug)]
pub enum Received {
    /// The queue is responsible now (RFC 5321 §6.1).
    Queued(QueueId),
    /// It was all read and is not taken.
    Refused(Refusal),
}

impl Addressing {
    pub(super) fn new(client: Authenticated, sender: ReversePath, params: MailParams) -> Self {
        Self { client, sender, params }
    }

    pub(super) fn command(self, command: Command<'_>, site: &Site) -> Step {
        match command {
            Command::Rcpt { path, params } => match recipient(path, params, &self.params, site) {
                Ok(first) => answer(self.addressed(first), Reply::RECIPIENT_OK),
                Err(refusal) => answer(self, refusal),
            },
            Command::Data => answer(self, Refusal::NEED_RCPT),
            Command::Mail { .. } => answer(self, Refusal::NESTED_MAIL),
            other => match in_transaction(other) {
                Within::Reply(reply) => answer(self, reply),
                Within::Reset(command) => self.client.command(command, site),
            },
        }
    }

    fn addressed(self, first: Recipient) -> Addressed {
        let Self { client, sender, params } = self;
        let envelope = Envelope {
            sender,
            first,
            rest: Vec::new(),
            body: params.body,
            international: params.international,
            ret: params.ret,
            envid: params.envid.clone(),
        };
        let known = HashSet::from([envelope.first.mailbox.delivery_key()]);
        let octets = octets(&envelope.first);
        Addressed { client, params, envelope, known, octets }
    }
}

impl Addressed {
    pub(super) fn command(mut self, command: Command<'_>, site: &Site) -> Step {
        match command {
            Command::Rcpt { path, params } => {
                let reply = recipient(path, params, &self.params, site).and_then(|it| self.add(it, site));
                answer(self, reply.unwrap_or_else(Reply::from))
            }
            Command::Data => Step::Receive(Receiving { client: self.client, declared: self.params.size, envelope: self.envelope }),
            Command::Mail { .. } => answer(self, Refusal::NESTED_MAIL),
            other => match in_transaction(other) {
                Within::Reply(reply) => answer(self, reply),
                Within::Reset(command) => self.client.command(command, site),
            },
        }
    }

    fn add(&mut self, it: Recipient, site: &Site) -> Result<Reply, Refusal> {
        let key = it.mailbox.delivery_key();
        if self.known.contains(&key) {
            return Ok(Reply::RECIPIENT_OK);
        }
        let octets = self.octets + octets(&it);
        if self.envelope.recipients().len() >= site.recipients || octets > RECIPIENTS_LIMIT {
            return Err(Refusal::TOO_MANY_RECIPIENTS);
        }
        self.octets = octets;
        self.known.insert(key);
        self.envelope.rest.push(it);
        Ok(Reply::RECIPIENT_OK)
    }
}

impl Receiving {
    pub fn settle(self, received: Received) -> (Session, Reply) {
        let reply = match received {
            Received::Queued(id) => Reply::queued(&id),
            Received::Refused(refusal) => refusal.into(),
        };
        (self.client.into(), reply)
    }
}

impl From<TextFault> for Refusal {
    fn from(fault: TextFault) -> Self {
        match fault {
            TextFault::BareLineEnd => Self::BARE_LINE_END_IN_TEXT,
            TextFault::LongLine => Self::LONG_LINE_IN_TEXT,
            TextFault::Nul => Self::NUL_IN_TEXT,
        }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::FULL,
            Refused::TooLarge => Self::TOO_LARGE,
            Refused::NotPermitted => Self::NOT_PERMITTED_NOW,
            Refused::LoginExpired => Self::LOGIN_EXPIRED,
            Refused::Fault => Self::QUEUE_UNAVAILABLE,
        }
    }
}

/// Commands that mean the same in both states of a transaction.
enum Within<'a> {
    Reply(Reply),
    /// The transaction is forgotten, then the command is obeyed (RFC 5321 §4.1.4).
    Reset(Command<'a>),
}

fn in_transaction(command: Command<'_>) -> Within<'_> {
    match command {
        Command::Ehlo(_) | Command::Helo(_) | Command::Rset | Command::Quit => Within::Reset(command),
        Command::Auth { .. } => Within::Reply(Refusal::AUTH_ONCE.into()),
        Command::StartTls => Within::Reply(Refusal::ALREADY_SECURE.into()),
        Command::Noop => Within::Reply(Reply::OK),
        Command::Vrfy => Within::Reply(Reply::VRFY),
        Command::Help => Within::Reply(Reply::HELP),
        Command::NotOffered => Within::Reply(Refusal::NOT_OFFERED.into()),
        Command::Mail { .. } | Command::Rcpt { .. } | Command::Data => Within::Reply(Refusal::NEED_MAIL.into()),
    }
}

fn recipient(path: &str, params: &str, of_mail: &MailParams, site: &Site) -> Result<Recipient, Refusal> {
    let (path, RcptParams { notify, original }) = command::rcpt(path, params, of_mail).map_err(|error| argument::OF_RCPT.refuse(error))?;
    let mailbox = match path {
        ForwardPath::Postmaster => Mailbox::postmaster(site.domain.clone()),
        ForwardPath::Mailbox(mailbox) => mailbox,
    };
    match bounds::relays_to(&mailbox) {
        Ok(()) => Ok(Recipient { mailbox, notify, original }),
        Err(_) => Err(Refusal::LITERAL),
    }
}
