//! How fast the queue takes messages in: `cargo bench --bench queue_store [-- DIRECTORY]`.
//!
//! Everything is durable and on the disk of DIRECTORY (default: the system's temporary directory). The last two lines
//! run the whole role: a front end's pool on one side, a delivery that delivers at once on the other.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use bytes::Bytes;
use pamrelay::delivery::job::{Account, Job, Origin, Outcome, Outcomes, PassedOn};
use pamrelay::handoff::{Answer, Limits, Opening, Pool, Proof};
use pamrelay::message::trace::{Protocol, Trace};
use pamrelay::queue::control::{Client, Filter};
use pamrelay::queue::dispatch::ActiveLimits;
use pamrelay::queue::message::{Arrival, Author, NewMessage};
use pamrelay::queue::moment::Moment;
use pamrelay::queue::schedule::Schedule;
use pamrelay::queue::sqlite::SqliteStore;
use pamrelay::queue::store::{Claim, DueQuery, QueueStore, Settlement, Then, new_body};
use pamrelay::queue::{QueueSettings, run_until};
use pamrelay::smtp::SessionId;
use pamrelay::smtp::address::{Mailbox, ReversePath};
use pamrelay::smtp::envelope::{BodyType, Envelope, International, Notify, Recipient};
use pamrelay::smtp::status::{Class, EnhancedStatus};
use pamrelay_authwire::{MAC_LEN, Ticket, TicketKey, TicketKeys};
use tokio::sync::{mpsc, oneshot};

const KEY: [u8; 32] = [7; 32];
const SPAN: Duration = Duration::from_secs(4);

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|it| !it.starts_with("--")).collect();
    let directory = arguments.first().map_or_else(std::env::temp_dir, Into::into);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    runtime.block_on(async {
        for writers in [1, 16, 64] {
            store(&directory, writers, 4096, Finish::No).await;
        }
        store(&directory, 16, 4096, Finish::Yes).await;
        store(&directory, 4, 1 << 20, Finish::Yes).await;
        waiting(&directory).await;
        for sessions in [1, 16, 64] {
            role(&directory, sessions, 4096).await;
        }
        role(&directory, 4, 1 << 20).await;
    });
}

#[derive(Clone, Copy)]
enum Finish {
    Yes,
    No,
}

fn place(directory: &Path) -> tempfile::TempDir {
    tempfile::Builder::new().prefix("queue-bench").tempdir_in(directory).expect("the directory can be written")
}

fn envelope() -> Envelope {
    let mailbox = |text| Mailbox::parse(text, International::Ascii).expect("it is an address");
    Envelope {
        sender: ReversePath::Mailbox(mailbox("alice@a.example")),
        first: Recipient { mailbox: mailbox("bob@b.example"), notify: Notify::Unspecified, original: None },
        rest: Vec::new(),
        body: BodyType::EightBitMime,
        international: International::Ascii,
        ret: None,
        envid: None,
    }
}

fn trace() -> Trace {
    Trace {
        helo: "laptop.example".into(),
        peer: "192.0.2.7:40000".parse().expect("it is an address"),
        protocol: Protocol::Esmtpsa,
        tls: Some("TLS1.3 with cipher TLS13_AES_256_GCM_SHA384".into()),
        host: "mail.example".into(),
    }
}

fn new_message() -> NewMessage {
    NewMessage {
        author: Author::User { user: "alice".into(), uid: 1000, session: SessionId(1) },
        envelope: envelope(),
        arrived: Moment::now(),
        arrival: Arrival::Smtp(trace(), jiff::tz::TimeZone::UTC),
        token: None,
    }
}

/// Accepts for a while from so many tasks, each waiting for the disk every time.
async fn store(directory: &Path, writers: usize, size: usize, finish: Finish) {
    let place = place(directory);
    let store = Arc::new(SqliteStore::open(&place.path().join("spool")).expect("the store opens"));
    let body = Bytes::from(vec![b'x'; size]);
    let (start, cpu) = (Instant::now(), cpu());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..writers {
        let (store, body) = (Arc::clone(&store), body.clone());
        tasks.spawn(async move {
            let mut count = 0_u64;
            while start.elapsed() < SPAN {
                let body = new_body(&*store, body.clone()).await.expect("a body");
                let message = store.accept(new_message(), body, Claim::Mine).await.expect("it is accepted");
                if matches!(finish, Finish::Yes) {
                    let store = Arc::clone(&store);
                    tokio::spawn(async move { store.settle(Settlement { id: message.id, then: Then::Finished, report: None }).await });
                }
                count += 1;
            }
            count
        });
    }
    let count: u64 = tasks.join_all().await.iter().sum();
    let what = match finish {
        Finish::Yes => "store, accept and finish",
        Finish::No => "store, accept",
    };
    told(what, writers, size, count, start.elapsed(), cpu);
}

/// A hundred thousand messages that wait: how long to start, to list, to claim.
async fn waiting(directory: &Path) {
    let place = place(directory);
    let spool = place.path().join("spool");
    let store = Arc::new(SqliteStore::open(&spool).expect("the store opens"));
    let body = Bytes::from(vec![b'x'; 4096]);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (store, body) = (Arc::clone(&store), body.clone());
        tasks.spawn(async move {
            for _ in 0..1000 {
                let body = new_body(&*store, body.clone()).await.expect("a body");
                store.accept(new_message(), body, Claim::Leave).await.expect("it is accepted");
            }
        });
    }
    tasks.join_all().await;
    drop(store);
    let start = Instant::now();
    let store = Arc::new(SqliteStore::open(&spool).expect("the store opens"));
    println!("100,000 waiting: start {:.2} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    let query = DueQuery::new(Moment::now(), Duration::from_secs(18_000), 512);
    let due = store.claim_due(query).await.expect("it can be read");
    println!("100,000 waiting: first {} claimed in {:.1} ms", due.messages.len(), start.elapsed().as_secs_f64() * 1e3);
    drop(due);
    drop(store);

    let (settings, _ticket) = settings(place.path());
    let control = settings.control.clone();
    let ((jobs, _kept), (_outcomes, from)) = (mpsc::channel(1), mpsc::channel(1));
    let (end, ended) = oneshot::channel::<()>();
    let role = tokio::spawn(run_until(settings, (jobs, from), async move { _ = ended.await }));
    while !control.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let start = Instant::now();
    let count = tokio::task::spawn_blocking(move || Client::new(&control).list(Filter::default(), drop)).await.expect("no panic");
    println!("100,000 waiting: {} listed over the socket in {:.2} s", count.expect("it lists"), start.elapsed().as_secs_f64());
    drop(end);
    drop(_kept);
    drop(_outcomes);
    let _ = role.await;
}

/// The whole role: pool, hand-off, ticket, store, dispatch, outcome, delete.
async fn role(directory: &Path, sessions: usize, size: usize) {
    let place = place(directory);
    let (settings, ticket) = settings(place.path());
    let handoff = settings.handoff.clone();
    let (jobs, mut taken) = mpsc::channel::<Job>(256);
    let (outcomes, from) = mpsc::channel(256);
    let delivered = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&delivered);
    tokio::spawn(async move {
        while let Some(job) = taken.recv().await {
            let account = Account {
                status: EnhancedStatus::new(Class::Success, 0, 0),
                remote: None,
                diagnostic: "250 2.0.0 ok".into(),
                origin: Origin::Remote,
                passed_on: PassedOn::WithoutDsn,
            };
            counted.fetch_add(1, Ordering::Relaxed);
            let settled = job.recipients.iter().map(|(no, _)| (*no, Outcome::Delivered(account.clone()))).collect();
            if outcomes.send(Outcomes { id: job.id, settled }).await.is_err() {
                return;
            }
        }
    });
    let (end, ended) = oneshot::channel::<()>();
    let role = tokio::spawn(run_until(settings, (jobs, from), async move { _ = ended.await }));
    while tokio::net::UnixStream::connect(&handoff).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pool = Pool::new(&handoff, Limits::default());
    let opening = Arc::new(Opening {
        envelope: envelope(),
        trace: trace(),
        proof: Proof::Ticket(ticket),
        session: SessionId(1),
        declared_size: None,
    });
    let body = Bytes::from(vec![b'x'; size]);
    let (start, cpu) = (Instant::now(), cpu());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..sessions {
        let (pool, opening, body) = (pool.clone(), Arc::clone(&opening), body.clone());
        tasks.spawn(async move {
            let mut count = 0_u64;
            while start.elapsed() < SPAN {
                let mut transfer = pool.begin(&opening, "alice").await.expect("it begins");
                for chunk in body.chunks(16 * 1024) {
                    transfer.chunk(chunk).await.expect("it goes on");
                }
                assert!(matches!(transfer.finish().await, Ok(Answer::Accepted(_))));
                count += 1;
            }
            count
        });
    }
    let count: u64 = tasks.join_all().await.iter().sum();
    told("role, in and out", sessions, size, count, start.elapsed(), cpu);
    drop(end);
    role.await.expect("no panic").expect("it ends well");
    assert_eq!(delivered.load(Ordering::Relaxed), count, "every message was delivered once");
}

fn settings(place: &Path) -> (QueueSettings, Vec<u8>) {
    let keys = TicketKeys { current: TicketKey { id: 1, made: 0, key: KEY }, previous: None };
    std::fs::write(place.join("tickets"), keys.print()).expect("the keys can be written");
    let mut ticket = Ticket { key_id: 1, expiry: u64::MAX, session: 1, uid: 1000, user: "alice".into(), mac: [0; MAC_LEN] };
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &KEY), &ticket.signed_part().expect("the name is short"));
    ticket.mac.copy_from_slice(mac.as_ref());
    let settings = QueueSettings {
        notifier: pamrelay::sandbox::Notifier::from_env(),
        spool: place.join("spool"),
        handoff: place.join("handoff"),
        control: place.join("queue/control"),
        tickets: place.join("tickets"),
        peers: vec![rustix::process::geteuid().as_raw()],
        message_size: 25 << 20,
        recipients: 1000,
        schedule: Schedule::default(),
        active: ActiveLimits::default(),
        zone: jiff::tz::TimeZone::UTC,
        reporter: Arc::new(|_, _, _| None),
        postmaster: None,
    };
    (settings, ticket.encode().expect("the name is short"))
}

/// User and system time of this process so far.
fn cpu() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).expect("it is always known");
    let time = |it: nix::sys::time::TimeVal| Duration::from_secs(it.tv_sec() as u64) + Duration::from_micros(it.tv_usec() as u64);
    time(usage.user_time()) + time(usage.system_time())
}

fn told(what: &str, tasks: usize, size: usize, count: u64, span: Duration, before: Duration) {
    let rate = count as f64 / span.as_secs_f64();
    let each = (cpu() - before).as_secs_f64() * 1e6 / count as f64;
    println!("{what}: {tasks} at once, {size} octets: {rate:.0} messages/s, {each:.0} us of CPU each");
}
