//! One message to one server, from MAIL to the reply to its content: replies in, commands and fates out. Pure.
//!
//! ```text
//! [RSET] MAIL RCPT… DATA ──354──▶ content ──▶ done
//!          └─ in one flight when the server offers PIPELINING (RFC 2920 §3.1), else one by one
//! ```
//!
//! Every recipient has exactly one fate at the end. A recipient is delivered only by a 2yz to the
//! content, and fails only by a 5yz that is about the message. A reply about the connection (530
//! and its kind), or one that answers nothing that was asked, ends the connection; those not
//! settled by then may be tried elsewhere.

use std::borrow::Cow;

use super::command_line::{COMMAND_LIMIT, Line, MAIL, PATH_END, RCPT, Room};
use super::features::{Features, Size};
use super::reply::{Meaning, Owed, Reply};
use super::trouble::Trouble;
use crate::delivery::job::{Account, Job, Origin, Outcome, PassedOn, RecipientNo};
use crate::message::seven_bit::Unfit;
use crate::smtp::address::{Mailbox, ReversePath};
use crate::smtp::envelope::{BodyType, International, Notify, OriginalRecipient, Recipient, Ret};
use crate::smtp::status::{Class, EnhancedStatus};
use crate::smtp::xtext;

/// A transaction whose replies are still coming in.
#[derive(Debug)]
pub(crate) struct Transaction {
    stage: Stage,
    pipelined: bool,
    features: Features,
    needs: Needs,
    mail: Mail,
    /// In the order of the recipients.
    fates: Vec<Fate>,
    /// The recipient whose RCPT is answered next.
    asking: usize,
    accepted: usize,
    /// Recipients whose NOTIFY did not fit into the command line.
    without_notify: Vec<usize>,
    pace: Pace,
    /// The server refused a recipient until TLS or a login comes: no other message may use the
    /// connection.
    barred: Option<Trouble>,
}

/// Whether there is time to ask for more recipients, where each RCPT waits for its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    Steady,
    /// Those accepted so far get the message now; the others go in another transaction.
    Late,
}

/// What has become of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// RCPT is not answered, or was not sent yet.
    Open,
    /// RCPT was accepted; the content decides.
    Accepted,
    /// More recipients than this server takes at once: ask again in a transaction of its own (RFC 5321 §4.5.3.1.10).
    Again,
    Settled(Outcome),
}

/// What the next reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Rset,
    Mail,
    Rcpt,
    Data,
    Content,
    /// DATA was accepted though no recipient was: a lone dot ends it, and its reply means nothing.
    LoneDot,
    Done(State),
}

/// What the server still remembers of the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Clean,
    /// RSET must come before the next MAIL.
    Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mail {
    Open,
    Accepted,
    Refused,
}

/// What the driver has to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Read another reply.
    Read,
    /// Send what was appended, then read.
    Send,
    /// Send the content with its end, then read.
    Content,
    Done,
    /// Drop the connection. Whoever is not settled may be tried elsewhere.
    Leave(Trouble),
}

/// What the content, as it will be sent, needs of a server. What the server offers anyway may not have been looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Octets above 127 anywhere.
    pub(crate) eight_bit: bool,
    /// Octets above 127 in the header section.
    pub(crate) utf8: bool,
    /// Octets that will be sent, if other than those that are stored.
    pub(crate) size: Option<u64>,
    /// Why it cannot be converted, where it would have to be.
    pub(crate) unfit: Option<Unfit>,
}

impl Transaction {
    /// Starts: appends the first flight to `out`. When nothing can be sent to this server, it is done at once.
    pub(crate) fn begin(
        job: &Job,
        recipients: &[(RecipientNo, Recipient)],
        features: Features,
        needs: Needs,
        state: State,
        out: &mut Vec<u8>,
    ) -> Self {
        let utf8 = features.utf8 && job.international == International::Utf8;
        let mut it = Self {
            stage: Stage::Mail,
            pipelined: features.pipelining,
            features: Features { utf8, ..features },
            needs,
            mail: Mail::Open,
            fates: vec![Fate::Open; recipients.len()],
            asking: 0,
            accepted: 0,
            without_notify: Vec::new(),
            pace: Pace::Steady,
            barred: None,
        };
        let Some(sender) = it.sender(job).filter(|_| utf8 || !needs.utf8 || job.international == International::Ascii) else {
            it.settle_open(|| unfit(6, 7, "the message needs SMTPUTF8, which the next server does not offer"));
            return it.done(state);
        };
        if !features.eight_bit && needs.eight_bit {
            let words = needs
                .unfit
                .map_or_else(|| "the message has 8-bit text, which the next server does not take".to_owned(), |why| why.to_string());
            it.settle_open(|| unfit(6, 3, &words));
            return it.done(state);
        }
        let size = it.size(job);
        if matches!(features.size, Size::AtMost(limit) if size > limit) {
            it.settle_open(|| unfit(3, 4, "the message is larger than the next server takes"));
            return it.done(state);
        }
        if MAIL.len() + sender.len() + PATH_END > COMMAND_LIMIT {
            it.settle_open(|| unfit(1, 7, "the sender's address is too long for an SMTP command"));
            return it.done(state);
        }
        for (fate, (_, recipient)) in it.fates.iter_mut().zip(recipients) {
            match written(&recipient.mailbox, utf8) {
                None => *fate = Fate::Settled(unfit(6, 7, "the address needs SMTPUTF8, which the next server does not offer")),
                Some(mailbox) if RCPT.len() + mailbox.len() + PATH_END > COMMAND_LIMIT => {
                    *fate = Fate::Settled(unfit(1, 3, "the address is too long for an SMTP command"));
                }
                Some(_) => {}
            }
        }
        if !it.fates.contains(&Fate::Open) {
            return it.done(state);
        }
        if state == State::Open {
            out.extend_from_slice(b"RSET\r\n");
            it.stage = Stage::Rset;
        }
        if it.pipelined || it.stage == Stage::Mail {
            it.write_mail(job, &sender, size, out);
        }
        if it.pipelined {
            (0..recipients.len()).for_each(|at| it.write_rcpt(recipients, at, out));
            out.extend_from_slice(b"DATA\r\n");
        }
        it.skip_to_open();
        it
    }

    /// Takes in the next reply.
    pub(crate) fn reply(&mut self, reply: &Reply<'_>, job: &Job, recipients: &[(RecipientNo, Recipient)], out: &mut Vec<u8>) -> Step {
        let meaning = reply.meaning();
        match (self.stage, meaning) {
            (Stage::Done(_), _) => Step::Done,
            // A server that refuses RSET shows it again at MAIL.
            (Stage::Rset, Meaning::Yes | Meaning::NotNow | Meaning::Never) => {
                self.stage = Stage::Mail;
                if self.pipelined {
                    return Step::Read;
                }
                match self.sender(job) {
                    Some(sender) => self.write_mail(job, &sender, self.size(job), out),
                    None => return self.finish(State::Clean),
                }
                Step::Send
            }
            (Stage::Mail, Meaning::Yes) => {
                self.stage = Stage::Rcpt;
                self.mail = Mail::Accepted;
                self.after_mail_or_rcpt(recipients, out)
            }
            (Stage::Mail, Meaning::NotNow | Meaning::Never) => {
                self.stage = Stage::Rcpt;
                self.mail = Mail::Refused;
                let all = self.fates.len();
                self.settle_open(|| refusal(reply, all));
                self.after_mail_or_rcpt(recipients, out)
            }
            (Stage::Rcpt, Meaning::Yes | Meaning::NotNow | Meaning::Never | Meaning::Channel) => {
                self.settle_asked(reply, meaning);
                self.asking += 1;
                self.skip_to_open();
                self.after_mail_or_rcpt(recipients, out)
            }
            // The server may count this recipient among those it accepted, so no content may
            // follow.
            (Stage::Rcpt, Meaning::More | Meaning::Nonsense) => {
                let trouble = Trouble::unexpected(self.stage.command(), reply);
                if let Some(fate @ Fate::Open) = self.fates.get_mut(self.asking) {
                    *fate = Fate::Settled(Outcome::Deferred(trouble.account_so_far()));
                }
                Step::Leave(trouble)
            }
            (Stage::Data, Meaning::More) if reply.is(354) && self.accepted > 0 => {
                self.stage = Stage::Content;
                Step::Content
            }
            (Stage::Data, Meaning::More) if reply.is(354) => {
                out.extend_from_slice(b".\r\n");
                self.stage = Stage::LoneDot;
                Step::Send
            }
            (Stage::Data, Meaning::NotNow | Meaning::Never) => {
                let all = self.fates.len();
                self.settle_accepted(|| refusal(reply, all));
                self.finish(if self.mail == Mail::Accepted { State::Open } else { State::Clean })
            }
            (Stage::Content, Meaning::Yes) => {
                self.deliver_accepted(reply);
                self.finish(State::Clean)
            }
            (Stage::Content, Meaning::NotNow | Meaning::Never) => {
                let all = self.fates.len();
                self.settle_accepted(|| refusal(reply, all));
                self.finish(State::Clean)
            }
            (Stage::LoneDot, Meaning::Yes | Meaning::NotNow | Meaning::Never) => self.finish(State::Clean),
            (
                Stage::Rset | Stage::Mail | Stage::Data | Stage::Content | Stage::LoneDot,
                Meaning::Yes | Meaning::More | Meaning::Channel | Meaning::Nonsense,
            ) => Step::Leave(Trouble::of_reply(self.stage.command(), reply)),
        }
    }

    /// The message is late: no recipients are asked for beyond the next reply if somebody was
    /// accepted.
    pub(crate) fn hurry(&mut self) {
        self.pace = Pace::Late;
    }

    /// Whether commands went out that wait for their replies behind the one that is read next.
    pub(crate) fn owed(&self) -> Owed {
        match self.stage {
            Stage::Rset | Stage::Mail | Stage::Rcpt if self.pipelined => Owed::Several,
            Stage::Rset | Stage::Mail | Stage::Rcpt | Stage::Data | Stage::Content | Stage::LoneDot | Stage::Done(_) => Owed::One,
        }
    }

    /// Whether the connection must not be used for another message.
    pub(crate) fn is_barred(&self) -> bool {
        self.barred.is_some()
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// Recipients that the server accepted at RCPT.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted
    }

    /// The fates, one for each recipient in their order.
    pub(crate) fn into_fates(self) -> Vec<Fate> {
        self.fates
    }

    /// What follows in stage RCPT once `asking` points to the next recipient.
    fn after_mail_or_rcpt(&mut self, recipients: &[(RecipientNo, Recipient)], out: &mut Vec<u8>) -> Step {
        let more = self.asking < self.fates.len();
        if let (false, 0, Some(trouble)) = (more, self.accepted, &self.barred) {
            return Step::Leave(trouble.clone());
        }
        if self.pipelined {
            if !more {
                self.stage = Stage::Data;
            }
            return Step::Read;
        }
        match self.mail {
            Mail::Open | Mail::Refused => self.finish(State::Clean),
            Mail::Accepted if more && (self.pace == Pace::Steady || self.accepted == 0) => {
                self.write_rcpt(recipients, self.asking, out);
                Step::Send
            }
            Mail::Accepted if self.accepted == 0 => self.finish(State::Open),
            Mail::Accepted => {
                out.extend_from_slice(b"DATA\r\n");
                self.stage = Stage::Data;
                Step::Send
            }
        }
    }

    /// Moves on over recipients for which no RCPT was sent: those settled before anything was asked.
    fn skip_to_open(&mut self) {
        let unsent = |fate: &Fate| matches!(fate, Fate::Settled(Outcome::Failed(account)) if account.origin == Origin::Local);
        while self.fates.get(self.asking).is_some_and(unsent) {
            self.asking += 1;
        }
    }

    fn done(mut self, state: State) -> Self {
        self.stage = Stage::Done(state);
        self
    }

    fn finish(&mut self, state: State) -> Step {
        if let Some(account) = self.barred.as_ref().map(Trouble::account_so_far) {
            self.settle_open(|| Outcome::Deferred(account.clone()));
        }
        self.stage = Stage::Done(state);
        Step::Done
    }

    /// What RCPT was answered. A recipient refused for the sake of the connection stays open: if
    /// nobody else was accepted, the message goes to another host as a whole.
    fn settle_asked(&mut self, reply: &Reply<'_>, meaning: Meaning) {
        let crowded = (reply.is(452) || reply.is(552) || is_too_many(reply)) && self.accepted > 0;
        let all = self.fates.len();
        let Some(fate @ Fate::Open) = self.fates.get_mut(self.asking) else { return };
        match meaning {
            Meaning::Yes => {
                *fate = Fate::Accepted;
                self.accepted += 1;
            }
            Meaning::Channel => self.barred = Some(Trouble::of_reply("RCPT", reply)),
            Meaning::NotNow | Meaning::Never if crowded => *fate = Fate::Again,
            Meaning::NotNow | Meaning::Never | Meaning::More | Meaning::Nonsense => {
                *fate = Fate::Settled(refusal(reply, all));
            }
        }
    }

    /// The content was taken. Reports of success are the next server's business where it heard
    /// NOTIFY.
    fn deliver_accepted(&mut self, reply: &Reply<'_>) {
        let all = self.fates.len();
        for (at, fate) in self.fates.iter_mut().enumerate().filter(|(_, fate)| **fate == Fate::Accepted) {
            let heard = self.features.dsn && !self.without_notify.contains(&at);
            let passed_on = if heard { PassedOn::WithDsn } else { PassedOn::WithoutDsn };
            *fate = Fate::Settled(Outcome::Delivered(Account { passed_on, ..account(reply, all) }));
        }
    }

    fn settle_open(&mut self, outcome: impl Fn() -> Outcome) {
        self.settle(&Fate::Open, outcome);
    }

    fn settle_accepted(&mut self, outcome: impl Fn() -> Outcome) {
        self.settle(&Fate::Accepted, outcome);
    }

    fn settle(&mut self, which: &Fate, outcome: impl Fn() -> Outcome) {
        self.fates.iter_mut().filter(|fate| *fate == which).for_each(|fate| *fate = Fate::Settled(outcome()));
    }

    /// The reverse path as this server can take it.
    fn sender<'j>(&self, job: &'j Job) -> Option<Cow<'j, str>> {
        match &job.sender {
            ReversePath::Null => Some(Cow::Borrowed("")),
            ReversePath::Mailbox(mailbox) => written(mailbox, self.features.utf8).map(Cow::Owned),
        }
    }

    fn size(&self, job: &Job) -> u64 {
        self.needs.size.unwrap_or_else(|| job.content.size())
    }

    /// MAIL. What an extension adds to the length of the line (RFC 1870 §3, RFC 6152 §2, RFC 6531
    /// §3.1) is counted for the parameters that are there; DSN adds nothing, so its parameters are
    /// left out where they do not fit.
    fn write_mail(&self, job: &Job, sender: &str, size: u64, out: &mut Vec<u8>) {
        let mut line = Line::new(MAIL, sender);
        if self.features.size != Size::NotOffered {
            line.extended(&format!(" SIZE={size}"), 26);
        }
        // Said also of what the client did not declare (RFC 6152 §3).
        if self.features.eight_bit && (job.body == BodyType::EightBitMime || self.needs.eight_bit) {
            line.extended(" BODY=8BITMIME", 17);
        }
        if self.features.utf8 {
            line.extended(" SMTPUTF8", 10);
        }
        if self.features.dsn {
            match job.ret {
                Some(Ret::Full) => line.optional(" RET=FULL"),
                Some(Ret::Headers) => line.optional(" RET=HDRS"),
                None => Room::Enough,
            };
            if let Some(envid) = &job.envid {
                line.optional(&format!(" ENVID={}", xtext::encode(envid.as_str().as_bytes())));
            }
        }
        line.end(out);
    }

    /// RCPT for an open recipient; nothing for one that is settled. NOTIFY has precedence over
    /// ORCPT where not both fit.
    fn write_rcpt(&mut self, recipients: &[(RecipientNo, Recipient)], at: usize, out: &mut Vec<u8>) {
        let (Some(Fate::Open), Some((_, recipient))) = (self.fates.get(at), recipients.get(at)) else { return };
        let Some(mailbox) = written(&recipient.mailbox, self.features.utf8) else { return };
        let mut line = Line::new(RCPT, &mailbox);
        if self.features.dsn {
            if recipient.notify != Notify::Unspecified && line.optional(&format!(" NOTIFY={}", recipient.notify)) == Room::TooLittle {
                self.without_notify.push(at);
            }
            if let Some(original) = &recipient.original {
                line.optional(&format!(" ORCPT={};{}", original.kind, orcpt(original)));
            }
        }
        line.end(out);
    }
}

impl Stage {
    /// The command that the next reply answers, for words.
    fn command(self) -> &'static str {
        match self {
            Self::Rset => "RSET",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::Content | Self::LoneDot | Self::Done(_) => "the end of the message",
        }
    }
}

/// The mailbox as it is; without SMTPUTF8 only if its local part is ASCII, with the domain's A-labels (RFC 5890 §2.3.2.1).
fn written(mailbox: &Mailbox, utf8: bool) -> Option<String> {
    if utf8 || mailbox.is_ascii() {
        return Some(mailbox.to_string());
    }
    if !mailbox.local().is_ascii() {
        return None;
    }
    mailbox.domain().to_dns().map(|domain| format!("{}@{domain}", mailbox.local()))
}

/// The address of ORCPT in ASCII: xtext, or for the type `utf-8` its own form for ASCII paths (RFC 6533 §3).
fn orcpt(original: &OriginalRecipient) -> String {
    if original.kind.eq_ignore_ascii_case("utf-8") && !original.address.is_ascii() {
        return xtext::utf8_in_ascii(&original.address);
    }
    xtext::encode(original.address.as_bytes())
}

/// What a negative reply means: 5yz is for good, 4yz for now.
fn refusal(reply: &Reply<'_>, recipients: usize) -> Outcome {
    let account = account(reply, recipients);
    if account.status.class == Class::Permanent { Outcome::Failed(account) } else { Outcome::Deferred(account) }
}

/// X.5.3: too many recipients (RFC 3463 §3.6).
fn is_too_many(reply: &Reply<'_>) -> bool {
    let status = reply.status();
    (status.subject, status.detail) == (5, 3)
}

/// What is kept of a reply to a message with this many recipients.
fn account(reply: &Reply<'_>, recipients: usize) -> Account {
    let mut account = Account {
        status: reply.status(),
        remote: None,
        diagnostic: reply.words(),
        origin: Origin::Remote,
        passed_on: PassedOn::WithoutDsn,
    };
    account.cut(recipients);
    account
}

/// What no server with these features can be sent, found before anything was asked.
fn unfit(subject: u16, detail: u16, words: &str) -> Outcome {
    Outcome::Failed(Account {
        status: EnhancedStatus::new(Class::Permanent, subject, detail),
        remote: None,
        diagnostic: words.to_owned(),
        origin: Origin::Local,
        passed_on: PassedOn::WithoutDsn,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::client::trouble::Kind;
    use crate::delivery::samples;
    use crate::smtp::address::Domain;
    use crate::smtp::envelope::NotifyOn;

    const ALL: Features = Features {
        pipelining: true,
        eight_bit: true,
        utf8: true,
        dsn: true,
        starttls: false,
        auth_plain: false,
        auth_login: false,
        size: Size::Unlimited,
    };
    const PLAIN: Features = Features { pipelining: false, eight_bit: false, utf8: false, dsn: false, size: Size::NotOffered, ..ALL };

    /// A transaction with its message, and what it has said.
    struct Play {
        job: Job,
        recipients: Vec<(RecipientNo, Recipient)>,
        transaction: Transaction,
        said: Vec<u8>,
    }

    impl Play {
        fn begin(mut job: Job, features: Features, needs: Needs) -> Self {
            let recipients = std::mem::take(&mut job.recipients);
            let mut said = Vec::new();
            let transaction = Transaction::begin(&job, &recipients, features, needs, State::Clean, &mut said);
            Self { job, recipients, transaction, said }
        }

        fn said(&mut self) -> String {
            String::from_utf8(std::mem::take(&mut self.said)).unwrap()
        }

        fn hears(&mut self, code: u16, text: &str) -> Step {
            self.transaction.reply(&Reply::of(code, text), &self.job, &self.recipients, &mut self.said)
        }

        /// One letter for each recipient: delivered, temporary, failed, again, open.
        fn fates(self) -> String {
            let letter = |fate: &Fate| match fate {
                Fate::Open => 'o',
                Fate::Accepted => 'a',
                Fate::Again => '+',
                Fate::Settled(Outcome::Delivered(_)) => 'D',
                Fate::Settled(Outcome::Deferred(_)) => 'T',
                Fate::Settled(Outcome::Failed(_)) => 'F',
            };
            self.transaction.into_fates().iter().map(letter).collect()
        }
    }

    #[test]
    fn with_pipelining_all_commands_are_one_flight() {
        let mut play = Play::begin(samples::job("s@a.example", &["x@b.example", "y@b.example"]), ALL, Needs::default());

        let size = play.job.content.size();
        assert_eq!(
            play.said(),
            format!("MAIL FROM:<s@a.example> SIZE={size}\r\nRCPT TO:<x@b.example>\r\nRCPT TO:<y@b.example>\r\nDATA\r\n")
        );
        assert_eq!(play.hears(250, ""), Step::Read);
        assert_eq!(play.hears(250, ""), Step::Read);
        assert_eq!(play.hears(550, "no"), Step::Read);
        assert_eq!(play.hears(354, ""), Step::Content);
        assert_eq!(play.hears(250, "ok"), Step::Done);
        assert_eq!(play.transaction.stage(), Stage::Done(State::Clean));
        assert_eq!(play.fates(), "DF");
    }

    #[test]
    fn without_pipelining_each_command_waits_for_its_reply() {
        let mut play = Play::begin(samples::job("", &["x@b.example", "y@b.example"]), PLAIN, Needs::default());

        assert_eq!(play.said(), "MAIL FROM:<>\r\n");
        assert_eq!(play.hears(250, ""), Step::Send);
        assert_eq!(play.said(), "RCPT TO:<x@b.example>\r\n");
        assert_eq!(play.hears(451, ""), Step::Send);
        assert_eq!(play.said(), "RCPT TO:<y@b.example>\r\n");
        assert_eq!(play.hears(251, ""), Step::Send);
        assert_eq!(play.said(), "DATA\r\n");
        assert_eq!(play.hears(354, ""), Step::Content);
        assert_eq!(play.hears(250, ""), Step::Done);
        assert_eq!(play.fates(), "TD");
    }

    #[test]
    fn no_accepted_recipient_means_no_data() {
        let mut play = Play::begin(samples::job("s@a.example", &["x@b.example"]), PLAIN, Needs::default());

        play.hears(250, "");
        play.said();
        assert_eq!(play.hears(550, "no"), Step::Done);
        assert_eq!(play.said(), "");
        assert_eq!(play.transaction.stage(), Stage::Done(State::Open));
        assert_eq!(play.fates(), "F");
    }

    #[test]
    fn data_accepted_for_nobody_is_ended_by_a_lone_dot_that_delivers_to_nobody() {
        let mut play = Play::begin(samples::job("s@a.example", &["x@b.example"]), ALL, Needs::default());

        play.said();
        play.hears(250, "");
        play.hears(450, "no");
        assert_eq!(play.hears(354, ""), Step::Send);
        assert_eq!(play.said(), ".\r\n");
        assert_eq!(play.hears(250, "queued"), Step::Done);
        assert_eq!(play.fates(), "T");
    }

    #[test]
    fn a_refused_mail_is_everybodys_fate_whatever_rcpt_hears() {
        for (features, replies) in [(ALL, 4), (PLAIN, 1)] {
            let mut play = Play::begin(samples::job("s@a.example", &["x@b.example", "y@b.example"]), features, Needs::default());

            let codes = [452, 250, 503, 503];
            let steps: Vec<_> = codes.iter().take(replies).map(|code| play.hears(*code, "")).collect();

            assert_eq!(steps.last(), Some(&Step::Done));
            assert_eq!(play.fates(), "TT");
        }
    }

    #[test]
    fn a_refused_data_or_content_is_the_fate_of_those_accepted() {
        for (codes, fates) in [
            (&[250, 250, 550, 451][..], "TF"),
            (&[250, 250, 450, 554], "FT"),
            (&[250, 250, 550, 354, 452], "TF"),
            (&[250, 450, 250, 354, 552], "TF"),
        ] {
            let mut play = Play::begin(samples::job("s@a.example", &["x@b.example", "y@b.example"]), ALL, Needs::default());

            codes.iter().for_each(|code| {
                play.hears(*code, "");
            });

            assert!(matches!(play.transaction.stage(), Stage::Done(_)), "{codes:?}");
            assert_eq!(play.fates(), fates, "{codes:?}");
        }
    }

    /// The step after the last of these replies, and the fates.
    fn after(features: Features, codes: &[u16], text: &str) -> (Step, String) {
        let mut play = Play::begin(samples::job("s@a.example", &["x@b.example", "y@b.example"]), features, Needs::default());
        let last = codes.iter().map(|code| play.hears(*code, text)).last().unwrap();
        (last, play.fates())
    }

    #[test]
    fn a_positive_code_where_none_is_due_is_a_protocol_error_and_leaves_the_connection() {
        let mail = [&[354][..], &[334], &[220], &[221], &[235]];
        let data = [&[250, 250, 250, 250][..], &[250, 250, 250, 334], &[250, 250, 250, 220], &[250, 550, 550, 250]];
        let content = [&[250, 250, 250, 354, 354][..], &[250, 250, 250, 354, 334], &[250, 250, 250, 354, 220]];
        for codes in mail.into_iter().chain(data).chain(content) {
            let (Step::Leave(trouble), fates) = after(ALL, codes, "2.0.0 x") else { panic!("{codes:?}") };

            assert_eq!(trouble.account("r").status.to_string(), "4.5.0", "{codes:?}");
            assert!(!fates.contains('D'), "{codes:?} {fates}");
        }
        for features in [ALL, PLAIN] {
            let (step, fates) = after(features, &[250, 354], "2.0.0 x");

            // The one who was asked is out of the next try, so that the others are not held up.
            assert!(matches!(step, Step::Leave(_)));
            assert_eq!(fates, "To");
        }
    }

    #[test]
    fn what_asks_for_tls_or_a_login_leaves_the_connection_and_is_nobodys_fate() {
        for code in [530, 523, 538, 534, 535] {
            for (codes, fates) in [
                (&[code][..], "oo"),
                (&[250, 550, code], "Fo"),
                (&[250, code, code], "oo"),
                (&[250, 250, 250, code], "aa"),
                (&[250, 250, 250, 354, code], "aa"),
            ] {
                let (step, found) = after(ALL, codes, "5.7.0 Must issue a STARTTLS command first");

                assert!(matches!(step, Step::Leave(trouble) if trouble.kind == Kind::Channel), "{codes:?}");
                assert_eq!(found, fates, "{codes:?}");
            }
            let (step, fates) = after(PLAIN, &[250, code, code], "");
            assert!(matches!(step, Step::Leave(trouble) if trouble.kind == Kind::Channel));
            assert_eq!(fates, "oo");
        }
    }

    #[test]
    fn one_recipient_refused_for_want_of_a_login_does_not_hold_up_the_others() {
        for features in [ALL, PLAIN] {
            let mut play = Play::begin(samples::job("s@a.example", &["x@b.example", "y@b.example"]), features, Needs::default());
            for code in [250, 530, 250, 354] {
                play.hears(code, "");
            }

            assert_eq!(play.hears(250, ""), Step::Done);
            assert!(play.transaction.is_barred(), "the connection ends here");
            assert_eq!(play.fates(), "TD");
        }
    }

    #[test]
    fn a_late_message_goes_to_those_accepted_so_far_and_the_others_wait_for_the_next_transaction() {
        let mut play = Play::begin(samples::job("s@a.example", &["x@b.example", "y@b.example"]), PLAIN, Needs::default());
        play.hears(250, "");
        play.said();

        play.transaction.hurry();
        play.hears(250, "");

        assert_eq!(play.said(), "DATA\r\n");
        play.hears(354, "");
        assert_eq!(play.hears(250, ""), Step::Done);
        assert_eq!(play.fates(), "Do");
    }

    #[test]
    fn no_outcome_has_a_status_of_another_class_whatever_the_server_writes() {
        for text in ["2.0.0 x", "2.1.0 odd", "4.2.1 x", "5.1.1 x", "x", ""] {
            for codes in [&[450][..], &[550], &[250, 450, 550, 554], &[250, 250, 250, 450], &[250, 250, 250, 354, 550], &[250, 354]] {
                let mut play = Play::begin(samples::job("s@a.example", &["x@b.example", "y@b.example"]), ALL, Needs::default());
                for code in codes {
                    play.hears(*code, text);
                }
                for fate in play.transaction.into_fates() {
                    let Fate::Settled(outcome) = fate else { continue };
                    let (account, class) = match outcome {
                        Outcome::Delivered(account) => (account, Class::Success),
                        Outcome::Deferred(account) => (account, Class::Transient),
                        Outcome::Failed(account) => (account, Class::Permanent),
                    };
                    assert_eq!(account.status.class, class, "{codes:?} {text}");
                }
            }
        }
    }

    /// A mailbox with a local part of this length.
    fn long(length: usize) -> Mailbox {
        Mailbox::of_user(&"l".repeat(length), Domain::parse("b.example").unwrap()).unwrap()
    }

    #[test]
    fn no_command_line_is_longer_than_its_extensions_allow_and_what_can_be_left_out_is() {
        for length in [1, 64, 200, 400, 440, 455, 475, 485, 500, 600] {
            let mut job = samples::job("s@a.example", &["x@b.example"]);
            job.sender = ReversePath::Mailbox(long(length));
            job.ret = Some(Ret::Headers);
            job.envid = crate::smtp::envelope::EnvelopeId::new(&"+".repeat(100));
            job.body = BodyType::EightBitMime;
            job.recipients[0].1.mailbox = long(length);
            job.recipients[0].1.notify = Notify::On(NotifyOn { success: true, failure: true, delay: true });
            job.recipients[0].1.original = Some(OriginalRecipient { kind: "rfc822".into(), address: "+".repeat(166) });

            let mut play = Play::begin(job, ALL, Needs::default());

            for line in play.said().split_inclusive("\r\n") {
                let more = [(" SIZE=", 26), (" BODY=", 17), (" SMTPUTF8", 10)];
                let more: usize = more.iter().filter(|(parameter, _)| line.contains(parameter)).map(|(_, more)| more).sum();
                assert!(line.len() <= COMMAND_LIMIT + more, "{} {line}", line.len());
            }
        }
    }

    #[test]
    fn an_address_too_long_for_a_command_fails_with_its_own_status_and_the_others_go() {
        let mut job = samples::job("s@a.example", &["x@b.example", "y@b.example"]);
        job.recipients[0].1.mailbox = long(600);
        let mut play = Play::begin(job.clone(), PLAIN, Needs::default());
        play.hears(250, "");
        assert_eq!(play.said(), "MAIL FROM:<s@a.example>\r\nRCPT TO:<y@b.example>\r\n");
        let fates = play.transaction.into_fates();
        assert!(matches!(&fates[0], Fate::Settled(Outcome::Failed(account)) if account.status.to_string() == "5.1.3"));

        job.sender = ReversePath::Mailbox(long(600));
        let play = Play::begin(job, PLAIN, Needs::default());
        assert_eq!(play.said, b"");
        assert_eq!(play.fates(), "FF");
    }

    #[test]
    fn reports_of_success_stay_our_business_where_notify_did_not_fit() {
        for (length, passed_on) in [(100, PassedOn::WithDsn), (485, PassedOn::WithoutDsn)] {
            let mut job = samples::job("s@a.example", &["x@b.example"]);
            job.recipients[0].1.mailbox = long(length);
            job.recipients[0].1.notify = Notify::On(NotifyOn { success: true, failure: true, delay: true });
            let mut play = Play::begin(job, ALL, Needs::default());
            for code in [250, 250, 354, 250] {
                play.hears(code, "");
            }

            let fates = play.transaction.into_fates();

            assert!(matches!(&fates[0], Fate::Settled(Outcome::Delivered(account)) if account.passed_on == passed_on), "{fates:?}");
        }
    }

    #[test]
    fn too_many_recipients_at_once_are_asked_again_not_deferred() {
        let mut play = Play::begin(samples::job("s@a.example", &["x@b.example", "y@b.example"]), ALL, Needs::default());

        [250, 250, 452, 354, 250].iter().for_each(|code| {
            play.hears(*code, "");
        });

        assert_eq!(play.fates(), "D+");
    }

    #[test]
    fn passes_the_senders_wishes_on_when_dsn_is_offered_and_only_then() {
        let mut job = samples::job("s@a.example", &["x@b.example"]);
        job.ret = Some(Ret::Headers);
        job.envid = crate::smtp::envelope::EnvelopeId::new("a+b c");
        job.body = BodyType::EightBitMime;
        job.recipients[0].1.notify = Notify::Never;
        job.recipients[0].1.original = Some(OriginalRecipient { kind: "rfc822".into(), address: "ö=o@b.example".into() });

        let mut with = Play::begin(job.clone(), Features { size: Size::NotOffered, ..ALL }, Needs::default());
        let mut without = Play::begin(job, PLAIN, Needs::default());

        assert_eq!(
            with.said(),
            "MAIL FROM:<s@a.example> BODY=8BITMIME RET=HDRS ENVID=a+2Bb+20c\r\n\
             RCPT TO:<x@b.example> NOTIFY=NEVER ORCPT=rfc822;+C3+B6+3Do@b.example\r\nDATA\r\n"
        );
        assert_eq!(without.said(), "MAIL FROM:<s@a.example>\r\n");
    }

    #[test]
    fn an_international_original_recipient_goes_in_the_ascii_form_of_its_type() {
        let original = OriginalRecipient { kind: "utf-8".into(), address: "jürgen@b.example".into() };

        assert_eq!(orcpt(&original), "j\\x{FC}rgen@b.example");
    }

    #[test]
    fn what_needs_smtputf8_fails_where_it_is_not_offered_and_the_rest_goes() {
        let mut job = samples::job("s@a.example", &["jürgen@b.example", "x@bücher.example", "y@b.example"]);
        job.international = International::Utf8;

        let mut play = Play::begin(job.clone(), PLAIN, Needs::default());
        assert_eq!(play.said(), "MAIL FROM:<s@a.example>\r\n");
        play.hears(250, "");
        assert_eq!(play.said(), "RCPT TO:<x@xn--bcher-kva.example>\r\n");
        play.hears(250, "");
        assert_eq!(play.said(), "RCPT TO:<y@b.example>\r\n");
        assert_eq!(play.fates(), "Fao");

        let play = Play::begin(job.clone(), PLAIN, Needs { utf8: true, eight_bit: true, ..Needs::default() });
        assert_eq!(play.transaction.stage(), Stage::Done(State::Clean));
        assert_eq!(play.fates(), "FFF");

        let mut play = Play::begin(job, ALL, Needs::default());
        assert!(play.said().contains(" SMTPUTF8\r\nRCPT TO:<jürgen@b.example>\r\nRCPT TO:<x@bücher.example>\r\n"));
    }

    #[test]
    fn what_cannot_go_is_refused_without_a_word() {
        let mut job = samples::job("s@a.example", &["x@b.example"]);
        job.body = BodyType::EightBitMime;
        for (features, needs, status) in [
            (Features { size: Size::AtMost(3), ..ALL }, Needs::default(), "5.3.4"),
            (PLAIN, Needs { eight_bit: true, ..Needs::default() }, "5.6.3"),
        ] {
            let mut play = Play::begin(job.clone(), features, needs);

            assert_eq!(play.said(), "");
            match &play.transaction.into_fates()[..] {
                [Fate::Settled(Outcome::Failed(account))] => assert_eq!(account.status.to_string(), status),
                fates => panic!("{fates:?}"),
            }
        }
    }

    #[test]
    fn an_open_transaction_is_reset_first() {
        for (features, flight) in [(ALL, 2), (PLAIN, 1)] {
            let mut job = samples::job("s@a.example", &["x@b.example"]);
            let recipients = std::mem::take(&mut job.recipients);
            let mut said = Vec::new();
            let mut it = Transaction::begin(&job, &recipients, features, Needs::default(), State::Open, &mut said);

            it.reply(&Reply::of(250, ""), &job, &recipients, &mut said);

            let text = String::from_utf8(said).unwrap();
            assert!(text.starts_with("RSET\r\nMAIL FROM"), "{text}");
            assert_eq!(it.stage(), Stage::Mail);
            assert!(text.lines().count() >= flight);
        }
    }

    use proptest::prelude::*;

    fn code() -> impl Strategy<Value = u16> {
        prop_oneof![Just(250_u16), Just(354), Just(452), Just(552), Just(550), Just(421), 200_u16..600]
    }

    proptest! {
        #[test]
        fn whatever_a_server_says_everybody_has_a_fate_and_only_a_yes_to_the_content_delivers(
            pipelined: bool,
            reset: bool,
            count in 1_usize..5,
            codes in proptest::collection::vec(code(), 0..16),
        ) {
            let addresses: Vec<String> = (0..count).map(|number| format!("r{number}@b.example")).collect();
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            let mut job = samples::job("s@a.example", &addresses);
            let recipients = std::mem::take(&mut job.recipients);
            let mut out = Vec::new();
            let features = Features { pipelining: pipelined, ..ALL };
            let state = if reset { State::Open } else { State::Clean };
            let mut it = Transaction::begin(&job, &recipients, features, Needs::default(), state, &mut out);
            let mut content = None;
            for code in codes {
                if it.stage() == Stage::Content {
                    content = Some(code);
                }
                let before = it.stage();
                let step = it.reply(&Reply::of(code, "x"), &job, &recipients, &mut out);
                if matches!(step, Step::Leave(_)) {
                    break;
                }
                prop_assert_eq!(step == Step::Content, it.stage() == Stage::Content && before != Stage::Content);
                prop_assert_eq!(step == Step::Done, matches!(it.stage(), Stage::Done(_)));
            }
            let done = matches!(it.stage(), Stage::Done(_));
            for fate in it.into_fates() {
                if let Fate::Settled(Outcome::Delivered(_)) = fate {
                    prop_assert!(content.is_some_and(|code| (200..300).contains(&code)));
                }
                prop_assert!(!done || !matches!(fate, Fate::Open | Fate::Accepted));
            }
        }
    }
}
