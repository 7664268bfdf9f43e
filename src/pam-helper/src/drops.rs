//! Lines about peers that were dropped. Invariant: a front end gone mad does not fill the disk with them.

use std::time::{Duration, Instant};

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
        if *dropped == Dropped::Silent {
            return; // a probe, such as a check that the helper listens
        }
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            (self.since, self.lines) = (now, 0);
        }
        if self.lines >= PER_SECOND {
            self.unsaid += 1;
            return;
        }
        self.lines += 1;
        let mut line = Line::event(Level::Warning, "dropped").with("reason", dropped);
        if self.unsaid > 0 {
            line = line.with("unsaid", std::mem::take(&mut self.unsaid));
        }
        line.write();
    }
}
