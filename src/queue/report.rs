//! What the queue wants of whoever writes delivery reports.
//!
//! Invariant: the queue decides who is told what (`settle`), the writer of reports only puts it into words, and the
//! result is stored in one step with the settlement it is about.

use std::sync::Arc;

use bytes::Bytes;

use super::message::Message;
use super::moment::Moment;
use super::settle::Told;
use crate::smtp::envelope::Envelope;

/// A finished report (RFC 3464): a message of its own.
#[derive(Clone, Debug)]
pub struct Report {
    /// From the null sender to the sender of the original.
    pub envelope: Envelope,
    /// All of the message, with its header, lines ended by CRLF.
    pub bytes: Bytes,
}

/// Writes the report about `told` recipients of a message; may read its body from the disk. `None` when the message's
/// sender is null, to whom nothing is ever reported.
pub type Reporter = Arc<dyn Fn(&Message, &[Told], Moment) -> Option<Report> + Send + Sync>;
