//! The statements: what a message is in the tables of `schema`.
//!
//! Invariant: nothing here begins or ends a transaction; the writer does, around everything that waits.

use std::collections::HashSet;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row, named_params, params};

use crate::handoff::QueueId;
use crate::queue::message::{Progress, Timing};
use crate::queue::moment::{Moment, millis};
use crate::queue::record::{take_head, take_noted, take_progress};
use crate::queue::store::{Change, DueQuery, Hold, Reached};

/// A message to insert.
#[derive(Debug)]
pub(super) struct NewRow {
    pub(super) id: QueueId,
    pub(super) timing: Timing,
    pub(super) head: Vec<u8>,
    pub(super) size: u64,
    pub(super) sum: u32,
    pub(super) body: RowBody,
}

#[derive(Debug)]
pub(super) enum RowBody {
    Inline(Bytes),
    /// `bodies/ID`, synced before.
    File,
}

/// A message as it was read, not yet decoded.
#[derive(Debug)]
pub(super) struct RawRow {
    pub(super) id: QueueId,
    pub(super) timing: Timing,
    pub(super) hold: Hold,
    pub(super) size: u64,
    pub(super) sum: u32,
    pub(super) place: i64,
    pub(super) head: Vec<u8>,
    pub(super) progress: Vec<u8>,
    /// What was noted since `progress` was written, each still in octets.
    pub(super) noted: Vec<Vec<u8>>,
}

impl RawRow {
    /// How far the message has come; `None` if any part of that is damaged.
    pub(super) fn progress(&self, recipients: usize) -> Option<Progress> {
        let noted = self.noted.iter().map(|bytes| take_noted(self.id, bytes)).collect::<Option<Vec<_>>>()?;
        take_progress(recipients, &self.progress)?.with(noted)
    }
}

/// What the rows of a message that is gone leave behind.
pub(super) enum Gone {
    Nothing,
    File,
    NeverWas,
}

const COLUMNS: &str = "id, arrived, last, due, waited, attempts, held, size, sum, place, head, progress";

pub(super) fn insert(db: &Connection, row: &NewRow) -> rusqlite::Result<()> {
    let (place, body) = match &row.body {
        RowBody::Inline(bytes) => (0, Some(bytes)),
        RowBody::File => (1, None),
    };
    db.prepare_cached(
        "INSERT INTO messages (id, arrived, last, due, waited, attempts, held, size, sum, place, head, progress)
         VALUES (:id, :arrived, :last, :due, :waited, :attempts, 0, :size, :sum, :place, :head, x'')",
    )?
    .execute(named_params! {
        ":id": number(row.id),
        ":arrived": row.timing.arrived.0,
        ":last": row.timing.last.0,
        ":due": row.timing.due.0,
        ":waited": millis(row.timing.waited),
        ":attempts": row.timing.attempts,
        ":size": i64::try_from(row.size).unwrap_or(i64::MAX),
        ":sum": row.sum,
        ":place": place,
        ":head": row.head,
    })?;
    if let Some(bytes) = body {
        db.prepare_cached("INSERT INTO bodies (id, bytes) VALUES (?, ?)")?.execute(params![number(row.id), &bytes[..]])?;
    }
    Ok(())
}

pub(super) fn delete(db: &Connection, id: QueueId) -> rusqlite::Result<Gone> {
    let mut statement = db.prepare_cached("DELETE FROM messages WHERE id = ? RETURNING place")?;
    let place: Option<i64> = statement.query_row([number(id)], |row| row.get(0)).optional()?;
    match place {
        None => Ok(Gone::NeverWas),
        Some(0) => {
            db.prepare_cached("DELETE FROM bodies WHERE id = ?")?.execute([number(id)])?;
            Ok(Gone::Nothing)
        }
        Some(_) => {
            db.prepare_cached("INSERT OR IGNORE INTO doomed (id) VALUES (?)")?.execute([number(id)])?;
            Ok(Gone::File)
        }
    }
}

/// Records that a recipient was delivered, unless the message is gone. Whether it was there.
pub(super) fn note(db: &Connection, id: QueueId, no: u32, bytes: &[u8]) -> rusqlite::Result<bool> {
    let sql = "INSERT OR REPLACE INTO noted (id, no, bytes) SELECT id, ?2, ?3 FROM messages WHERE id = ?1";
    Ok(db.prepare_cached(sql)?.execute(params![number(id), no, bytes])? == 1)
}

/// Removes what was noted of a message: newer progress has it, or the message is gone.
pub(super) fn forget_noted(db: &Connection, id: QueueId) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM noted WHERE id = ?")?.execute([number(id)]).map(drop)
}

/// The messages of which something is noted.
pub(super) fn with_noted(db: &Connection) -> rusqlite::Result<HashSet<QueueId>> {
    let mut statement = db.prepare("SELECT DISTINCT id FROM noted")?;
    let ids = statement.query_map([], id_of)?;
    ids.filter_map(Result::transpose).collect()
}

/// Reads what was noted of those messages that have anything.
fn fill(db: &Connection, with_noted: &HashSet<QueueId>, row: &mut RawRow) -> rusqlite::Result<()> {
    if with_noted.contains(&row.id) {
        let mut statement = db.prepare_cached("SELECT bytes FROM noted WHERE id = ? ORDER BY no")?;
        row.noted = statement.query_map([number(row.id)], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    }
    Ok(())
}

/// Whether there was such a message.
pub(super) fn retry(db: &Connection, id: QueueId, progress: &[u8], timing: &Timing) -> rusqlite::Result<bool> {
    let changed = db
        .prepare_cached("UPDATE messages SET progress = ?, last = ?, due = ?, waited = ?, attempts = ? WHERE id = ?")?
        .execute(params![progress, timing.last.0, timing.due.0, millis(timing.waited), timing.attempts, number(id)])?;
    Ok(changed == 1)
}

/// What was found to be due.
pub(super) struct Found {
    pub(super) rows: Vec<RawRow>,
    pub(super) next: Option<Moment>,
    pub(super) rest: Option<Reached>,
}

/// Messages that one look passes over because they are not admitted, so that it does not keep the writer for long.
pub(super) const PASSED_OVER: usize = 1024;

/// Up to `limit` free messages that are due and admitted, and the moment of the next one behind them. `taken` are passed over.
pub(super) fn due(
    db: &Connection,
    with_noted: &HashSet<QueueId>,
    query: &DueQuery,
    taken: impl Fn(QueueId) -> bool,
) -> rusqlite::Result<Found> {
    let sql =
        format!("SELECT {COLUMNS} FROM messages WHERE held = 0 AND due >= ?1 AND due <= ?2 AND (due > ?3 OR id > ?4) ORDER BY due, id");
    let (mut found, mut passed, mut last) = (Vec::new(), 0, query.beginning());
    let (from, behind) = last.map_or((i64::MIN, i64::MIN), |it| (it.due.0, number(it.id)));
    // Two ranges: what is due, and what lies so far ahead that only a wrong clock can have put it there.
    let ahead = query.now.plus(query.horizon);
    for (start, until) in [(i64::MIN, query.now), (ahead.0.saturating_add(1), Moment(i64::MAX))] {
        let mut statement = db.prepare_cached(&sql)?;
        let mut rows = statement.query([start.max(from), until.0, from, behind])?;
        while let Some(row) = rows.next()? {
            let Some(id) = id_of(row)? else { continue };
            if taken(id) {
                continue;
            }
            if found.len() >= query.limit || passed >= PASSED_OVER {
                let rest = if passed > 0 || query.beginning().is_some() { last } else { None };
                return Ok(Found { rows: found, next: Some(query.now), rest });
            }
            let mut raw = raw(id, row)?;
            fill(db, with_noted, &mut raw)?;
            last = Some(Reached { due: raw.timing.due, id });
            if admitted(query, &raw) { found.push(raw) } else { passed += 1 }
        }
    }
    if passed > 0 || query.beginning().is_some() {
        return Ok(Found { rows: found, next: Some(query.now), rest: None });
    }
    let sql = "SELECT min(due) FROM messages WHERE held = 0 AND due > ?";
    let next: Option<i64> = db.prepare_cached(sql)?.query_row([query.now.0], |row| row.get(0))?;
    Ok(Found { rows: found, next: next.map(Moment), rest: None })
}

/// What does not decode is let through: it is found and set aside on the way.
fn admitted(query: &DueQuery, row: &RawRow) -> bool {
    let Some(admits) = query.admits() else { return true };
    let Some(head) = take_head(row.id, &row.head) else { return true };
    let in_memory = if row.place == 0 { row.size } else { 0 };
    row.progress(head.envelope.recipients().len()).is_none_or(|progress| admits(row.id, &head.envelope, &progress, in_memory))
}

pub(super) fn page(db: &Connection, with_noted: &HashSet<QueueId>, after: Option<QueueId>, limit: usize) -> rusqlite::Result<Vec<RawRow>> {
    let sql = format!("SELECT {COLUMNS} FROM messages WHERE id > ? ORDER BY id LIMIT ?");
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query([after.map_or(0, number), i64::try_from(limit).unwrap_or(i64::MAX)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        if let Some(id) = id_of(row)? {
            let mut raw = raw(id, row)?;
            fill(db, with_noted, &mut raw)?;
            found.push(raw);
        }
    }
    Ok(found)
}

pub(super) fn one(db: &Connection, with_noted: &HashSet<QueueId>, id: QueueId) -> rusqlite::Result<Option<RawRow>> {
    let sql = format!("SELECT {COLUMNS} FROM messages WHERE id = ?");
    let mut found = db.prepare_cached(&sql)?.query_row([number(id)], |row| raw(id, row)).optional()?;
    if let Some(row) = &mut found {
        fill(db, with_noted, row)?;
    }
    Ok(found)
}

/// The newest messages, each with the first `octets` of its head. A whole head can have two MiB, and there are thousands.
pub(super) fn recent(db: &Connection, limit: usize, octets: usize) -> rusqlite::Result<Vec<(QueueId, Vec<u8>)>> {
    let mut statement = db.prepare_cached("SELECT id, substr(head, 1, ?) AS head FROM messages ORDER BY id DESC LIMIT ?")?;
    let mut rows = statement.query([octets, limit].map(|it| i64::try_from(it).unwrap_or(i64::MAX)))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        if let Some(id) = id_of(row)? {
            found.push((id, row.get("head")?));
        }
    }
    Ok(found)
}

/// The octets of a body that is not a file.
pub(super) fn body(db: &Connection, id: QueueId) -> rusqlite::Result<Option<Vec<u8>>> {
    db.prepare_cached("SELECT bytes FROM bodies WHERE id = ?")?.query_row([number(id)], |row| row.get(0)).optional()
}

/// Whether there was such a message to change.
pub(super) fn alter(db: &Connection, id: QueueId, change: Change) -> rusqlite::Result<bool> {
    let changed = match change {
        Change::Hold => db.prepare_cached("UPDATE messages SET held = 1 WHERE id = ?")?.execute([number(id)])?,
        Change::Release(now) => due_now(db, id, now, Hold::Held)?,
        Change::Retry(now) => due_now(db, id, now, Hold::Free)?,
        Change::Delete => match delete(db, id)? {
            Gone::Nothing | Gone::File => 1,
            Gone::NeverWas => 0,
        },
    };
    Ok(changed == 1)
}

/// Ends the pause of a message that is in this state, and releases it. What was waited so far counts; that nothing is left between `last` and
/// `due` tells the schedule that an administrator asked for the attempt.
fn due_now(db: &Connection, id: QueueId, now: Moment, hold: Hold) -> rusqlite::Result<usize> {
    let sql =
        "UPDATE messages SET held = 0, waited = waited + max(0, min(?1, due) - last), last = ?1, due = ?1 WHERE id = ?2 AND held = ?3";
    db.prepare_cached(sql)?.execute([now.0, number(id), i64::from(hold == Hold::Held)])
}

/// The greatest id there is, so that new ones go on from there.
pub(super) fn newest(db: &Connection) -> rusqlite::Result<u64> {
    let newest: Option<i64> = db.query_row("SELECT max(id) FROM messages", [], |row| row.get(0))?;
    Ok(newest.map_or(0, |id| u64::try_from(id).unwrap_or(0)))
}

pub(super) fn has_file(db: &Connection, id: QueueId) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM messages WHERE id = ? AND place = 1")?.exists([number(id)])
}

pub(super) fn is_doomed(db: &Connection, id: QueueId) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM doomed WHERE id = ?")?.exists([number(id)])
}

pub(super) fn undoom(db: &Connection, id: QueueId) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM doomed WHERE id = ?")?.execute([number(id)]).map(drop)
}

fn raw(id: QueueId, row: &Row<'_>) -> rusqlite::Result<RawRow> {
    let timing = Timing {
        arrived: Moment(row.get("arrived")?),
        last: Moment(row.get("last")?),
        due: Moment(row.get("due")?),
        waited: std::time::Duration::from_millis(u64::try_from(row.get::<_, i64>("waited")?).unwrap_or(0)),
        attempts: u32::try_from(row.get::<_, i64>("attempts")?).unwrap_or(0),
    };
    Ok(RawRow {
        id,
        timing,
        hold: if row.get::<_, i64>("held")? == 0 { Hold::Free } else { Hold::Held },
        size: u64::try_from(row.get::<_, i64>("size")?).unwrap_or(u64::MAX),
        sum: u32::try_from(row.get::<_, i64>("sum")?).unwrap_or(0),
        place: row.get("place")?,
        head: row.get("head")?,
        progress: row.get("progress")?,
        noted: Vec::new(),
    })
}

/// The id of a row; one that no message can have is told of and left where it is.
fn id_of(row: &Row<'_>) -> rusqlite::Result<Option<QueueId>> {
    let number: i64 = row.get("id")?;
    let id = u64::try_from(number).ok().and_then(QueueId::of_number);
    if id.is_none() {
        tracing::error!(event = "damaged", row = number, reason = "no message has such an id");
    }
    Ok(id)
}

fn number(id: QueueId) -> i64 {
    i64::try_from(id.number()).expect("an id has 63 bits by its constructor")
}
