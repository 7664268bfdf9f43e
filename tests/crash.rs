//! After an abrupt end at any point: what was acknowledged is there, once, whole.
//!
//! The store runs in a child process (this program again), which tells each step on its standard output; the parent
//! kills it, opens the same spool and compares. Other children meet a disk that fails, by a system call filter.
//! `PAMRELAY_CRASH_ROUNDS` sets the number of kills (default 30).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pamrelay::delivery::job::Body;
use pamrelay::handoff::QueueId;
use pamrelay::message::trace::{Protocol, Trace};
use pamrelay::queue::message::{Arrival, Author, Message, NewMessage};
use pamrelay::queue::moment::Moment;
use pamrelay::queue::sqlite::SqliteStore;
use pamrelay::queue::store::{Claim, DueQuery, QueueStore, Settlement, StoreError, Then, new_body};
use pamrelay::smtp::SessionId;
use pamrelay::smtp::address::{Mailbox, ReversePath};
use pamrelay::smtp::envelope::{BodyType, Envelope, International, Notify, Recipient};

#[path = "crash/brimful.rs"]
mod brimful;
#[path = "crash/role.rs"]
mod role;

const ROLE: &str = "PAMRELAY_CRASH_ROLE";
const SPOOL: &str = "PAMRELAY_CRASH_SPOOL";
const ROUND: &str = "PAMRELAY_CRASH_ROUND";

fn main() -> ExitCode {
    if let Ok(role) = std::env::var(ROLE) {
        return child(&role);
    }
    let wanted: Vec<_> = std::env::args().skip(1).filter(|it| !it.starts_with('-')).collect();
    let cases: [(&str, fn()); 10] = [
        ("what_was_acknowledged_survives_kills_at_any_point", what_was_acknowledged_survives_kills_at_any_point),
        ("a_failed_sync_of_the_log_ends_the_process", || a_failed_sync_ends_the_process("log")),
        ("a_failed_sync_of_a_body_ends_the_process", || a_failed_sync_ends_the_process("body")),
        ("what_is_accepted_after_a_failed_sync_does_not_lean_on_the_log_before_it", nothing_leans_on_an_old_log),
        ("a_start_that_cannot_sync_what_it_recovered_accepts_nothing", a_start_without_syncs_accepts_nothing),
        ("a_queue_killed_between_commit_and_answer_answers_when_it_is_back", role::killed_before_the_answer),
        ("few_deliveries_are_repeated_when_the_queue_is_killed", role::few_are_repeated),
        ("the_store_starts_on_a_full_disk_lists_settles_and_deletes", brimful::a_full_disk_is_worked_off),
        ("a_full_disk_is_said_and_nothing_is_lost", a_full_disk_is_said_and_nothing_is_lost),
        ("a_log_cut_at_any_octet_opens_with_a_beginning_of_what_was_accepted", a_log_cut_anywhere_opens),
    ];
    for (name, case) in cases {
        if wanted.is_empty() || wanted.iter().any(|it| name.contains(it.as_str())) {
            print!("test {name} ... ");
            let _ = std::io::stdout().flush(); // only so that a hanging test is seen by name
            case();
            println!("ok");
        }
    }
    ExitCode::SUCCESS
}

// ---- the child ----

fn child(role: &str) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime can be built");
    let spool = std::env::var_os(SPOOL).expect("the parent names the spool");
    if role == "queue" || role == "queue that does not deliver" {
        return runtime.block_on(role::run(role, Path::new(&spool)));
    }
    if role == "small disk" {
        return brimful::on_a_small_disk(Path::new(&spool));
    }
    if role == "unsynced start" {
        refuse(&[nix::libc::SYS_fsync, nix::libc::SYS_fdatasync], nix::libc::EIO as u32);
        return match SqliteStore::open(Path::new(&spool)) {
            Ok(_) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let store = Arc::new(SqliteStore::open(Path::new(&spool)).expect("the spool opens after any end"));
    runtime.block_on(async {
        match role {
            "busy" => busy(store).await,
            "log" => sync_fault(store, 100).await,
            "body" => sync_fault(store, 100_000).await,
            "full" => full(store).await,
            "one more" => one_more(store).await,
            "many and closed" => brimful::many(store, &std::env::var(ROUND).unwrap_or_default()).await,
            "many and gone" => {
                brimful::many(store, &std::env::var(ROUND).unwrap_or_default()).await;
                std::process::exit(0)
            }
            "brimful" => brimful::work(store).await,
            "clear" => brimful::clear(store).await,
            other => panic!("no role {other}"),
        }
    })
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("the parent listens");
}

/// Eight tasks that accept, large and small, and finish every third message.
async fn busy(store: Arc<SqliteStore>) -> ExitCode {
    say("open");
    let round = std::env::var(ROUND).unwrap_or_default();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let (store, round) = (Arc::clone(&store), round.clone());
        tasks.spawn(async move {
            for number in 0_u64.. {
                let label = format!("{round}.{task}.{number}");
                let size = if number % 5 == task % 5 { 70_000 + number as usize * 1000 } else { 50 + number as usize };
                let message = accept(&store, &label, size).await.expect("it is accepted");
                say(&format!("accepted {} {label} {size}", message.id));
                if number % 3 == 0 {
                    say(&format!("finishing {}", message.id));
                    let settlement = Settlement { id: message.id, then: Then::Finished, report: None };
                    store.settle(settlement).await.expect("it is settled");
                    say(&format!("finished {}", message.id));
                }
            }
        });
    }
    tasks.join_all().await;
    ExitCode::FAILURE
}

async fn accept(store: &SqliteStore, label: &str, size: usize) -> Result<Message, StoreError> {
    let body = new_body(store, Bytes::from(content(label, size))).await?;
    store.accept(new_message(), body, Claim::Mine).await
}

/// Octets that nobody can mistake for another message's, or for half of it.
fn content(label: &str, size: usize) -> Vec<u8> {
    let mut octets: Vec<u8> = label.bytes().chain([b'\n']).cycle().take(size).collect();
    octets.extend_from_slice(b"end\n");
    octets
}

async fn sync_fault(store: Arc<SqliteStore>, size: usize) -> ExitCode {
    for number in 0..5 {
        let label = format!("0.0.{number}");
        let message = accept(&store, &label, size).await.expect("the disk is well");
        say(&format!("accepted {} {label} {size}", message.id));
    }
    let eio = nix::libc::EIO as u32;
    refuse(&[nix::libc::SYS_fsync, nix::libc::SYS_fdatasync], eio);
    let answer = accept(&store, "0.0.5", size).await;
    say(&format!("answered {answer:?}"));
    ExitCode::SUCCESS
}

async fn full(store: Arc<SqliteStore>) -> ExitCode {
    for number in 0..5 {
        let label = format!("0.0.{number}");
        let message = accept(&store, &label, 5000).await.expect("there is room");
        say(&format!("accepted {} {label} 5000", message.id));
    }
    refuse(&[nix::libc::SYS_pwrite64], nix::libc::ENOSPC as u32);
    for number in 5..8 {
        match accept(&store, &format!("0.0.{number}"), 5000).await {
            Err(StoreError::Full) => say("full"),
            other => panic!("{other:?}"),
        }
    }
    let listed = store.page(None, 100).await.expect("it can still be read");
    say(&format!("listed {}", listed.len()));
    std::process::exit(0) // the database cannot be closed in good order on such a disk
}

/// Accepts a message after a start that found a log, and goes without closing the database.
async fn one_more(store: Arc<SqliteStore>) -> ExitCode {
    let message = accept(&store, "1.0.0", 5000).await.expect("there is room");
    say(&format!("accepted {} 1.0.0 5000", message.id));
    std::process::exit(0)
}

/// From now on these system calls fail, in all threads.
fn refuse(calls: &[i64], errno: u32) {
    use seccompiler::{SeccompAction, SeccompFilter, TargetArch};
    let rules: BTreeMap<i64, Vec<seccompiler::SeccompRule>> = calls.iter().map(|call| (*call, Vec::new())).collect();
    let arch: TargetArch = std::env::consts::ARCH.try_into().expect("a known architecture");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), arch).expect("the filter is well-formed");
    let program: seccompiler::BpfProgram = filter.try_into().expect("the filter compiles");
    seccompiler::apply_filter_all_threads(&program).expect("the filter can be set");
}

fn new_message() -> NewMessage {
    let mailbox = |text| Mailbox::parse(text, International::Ascii).expect("it is an address");
    let envelope = Envelope {
        sender: ReversePath::Mailbox(mailbox("alice@a.example")),
        first: Recipient { mailbox: mailbox("bob@b.example"), notify: Notify::Unspecified, original: None },
        rest: Vec::new(),
        body: BodyType::SevenBit,
        international: International::Ascii,
        ret: None,
        envid: None,
    };
    let peer = "192.0.2.7:40000".parse().expect("it is an address");
    let trace = Trace { helo: "laptop.example".into(), peer, protocol: Protocol::Esmtpsa, tls: None, host: "mail.example".into() };
    NewMessage {
        author: Author::User { user: "alice".into(), uid: 1000, session: SessionId(1) },
        envelope,
        arrived: Moment::now(),
        arrival: Arrival::Smtp(trace, jiff::tz::TimeZone::UTC),
        token: None,
    }
}

// ---- the parent ----

/// What the children have said so far.
#[derive(Default)]
struct Known {
    /// By id: the label and size of the body.
    accepted: BTreeMap<String, (String, usize)>,
    /// May be gone.
    finishing: HashSet<String>,
    /// Must be gone.
    finished: HashSet<String>,
    others: Vec<String>,
}

impl Known {
    fn hear(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        match words.as_slice() {
            ["accepted", id, label, size] => {
                let size = size.parse().expect("a size");
                let before = self.accepted.insert((*id).to_owned(), ((*label).to_owned(), size));
                assert!(before.is_none(), "the id {id} was given twice");
            }
            ["finishing", id] => _ = self.finishing.insert((*id).to_owned()),
            ["finished", id] => _ = self.finished.insert((*id).to_owned()),
            _ => self.others.push(line.to_owned()),
        }
    }
}

fn spawn(role: &str, spool: &Path, round: usize) -> Child {
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(program);
    command.env(ROLE, role).env(SPOOL, spool).env(ROUND, round.to_string()).stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().expect("this program runs")
}

/// Hears a child to its end.
fn hear(child: &mut Child, known: &mut Known, mut seen: impl FnMut(&Child, &str)) {
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut line = String::new();
    // A kill can cut the last line short; then the step was not acknowledged to anybody.
    while lines.read_line(&mut line).expect("the pipe can be read") > 0 && line.ends_with('\n') {
        known.hear(line.trim_end());
        seen(child, line.trim_end());
        line.clear();
    }
}

fn what_was_acknowledged_survives_kills_at_any_point() {
    let rounds = std::env::var("PAMRELAY_CRASH_ROUNDS").ok().and_then(|it| it.parse().ok()).unwrap_or(30);
    let place = tempfile::tempdir().expect("a place for the spool");
    let spool = place.path().join("spool");
    let mut known = Known::default();
    let mut dice = 0x2545_f491_4f6c_dd1d_u64 ^ u64::from(std::process::id());
    for round in 0..rounds {
        let mut child = spawn("busy", &spool, round);
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pause = Duration::from_micros((dice >> 33) % 80_000);
        // Every fifth dies while it opens the store, the others while they are busy.
        let killer = (round % 5 == 4).then(|| killer(&child, pause / 8));
        let mut busy = None;
        hear(&mut child, &mut known, |child, line| {
            if line == "open" && killer.is_none() {
                busy = Some(self::killer(child, pause));
            }
        });
        killer.into_iter().chain(busy).for_each(|it| it.join().expect("no panic"));
        child.wait().expect("it is our child");
        known.others.clear();
        compare(&spool, &known);
    }
    assert!(known.accepted.len() > rounds * 5, "only {} messages in {rounds} rounds: this proves nothing", known.accepted.len());
    print!("{} kills, {} messages ... ", rounds, known.accepted.len());
}

/// Kills the child after a while.
fn killer(child: &Child, pause: Duration) -> std::thread::JoinHandle<()> {
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    std::thread::spawn(move || {
        std::thread::sleep(pause);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("the child is ours and not waited for yet");
    })
}

/// Opens the spool and holds every message against what was said of it.
fn compare(spool: &Path, known: &Known) {
    let mut contents = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for message in open(spool) {
        let octets = octets(&message);
        let id = message.id.to_string();
        assert!(!known.finished.contains(&id), "{id} was finished and is back");
        if let Some((label, size)) = known.accepted.get(&id) {
            assert_eq!(octets, content(label, *size), "{id} is not what was accepted");
        }
        let label = octets.split(|it| *it == b'\n').next().unwrap_or_default().to_vec();
        assert_eq!(octets, content(&String::from_utf8_lossy(&label), octets.len() - 4), "{id} is torn");
        assert!(contents.insert(octets), "{id} is a duplicate");
        ids.insert(id);
    }
    for id in known.accepted.keys().filter(|id| !known.finishing.contains(*id)) {
        assert!(ids.contains(id), "{id} was acknowledged and is lost");
    }
    let damaged = std::fs::read_dir(spool.join("damaged")).expect("it is there");
    for entry in damaged {
        let name = entry.expect("it can be read").file_name().into_string().expect("our own names");
        let id = name.split('.').next().unwrap_or_default();
        assert!(name.ends_with(".stray") && !known.accepted.contains_key(id), "{name} was set aside");
    }
}

fn open(spool: &Path) -> Vec<Message> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    runtime.block_on(async {
        let store = SqliteStore::open(spool).expect("the spool opens after any end");
        let query = DueQuery::new(Moment(i64::MAX), Duration::ZERO, usize::MAX);
        store.claim_due(query).await.expect("it can be read").messages
    })
}

fn octets(message: &Message) -> Vec<u8> {
    match &message.content.body {
        Body::Memory(bytes) => bytes.to_vec(),
        Body::File { file, size } => {
            let mut all = vec![0; *size as usize];
            std::os::unix::fs::FileExt::read_exact_at(&**file, &mut all, 0).expect("it has its size");
            all
        }
    }
}

fn a_failed_sync_ends_the_process(role: &str) {
    let place = tempfile::tempdir().expect("a place for the spool");
    let spool = place.path().join("spool");
    let mut known = Known::default();
    let mut child = spawn(role, &spool, 0);
    hear(&mut child, &mut known, |_, _| {});

    assert_eq!(child.wait().expect("it is our child").code(), Some(74), "{:?}", known.others);
    assert!(known.others.is_empty(), "it answered: {:?}", known.others);
    assert_eq!(known.accepted.len(), 5);
    compare(&spool, &known);
    // What nobody was told 250 for is not delivered.
    let found: Vec<_> = open(&spool).iter().map(|it| it.id.to_string()).collect();
    assert_eq!(found, known.accepted.keys().cloned().collect::<Vec<_>>());
}

/// After a failed sync the log in memory and the log on the disk are two things: pages that count as
/// written may never have got there. Here the disk lacks a part of the log that the process which
/// found the log did not write again, and the power is cut after that process accepted a message.
fn nothing_leans_on_an_old_log() {
    let place = tempfile::tempdir().expect("a place for the spool");
    let spool = place.path().join("spool");
    let mut known = Known::default();
    // It ends without closing the database, so that everything is still in the log.
    let mut child = spawn("full", &spool, 0);
    hear(&mut child, &mut known, |_, _| {});
    child.wait().expect("it is our child");
    let (log, database) = (spool.join("queue.db-wal"), spool.join("queue.db"));
    let before = std::fs::read(&log).expect("there is a log");
    assert!(before.len() > 20_000, "{} octets of log: this proves nothing", before.len());

    let mut child = spawn("one more", &spool, 1);
    hear(&mut child, &mut known, |_, _| {});
    child.wait().expect("it is our child");
    assert_eq!(known.accepted.len(), 6);
    let (after, copied) = (std::fs::read(&log).expect("there is a log"), std::fs::read(&database).expect("there is a database"));

    for gap in (32..before.len()).step_by(4096) {
        let end = (gap + 4096).min(before.len()).min(after.len());
        let mut on_disk = after.clone();
        if gap < end && after.get(gap..end) == before.get(gap..end) {
            on_disk.get_mut(gap..end).expect("it is within").fill(0);
        }
        std::fs::write(&log, &on_disk).expect("it can be written");
        std::fs::write(&database, &copied).expect("it can be put back");

        compare(&spool, &known);
    }
}

/// Nobody may be told 250 by a process that does not know what of the log is on the disk.
fn a_start_without_syncs_accepts_nothing() {
    let place = tempfile::tempdir().expect("a place for the spool");
    let spool = place.path().join("spool");
    let mut known = Known::default();
    let mut child = spawn("full", &spool, 0);
    hear(&mut child, &mut known, |_, _| {});
    child.wait().expect("it is our child");

    let mut child = spawn("unsynced start", &spool, 1);
    hear(&mut child, &mut known, |_, _| {});

    assert_eq!(child.wait().expect("it is our child").code(), Some(1), "it started");
    compare(&spool, &known);
}

fn a_full_disk_is_said_and_nothing_is_lost() {
    let place = tempfile::tempdir().expect("a place for the spool");
    let spool = place.path().join("spool");
    let mut known = Known::default();
    let mut child = spawn("full", &spool, 0);
    hear(&mut child, &mut known, |_, _| {});

    assert_eq!(child.wait().expect("it is our child").code(), Some(0));
    assert_eq!(known.others, ["full", "full", "full", "listed 5"]);
    compare(&spool, &known);
}

/// A disk that lost the end of the log: the store opens, and what it has is a beginning of what was accepted, whole.
fn a_log_cut_anywhere_opens() {
    let place = tempfile::tempdir().expect("a place for the spool");
    let spool = place.path().join("spool");
    let mut known = Known::default();
    // It ends without closing the database, so that everything is still in the log.
    let mut child = spawn("full", &spool, 0);
    hear(&mut child, &mut known, |_, _| {});
    child.wait().expect("it is our child");
    let log = std::fs::read(spool.join("queue.db-wal")).expect("there is a log");
    let database = std::fs::read(spool.join("queue.db")).expect("there is a database");
    let order: Vec<_> = known.accepted.keys().cloned().collect();

    let mut most = 0;
    for cut in (0..=log.len()).step_by(1499) {
        std::fs::write(spool.join("queue.db"), &database).expect("it can be put back");
        std::fs::write(spool.join("queue.db-wal"), log.get(..cut).expect("it is within")).expect("it can be cut");

        let found: Vec<_> = open(&spool).iter().map(|it: &Message| it.id).map(|id: QueueId| id.to_string()).collect();

        assert_eq!(found, order.get(..found.len()).expect("no more than there were"), "cut at {cut}");
        assert!(found.len() >= most, "cut at {cut}");
        most = found.len();
    }
    assert!(most >= 4, "only {most} found");
}
