//! Lines about peers that were dropped: local processes, for nobody else can connect.
//!
//! Invariant: neither a front end gone mad nor another local user fills the disk with them.

use std::time::{Duration, Instant};

use nix::unistd::Uid;

use crate::asker::Dropped;
use crate::log::{Level, Line};

/// So many lines.
const PER_SECOND: u32 = 10;

/// How many there were in this second.
pub(crate) struct Drops {
    since: Instant,
    lines: u32,
    unsaid: u64,
}

impl Drops {
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, lines: 0, unsaid: 0 }
    }

    pub(crate) fn log(&mut self, dropped: &Dropped, now: Instant) {
        match dropped {
            Dropped::Silent => {} // a probe, such as a check that the helper listens
            Dropped::Slow
            | Dropped::Malformed
            | Dropped::Short
            | Dropped::Surplus
            | Dropped::Descriptors
            | Dropped::Presumptuous
            | Dropped::Broken => self.write(Line::event(Level::Warning, "dropped").with("reason", dropped), now),
        }
    }

    /// A process of somebody who may not ask.
    pub(crate) fn stranger(&mut self, uid: Uid, now: Instant) {
        self.write(Line::event(Level::Warning, "dropped").with("reason", "stranger").with("uid", uid), now);
    }

    fn write(&mut self, mut line: Line, now: Instant) {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            (self.since, self.lines) = (now, 0);
        }
        if self.lines >= PER_SECOND {
            self.unsaid += 1;
            return;
        }
        self.lines += 1;
        if self.unsaid > 0 {
            line = line.with("unsaid", std::mem::take(&mut self.unsaid));
        }
        line.write();
    }
}
