//! Opening the database: whose it is, which version, whether it is sound.
//!
//! Invariant: a database that is not ours, newer than this program, or damaged is never written to; the error says
//! what was found and how to go on. Versions count in `user_version`; each step from one to the next is one
//! transaction in `STEPS`, so an interrupted migration goes on where it was.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::log::{self, LogError};
use super::reserve::Reserve;

/// `pamq` in US-ASCII.
const APPLICATION_ID: i32 = 0x7061_6d71;

/// How to get from each version to the next.
const STEPS: &[&str] = &[
    "
    CREATE TABLE messages (
        id       INTEGER PRIMARY KEY,
        arrived  INTEGER NOT NULL,  -- moments are milliseconds since 1970
        last     INTEGER NOT NULL,
        due      INTEGER NOT NULL,
        waited   INTEGER NOT NULL,  -- milliseconds
        attempts INTEGER NOT NULL,
        held     INTEGER NOT NULL,  -- 1: not tried until released
        size     INTEGER NOT NULL,  -- octets of the body
        sum      INTEGER NOT NULL,  -- its crc32
        place    INTEGER NOT NULL,  -- 0: table bodies, 1: file bodies/ID
        head     BLOB    NOT NULL,  -- record.rs
        progress BLOB    NOT NULL   -- record.rs
    ) STRICT;
    CREATE INDEX messages_due ON messages (due) WHERE held = 0;
    CREATE TABLE bodies (id INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
    -- Body files whose message is gone and that are to be unlinked.
    CREATE TABLE doomed (id INTEGER PRIMARY KEY) STRICT;
",
    "
    -- Recipients that were delivered since `messages.progress` was written.
    CREATE TABLE noted (
        id    INTEGER NOT NULL,
        no    INTEGER NOT NULL,  -- the recipient's place in the message, from 0
        bytes BLOB    NOT NULL,  -- record.rs
        PRIMARY KEY (id, no)
    ) STRICT, WITHOUT ROWID;
",
    "
    -- The head of a message may have the token of its hand-off, which older programs cannot read.
",
];

/// Why the database cannot be used, in a person's words.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("{} is in use by another process: is a second queue running with this spool?", .0.display())]
    InUse(PathBuf),
    #[error(
        "{} is damaged ({found}); nothing was changed. To go on: stop pamrelay, copy the whole spool to a safe place, then either \
         restore the database from a backup, or take what can be read with `sqlite3 queue.db .recover | sqlite3 new.db` and put new.db in its \
         place, or move queue.db and queue.db-wal away to start with an empty queue (large bodies are then set aside in damaged/)",
        path.display()
    )]
    Damaged { path: PathBuf, found: String },
    #[error("{} was made by a newer pamrelay (version {found}, this program knows {known}); install that version again, nothing was changed", path.display())]
    Newer { path: PathBuf, found: i64, known: usize },
    #[error("{} is a database, but not pamrelay's; move it away to start with an empty queue", .0.display())]
    Foreign(PathBuf),
    #[error("cannot open {}: {found}", path.display())]
    Open { path: PathBuf, found: String },
}

/// A database that is ours and sound.
pub(crate) struct Opened {
    pub(crate) connection: Connection,
    /// There was none before.
    pub(crate) fresh: bool,
}

/// Opens or makes the database, and makes durable what the last process left in its log.
pub(super) fn open(path: &Path, reserve: &mut Reserve) -> Result<Opened, SchemaError> {
    create_closed(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let fail = |error| failed(path, &error);
    // The flag refuses links in the directories above as well, so it gets the real path of the checked spool.
    let real = path.canonicalize().map_err(|error| SchemaError::Open { path: path.to_owned(), found: error.to_string() })?;
    let mut connection = Connection::open_with_flags(real, flags).map_err(fail)?;
    hands_off(&connection).map_err(fail)?;
    let (application, version, tables) = identity(&connection).map_err(fail)?;
    let fresh = application == 0 && version == 0 && tables == 0;
    if !fresh && application != i64::from(APPLICATION_ID) {
        return Err(SchemaError::Foreign(path.to_owned()));
    }
    let done = usize::try_from(version).unwrap_or(usize::MAX);
    if done > STEPS.len() {
        return Err(SchemaError::Newer { path: path.to_owned(), found: version, known: STEPS.len() });
    }
    check(path, &connection)?;
    settings(&connection).map_err(fail)?;
    log::settle(&connection, path, reserve).map_err(|error| match error {
        LogError::Database(error) => failed(path, &error),
        LogError::File(_) => SchemaError::Open { path: path.to_owned(), found: error.to_string() },
    })?;
    for (from, step) in STEPS.iter().enumerate().skip(done) {
        loop {
            match migrate(&mut connection, step, from as i64 + 1) {
                Ok(()) => break,
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) && reserve.give() => {}
                Err(error) => return Err(fail(error)),
            }
        }
    }
    Ok(Opened { connection, fresh })
}

fn migrate(connection: &mut Connection, step: &str, version: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(step)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", version)?;
    transaction.commit()
}

/// SQLite would make the file readable for all that the umask lets in; the log beside it gets the same mode.
fn create_closed(path: &Path) -> Result<(), SchemaError> {
    let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW).open(path);
    made.map(drop).map_err(|error| SchemaError::Open { path: path.to_owned(), found: error.to_string() })
}

/// What is needed to look at a database and leave it as it is: closing it does not copy the log into it. The writer
/// does that itself and keeps the file, which could not be made anew on a full disk.
fn hands_off(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(3))?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "cell_size_check", true)
}

/// One process, one connection, one thread: the lock is taken once, and a commit is one sync of the log.
fn settings(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // The writer checkpoints by itself, because SQLite swallows what goes wrong in an automatic checkpoint.
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -16 * 1024)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

fn identity(connection: &Connection) -> rusqlite::Result<(i64, i64, i64)> {
    let application = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok((application, version, tables))
}

fn check(path: &Path, connection: &Connection) -> Result<(), SchemaError> {
    let verdict: Result<String, _> = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
    match verdict.as_deref() {
        Ok("ok") => Ok(()),
        Ok(found) => Err(SchemaError::Damaged { path: path.to_owned(), found: found.to_owned() }),
        Err(error) => Err(failed(path, error)),
    }
}

fn failed(path: &Path, error: &rusqlite::Error) -> SchemaError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => SchemaError::InUse(path),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => SchemaError::Damaged { path, found: error.to_string() },
        Some(_) | None => SchemaError::Open { path, found: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("queue.db");
        (place, path)
    }

    #[test]
    fn a_new_database_is_closed_to_others_and_opens_again() {
        let (_place, path) = place();

        assert!(open(&path, &mut Reserve::none()).unwrap().fresh);
        assert!(!open(&path, &mut Reserve::none()).unwrap().fresh);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_database_of_the_first_version_is_brought_up_to_date_and_keeps_its_messages() {
        let (_place, path) = place();
        let old = Connection::open(&path).unwrap();
        old.execute_batch(STEPS[0]).unwrap();
        old.execute_batch("INSERT INTO messages VALUES (7, 1, 1, 1, 0, 0, 0, 1, 0, 0, x'01', x'')").unwrap();
        old.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        old.pragma_update(None, "user_version", 1).unwrap();
        drop(old);

        let opened = open(&path, &mut Reserve::none()).unwrap();

        let (_, version, _) = identity(&opened.connection).unwrap();
        assert_eq!(version, STEPS.len() as i64);
        let id: i64 = opened.connection.query_row("SELECT id FROM messages", [], |row| row.get(0)).unwrap();
        assert_eq!(id, 7);
    }

    #[test]
    fn a_second_process_is_refused() {
        let (_place, path) = place();
        let _first = open(&path, &mut Reserve::none()).unwrap();

        assert!(matches!(open(&path, &mut Reserve::none()), Err(SchemaError::InUse(_))));
    }

    #[test]
    fn what_is_no_database_is_refused_and_left_as_it_is() {
        let (_place, path) = place();
        let bytes = vec![b'x'; 8192];
        std::fs::write(&path, &bytes).unwrap();

        let error = open(&path, &mut Reserve::none()).err().unwrap();

        assert!(matches!(error, SchemaError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("To go on"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn a_newer_database_and_a_foreign_one_are_refused() {
        let (_place, path) = place();
        open(&path, &mut Reserve::none()).unwrap().connection.pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(open(&path, &mut Reserve::none()), Err(SchemaError::Newer { found: 99, .. })));

        let (_place, path) = place();
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(open(&path, &mut Reserve::none()), Err(SchemaError::Foreign(_))));
        assert_eq!(std::fs::read(&path).unwrap(), before, "not an octet was changed");
    }

    #[test]
    fn a_link_in_the_place_of_the_database_is_refused() {
        let (place, path) = place();
        std::fs::write(place.path().join("other"), "").unwrap();
        std::os::unix::fs::symlink(place.path().join("other"), &path).unwrap();

        assert!(matches!(open(&path, &mut Reserve::none()), Err(SchemaError::Open { .. })));
    }

    #[test]
    fn a_torn_page_is_found_at_start() {
        let (_place, path) = place();
        let opened = open(&path, &mut Reserve::none()).unwrap();
        opened.connection.execute_batch("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) INSERT INTO bodies SELECT i, randomblob(300) FROM n").unwrap();
        log::settle(&opened.connection, &path, &mut Reserve::none()).unwrap();
        drop(opened);
        let mut bytes = std::fs::read(&path).unwrap();
        let page = bytes.len() / 4096 / 2 * 4096;
        bytes[page..page + 4096].fill(0xa5);
        // A log that was not copied yet, as after a crash.
        let log = path.with_extension("db-wal");
        let opened = open(&path, &mut Reserve::none()).unwrap();
        opened.connection.execute_batch("INSERT INTO doomed VALUES (1)").unwrap();
        let logged = std::fs::read(&log).unwrap();
        drop(opened);
        std::fs::write(&path, &bytes).unwrap();
        std::fs::write(&log, &logged).unwrap();

        assert!(matches!(open(&path, &mut Reserve::none()), Err(SchemaError::Damaged { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "not an octet was changed");
        assert_eq!(std::fs::read(&log).unwrap(), logged);
    }
}
