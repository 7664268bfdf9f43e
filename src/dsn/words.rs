//! The first part: what happened and what to do about it, in words for the person who sent the message.

use super::{Kind, Original, Part, Reader, Told, action, cut, date};
use crate::delivery::job::{Account, Origin};
use crate::smtp::status::{Class, EnhancedStatus};

/// Lines are filled to about this many characters.
const WIDTH: usize = 72;

pub(super) fn subject(kind: Kind<'_>, reader: Reader) -> &'static str {
    match (reader, kind) {
        (Reader::Postmaster, _) => "A delivery report could not be delivered",
        (Reader::Sender, Kind::Failure) => "Your message could not be delivered",
        (Reader::Sender, Kind::Delay { .. }) => "Your message is delayed (no need to send it again)",
        (Reader::Sender, Kind::Success) => "Your message was delivered",
    }
}

/// `told` is in the order of its kinds; each kind is said once, before its recipients.
pub(super) fn part(original: &Original<'_>, told: &[Told<'_>], reader: Reader, host: &str) -> Part {
    let mut text = String::new();
    fill(&mut text, "", &format!("This is the mail system at {host}."));
    for group in told.chunk_by(|one, other| one.kind.weight() == other.kind.weight()) {
        if let Some(first) = group.first() {
            text.push_str("\r\n");
            fill(&mut text, "", &opening(first.kind, reader));
        }
        for told in group {
            say(&mut text, told, reader);
        }
    }
    text.push_str("\r\n");
    let (id, arrived) = (original.id, date(original.arrived));
    let last = match reader {
        Reader::Sender => format!("If you ask your postmaster about this, please give the number {id}. The message came in on {arrived}."),
        Reader::Postmaster => format!("The report had the number {id} and was written on {arrived}. Nothing more is tried."),
    };
    fill(&mut text, "", &last);
    let charset = if text.is_ascii() { "text/plain; charset=us-ascii" } else { "text/plain; charset=utf-8" };
    Part::of_text("Notification", charset, text.into_bytes())
}

fn opening(kind: Kind<'_>, reader: Reader) -> String {
    match reader {
        Reader::Sender => {}
        Reader::Postmaster => {
            return "A report about a message that somebody sent through this relay could not be delivered to the address below. \
                    So its sender does not know what became of the message. The report is attached; please find another way to \
                    tell the sender."
                .to_owned();
        }
    }
    match kind {
        Kind::Failure => "Your message could not be delivered to the recipients below, and will not be tried again. \
             If it matters, please do what is said beside each of them, and then send it again."
            .to_owned(),
        Kind::Delay { until } => format!(
            "Your message has not yet been delivered to the recipients below. This is only to let you know: \
             you need not do anything, and please do not send it again. It will be tried until {}, and you will be told if it fails.",
            date(until)
        ),
        Kind::Success => "Your message was passed on as you asked to be told. No further report will follow.".to_owned(),
    }
}

fn say(text: &mut String, told: &Told<'_>, reader: Reader) {
    let Told { recipient, kind, account } = *told;
    text.push_str(&format!("\r\n<{}>\r\n", recipient.mailbox));
    if let Some(first) = recipient.original.as_ref().filter(|first| first.address != recipient.mailbox.to_string()) {
        fill(text, "    ", &format!("You wrote to: {}", clean(&first.address)));
    }
    fill(text, "    ", &finding(kind, account));
    match reader {
        Reader::Sender => fill(text, "    ", advice(kind, account.status).unwrap_or_default()),
        Reader::Postmaster => {}
    }
}

fn finding(kind: Kind<'_>, account: &Account) -> String {
    let said = clean(&account.diagnostic);
    match (account.origin, &account.remote) {
        (Origin::Remote, Some(remote)) => format!("{}: {} said: {said}", action(kind, account), clean(remote)),
        (Origin::Remote, None) => format!("{}: the next server said: {said}", action(kind, account)),
        (Origin::Local, Some(remote)) => format!("{}: {} ({said})", action(kind, account), clean(remote)),
        (Origin::Local, None) => format!("{}: {said}", action(kind, account)),
    }
}

/// What the sender can do, by the meaning of the status (RFC 3463 §3).
fn advice(kind: Kind<'_>, status: EnhancedStatus) -> Option<&'static str> {
    match kind {
        Kind::Failure => {}
        Kind::Delay { .. } | Kind::Success => return None,
    }
    let advice = match (status.class, status.subject, status.detail) {
        (Class::Success, _, _) => return None,
        (_, 1, 2) => "The part behind the @ of the address is no place that receives mail. Please check its spelling.",
        (_, 1, 7 | 8) => "The server does not accept your own address. Please ask your postmaster.",
        (_, 1, 10) => "The owner of this domain says that it receives no mail. Please find another way to reach this person.",
        (_, 1, _) => "This address does not exist there. Please check its spelling, or ask the person for the right one.",
        (_, 2, 2) => "The mailbox is full. The recipient has to make room; please try again later or by another way.",
        (_, 2, 3) | (_, 3, 4) => {
            "The message is too large for the recipient's server. Please send less, or a link instead of an attachment."
        }
        (_, 2, _) => "The mailbox takes no mail at present. Please try to reach the recipient by another way.",
        (_, 4, 6) => "The mail would go round in a circle. The postmaster of the recipient's domain has to correct that.",
        (Class::Transient, _, _) => {
            "It was tried again and again, without success. The trouble may be over by now: please send the message again, \
             or reach the recipient by another way."
        }
        (Class::Permanent, 6, 7) => {
            "The recipient's server cannot take addresses or headers with such letters. Please use an address in plain letters."
        }
        (Class::Permanent, 6, _) => "The recipient's server cannot take a message of this form. Please send it in another format.",
        (Class::Permanent, 7, _) => {
            "The recipient's server refuses this message by its rules. Its words above may say why; your postmaster can help."
        }
        (Class::Permanent, _, _) => "The words above may say why. If they do not help, please ask your postmaster.",
    };
    Some(advice)
}

/// Appends words, if there are any, in lines of about `WIDTH` characters, each behind `indent`.
fn fill(text: &mut String, indent: &str, words: &str) {
    if words.is_empty() {
        return;
    }
    let mut column = 0;
    for word in words.split_whitespace() {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > WIDTH {
            text.push_str("\r\n");
            column = 0;
        }
        if column == 0 {
            text.push_str(indent);
            column = indent.len();
        } else {
            text.push(' ');
            column += 1;
        }
        text.push_str(cut(word));
        column += width;
    }
    text.push_str("\r\n");
}

fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
