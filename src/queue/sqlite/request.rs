//! What the writer is asked for.
//!
//! Invariant: every change carries the channel that its answer goes to, and is answered once, after
//! the commit that holds it.

use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use super::rows::{NewRow, RawRow};
use crate::handoff::QueueId;
use crate::queue::message::Timing;
use crate::queue::moment::Moment;
use crate::queue::store::{Change, Claim, Claimed, DueQuery, Reached, StoreError};

pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the thread is asked for.
pub(super) enum Op {
    Write(Write),
    Read(Read),
    Unclaim(QueueId),
    /// There is something that can wait.
    Later,
}

/// Settlements that can wait for company. They are not sent one by one, because each would wake the thread.
#[derive(Default)]
pub(super) struct Later(Mutex<Vec<Write>>);

pub(super) enum Write {
    Insert {
        row: NewRow,
        claim: Claim,
        answer: Answer<()>,
    },
    Settle {
        id: QueueId,
        then: ThenRow,
        report: Option<NewRow>,
        answer: Answer<Option<QueueId>>,
    },
    Alter {
        ids: Vec<QueueId>,
        change: Change,
        answer: Answer<Vec<QueueId>>,
    },
    /// The message was set aside.
    Forget {
        id: QueueId,
        answer: Answer<()>,
    },
}

pub(super) enum ThenRow {
    /// Recipients that were delivered, each with its octets.
    GoOn {
        noted: Vec<(u32, Vec<u8>)>,
    },
    Retry {
        progress: Vec<u8>,
        timing: Timing,
    },
    Finished,
}

pub(super) enum Read {
    Due { query: DueQuery, answer: Answer<LoadedDue> },
    Page { after: Option<QueueId>, limit: usize, answer: Answer<Vec<(RawRow, Claimed)>> },
    One { id: QueueId, answer: Answer<Option<Loaded>> },
    Recent { limit: usize, answer: Answer<Vec<(QueueId, Vec<u8>)>> },
}

/// A row and its body, unless that is a file.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) row: RawRow,
    pub(super) body: Option<Vec<u8>>,
}

/// What a look for due messages brought.
pub(super) struct LoadedDue {
    pub(super) loaded: Vec<Loaded>,
    pub(super) next: Option<Moment>,
    pub(super) rest: Option<Reached>,
}

impl Later {
    /// Puts `write` with what can wait; whether the thread must be told that there is something.
    pub(super) fn put(&self, write: Write) -> bool {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(write);
        waiting.len() == 1
    }

    pub(super) fn take(&self) -> Vec<Write> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write {
    /// The message whose attempt this ends.
    pub(super) fn ends(&self) -> Option<QueueId> {
        match self {
            Self::Settle { id, then: ThenRow::Retry { .. } | ThenRow::Finished, .. } => Some(*id),
            Self::Settle { then: ThenRow::GoOn { .. }, .. } | Self::Insert { .. } | Self::Alter { .. } | Self::Forget { .. } => None,
        }
    }

    /// The message whose attempt this is news of, while it goes on.
    pub(super) fn notes(&self) -> Option<QueueId> {
        match self {
            Self::Settle { id, then: ThenRow::GoOn { .. }, .. } => Some(*id),
            Self::Settle { then: ThenRow::Retry { .. } | ThenRow::Finished, .. }
            | Self::Insert { .. }
            | Self::Alter { .. }
            | Self::Forget { .. } => None,
        }
    }

    /// Whether it may use the reserve: it makes room or needs next to none. A report is a message
    /// that comes in, so its settlement waits with it.
    pub(super) fn may_use_the_reserve(&self) -> bool {
        match self {
            Self::Settle { report, .. } => report.is_none(),
            Self::Alter { .. } | Self::Forget { .. } => true,
            Self::Insert { .. } => false,
        }
    }
}
