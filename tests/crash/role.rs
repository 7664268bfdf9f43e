//! The whole role, killed: what the front end hears, and how often a message is delivered.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::hmac;
use pamrelay::delivery::job::{Account, Job, Origin, Outcome, Outcomes, PassedOn};
use pamrelay::handoff::{Answer, Limits, Opening, Pool, Proof};
use pamrelay::queue::dispatch::ActiveLimits;
use pamrelay::queue::schedule::Schedule;
use pamrelay::queue::{QueueSettings, run_until};
use pamrelay::smtp::SessionId;
use pamrelay::smtp::status::{Class, EnhancedStatus};
use pamrelay_authwire::{MAC_LEN, Ticket, TicketKey, TicketKeys};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::{new_message, say, spawn};

const KEY: [u8; 32] = [7; 32];

/// The child: a queue below `place`. It says what it delivered, when it was told to deliver.
pub(crate) async fn run(role: &str, place: &Path) -> ExitCode {
    let settings = QueueSettings {
        spool: place.join("spool"),
        handoff: place.join("handoff"),
        control: place.join("control/socket"),
        tickets: place.join("tickets"),
        peers: vec![rustix::process::geteuid().as_raw()],
        message_size: 1 << 20,
        recipients: 100,
        schedule: Schedule::default(),
        active: ActiveLimits::default(),
        zone: jiff::tz::TimeZone::UTC,
        reporter: Arc::new(|_, _, _| None),
        postmaster: None,
        notifier: pamrelay::sandbox::Notifier::from_env(),
    };
    let (jobs, mut taken) = mpsc::channel::<Job>(256);
    let (outcomes, from) = mpsc::channel(256);
    let delivers = role == "queue";
    tokio::spawn(async move {
        while let Some(job) = taken.recv().await {
            if !delivers {
                continue;
            }
            say(&format!("delivered {}", job.id));
            let account = Account {
                status: EnhancedStatus::new(Class::Success, 0, 0),
                remote: None,
                diagnostic: "250 2.0.0 ok".into(),
                origin: Origin::Remote,
                passed_on: PassedOn::WithoutDsn,
            };
            let settled = job.recipients.iter().map(|(no, _)| (*no, Outcome::Delivered(account.clone()))).collect();
            if outcomes.send(Outcomes { id: job.id, settled }).await.is_err() {
                return;
            }
        }
    });
    match run_until(settings, (jobs, from), std::future::pending()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A queue that is killed and started again, and what it delivered.
struct Life {
    place: tempfile::TempDir,
    child: Option<Child>,
    delivered: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Life {
    fn new() -> Self {
        let place = tempfile::tempdir().expect("a place for the spool");
        let keys = TicketKeys { current: TicketKey { id: 1, made: 0, key: KEY }, previous: None };
        std::fs::write(place.path().join("tickets"), keys.print()).expect("the keys can be written");
        Self { place, child: None, delivered: Arc::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn start(&mut self, role: &str) {
        let mut child = spawn(role, self.place.path(), 0);
        let lines = BufReader::new(child.stdout.take().expect("it is piped"));
        let delivered = Arc::clone(&self.delivered);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if let Some(id) = line.strip_prefix("delivered ") {
                    *delivered.lock().expect("no panic").entry(id.to_owned()).or_default() += 1;
                }
            }
        });
        self.child = Some(child);
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is our child");
            child.wait().expect("it is our child");
        }
    }

    /// Messages delivered, and deliveries.
    fn count(&self) -> (usize, usize) {
        let delivered = self.delivered.lock().expect("no panic");
        (delivered.len(), delivered.values().sum())
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.kill();
    }
}

fn opening() -> Opening {
    let mut ticket = Ticket { key_id: 1, expiry: u64::MAX, session: 1, uid: 1000, user: "alice".into(), mac: [0; MAC_LEN] };
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &KEY), &ticket.signed_part().expect("the name is short"));
    ticket.mac.copy_from_slice(mac.as_ref());
    let new = new_message();
    let pamrelay::queue::message::Arrival::Smtp(trace, _) = new.arrival else { panic!("it comes by SMTP") };
    let proof = Proof::Ticket(ticket.encode().expect("the name is short"));
    Opening { envelope: new.envelope, trace, proof, session: SessionId(1), declared_size: None }
}

async fn send(pool: &Pool, body: &[u8]) -> Result<Answer, pamrelay::handoff::HandoffError> {
    let mut transfer = pool.begin(&opening(), "alice").await?;
    transfer.chunk(body).await?;
    transfer.finish().await
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime can be built")
}

/// Stands between the front end and the queue, and keeps the first answer to itself: the queue is
/// killed instead, and comes back.
pub(crate) fn killed_before_the_answer() {
    for size in [100, 200_000] {
        let mut life = Life::new();
        life.start("queue that does not deliver");
        let (outside, inside) = (life.path("front"), life.path("handoff"));
        runtime().block_on(async {
            let listener = UnixListener::bind(&outside).expect("it can be bound");
            let pool = Pool::new(&outside, Limits::default());
            let sent = tokio::spawn(async move { send(&pool, &vec![b'x'; size]).await });

            let (mut front, _) = listener.accept().await.expect("the front end comes");
            let mut queue = reach(&inside).await;
            let mut answer = [0; 64];
            // Both ways until the queue answers, which is after its commit.
            let (mut up, mut down) = (vec![0; 65_536], 0);
            while down == 0 {
                tokio::select! {
                    read = front.read(&mut up) => {
                        let count = read.expect("it can be read");
                        queue.write_all(up.get(..count).expect("it is within")).await.expect("the queue listens");
                    }
                    read = queue.read(&mut answer) => down = read.expect("the queue answers"),
                }
            }
            life.kill();
            drop((front, queue));

            // The front end asks meanwhile, and the queue that comes back knows.
            let (mut front, _) = listener.accept().await.expect("the front end asks");
            life.start("queue");
            let mut queue = reach(&inside).await;
            let _ = tokio::io::copy_bidirectional(&mut front, &mut queue).await;

            let answer = sent.await.expect("no panic");
            let Ok(Answer::Accepted(id)) = answer else { panic!("{answer:?}") };
            while life.count() == (0, 0) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(*life.delivered.lock().expect("no panic"), BTreeMap::from([(id.to_string(), 1)]));
        });
    }
}

async fn reach(path: &Path) -> UnixStream {
    for _ in 0..3000 {
        if let Ok(stream) = UnixStream::connect(path).await {
            return stream;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the queue does not start")
}

/// 200 messages a second, each delivered at once, and a kill now and then: what is not settled is
/// delivered again. `PAMRELAY_CRASH_ROUNDS` kills, and how many deliveries each repeated.
pub(crate) fn few_are_repeated() {
    let rounds: usize = std::env::var("PAMRELAY_CRASH_ROUNDS").ok().and_then(|it| it.parse().ok()).unwrap_or(10);
    let mut life = Life::new();
    let accepted = runtime().block_on(async {
        let pool = Pool::new(life.path("handoff"), Limits { patience: Duration::from_secs(1), ..Limits::default() });
        let mut accepted = 0;
        for round in 0..rounds {
            life.start("queue");
            drop(reach(&life.path("handoff")).await);
            let mut tick = tokio::time::interval(Duration::from_millis(5));
            let mut sending = tokio::task::JoinSet::new();
            for _ in 0..100 + round * 7 % 13 {
                tick.tick().await;
                let pool = pool.clone();
                sending.spawn(async move { matches!(send(&pool, &[b'x'; 1000]).await, Ok(Answer::Accepted(_))) });
            }
            life.kill();
            accepted += sending.join_all().await.into_iter().filter(|it| *it).count();
        }
        life.start("queue");
        while life.count().0 < accepted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        accepted
    });

    let (messages, deliveries) = life.count();
    print!("{rounds} kills, {accepted} messages, {} repeated ... ", deliveries - messages);
    assert!(messages >= accepted);
    // A machine that is busy with other things may repeat more than one for each kill.
    assert!(deliveries - messages <= 3 * rounds, "{} repeated in {rounds} kills", deliveries - messages);
}
