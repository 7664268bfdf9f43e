//! What one message costs, estimated from its envelope before anything is spent on it.
//!
//! Invariant: every estimate grows linearly with the number of recipients, because what is kept of
//! the next server's words shrinks when a message has many of them.

use crate::delivery::job::words_kept;
use crate::smtp::address::{Domain, ReversePath};
use crate::smtp::envelope::{Envelope, Recipient};

/// What a recipient costs beside its texts: structs, list entries, allocator overhead. A message in
/// delivery holds each recipient twice.
const RECIPIENT_OVERHEAD: u64 = 640;
/// The same before its message is delivered.
const INCOMING_OVERHEAD: u64 = 256;
/// What a recipient costs in the database beside its texts.
const RECORD_OVERHEAD: u64 = 48;

/// Octets of memory that a message takes while it is delivered; `body` is what of its body is in memory.
pub fn memory(envelope: &Envelope, body: u64) -> u64 {
    let words = words_kept(envelope.recipients().len()) as u64;
    let recipients: u64 = envelope.recipients().map(|it| 2 * texts(it) + RECIPIENT_OVERHEAD + words).sum();
    body.saturating_add(recipients)
}

/// Octets of memory that an envelope takes while the text comes in.
pub fn incoming(envelope: &Envelope) -> u64 {
    envelope.recipients().map(|it| texts(it) + INCOMING_OVERHEAD).sum()
}

/// Octets of disk that a message takes beside its body: its head, the record of its deliveries at
/// its longest, and a report about all of its recipients.
pub fn disk(envelope: &Envelope) -> u64 {
    let words = words_kept(envelope.recipients().len()) as u64;
    let sender = match &envelope.sender {
        ReversePath::Null => 0,
        ReversePath::Mailbox(mailbox) => (mailbox.local().len() + domain(mailbox.domain())) as u64,
    };
    let recipients: u64 = envelope.recipients().map(|it| 2 * (texts(it) + RECORD_OVERHEAD + words)).sum();
    sender.saturating_add(recipients)
}

fn texts(recipient: &Recipient) -> u64 {
    let original = recipient.original.as_ref().map_or(0, |it| it.kind.len() + it.address.len());
    (recipient.mailbox.local().len() + domain(recipient.mailbox.domain()) + original) as u64
}

fn domain(domain: &Domain) -> usize {
    match domain {
        Domain::Name(name) => name.len(),
        // The longest is `[IPv6:` with 39 digits and colons.
        Domain::Literal(_) => 46,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::conformance::envelope;

    #[test]
    fn costs_grow_with_recipients_and_never_faster_than_they_do() {
        let names: Vec<_> = (0..1000).map(|number| format!("r{number:04}@b.example")).collect();
        let of = |count: usize| envelope(&names.iter().take(count).map(String::as_str).collect::<Vec<_>>());

        assert!(memory(&of(1), 4096) < 8 * 1024);
        assert!(memory(&of(1000), 0) <= 1024 * 1024, "a thousand recipients fit in one MiB");
        assert!(memory(&of(1000), 0) <= 1000 * memory(&of(1), 0));
        assert!(disk(&of(1000)) <= 1024 * 1024);
        assert!(disk(&of(2)) > disk(&of(1)));
    }
}
