//! What the queue wants of whoever writes delivery reports.
//!
//! Invariant: the queue decides who is told what (`settle`), the writer of reports only puts it into words, and the
//! result is stored in one step with the settlement it is about.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::message::Message;
use super::moment::Moment;
use super::settle::Told;
use crate::smtp::address::Mailbox;
use crate::smtp::envelope::Envelope;

/// A finished report (RFC 3464): a message of its own.
#[derive(Clone, Debug)]
pub struct Report {
    /// From the null sender to the sender of the original.
    pub envelope: Envelope,
    /// All of the message, with its header, lines ended by CRLF.
    pub bytes: Bytes,
}

/// Writes the report about `told` recipients of a message; may read its body from the disk. `None` when nobody would hear
/// of it: the message's sender is null, and there is no postmaster.
pub type Reporter = Arc<dyn Fn(&Message, &[Told], Moment) -> Option<Report> + Send + Sync>;

/// All that the queue needs for reports.
#[derive(Clone)]
pub struct Reports {
    pub reporter: Reporter,
    /// Hears of reports that could not be delivered.
    pub postmaster: Option<Mailbox>,
    pub undelivered: Arc<Undelivered>,
}

/// Reports that could not be delivered since the role began. Each of them is a sender who does not know what became of a
/// message, so somebody should look.
#[derive(Debug, Default)]
pub struct Undelivered(AtomicU64);

impl Undelivered {
    pub fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn so_far(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
