//! The whole role in one process: a front end's pool on one side, a delivery of our own on the other.

mod administrator;
mod door;
mod many;
mod outcomes;
mod pool;
mod postmaster;
mod unanswered;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::conformance::{account, envelope, trace};
use super::control::{Client, Filter, State};
use super::dispatch::ActiveLimits;
use super::report::{Report, Reporter};
use super::run::{QueueSettings, RunError, run_until};
use super::schedule::Schedule;
use super::tickets::tests::{SESSION, ticket, write_keys};
use crate::delivery::job::{Body, Job, Outcome, Outcomes, RecipientNo};
use crate::handoff::{Answer, HandoffError, Limits, Opening, Pool, Proof, QueueId, Refused};
use crate::smtp::SessionId;
use crate::smtp::address::{Mailbox, ReversePath};
use crate::smtp::envelope::{Envelope, Notify};

const LIMIT: u64 = 1024 * 1024;
const SOON: Duration = Duration::from_secs(10);
const FAR: u64 = 4_000_000_000;

struct Role {
    place: tempfile::TempDir,
    active: ActiveLimits,
    /// Where there is one, reports are written as they are in earnest.
    postmaster: Option<Mailbox>,
    running: Option<Running>,
}

struct Running {
    jobs: mpsc::Receiver<Job>,
    outcomes: mpsc::Sender<Outcomes>,
    end: oneshot::Sender<()>,
    role: JoinHandle<Result<(), RunError>>,
}

impl Role {
    async fn start() -> Self {
        Self::with(ActiveLimits::default()).await
    }

    async fn with(active: ActiveLimits) -> Self {
        let place = tempfile::tempdir().unwrap();
        write_keys(&place.path().join("tickets"), 1, None);
        let mut role = Self { place, active, postmaster: None, running: None };
        role.resume().await;
        role
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    async fn resume(&mut self) {
        let reporter: Reporter = match &self.postmaster {
            Some(postmaster) => crate::dsn::reporter("mail.example".to_owned(), jiff::tz::TimeZone::UTC, Some(postmaster.clone())),
            None => Arc::new(|message, told, _| {
                let ReversePath::Mailbox(sender) = &message.envelope.sender else { return None };
                let mut envelope = Envelope { sender: ReversePath::Null, ..envelope(&[&sender.to_string()]) };
                envelope.first.notify = Notify::Never;
                let lines: Vec<_> = told.iter().map(|it| format!("{} {:?}\r\n", it.recipient.mailbox, it.what)).collect();
                Some(Report { envelope, bytes: Bytes::from(lines.concat()) })
            }),
        };
        let settings = QueueSettings {
            notifier: crate::sandbox::Notifier::from_env(),
            spool: self.path("spool"),
            handoff: self.path("handoff"),
            control: self.path("queue/control"),
            tickets: self.path("tickets"),
            peers: vec![rustix::process::geteuid().as_raw()],
            message_size: LIMIT,
            recipients: 4000,
            schedule: Schedule::default(),
            active: self.active,
            zone: jiff::tz::TimeZone::UTC,
            reporter,
            postmaster: self.postmaster.clone(),
        };
        let (to_delivery, jobs) = mpsc::channel(16);
        let (outcomes, from_delivery) = mpsc::channel(16);
        let (end, ended) = oneshot::channel();
        let role = tokio::spawn(run_until(settings, (to_delivery, from_delivery), async move { _ = ended.await }));
        self.running = Some(Running { jobs, outcomes, end, role });
        let listens = async {
            while UnixStream::connect(self.path("queue/control")).await.is_err() || UnixStream::connect(self.path("handoff")).await.is_err()
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, listens).await.expect("the role starts");
    }

    async fn end(&mut self) {
        let mut running = self.running.take().unwrap();
        running.end.send(()).unwrap();
        // As delivery does: it ends when there will be no more jobs.
        while timeout(SOON, running.jobs.recv()).await.expect("the queue ends").is_some() {}
        drop(running.outcomes);
        running.role.await.unwrap().unwrap();
    }

    fn running(&mut self) -> &mut Running {
        self.running.as_mut().unwrap()
    }

    fn pool(&self) -> Pool {
        Pool::new(self.path("handoff"), Limits { patience: SOON, ..Limits::default() })
    }

    async fn job(&mut self) -> Job {
        timeout(SOON, self.running().jobs.recv()).await.expect("a job comes soon").unwrap()
    }

    async fn no_job(&mut self) {
        assert!(timeout(Duration::from_millis(100), self.running().jobs.recv()).await.is_err());
    }

    async fn say(&mut self, id: QueueId, outcomes: &[(u32, Outcome)]) {
        let settled = outcomes.iter().map(|(no, outcome)| (RecipientNo(*no), outcome.clone())).collect();
        self.running().outcomes.send(Outcomes { id, settled }).await.unwrap();
    }

    /// Asks by the control socket, as the command does.
    async fn ask<T: Send + 'static>(&self, question: impl FnOnce(&Client) -> T + Send + 'static) -> T {
        let client = Client::new(&self.path("queue/control"));
        tokio::task::spawn_blocking(move || question(&client)).await.unwrap()
    }

    async fn listed(&self) -> Vec<(String, State)> {
        self.ask(|client| {
            let mut found = Vec::new();
            client.list(Filter::default(), |entry| found.push((entry.id, entry.state))).unwrap();
            found
        })
        .await
    }

    /// Until nothing is left in the queue.
    async fn empties(&self) {
        let emptied = async {
            while !self.listed().await.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, emptied).await.expect("the queue empties");
    }
}

fn opening() -> Opening {
    Opening {
        envelope: envelope(&["b@b.example", "c@c.example"]),
        trace: trace(),
        proof: Proof::Ticket(ticket(1, FAR)),
        session: SESSION,
        declared_size: None,
    }
}

async fn send(pool: &Pool, opening: &Opening, body: &[u8]) -> Result<Answer, HandoffError> {
    let mut transfer = pool.begin(opening, "alice").await?;
    for piece in body.chunks(1000) {
        transfer.chunk(piece).await?;
    }
    transfer.finish().await
}

async fn accepted(pool: &Pool, body: &[u8]) -> QueueId {
    match send(pool, &opening(), body).await.unwrap() {
        Answer::Accepted(id) => id,
        Answer::Refused(why) => panic!("refused: {why:?}"),
    }
}

fn delivered() -> Outcome {
    Outcome::Delivered(account("250 2.0.0 ok"))
}

fn deferred() -> Outcome {
    Outcome::Deferred(account("451 4.3.0 later"))
}

fn failed() -> Outcome {
    Outcome::Failed(account("550 5.1.1 nobody"))
}

fn body_of(job: &Job) -> Vec<u8> {
    match &job.content.body {
        Body::Memory(bytes) => bytes.to_vec(),
        Body::File { file, size } => {
            let mut all = vec![0; *size as usize];
            std::os::unix::fs::FileExt::read_exact_at(&**file, &mut all, 0).unwrap();
            all
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_goes_through_byte_for_byte_and_leaves_nothing_behind() {
    let mut role = Role::start().await;
    let pool = role.pool();
    for size in [0, 1, 4096, 65_535, 65_536, 700_000] {
        let body: Vec<_> = (0..size).map(|at| (at % 253) as u8).collect();

        let id = accepted(&pool, &body).await;

        let job = role.job().await;
        assert_eq!((job.id, body_of(&job)), (id, body), "{size} octets");
        assert!(job.content.trace.starts_with(b"Received: from laptop.example"));
        assert_eq!(job.recipients.len(), 2);
        role.say(id, &[(0, delivered()), (1, delivered())]).await;
    }
    role.empties().await;
    role.end().await;
}

#[tokio::test]
async fn a_ticket_that_does_not_hold_is_refused_and_the_connection_stays_good() {
    let role = Role::start().await;
    let pool = role.pool();
    let bad = [Opening { proof: Proof::Ticket(b"forged".to_vec()), ..opening() }, Opening { session: SessionId(1), ..opening() }];
    for opening in bad {
        assert_eq!(send(&pool, &opening, &[b'x'; 100_000]).await.unwrap(), Answer::Refused(Refused::NotPermitted));
    }
    let expired = Opening { proof: Proof::Ticket(ticket(1, 1)), ..opening() };
    assert_eq!(send(&pool, &expired, b"x").await.unwrap(), Answer::Refused(Refused::LoginExpired), "it is good again after a login");
    let unknown = Opening { proof: Proof::Ticket(ticket(9, FAR)), ..opening() };
    assert_eq!(send(&pool, &unknown, b"x").await.unwrap(), Answer::Refused(Refused::Fault), "perhaps the key is only new");

    let id = accepted(&pool, b"good").await;

    assert_eq!(role.listed().await, [(id.to_string(), State::Active)]);
}

#[tokio::test]
async fn the_size_limit_holds_for_what_is_declared_and_for_what_comes() {
    let role = Role::start().await;
    let pool = role.pool();
    let declared = Opening { declared_size: Some(LIMIT + 1), ..opening() };

    assert_eq!(send(&pool, &declared, b"x").await.unwrap(), Answer::Refused(Refused::TooLarge));
    let more = vec![b'x'; LIMIT as usize + 1];
    assert_eq!(send(&pool, &opening(), &more).await.unwrap(), Answer::Refused(Refused::TooLarge));
    accepted(&pool, &more[1..]).await;

    assert_eq!(std::fs::read_dir(role.path("spool/bodies")).unwrap().count(), 1);
}

#[tokio::test]
async fn a_client_gone_in_the_middle_leaves_nothing() {
    let role = Role::start().await;
    let pool = role.pool();
    for size in [10, 70_000, 600_000] {
        let mut transfer = pool.begin(&opening(), "alice").await.unwrap();
        transfer.chunk(&vec![b'x'; size]).await.unwrap();
        drop(transfer);
    }
    accepted(&pool, b"after").await;

    assert_eq!(role.listed().await.len(), 1);
    let cleared = async {
        while std::fs::read_dir(role.path("spool/bodies")).unwrap().count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, cleared).await.expect("drafts are removed");
}

#[tokio::test]
async fn pooled_connections_survive_a_restart_of_the_queue() {
    let mut role = Role::start().await;
    let pool = role.pool();
    let first = accepted(&pool, b"one").await;
    role.end().await;
    role.resume().await;

    let second = accepted(&pool, b"two").await;
    let third = accepted(&pool, &vec![b'3'; 200_000]).await;

    let ids: Vec<_> = role.listed().await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [first.to_string(), second.to_string(), third.to_string()]);
}

#[tokio::test]
async fn without_a_queue_the_front_end_hears_of_it() {
    let pool = Pool::new("/nonexistent/queue", Limits::default());

    let answer = send(&pool, &opening(), b"x").await;

    assert!(matches!(answer, Err(HandoffError::Unreachable(_))), "{answer:?}");
}

#[tokio::test]
async fn nonsense_closes_its_own_connection_only() {
    let role = Role::start().await;
    let pool = role.pool();
    let mut frames: Vec<Vec<u8>> = vec![vec![0; 64], vec![255; 64], b"EHLO x\r\n".to_vec(), vec![2, 0, 0, 0, 0], vec![3, 0, 0, 0, 0]];
    frames.push([&[1][..], &u32::MAX.to_le_bytes()].concat());
    frames.push([&[1][..], &16_u32.to_le_bytes(), &[9; 16]].concat());
    for frame in frames {
        let mut stream = UnixStream::connect(role.path("handoff")).await.unwrap();
        stream.write_all(&frame).await.unwrap();

        let mut heard = Vec::new();
        let closed = timeout(SOON, stream.read_to_end(&mut heard)).await.expect("it is closed");

        assert!(closed.is_err() || heard.is_empty(), "{frame:?}");
    }
    accepted(&pool, b"fine").await;
}

#[tokio::test]
async fn more_messages_than_there_is_room_for_all_go_out_once() {
    let mut role = Role::with(ActiveLimits { fresh: 2, loaded: 3 }).await;
    let pool = role.pool();
    let mut ids = Vec::new();
    for number in 0..20 {
        ids.push(accepted(&pool, format!("{number}").as_bytes()).await);
    }
    let mut seen = Vec::new();
    while seen.len() < ids.len() {
        let job = role.job().await;
        seen.push(job.id);
        role.say(job.id, &[(0, delivered()), (1, delivered())]).await;
    }

    role.empties().await;
    role.no_job().await;
    seen.sort();
    assert_eq!(seen, ids);
}

#[tokio::test]
async fn strangers_are_not_served() {
    use super::server::Peers;
    let (one, _other) = UnixStream::pair().unwrap();
    let own = rustix::process::geteuid().as_raw();

    assert!(Peers(vec![own]).include(&one));
    assert!(!Peers(vec![own + 1]).include(&one));
    assert!(!Peers(vec![]).include(&one));
}

#[tokio::test]
async fn the_sockets_and_the_spool_are_closed_to_others() {
    use std::os::unix::fs::MetadataExt as _;
    let role = Role::start().await;
    let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;

    assert_eq!(mode(&role.path("queue")), 0o700);
    assert_eq!(mode(&role.path("spool")), 0o700);
    assert_eq!(mode(&role.path("spool/queue.db")), 0o600);
    assert_eq!(mode(&role.path("spool/queue.db-wal")), 0o600);
}

#[tokio::test]
async fn without_delivery_the_role_ends_and_keeps_what_it_has() {
    let mut role = Role::start().await;
    let pool = role.pool();
    let id = accepted(&pool, b"x").await;
    let running = role.running.take().unwrap();
    drop((running.jobs, running.outcomes));

    assert!(matches!(running.role.await.unwrap(), Err(RunError::Delivery(_))));
    role.resume().await;

    assert_eq!(role.job().await.id, id);
}

#[tokio::test]
async fn a_slow_domain_does_not_keep_the_others_waiting() {
    let mut role = Role::with(ActiveLimits { fresh: 4, loaded: 16 }).await;
    let pool = role.pool();
    let (mut fast, mut slow) = (Vec::new(), 0);
    for number in 0..1200 {
        let to = if number % 120 == 119 { "b@fast.example" } else { "b@slow.example" };
        let opening = Opening { envelope: envelope(&[to]), ..opening() };
        let Answer::Accepted(id) = send(&pool, &opening, b"x").await.unwrap() else { panic!("it is not accepted") };
        if to == "b@fast.example" {
            fast.push(id);
        }
    }
    while !fast.is_empty() {
        let job = role.job().await;
        if fast.contains(&job.id) {
            fast.retain(|id| *id != job.id);
            role.say(job.id, &[(0, delivered())]).await;
        } else {
            slow += 1;
        }
    }
    assert!(slow <= 10, "{slow}");
}
