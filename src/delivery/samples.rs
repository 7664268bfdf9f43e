//! Jobs for tests.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::job::{Body, Content, Job, RecipientNo};
use crate::handoff::QueueId;
use crate::smtp::address::{Mailbox, ReversePath};
use crate::smtp::envelope::{BodyType, International, Notify, Recipient};

pub(crate) fn mailbox(text: &str) -> Mailbox {
    Mailbox::parse(text, International::Utf8).unwrap()
}

pub(crate) fn recipient(text: &str) -> Recipient {
    Recipient { mailbox: mailbox(text), notify: Notify::Unspecified, original: None }
}

pub(crate) fn id(number: u64) -> QueueId {
    QueueId::of_number(number).expect("the tests count from 1")
}

/// A small message; an empty sender is the null path.
pub(crate) fn job(sender: &str, recipients: &[&str]) -> Job {
    Job {
        id: id(1),
        user: "ann".into(),
        sender: if sender.is_empty() { ReversePath::Null } else { ReversePath::Mailbox(mailbox(sender)) },
        body: BodyType::SevenBit,
        international: International::Ascii,
        ret: None,
        envid: None,
        recipients: (0..).map(RecipientNo).zip(recipients.iter().map(|text| recipient(text))).collect(),
        content: content("Subject: x\r\n\r\nhello\r\n.dot\r\n"),
        deadline: Instant::now() + Duration::from_secs(86_400),
    }
}

pub(crate) fn content(body: &str) -> Content {
    Content { trace: Bytes::from_static(b"Received: x\r\n"), body: Body::Memory(Bytes::copy_from_slice(body.as_bytes())) }
}

/// The same octets in a file, as a large body is.
pub(crate) fn in_file(octets: &[u8]) -> Body {
    let file = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, octets, 0).unwrap();
    Body::File { file: std::sync::Arc::new(file), size: octets.len() as u64 }
}
