//! One message to one server, from MAIL to the reply to its content: replies in, commands and fates out. Pure.
//!
//! ```text
//! [RSET] MAIL RCPT… DATA ──354──▶ content ──▶ done
//!          └─ in one flight when the server offers PIPELINING (RFC 2920 §3.1), else one by one
//! ```
//!
//! Every recipient has exactly one fate at the end. A recipient is delivered only by a 2yz to the content.

use std::borrow::Cow;
use std::io::Write as _;

use super::features::{Features, Size};
use super::reply::Reply;
use crate::delivery::job::{Account, Job, Origin, Outcome, PassedOn, RecipientNo};
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Read another reply.
    Read,
    /// Send what was appended, then read.
    Send,
    /// Send the content with its end, then read.
    Content,
    Done,
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
        };
        let Some(sender) = it.sender(job).filter(|_| utf8 || !needs.utf8 || job.international == International::Ascii) else {
            it.settle_open(|| unfit(6, 7, "the message needs SMTPUTF8, which the next server does not offer"));
            return it.done(state);
        };
        if !features.eight_bit && needs.eight_bit {
            it.settle_open(|| unfit(6, 3, "the message has 8-bit text, which the next server does not take"));
            return it.done(state);
        }
        let size = it.size(job);
        if matches!(features.size, Size::AtMost(limit) if size > limit) {
            it.settle_open(|| unfit(3, 4, "the message is larger than the next server takes"));
            return it.done(state);
        }
        for (fate, (_, recipient)) in it.fates.iter_mut().zip(recipients) {
            if written(&recipient.mailbox, utf8).is_none() {
                *fate = Fate::Settled(unfit(6, 7, "the address needs SMTPUTF8, which the next server does not offer"));
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
        match self.stage {
            // A server that refuses RSET shows it again at MAIL.
            Stage::Rset => {
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
            Stage::Mail => {
                self.stage = Stage::Rcpt;
                if reply.is_positive() {
                    self.mail = Mail::Accepted;
                } else {
                    self.mail = Mail::Refused;
                    self.settle_open(|| refusal(reply));
                }
                self.after_mail_or_rcpt(recipients, out)
            }
            Stage::Rcpt => {
                let crowded = (matches!(reply.code, 452 | 552) || is_too_many(reply)) && self.accepted > 0;
                if let Some(fate @ Fate::Open) = self.fates.get_mut(self.asking) {
                    *fate = match reply.is_positive() {
                        true => Fate::Accepted,
                        false if crowded => Fate::Again,
                        false => Fate::Settled(refusal(reply)),
                    };
                    self.accepted += usize::from(*fate == Fate::Accepted);
                }
                self.asking += 1;
                self.skip_to_open();
                self.after_mail_or_rcpt(recipients, out)
            }
            Stage::Data if reply.code == 354 && self.accepted > 0 => {
                self.stage = Stage::Content;
                Step::Content
            }
            Stage::Data if reply.code == 354 => {
                out.extend_from_slice(b".\r\n");
                self.stage = Stage::LoneDot;
                Step::Send
            }
            Stage::Data => {
                self.settle_accepted(|| refusal(reply));
                self.finish(if self.mail == Mail::Accepted { State::Open } else { State::Clean })
            }
            Stage::Content => {
                let passed_on = if self.features.dsn { PassedOn::WithDsn } else { PassedOn::WithoutDsn };
                if reply.is_positive() {
                    self.settle_accepted(|| Outcome::Delivered(Account { passed_on, ..account(reply) }));
                } else {
                    self.settle_accepted(|| refusal(reply));
                }
                self.finish(State::Clean)
            }
            Stage::LoneDot => self.finish(State::Clean),
            Stage::Done(_) => Step::Done,
        }
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
        if self.pipelined {
            if !more {
                self.stage = Stage::Data;
            }
            return Step::Read;
        }
        match self.mail {
            Mail::Open | Mail::Refused => self.finish(State::Clean),
            Mail::Accepted if more => {
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
        self.stage = Stage::Done(state);
        Step::Done
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

    fn write_mail(&self, job: &Job, sender: &str, size: u64, out: &mut Vec<u8>) {
        let _ = write!(out, "MAIL FROM:<{sender}>");
        if self.features.size != Size::NotOffered {
            let _ = write!(out, " SIZE={size}");
        }
        // Said also of what the client did not declare (RFC 6152 §3).
        if self.features.eight_bit && (job.body == BodyType::EightBitMime || self.needs.eight_bit) {
            out.extend_from_slice(b" BODY=8BITMIME");
        }
        if self.features.utf8 {
            out.extend_from_slice(b" SMTPUTF8");
        }
        if self.features.dsn {
            match job.ret {
                Some(Ret::Full) => out.extend_from_slice(b" RET=FULL"),
                Some(Ret::Headers) => out.extend_from_slice(b" RET=HDRS"),
                None => {}
            }
            if let Some(envid) = &job.envid {
                let _ = write!(out, " ENVID={}", xtext::encode(envid.as_str().as_bytes()));
            }
        }
        out.extend_from_slice(b"\r\n");
    }

    /// RCPT for an open recipient; nothing for one that is settled.
    fn write_rcpt(&self, recipients: &[(RecipientNo, Recipient)], at: usize, out: &mut Vec<u8>) {
        let (Some(Fate::Open), Some((_, recipient))) = (self.fates.get(at), recipients.get(at)) else { return };
        let Some(mailbox) = written(&recipient.mailbox, self.features.utf8) else { return };
        let _ = write!(out, "RCPT TO:<{mailbox}>");
        if self.features.dsn {
            if recipient.notify != Notify::Unspecified {
                let _ = write!(out, " NOTIFY={}", recipient.notify);
            }
            if let Some(original) = &recipient.original {
                let _ = write!(out, " ORCPT={};{}", original.kind, orcpt(original));
            }
        }
        out.extend_from_slice(b"\r\n");
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

/// What a reply that is not positive means: 5yz is for good, all else for now.
fn refusal(reply: &Reply<'_>) -> Outcome {
    let account = account(reply);
    if reply.is_permanent() { Outcome::Failed(account) } else { Outcome::Deferred(account) }
}

/// X.5.3: too many recipients (RFC 3463 §3.6).
fn is_too_many(reply: &Reply<'_>) -> bool {
    let status = reply.status();
    !reply.is_positive() && (status.subject, status.detail) == (5, 3)
}

fn account(reply: &Reply<'_>) -> Account {
    Account { status: reply.status(), remote: None, diagnostic: reply.words(), origin: Origin::Remote, passed_on: PassedOn::WithoutDsn }
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
    use crate::delivery::samples;

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
            (&[250, 250, 250, 354, 354], "TT"),
            (&[250, 250, 250, 250], "TT"),
        ] {
            let mut play = Play::begin(samples::job("s@a.example", &["x@b.example", "y@b.example"]), ALL, Needs::default());

            codes.iter().for_each(|code| {
                play.hears(*code, "");
            });

            assert!(matches!(play.transaction.stage(), Stage::Done(_)), "{codes:?}");
            assert_eq!(play.fates(), fates, "{codes:?}");
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

        let play = Play::begin(job.clone(), PLAIN, Needs { utf8: true, eight_bit: true, size: None });
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
