//! The queue in one SQLite database and a directory of large bodies, on one machine.
//!
//! On disk, below the spool (see `spool` for the directory, `schema` for the tables, `record` for the octets):
//!
//! | where | what |
//! |---|---|
//! | `queue.db`, table `messages` | one row for each message: moments, hold, size and crc32 of the body, head, progress |
//! | `queue.db`, table `bodies` | bodies below 64 KiB, as the client sent them without dot-stuffing |
//! | `bodies/ID` | larger bodies, the same octets |
//! | `queue.db`, table `noted` | recipients that were delivered since the row's progress was written |
//! | `reserve` | room that is given up when the disk is full |
//! | `queue.db`, table `doomed` | body files whose message is gone, until they are unlinked |
//! | `damaged/ID.head .progress .noted .body .why` | what was left of a message that could not be read |
//!
//! Invariant: one thread (`writer`) owns the database; whoever asks it for a change hears `Ok` when the change is synced.
//! Claims live in that thread's memory, so they end with the process, and so does every doubt about who delivers what.
//! The disk is assumed to keep what fsync said was written, and to write sectors of 512 octets whole or not at all.

#[cfg(test)]
mod tests;

mod draft;
mod log;
mod request;
mod reserve;
mod rows;
pub(crate) mod schema;
mod writer;

use std::ffi::CString;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::oneshot;

pub use draft::BodyDraft;
use draft::blocking;
use request::{Answer, Later, Loaded, LoadedDue, Op, Read, ThenRow, Write};
use reserve::Reserve;
use rows::{NewRow, RawRow, RowBody};
pub use schema::SchemaError;
use writer::Writer;

use super::message::{Message, NewMessage, Progress, Timing};
use super::moment::Moment;
use super::record::{put_head, put_noted, put_progress, take_head, take_token};
use super::spool::{Spool, SpoolError, Unreadable, fatal};
use super::store::{Change, Claim, Due, DueQuery, Entry, Hold, NewBody, Noted, QueueStore, Settlement, StoreError, Then};
use crate::delivery::job::{Body, Content};
use crate::handoff::{QueueId, Token};

/// Why the store cannot be opened; each says in words how to go on.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Schema(#[from] SchemaError),
    #[error("cannot clear up the spool: {0}")]
    Debris(#[from] StoreError),
    #[error("cannot start the store's thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// The open queue. Dropping it waits for what was asked of it and closes the database.
pub struct SqliteStore {
    spool: Arc<Spool>,
    ops: Option<Sender<Op>>,
    later: Arc<Later>,
    thread: Option<JoinHandle<()>>,
    last_id: AtomicU64,
    /// What was free on the disk, and when that was.
    free: Mutex<Option<(Instant, u64)>>,
    /// Octets inside the database that hold nothing; it never gets smaller, but they are written again.
    spare: Arc<AtomicU64>,
}

/// Kept free for the log of the database, so that what was accepted can be delivered and removed.
pub(crate) const LOW_WATER: u64 = 32 * 1024 * 1024;
/// How long a look at the disk's room is good for.
const FREE_FOR: Duration = Duration::from_millis(200);

impl SqliteStore {
    /// Opens or makes the spool, checks the database, and clears up what an abrupt end left behind.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let spool = Arc::new(Spool::open(path)?);
        let mut reserve = Reserve::find(path);
        let opened = schema::open(&path.join("queue.db"), &mut reserve)?;
        // The database may just have been made: its name must last as well.
        let fault = |error: rusqlite::Error| StoreError::Database(error.to_string());
        File::open(path).and_then(|it| it.sync_all()).map_err(|source| StoreError::File { what: "sync", path: path.to_owned(), source })?;
        clear_debris(&spool, &opened, &mut reserve)?;
        reserve.fill(spool.free().unwrap_or(0));
        let last_id = AtomicU64::new(rows::newest(&opened.connection).map_err(fault)?);
        let later = Arc::new(Later::default());
        let spare = Arc::new(AtomicU64::new(0));
        let writer = Writer::new(opened.connection, Arc::clone(&spool), Arc::clone(&later), Arc::clone(&spare), reserve).map_err(fault)?;
        let (ops, asked) = mpsc::channel();
        let thread = std::thread::Builder::new().name("queue-writer".into()).spawn(move || {
            if std::panic::catch_unwind(AssertUnwindSafe(|| writer.run(&asked))).is_err() {
                fatal("store_failed", "the store's thread panicked");
            }
        });
        Ok(Self { spool, ops: Some(ops), later, thread: Some(thread.map_err(OpenError::Thread)?), last_id, free: Mutex::default(), spare })
    }

    /// Octets that were free a moment ago.
    fn free(&self) -> Result<u64, StoreError> {
        let mut seen = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        match *seen {
            Some((at, free)) if at.elapsed() < FREE_FOR => Ok(free),
            Some(_) | None => {
                let free =
                    self.spool.free().map_err(|source| StoreError::File { what: "look at", path: self.path().to_owned(), source })?;
                *seen = Some((Instant::now(), free));
                Ok(free)
            }
        }
    }

    /// The spool's directory.
    pub fn path(&self) -> &Path {
        self.spool.path()
    }

    /// An id greater than any before it: microseconds since 1970 and ten bits that only count.
    fn fresh_id(&self) -> QueueId {
        let clock = u64::try_from(Moment::now().0).unwrap_or(0).saturating_mul(1000 << 10) & (u64::MAX >> 1);
        let step = |last: u64| Some(clock.max(last.saturating_add(1)));
        let last = self.last_id.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap_or(clock);
        QueueId::of_number(clock.max(last.saturating_add(1))).unwrap_or_else(|| fatal("store_failed", "there are no more ids"))
    }

    fn ask(&self, op: Op) -> Result<(), StoreError> {
        self.ops.as_ref().ok_or(StoreError::Closed)?.send(op).map_err(|_| StoreError::Closed)
    }

    /// Asks for what may share the sync of the next message that comes in.
    fn ask_later(&self, write: Write) -> Result<(), StoreError> {
        if self.later.put(write) { self.ask(Op::Later) } else { Ok(()) }
    }

    async fn asked<T>(&self, op: impl FnOnce(Answer<T>) -> Op) -> Result<T, StoreError> {
        let (answer, heard) = oneshot::channel();
        self.ask(op(answer))?;
        heard.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Names a message and brings its body to where its row will say it is.
    async fn prepare(&self, new: &NewMessage, body: NewBody<BodyDraft>) -> Result<(NewRow, Content), StoreError> {
        let id = self.fresh_id();
        let trace = new.trace_field(id);
        let head = put_head(id, new.token.as_ref(), &new.author, &trace, &new.envelope);
        let (row_body, size, sum, body) = match body {
            NewBody::Small(bytes) => (RowBody::Inline(bytes.clone()), bytes.len() as u64, crc32fast::hash(&bytes), Body::Memory(bytes)),
            NewBody::Large(draft) => {
                let kept = draft.keep(id).await?;
                (RowBody::File, kept.size, kept.sum, Body::File { file: kept.file, size: kept.size })
            }
        };
        let row = NewRow { id, timing: Timing::fresh(new.arrived), head, size, sum, body: row_body };
        Ok((row, Content { trace, body }))
    }

    /// Decodes what was loaded; what is damaged is set aside, and what was claimed and cannot be read now is given back.
    async fn messages(&self, loaded: Vec<Loaded>, claim: Claim) -> Result<Vec<(Message, Hold)>, StoreError> {
        let spool = Arc::clone(&self.spool);
        let (messages, rest) = blocking(move || {
            let (mut messages, mut rest) = (Vec::with_capacity(loaded.len()), Vec::new());
            for mut loaded in loaded {
                match decode(&spool, &mut loaded) {
                    Ok(message) => messages.push((message, loaded.row.hold)),
                    Err(why) => rest.push((loaded, why)),
                }
            }
            Ok((messages, rest))
        })
        .await?;
        for (loaded, why) in rest {
            match why {
                // When even that fails it keeps its claim: nobody touches it until the next start.
                Unreadable::Damaged(reason) => {
                    let id = loaded.row.id;
                    if let Err(error) = self.set_aside(loaded, reason).await {
                        tracing::error!(event = "not_set_aside", id = %id, error = %error);
                    }
                }
                Unreadable::NotNow(error) => {
                    tracing::warn!(event = "unreadable", id = %loaded.row.id, error = %error);
                    if claim == Claim::Mine {
                        self.unclaim(loaded.row.id);
                    }
                }
            }
        }
        Ok(messages)
    }

    /// 1. What is left of the message is synced in `damaged/`, 2. its row goes.
    async fn set_aside(&self, loaded: Loaded, reason: &'static str) -> Result<(), StoreError> {
        let spool = Arc::clone(&self.spool);
        let id = loaded.row.id;
        tracing::error!(event = "set_aside", id = %id, reason, place = %spool.path().join("damaged").display());
        blocking(move || {
            spool.write_aside(id, "head", &loaded.row.head)?;
            spool.write_aside(id, "progress", &loaded.row.progress)?;
            spool.write_aside(id, "noted", &loaded.row.noted.concat())?;
            if let Some(body) = &loaded.body {
                spool.write_aside(id, "body", body)?;
            }
            let why = format!("{id} was set aside: {reason}.\nIt arrived {}.\n", loaded.row.timing.arrived);
            spool.write_aside(id, "why", why.as_bytes())?;
            if loaded.row.place != 0
                && let Ok(name) = CString::new(id.to_string())
                && let Err(error) = spool.set_body_aside(&name, ".body")
            {
                // Something that was put in the body's place and that the cage lets nobody move: it is not the body.
                tracing::error!(event = "not_set_aside", id = %id, error = %error);
            }
            Ok(())
        })
        .await?;
        self.asked(|answer| Op::Write(Write::Forget { id, answer })).await
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.ops = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic in it has ended the process before
        }
    }
}

impl QueueStore for SqliteStore {
    type Draft = BodyDraft;

    fn room_for(&self, octets: u64) -> Result<(), StoreError> {
        if has_room(self.free()?, self.spare.load(Ordering::Relaxed), octets) { Ok(()) } else { Err(StoreError::Full) }
    }

    fn room(&self) -> Result<u64, StoreError> {
        Ok(room(self.free()?, self.spare.load(Ordering::Relaxed)))
    }

    async fn recent(&self, limit: usize) -> Result<Vec<(Token, QueueId)>, StoreError> {
        let starts = self.asked(|answer| Op::Read(Read::Recent { limit, answer })).await?;
        Ok(starts.into_iter().filter_map(|(id, start)| Some((take_token(id, &start)?, id))).collect())
    }

    async fn draft(&self) -> Result<BodyDraft, StoreError> {
        Ok(BodyDraft::new(Arc::clone(&self.spool)))
    }

    async fn accept(&self, new: NewMessage, body: NewBody<BodyDraft>, claim: Claim) -> Result<Message, StoreError> {
        let (row, content) = self.prepare(&new, body).await?; // 1. a large body is synced under its name, and so is the name
        let (id, timing) = (row.id, row.timing);
        let unanswered = Unanswered { store: self, id };
        let inserted = self.asked(|answer| Op::Write(Write::Insert { row, claim, answer })).await; // 2. commit point: the row is synced
        std::mem::forget(unanswered);
        if let Err(error) = inserted {
            self.discard(id, &content, &error);
            return Err(error);
        }
        let progress = Progress::fresh(new.envelope.recipients().len());
        Ok(Message { id, author: new.author, envelope: new.envelope, timing, progress, content })
    }

    async fn claim_due(&self, query: DueQuery) -> Result<Due, StoreError> {
        let LoadedDue { loaded, next, rest } = self.asked(|answer| Op::Read(Read::Due { query, answer })).await?;
        let messages = self.messages(loaded, Claim::Mine).await?;
        Ok(Due { messages: messages.into_iter().map(|(message, _)| message).collect(), next, rest })
    }

    fn unclaim(&self, id: QueueId) {
        let _ = self.ask(Op::Unclaim(id)); // without the thread there are no claims
    }

    fn note(&self, id: QueueId, delivered: &[Noted]) {
        let (answer, _) = oneshot::channel();
        let then = ThenRow::GoOn { noted: delivered.iter().map(|it| (it.no.0, put_noted(id, it))).collect() };
        let _ = self.ask_later(Write::Settle { id, then, report: None, answer }); // without the thread this process is ending
    }

    async fn settle(&self, settlement: Settlement<BodyDraft>) -> Result<Option<QueueId>, StoreError> {
        let Settlement { id, then, report } = settlement;
        let report = match report {
            Some((new, body)) => Some(self.prepare(&new, body).await?.0),
            None => None,
        };
        let then = match then {
            Then::Retry { progress, timing } => ThenRow::Retry { progress: put_progress(&progress), timing },
            Then::Finished => ThenRow::Finished,
        };
        let (answer, heard) = oneshot::channel();
        if report.is_some() {
            self.ask(Op::Write(Write::Settle { id, then, report, answer }))?;
        } else {
            self.ask_later(Write::Settle { id, then, report, answer })?;
        }
        heard.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn page(&self, after: Option<QueueId>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let rows = self.asked(|answer| Op::Read(Read::Page { after, limit, answer })).await?;
        let mut entries = Vec::with_capacity(rows.len());
        for (row, claimed) in rows {
            match entry(&row) {
                Some((head, progress)) => entries.push(Entry {
                    id: row.id,
                    author: head.author,
                    envelope: head.envelope,
                    timing: row.timing,
                    progress,
                    size: row.size,
                    hold: row.hold,
                    claimed,
                }),
                // It is found and set aside on the way to reading it whole.
                None => _ = self.inspect(row.id).await?,
            }
        }
        Ok(entries)
    }

    async fn inspect(&self, id: QueueId) -> Result<Option<(Message, Hold)>, StoreError> {
        let Some(loaded) = self.asked(|answer| Op::Read(Read::One { id, answer })).await? else { return Ok(None) };
        Ok(self.messages(vec![loaded], Claim::Leave).await?.pop())
    }

    async fn alter(&self, ids: Vec<QueueId>, change: Change) -> Result<Vec<QueueId>, StoreError> {
        self.asked(|answer| Op::Write(Write::Alter { ids, change, answer })).await
    }
}

impl SqliteStore {
    /// Removes the body of a message that was refused. When nobody knows whether it was, the body stays.
    fn discard(&self, id: QueueId, content: &Content, error: &StoreError) {
        match (&content.body, error) {
            (Body::Memory(_), _) | (Body::File { .. }, StoreError::Closed) => {}
            (Body::File { .. }, StoreError::Full | StoreError::File { .. } | StoreError::Database(_)) => self.spool.remove_body(id),
        }
    }
}

/// Gives a claim back when whoever accepted went away before hearing of it.
struct Unanswered<'a> {
    store: &'a SqliteStore,
    id: QueueId,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.store.unclaim(self.id);
    }
}

/// Octets that may come in, as far as there are any.
fn room(free: u64, spare: u64) -> u64 {
    free.saturating_sub(LOW_WATER.saturating_sub(spare))
}

/// Whether `octets` may come in. What is spare in the database stands for what is to be kept free, since most of what
/// is written goes there; a large body needs room of its own.
fn has_room(free: u64, spare: u64, octets: u64) -> bool {
    free >= octets.saturating_add(LOW_WATER.saturating_sub(spare))
}

fn entry(row: &RawRow) -> Option<(super::record::Head, Progress)> {
    let head = take_head(row.id, &row.head)?;
    let progress = row.progress(head.envelope.recipients().len())?;
    Some((head, progress))
}

/// Makes a message of its row; the body's octets are compared with their sum.
fn decode(spool: &Spool, loaded: &mut Loaded) -> Result<Message, Unreadable> {
    let row = &loaded.row;
    let head = take_head(row.id, &row.head)
        .ok_or(Unreadable::Damaged("its head does not match its checksum, or says what no client can have asked for"))?;
    let progress = row
        .progress(head.envelope.recipients().len())
        .ok_or(Unreadable::Damaged("the record of its deliveries does not match its checksum"))?;
    let body = if row.place == 0 {
        let bytes = loaded.body.as_ref().ok_or(Unreadable::Damaged("its body is missing"))?;
        if bytes.len() as u64 != row.size || crc32fast::hash(bytes) != row.sum {
            return Err(Unreadable::Damaged("its body does not match its checksum"));
        }
        Body::Memory(Bytes::from(loaded.body.take().unwrap_or_default()))
    } else {
        let file = spool.open_body(row.id, row.size)?;
        if sum_of(&file).map_err(Unreadable::NotNow)? != row.sum {
            return Err(Unreadable::Damaged("its body does not match its checksum"));
        }
        Body::File { file: Arc::new(file), size: row.size }
    };
    let content = Content { trace: head.trace, body };
    Ok(Message { id: row.id, author: head.author, envelope: head.envelope, timing: row.timing, progress, content })
}

fn sum_of(file: &File) -> std::io::Result<u32> {
    let (mut sum, mut at) = (crc32fast::Hasher::new(), 0);
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let count = file.read_at(&mut buffer, at)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { return Ok(sum.finalize()) };
        sum.update(bytes);
        at += count as u64;
    }
}

/// Clears `bodies/` of what an abrupt end left: drafts go, bodies of finished messages go. A body that no row knows was
/// never acknowledged, or its database was taken away: it is set aside, and so is whatever else lies there.
fn clear_debris(spool: &Spool, opened: &schema::Opened, reserve: &mut Reserve) -> Result<(), StoreError> {
    let db: &Connection = &opened.connection;
    let fault = |error: rusqlite::Error| StoreError::Database(error.to_string());
    let mut aside = 0_u32;
    for entry in spool.body_names()? {
        let name = entry.name.to_string_lossy();
        if entry.regular && name.starts_with("new-") {
            spool.remove_draft(&name);
            continue;
        }
        if let Some(id) = QueueId::named(&name).filter(|id| id.to_string() == name) {
            if rows::has_file(db, id).map_err(fault)? {
                continue; // whatever it is: its message will say what is wrong with it
            }
            if entry.regular && rows::is_doomed(db, id).map_err(fault)? {
                spool.remove_body(id);
                continue;
            }
        }
        match spool.set_body_aside(&entry.name, ".stray") {
            Ok(()) => aside += 1,
            // The cage lets no links and devices be made, so none can be moved either. It is in nobody's way.
            Err(error) => tracing::error!(event = "not_set_aside", file = %name, error = %error),
        }
    }
    loop {
        match db.execute("DELETE FROM doomed", []) {
            Ok(_) => break,
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
                if !reserve.give() {
                    break; // they go at another start
                }
            }
            Err(error) => return Err(fault(error)),
        }
    }
    if aside > 0 {
        let reason = if opened.fresh { "the database is new" } else { "no message has them; they were never acknowledged" };
        tracing::warn!(event = "set_aside", bodies = aside, reason, place = %spool.path().join("damaged").display());
    }
    Ok(())
}
