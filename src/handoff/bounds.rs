//! What an envelope may ask for: the front end holds its clients to it, and the queue holds the front end to it.
//!
//! Invariant: one rule, two callers. The codec refuses what no parser of ours lets through, whoever wrote it; here is
//! what is policy, so that a message that is in the spool already is still delivered when the policy changes.

use std::collections::HashSet;

use super::Opening;
use crate::smtp::address::{Domain, Mailbox};

/// The most recipients that `limits.recipients` can permit. A longer list was written by no front end of ours.
pub const MOST_RECIPIENTS: usize = 5_000;

/// Why a message is not taken, although its frame is well formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Beyond {
    #[error("it has {0} recipients, more than the limit")]
    Recipients(usize),
    #[error("a recipient is there twice")]
    Twice,
    #[error("a recipient is at an address literal")]
    Literal,
    #[error("a recipient's domain ends in a number")]
    Number,
}

/// Whether mail to this mailbox is relayed. A relay that connects to any address it is told is a tool to reach what
/// stands behind it.
pub(crate) fn relays_to(mailbox: &Mailbox) -> Result<(), Beyond> {
    match mailbox.domain() {
        Domain::Literal(_) => Err(Beyond::Literal),
        Domain::Name(_) if mailbox.domain().ends_in_number() => Err(Beyond::Number),
        Domain::Name(_) => Ok(()),
    }
}

/// Everything that the front end checks before it hands a message over, once more.
pub(crate) fn check(opening: &Opening, most_recipients: usize) -> Result<(), Beyond> {
    let recipients = opening.envelope.recipients();
    if recipients.len() > most_recipients {
        return Err(Beyond::Recipients(recipients.len()));
    }
    let mut known = HashSet::with_capacity(recipients.len());
    for recipient in recipients {
        relays_to(&recipient.mailbox)?;
        if !known.insert(recipient.mailbox.delivery_key()) {
            return Err(Beyond::Twice);
        }
    }
    Ok(())
}
