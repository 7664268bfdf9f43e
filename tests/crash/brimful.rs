//! A disk that somebody else filled to the last block, in a mount namespace of this test's own.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use pamrelay::handoff::QueueId;
use pamrelay::queue::sqlite::SqliteStore;
use pamrelay::queue::store::{Change, QueueStore as _, Settlement, StoreError, Then};

use super::{Known, accept, compare, hear, open, say, spawn};

/// Messages on the disk when it becomes full.
const MESSAGES: usize = 60;

/// The parent of the test: a process of its own, because a namespace is entered by a process.
pub(crate) fn a_full_disk_is_worked_off() {
    let mut known = Known::default();
    let place = tempfile::tempdir().expect("a place for the disk");
    let mut child = spawn("small disk", place.path(), 0);
    hear(&mut child, &mut known, |_, _| {});
    let code = child.wait().expect("it is our child").code();
    match known.others.first().map(String::as_str) {
        Some("skipped") => print!("skipped: a mount namespace cannot be made here ... "),
        _ => assert_eq!(code, Some(0), "{:?}", known.others),
    }
}

/// Plays the test on a disk of 24 MiB: with a log that nobody copied, and again after an end in good order.
pub(crate) fn on_a_small_disk(disk: &Path) -> ExitCode {
    let spaces = unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>))
        .and_then(|()| mount(Some("disk"), disk, Some("tmpfs"), MsFlags::empty(), Some("size=24m,mode=700")));
    if spaces.is_err() {
        say("skipped");
        return ExitCode::SUCCESS;
    }
    let spool = disk.join("spool");
    let mut known = Known::default();
    for end in ["many and gone", "many and closed"] {
        run(end, &spool, &mut known);
        let filler = fill(disk);
        // Each round settles and deletes some, ends abruptly, and is followed by another start.
        for _ in 0..4 {
            run("brimful", &spool, &mut known);
            assert!(known.others.iter().any(|it| it == "refused"), "{:?}", known.others);
            fill(disk);
        }
        assert_eq!(known.accepted.len() - known.finished.len(), MESSAGES / 5, "what was not settled is still there");
        compare(&spool, &known);
        std::fs::remove_file(filler).expect("it can be removed");
        let left: Vec<_> = open(&spool).into_iter().map(|it| it.id.to_string()).collect();
        assert_eq!(left.len(), MESSAGES / 5);
        known.finishing.extend(left.iter().cloned());
        known.finished.extend(left);
        run("clear", &spool, &mut known);
        known.others.clear();
    }
    ExitCode::SUCCESS
}

fn run(role: &str, spool: &Path, known: &mut Known) {
    let mut child = spawn(role, spool, known.accepted.len());
    hear(&mut child, known, |_, _| {});
    assert_eq!(child.wait().expect("it is our child").code(), Some(0), "{role}: {:?}", known.others);
}

/// Writes until there is not one block left.
fn fill(disk: &Path) -> std::path::PathBuf {
    let path = disk.join("filler");
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path).expect("it can be opened");
    let block = vec![b'f'; 4096];
    while file.write_all(&block).is_ok() {}
    assert_eq!(rustix::fs::statvfs(disk).expect("it can be asked").f_bavail, 0);
    path
}

/// Accepts messages, small and large.
pub(crate) async fn many(store: Arc<SqliteStore>, round: &str) -> ExitCode {
    for number in 0..MESSAGES {
        let (label, size) = (format!("{round}.0.{number}"), if number % 6 == 0 { 90_000 } else { 9000 });
        let message = accept(&store, &label, size).await.expect("there is room");
        say(&format!("accepted {} {label} {size}", message.id));
    }
    ExitCode::SUCCESS
}

/// On a full disk: lists, refuses what comes in, records deliveries, deletes, holds.
pub(crate) async fn work(store: Arc<SqliteStore>) -> ExitCode {
    assert!(matches!(store.room_for(1), Err(StoreError::Full)));
    say("refused");
    let ids: Vec<QueueId> = store.page(None, 1000).await.expect("it can be read").iter().map(|it| it.id).collect();
    let (delivered, rest) = ids.split_at(MESSAGES / 10);
    for id in delivered {
        say(&format!("finishing {id}"));
        store.settle(Settlement { id: *id, then: Then::Finished, report: None }).await.expect("the reserve has room");
        say(&format!("finished {id}"));
    }
    for id in rest.iter().take(MESSAGES / 10) {
        say(&format!("finishing {id}"));
        assert_eq!(store.alter(vec![*id], Change::Delete).await.expect("the reserve has room"), [*id]);
        say(&format!("finished {id}"));
    }
    let last = *rest.last().expect("some are left");
    assert_eq!(store.alter(vec![last], Change::Hold).await.expect("the reserve has room"), [last]);
    let now = pamrelay::queue::moment::Moment::now();
    assert_eq!(store.alter(vec![last], Change::Release(now)).await.expect("the reserve has room"), [last]);
    std::process::exit(0) // abruptly
}

/// Removes everything.
pub(crate) async fn clear(store: Arc<SqliteStore>) -> ExitCode {
    let ids: Vec<QueueId> = store.page(None, 1000).await.expect("it can be read").iter().map(|it| it.id).collect();
    store.alter(ids, Change::Delete).await.expect("there is room");
    ExitCode::SUCCESS
}
