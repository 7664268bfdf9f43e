//! Delivery reports (RFC 3464): what became of a message, for a program and for the person who sent it.
//!
//! A report answers only a sender who can be answered and wants to know: never the null path, never against NOTIFY. It is
//! sent from the null path, so that no report ever answers a report. Nothing of the original or of a server's words can end
//! the part it stands in: the boundary is drawn until it occurs nowhere.

mod fields;
mod original;
mod reporter;
mod words;

use jiff::Zoned;

pub use reporter::reporter;

use crate::delivery::job::{Account, Origin, PassedOn};
use crate::handoff::QueueId;
use crate::smtp::address::ReversePath;
use crate::smtp::envelope::{BodyType, Envelope, EnvelopeId, International, Notify, Recipient, Ret};

/// Originals up to this size are given back whole, if the sender does not ask for less; of larger ones only the header.
pub const FULL_LIMIT: u64 = 64 * 1024;

/// The message that is reported on.
#[derive(Clone, Copy, Debug)]
pub struct Original<'a> {
    pub id: &'a QueueId,
    pub sender: &'a ReversePath,
    pub envid: Option<&'a EnvelopeId>,
    pub ret: Option<Ret>,
    pub international: International,
    pub arrived: &'a Zoned,
    /// Octets of the whole message.
    pub size: u64,
    /// The message from its start: all of it or its first `FULL_LIMIT` octets. More is not looked at.
    pub text: &'a [u8],
}

/// What the report is about.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    /// Given up, or refused for good.
    Failure,
    /// Still being tried, until then.
    Delay { until: &'a Zoned },
    /// Delivered, or handed to a server that will not report.
    Success,
}

/// One recipient, what became of it and on whose word.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    pub recipient: &'a Recipient,
    pub kind: Kind<'a>,
    pub account: &'a Account,
}

/// A report, ready for the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub envelope: Envelope,
    pub content: Vec<u8>,
}

/// Writes the report on those recipients whose NOTIFY asks for it; `None` if it would answer nobody or say nothing.
/// `host` is our own name.
pub fn report(original: &Original<'_>, told: &[Told<'_>], now: &Zoned, host: &str) -> Option<Report> {
    let ReversePath::Mailbox(sender) = original.sender else { return None };
    let mut told: Vec<Told<'_>> = told.iter().copied().filter(is_wanted).collect();
    // The worst first: it is what the sender must act on, and what the report is called after.
    told.sort_by_key(|told| told.kind.weight());
    let kind = told.first()?.kind;
    let parts = [words::part(original, &told, host), fields::part(original, &told, now, host), original::part(original, kind)];
    let boundary = boundary(&parts);
    let ascii = parts.iter().all(|part| part.body.is_ascii());
    let unique = random_hex();
    let mut head = format!(
        "Date: {date}\r\n\
         From: Mail Delivery System <MAILER-DAEMON@{host}>\r\n\
         To: <{sender}>\r\n\
         Subject: {subject}\r\n\
         Message-ID: <{unique}@{host}>\r\n",
        date = date(now),
        subject = words::subject(kind),
    );
    if let Some(id) = original::message_id(original.text) {
        head.push_str(&format!("In-Reply-To: {id}\r\nReferences: {id}\r\n"));
    }
    head.push_str(&format!(
        "Auto-Submitted: auto-replied\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n\
         Content-Transfer-Encoding: {coding}\r\n\
         \r\n\
         This is a delivery report in MIME format.\r\n",
        coding = if ascii { "7bit" } else { "8bit" },
    ));
    let mut content = head.into_bytes();
    for part in parts {
        let coding = if part.body.is_ascii() { "7bit" } else { "8bit" };
        content.extend_from_slice(format!("\r\n--{boundary}\r\n").as_bytes());
        content.extend_from_slice(format!("Content-Description: {}\r\nContent-Type: {}\r\n", part.description, part.kind).as_bytes());
        content.extend_from_slice(format!("Content-Transfer-Encoding: {coding}\r\n\r\n").as_bytes());
        content.extend_from_slice(&part.body);
    }
    content.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    let envelope = Envelope {
        sender: ReversePath::Null,
        // RFC 3461 §6.1: nobody reports on a report.
        first: Recipient { mailbox: sender.clone(), notify: Notify::Never, original: None },
        rest: Vec::new(),
        body: if ascii { BodyType::SevenBit } else { BodyType::EightBitMime },
        international: if sender.is_ascii() { International::Ascii } else { International::Utf8 },
        ret: None,
        envid: None,
    };
    Some(Report { envelope, content })
}

/// One part of the report.
struct Part {
    description: &'static str,
    /// Content-Type, with its parameters.
    kind: &'static str,
    body: Vec<u8>,
}

impl Kind<'_> {
    fn weight(&self) -> u8 {
        match self {
            Self::Failure => 0,
            Self::Delay { .. } => 1,
            Self::Success => 2,
        }
    }
}

fn is_wanted(told: &Told<'_>) -> bool {
    let notify = &told.recipient.notify;
    match told.kind {
        Kind::Failure => notify.of_failure(),
        Kind::Delay { .. } => notify.of_delay(),
        // A server that took the wish over reports by itself (RFC 3461 §5.2.2).
        Kind::Success => notify.of_success() && told.account.passed_on == PassedOn::WithoutDsn,
    }
}

/// RFC 3464 §2.3.3. A success of our own finding is a delivery, one that another server told is a relaying.
fn action(kind: Kind<'_>, account: &Account) -> &'static str {
    match (kind, account.origin) {
        (Kind::Failure, _) => "failed",
        (Kind::Delay { .. }, _) => "delayed",
        (Kind::Success, Origin::Local) => "delivered",
        (Kind::Success, Origin::Remote) => "relayed",
    }
}

/// RFC 5322 §3.3.
fn date(at: &Zoned) -> String {
    at.strftime("%a, %-d %b %Y %H:%M:%S %z").to_string()
}

/// As much of the start of `word` as fits into a line of mail whatever stands around it (RFC 5322 §2.1.1).
fn cut(word: &str) -> &str {
    let end = word.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= 900).last().unwrap_or(0);
    word.get(..end).unwrap_or_default()
}

/// A boundary that occurs in no part.
fn boundary(parts: &[Part]) -> String {
    loop {
        let boundary = format!("=_{}", random_hex());
        if !parts.iter().any(|part| memchr::memmem::find(&part.body, boundary.as_bytes()).is_some()) {
            return boundary;
        }
    }
}

fn random_hex() -> String {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the library's generator never runs dry once seeded");
    format!("{:032x}", u128::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests;
