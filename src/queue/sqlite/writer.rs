//! The one thread that touches the database: take all that waits, one transaction, answer, again.
//!
//! ```text
//! inserts ─┐                                   ┌─▶ answers: durable
//! settles ─┼─▶ [waiting] ─▶ BEGIN … COMMIT ────┤
//! changes ─┘      ▲          (one sync)        └─▶ body files unlinked
//!                 └── what came meanwhile      then reads, outside of any transaction
//!
//! ```
//!
//! A settlement is committed at once when the thread is idle, because a crash before that repeats a
//! delivery; while a sync is under way it shares the next one with everything else that waits.
//!
//! Invariants: nobody hears `Ok` before the commit that holds their change returned. A settlement that finds no room is
//! owed: it is tried again until it is durable, and keeps its claim until then. On a full disk what
//! makes room goes on, from the reserve. A sync that fails, or a database found damaged while it
//! runs, ends the process.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, ffi};

use super::log::Log;
use super::request::{Later, Loaded, LoadedDue, Op, Read, ThenRow, Write};
use super::reserve::Reserve;
use super::rows::{self, Gone, RawRow};
use crate::handoff::QueueId;
use crate::queue::record::START;
use crate::queue::spool::{Spool, fatal};
use crate::queue::store::{Change, Claim, Claimed, DueQuery, StoreError};

/// Changes in one transaction.
const BATCH: usize = 1024;
/// How long the thread, woken by a settlement, waits for more to share its sync with.
const RIDE_ALONG: Duration = Duration::from_micros(200);
/// How long to wait before settlements that found no room are tried again, however often the thread is woken meanwhile.
const OWED_PAUSE: Duration = Duration::from_secs(1);
/// How many of them may fail in one round. The next round begins with the others.
const OWED_FAILURES: usize = 16;

/// Why a transaction came to nothing.
enum Failure {
    Full,
    Other(String),
}

/// What happens once the transaction is durable.
#[derive(Default)]
struct Effects {
    unclaimed: Vec<QueueId>,
    unlink: Vec<QueueId>,
    /// For each write, what it answers.
    done: Vec<Done>,
}

enum Done {
    Inserted,
    Settled(Option<QueueId>),
    Altered(Vec<QueueId>),
    Forgotten,
}

pub(super) struct Writer {
    db: Connection,
    spool: Arc<Spool>,
    later: Arc<Later>,
    claims: HashSet<QueueId>,
    /// The messages of which something is noted, and perhaps some more.
    with_noted: HashSet<QueueId>,
    /// Settlements that found no room yet.
    owed: Vec<Write>,
    /// When they were last tried.
    tried: Option<Instant>,
    /// Body files that are unlinked, whose row in `doomed` can go with the next transaction.
    unlinked: Vec<QueueId>,
    log: Log,
    reserve: Reserve,
    page_size: u64,
    /// Octets of the database that hold nothing, for whoever decides what may come in.
    spare: Arc<AtomicU64>,
}

impl Writer {
    pub(super) fn new(
        mut db: Connection,
        spool: Arc<Spool>,
        later: Arc<Later>,
        spare: Arc<AtomicU64>,
        reserve: Reserve,
    ) -> rusqlite::Result<Self> {
        let log = Log::of(&mut db, &spool.path().join("queue.db"))?;
        let page_size = db.pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0))?;
        let with_noted = rows::with_noted(&db)?;
        let writer = Self {
            db,
            spool,
            later,
            claims: HashSet::new(),
            with_noted,
            owed: Vec::new(),
            tried: None,
            unlinked: Vec::new(),
            log,
            reserve,
            page_size: u64::try_from(page_size).unwrap_or(0),
            spare,
        };
        writer.publish();
        Ok(writer)
    }

    /// Works until nobody can ask any more and nothing is owed.
    pub(super) fn run(mut self, ops: &Receiver<Op>) {
        loop {
            let (batch, ended) = self.gather(ops);
            // What could wait was asked for before what could not, so it goes first.
            let mut writes = self.later.take();
            let mut reads = Vec::new();
            for op in batch {
                match op {
                    Op::Write(write) => writes.push(write),
                    Op::Read(read) => reads.push(read),
                    Op::Unclaim(id) => _ = self.claims.remove(&id),
                    Op::Later => {}
                }
            }
            if !writes.is_empty() {
                self.commit(writes);
            }
            if ended {
                self.tried = None; // once more, for there is no other time
            }
            self.pay();
            for read in reads {
                self.read(read);
            }
            self.keep_house();
            if ended {
                return self.close();
            }
        }
    }

    /// Waits for something to do and takes all that waits; whether nobody can ask any more.
    fn gather(&self, ops: &Receiver<Op>) -> (Vec<Op>, bool) {
        let first =
            if self.owed.is_empty() { ops.recv().map_err(|_| RecvTimeoutError::Disconnected) } else { ops.recv_timeout(OWED_PAUSE) };
        let next = match first {
            Ok(Op::Later) => ops.recv_timeout(RIDE_ALONG),
            other => other,
        };
        match next {
            Ok(op) => (std::iter::once(op).chain(ops.try_iter()).take(BATCH).collect(), false),
            Err(RecvTimeoutError::Timeout) => (Vec::new(), false),
            Err(RecvTimeoutError::Disconnected) => (Vec::new(), true),
        }
    }

    /// One transaction for all of `writes`; then each hears what became of it.
    fn commit(&mut self, writes: Vec<Write>) {
        self.supersede(&writes);
        match self.transact(&writes) {
            Ok(effects) => self.finish(writes, effects),
            Err(Failure::Full) => self.commit_from_the_reserve(writes),
            Err(failure) => writes.into_iter().for_each(|write| self.refuse(write, &failure)),
        }
    }

    /// The disk is full: what comes in is refused, what makes room is done with the reserve.
    fn commit_from_the_reserve(&mut self, writes: Vec<Write>) {
        let (writes, others): (Vec<_>, Vec<_>) = writes.into_iter().partition(Write::may_use_the_reserve);
        others.into_iter().for_each(|write| self.refuse(write, &Failure::Full));
        if writes.is_empty() {
            return;
        }
        match self.transact_from_the_reserve(&writes) {
            Ok(effects) => self.finish(writes, effects),
            Err(failure) => writes.into_iter().for_each(|write| self.refuse(write, &failure)),
        }
    }

    /// 1. The log goes into the database, so that it is written from its beginning, where the disk
    ///    has room for it already; 2. the reserve is given up, step by step.
    fn transact_from_the_reserve(&mut self, writes: &[Write]) -> Result<Effects, Failure> {
        self.copy_log();
        loop {
            match self.transact(writes) {
                Err(Failure::Full) if self.reserve.give() => {}
                done => return done,
            }
        }
    }

    fn transact(&mut self, writes: &[Write]) -> Result<Effects, Failure> {
        let worked = self.attempt(writes);
        worked.map_err(|error| {
            let failure = self.classify(&error);
            if matches!(failure, Failure::Full) {
                self.log.press();
            }
            if !self.db.is_autocommit()
                && let Err(error) = self.db.execute_batch("ROLLBACK")
            {
                fatal("store_failed", &format!("cannot roll back: {error}"));
            }
            failure
        })
    }

    fn attempt(&mut self, writes: &[Write]) -> rusqlite::Result<Effects> {
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        for id in &self.unlinked {
            rows::undoom(&self.db, *id)?;
        }
        self.with_noted.extend(writes.iter().filter_map(Write::notes));
        let mut effects = Effects::default();
        for write in writes {
            let done = self.apply(write, &mut effects)?;
            effects.done.push(done);
        }
        self.db.prepare_cached("COMMIT")?.execute([])?;
        self.unlinked.clear();
        self.publish();
        Ok(effects)
    }

    /// Tells how much of the database is spare. A number that cannot be had is none: less is let in.
    fn publish(&self) {
        let pages = self.db.prepare_cached("PRAGMA freelist_count").and_then(|mut it| it.query_row([], |row| row.get::<_, i64>(0)));
        let pages = pages.map_or(0, |pages| u64::try_from(pages).unwrap_or(0));
        self.spare.store(pages.saturating_mul(self.page_size), Ordering::Relaxed);
    }

    fn apply(&self, write: &Write, effects: &mut Effects) -> rusqlite::Result<Done> {
        match write {
            Write::Insert { row, .. } => {
                rows::insert(&self.db, row)?;
                Ok(Done::Inserted)
            }
            Write::Settle { id, then, report, .. } => {
                let existed = match then {
                    ThenRow::GoOn { noted } => {
                        for (no, bytes) in noted {
                            rows::note(&self.db, *id, *no, bytes)?;
                        }
                        return Ok(Done::Settled(None));
                    }
                    ThenRow::Retry { progress, timing } => {
                        effects.unclaimed.push(*id);
                        self.forget_noted(*id)?;
                        rows::retry(&self.db, *id, progress, timing)?
                    }
                    ThenRow::Finished => {
                        effects.unclaimed.push(*id);
                        self.delete(*id, effects)?
                    }
                };
                match report {
                    Some(report) if existed => rows::insert(&self.db, report)?,
                    Some(_) | None => return Ok(Done::Settled(None)),
                }
                Ok(Done::Settled(report.as_ref().map(|row| row.id)))
            }
            Write::Alter { ids, change, .. } => {
                let mut changed = Vec::new();
                for id in ids {
                    let existed = match change {
                        Change::Delete => self.delete(*id, effects)?,
                        Change::Hold | Change::Release(_) | Change::Retry(_) => rows::alter(&self.db, *id, *change)?,
                    };
                    changed.extend(existed.then_some(*id));
                }
                Ok(Done::Altered(changed))
            }
            Write::Forget { id, .. } => {
                effects.unclaimed.push(*id);
                self.delete(*id, effects)?;
                Ok(Done::Forgotten)
            }
        }
    }

    fn forget_noted(&self, id: QueueId) -> rusqlite::Result<()> {
        if self.with_noted.contains(&id) { rows::forget_noted(&self.db, id) } else { Ok(()) }
    }

    fn delete(&self, id: QueueId, effects: &mut Effects) -> rusqlite::Result<bool> {
        self.forget_noted(id)?;
        match rows::delete(&self.db, id)? {
            Gone::NeverWas => Ok(false),
            Gone::Nothing => Ok(true),
            Gone::File => {
                effects.unlink.push(id);
                Ok(true)
            }
        }
    }

    /// The transaction is durable: claims, body files, answers. An answer that nobody waits for is no loss.
    fn finish(&mut self, writes: Vec<Write>, effects: Effects) {
        for id in effects.unclaimed {
            self.claims.remove(&id);
            self.with_noted.remove(&id);
        }
        for (write, done) in writes.into_iter().zip(effects.done) {
            match (write, done) {
                (Write::Insert { row, claim, answer }, _) => {
                    // Whoever is gone before the answer will not deliver it either.
                    if answer.send(Ok(())).is_ok() && claim == Claim::Mine {
                        self.claims.insert(row.id);
                    }
                }
                (Write::Settle { answer, .. }, Done::Settled(report)) => _ = answer.send(Ok(report)),
                (Write::Alter { answer, .. }, Done::Altered(ids)) => _ = answer.send(Ok(ids)),
                (Write::Forget { answer, .. }, _) => _ = answer.send(Ok(())),
                (Write::Settle { .. } | Write::Alter { .. }, _) => {}
            }
        }
        for id in effects.unlink {
            self.spool.remove_body(id);
            self.unlinked.push(id);
        }
    }

    /// The transaction came to nothing. What may be refused is; a settlement is owed.
    fn refuse(&mut self, write: Write, failure: &Failure) {
        match write {
            Write::Insert { answer, .. } => _ = answer.send(Err(failure.error())),
            Write::Alter { answer, .. } => _ = answer.send(Err(failure.error())),
            Write::Settle { .. } | Write::Forget { .. } => self.owed.push(write),
        }
    }

    /// Deliveries that are owed must not be noted after the attempt's end was recorded, which contains them.
    fn supersede(&mut self, writes: &[Write]) {
        if self.owed.is_empty() {
            return;
        }
        let newer: HashSet<_> = writes.iter().filter_map(Write::ends).collect();
        self.owed.retain(|owed| match owed {
            Write::Settle { id, then: ThenRow::GoOn { .. }, .. } => !newer.contains(id),
            Write::Settle { .. } | Write::Insert { .. } | Write::Alter { .. } | Write::Forget { .. } => true,
        });
    }

    /// Tries what is owed, each by itself: a delete may find the room that a report does not.
    fn pay(&mut self) {
        if self.owed.is_empty() || self.tried.is_some_and(|at| at.elapsed() < OWED_PAUSE) {
            return;
        }
        self.tried = Some(Instant::now());
        let (mut owed, mut failed, mut reason) = (std::mem::take(&mut self.owed).into_iter(), Vec::new(), None);
        while failed.len() < OWED_FAILURES
            && let Some(write) = owed.next()
        {
            let one = std::slice::from_ref(&write);
            let paid = if write.may_use_the_reserve() { self.transact_from_the_reserve(one) } else { self.transact(one) };
            match paid {
                Ok(effects) => self.finish(vec![write], effects),
                Err(failure) => {
                    reason = Some(failure.error());
                    failed.push(write);
                }
            }
        }
        self.owed = owed.chain(failed).collect();
        if let Some(reason) = reason {
            tracing::warn!(event = "store_waits", count = self.owed.len(), reason = %reason);
        }
    }

    fn read(&mut self, read: Read) {
        match read {
            Read::Due { query, answer } => {
                let found = self.due(&query).map_err(|error| self.classify(&error).error());
                let claimed: Vec<_> = found.iter().flat_map(|it| it.loaded.iter().map(|it| it.row.id)).collect();
                if answer.send(found).is_err() {
                    claimed.iter().for_each(|id| _ = self.claims.remove(id)); // whoever asked is gone
                }
            }
            Read::Page { after, limit, answer } => {
                let page = rows::page(&self.db, &self.with_noted, after, limit).map_err(|error| self.classify(&error).error());
                let marked = page.map(|rows| rows.into_iter().map(|row| self.marked(row)).collect());
                let _ = answer.send(marked);
            }
            Read::Recent { limit, answer } => {
                let _ = answer.send(rows::recent(&self.db, limit, START).map_err(|error| self.classify(&error).error()));
            }
            Read::One { id, answer } => {
                let one = rows::one(&self.db, &self.with_noted, id).and_then(|row| row.map(|row| self.load(row)).transpose());
                let _ = answer.send(one.map_err(|error| self.classify(&error).error()));
            }
        }
    }

    fn due(&mut self, query: &DueQuery) -> rusqlite::Result<LoadedDue> {
        let rows::Found { rows, next, rest } = rows::due(&self.db, &self.with_noted, query, |id| self.claims.contains(&id))?;
        let loaded = rows.into_iter().map(|row| self.load(row)).collect::<rusqlite::Result<Vec<_>>>()?;
        self.claims.extend(loaded.iter().map(|it| it.row.id));
        Ok(LoadedDue { loaded, next, rest })
    }

    fn marked(&self, row: RawRow) -> (RawRow, Claimed) {
        let claimed = if self.claims.contains(&row.id) { Claimed::Yes } else { Claimed::No };
        (row, claimed)
    }

    fn load(&self, row: RawRow) -> rusqlite::Result<Loaded> {
        let body = if row.place == 0 { rows::body(&self.db, row.id)? } else { None };
        Ok(Loaded { row, body })
    }

    /// Between two transactions: a long log is copied into the database, and the reserve is filled.
    fn keep_house(&mut self) {
        let free = || self.spool.free().ok();
        let copied = self.log.copy_when_long(&self.db, &mut self.reserve, free);
        self.copied(copied);
        self.reserve.fill_again(|| self.spool.free().ok());
    }

    fn copy_log(&mut self) {
        let copied = self.log.copy(&self.db, &mut self.reserve);
        self.copied(copied);
    }

    /// Lack of room leaves it in the log, where it is as safe.
    fn copied(&self, copied: rusqlite::Result<()>) {
        if let Err(error) = copied {
            tracing::warn!(event = "checkpoint", reason = %self.classify(&error).error());
        }
    }

    /// What a database error means. Two kinds are the end: a sync that failed, after which the disk cannot be trusted, and
    /// damage, which the check at the next start will explain.
    fn classify(&self, error: &rusqlite::Error) -> Failure {
        let extended = error.sqlite_error().map_or(0, |it| it.extended_code);
        match (extended, error.sqlite_error_code()) {
            (ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC, _) => {
                self.log.cut();
                fatal("sync_failed", &error.to_string())
            }
            (_, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)) => fatal("store_damaged", &error.to_string()),
            (_, Some(ErrorCode::DiskFull)) => Failure::Full,
            (_, Some(_) | None) => Failure::Other(error.to_string()),
        }
    }

    /// The log is copied into the database and emptied. Its file stays: on a full disk a new one could
    /// not be made.
    fn close(mut self) {
        if !self.owed.is_empty() {
            tracing::warn!(
                event = "store_waits",
                count = self.owed.len(),
                reason = "no room until the end; these attempts will be repeated"
            );
        }
        if let Err(error) = self.log.empty(&self.db, &mut self.reserve) {
            tracing::warn!(event = "checkpoint", reason = %self.classify(&error).error());
        }
        drop(self.owed);
        if let Err((_, error)) = self.db.close() {
            tracing::warn!(event = "store_close", reason = %error);
        }
    }
}

impl Failure {
    fn error(&self) -> StoreError {
        match self {
            Self::Full => StoreError::Full,
            Self::Other(text) => StoreError::Database(text.clone()),
        }
    }
}
