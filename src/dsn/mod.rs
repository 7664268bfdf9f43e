//! Delivery reports (RFC 3464): what became of a message, for a program and for the person who sent it.
//!
//! A report answers only a sender who can be answered and wants to know: never the null path, never against NOTIFY. It is
//! sent from the null path, so that no report ever answers a report. Nothing of the original or of a server's words can end
//! the part it stands in: the boundary is drawn until it occurs nowhere.
//!
//! A report is written in 7 bits (RFC 6152 §3), whatever the original is, because it may have to go through the very server
//! that could not take the original. Only the address of a sender whose local part is not US-ASCII needs more.
//!
//! A report that cannot be delivered is reported to the postmaster, if there is one; what the postmaster cannot get is
//! lost.

mod fields;
mod original;
mod reporter;
mod words;

use jiff::Zoned;

pub use reporter::reporter;

use crate::delivery::job::{Account, Origin, PassedOn};
use crate::handoff::QueueId;
use crate::message::seven_bit::encode;
use crate::smtp::address::{Mailbox, ReversePath};
use crate::smtp::envelope::{BodyType, Envelope, EnvelopeId, International, Notify, Recipient, Ret};

/// Originals up to this size are given back whole, if the sender does not ask for less; of larger ones only the header.
pub const FULL_LIMIT: u64 = 64 * 1024;

/// The message that is reported on.
#[derive(Clone, Copy, Debug)]
pub struct Original<'a> {
    pub id: &'a QueueId,
    pub sender: &'a ReversePath,
    /// Who hears of a message that has no sender: of a report.
    pub postmaster: Option<&'a Mailbox>,
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

/// Who reads the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Sender,
    Postmaster,
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
    let (to, reader) = match (original.sender, original.postmaster) {
        (ReversePath::Mailbox(sender), _) => (sender, Reader::Sender),
        (ReversePath::Null, Some(postmaster)) => (postmaster, Reader::Postmaster),
        (ReversePath::Null, None) => return None,
    };
    let to = to.in_ascii().unwrap_or_else(|| to.clone());
    let mut told: Vec<Told<'_>> = told.iter().copied().filter(|told| is_wanted(told, reader)).collect();
    // The worst first: it is what the sender must act on, and what the report is called after.
    told.sort_by_key(|told| told.kind.weight());
    let kind = told.first()?.kind;
    let parts = [words::part(original, &told, reader, host), fields::part(original, &told, now, host), original::part(original, kind)];
    let boundary = boundary(&parts);
    let unique = random_hex();
    let mut head = format!(
        "Date: {date}\r\n\
         From: Mail Delivery System <MAILER-DAEMON@{host}>\r\n\
         To: <{to}>\r\n\
         Subject: {subject}\r\n\
         Message-ID: <{unique}@{host}>\r\n",
        date = date(now),
        subject = words::subject(kind, reader),
    );
    if let Some(id) = original::message_id(original.text) {
        head.push_str(&format!("In-Reply-To: {id}\r\nReferences: {id}\r\n"));
    }
    head.push_str(&format!(
        "Auto-Submitted: auto-replied\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n\
         Content-Transfer-Encoding: 7bit\r\n\
         \r\n\
         This is a delivery report in MIME format.\r\n",
    ));
    let mut content = head.into_bytes();
    for part in parts {
        content.extend_from_slice(format!("\r\n--{boundary}\r\n").as_bytes());
        content.extend_from_slice(format!("Content-Description: {}\r\nContent-Type: {}\r\n", part.description, part.kind).as_bytes());
        content.extend_from_slice(format!("Content-Transfer-Encoding: {}\r\n\r\n", part.coding).as_bytes());
        content.extend_from_slice(&part.body);
    }
    content.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    let envelope = Envelope {
        sender: ReversePath::Null,
        international: if to.is_ascii() { International::Ascii } else { International::Utf8 },
        // RFC 3461 §6.1: nobody reports on a report.
        first: Recipient { mailbox: to, notify: Notify::Never, original: None },
        rest: Vec::new(),
        body: BodyType::SevenBit,
        ret: None,
        envid: None,
    };
    Some(Report { envelope, content })
}

/// Octets in a line of a part that goes as it is, without its end (RFC 5322 §2.1.1).
const LONGEST_LINE: usize = 998;

/// One part of the report, in 7 bits.
struct Part {
    description: &'static str,
    /// Content-Type, with its parameters.
    kind: &'static str,
    /// Content-Transfer-Encoding.
    coding: &'static str,
    body: Vec<u8>,
}

impl Part {
    /// As it is where that can be read everywhere, else in quoted-printable.
    fn of_text(description: &'static str, kind: &'static str, body: Vec<u8>) -> Self {
        if is_plain(&body) {
            return Self { description, kind, coding: "7bit", body };
        }
        Self { description, kind, coding: "quoted-printable", body: encode::quoted_printable_text(&body) }
    }

    /// In base64, which gives back every octet.
    fn of_octets(description: &'static str, kind: &'static str, body: &[u8]) -> Self {
        Self { description, kind, coding: "base64", body: encode::base64_text(body) }
    }
}

/// Whether text needs no encoding: US-ASCII in lines that are not too long.
fn is_plain(text: &[u8]) -> bool {
    text.is_ascii() && text.split(|octet| *octet == b'\n').all(|line| line.len() <= LONGEST_LINE + 1)
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

fn is_wanted(told: &Told<'_>, reader: Reader) -> bool {
    let notify = &told.recipient.notify;
    match reader {
        Reader::Sender => {}
        Reader::Postmaster => return true,
    }
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
