//! The role: opens the spool, takes messages in, sends them on, ends in good order.
//!
//! ```text
//! front ─▶ server ─▶ door ─▶ store ◀─▶ dispatch ◀─▶ delivery
//!                              ▲
//! administrator ─▶ control ────┘
//! ```
//!
//! Invariant: when this function has said READY, the store is sound and the door is open; when it returns, nothing that
//! was acknowledged is anywhere but in the store.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::accept::{Door, RecipientLimit, SizeLimit};
use super::control::{self, ControlError};
use super::dispatch::{ActiveLimits, DeliveryGone, Dispatch};
use super::receipts::{self, Receipts};
use super::report::{Reporter, Reports, Undelivered};
use super::schedule::Schedule;
use super::server::{Peers, serve};
use super::sqlite::{OpenError, SqliteStore};
use super::store::QueueStore as _;
use super::tickets::TicketBook;
use crate::delivery::job::{Job, Outcomes};
use crate::sandbox::Notifier;
use crate::smtp::address::Mailbox;
use crate::sockets::{self, Askers};

/// All that the role needs to know.
#[derive(Clone)]
pub struct QueueSettings {
    pub spool: PathBuf,
    /// Bound only when no listener was passed (LISTEN_FDS).
    pub handoff: PathBuf,
    /// Such as `/run/pamrelay/queue/control`; its directory is made.
    pub control: PathBuf,
    /// The helper's key file, such as `/run/pamrelay/tickets`.
    pub tickets: PathBuf,
    /// Uids that may hand messages over: the front end's.
    pub peers: Vec<u32>,
    pub message_size: u64,
    /// Recipients of one message.
    pub recipients: usize,
    pub schedule: Schedule,
    pub active: ActiveLimits,
    /// For date fields. Loaded before the cage is closed, because looking it up opens files.
    pub zone: TimeZone,
    pub reporter: Reporter,
    /// Connected before the cage, in which there is no connecting to the service manager.
    pub notifier: Notifier,
    /// Hears of reports that could not be delivered.
    pub postmaster: Option<Mailbox>,
}

/// Why the role ended, or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot listen at {}: {source}", path.display())]
    Listen { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("cannot wait for signals: {0}")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    Delivery(#[from] DeliveryGone),
}

/// Runs the role until SIGTERM or SIGINT, or until delivery is gone.
pub async fn run(settings: QueueSettings, delivery: (mpsc::Sender<Job>, mpsc::Receiver<Outcomes>)) -> Result<(), RunError> {
    let (mut terminate, mut interrupt) = (terminate()?, interrupt()?);
    run_until(settings, delivery, async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
    .await
}

fn terminate() -> Result<tokio::signal::unix::Signal, RunError> {
    signal(SignalKind::terminate()).map_err(RunError::Signals)
}

fn interrupt() -> Result<tokio::signal::unix::Signal, RunError> {
    signal(SignalKind::interrupt()).map_err(RunError::Signals)
}

/// The same until `end` is over.
pub async fn run_until(
    settings: QueueSettings,
    (jobs, outcomes): (mpsc::Sender<Job>, mpsc::Receiver<Outcomes>),
    end: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let store = Arc::new(SqliteStore::open(&settings.spool)?);
    // Before anything is delivered and gone.
    let recent = store.recent(receipts::KEPT).await.map_err(OpenError::from)?;
    let listener = listener(&settings)?;
    let control = control::bind(&settings.control)?;
    let undelivered = Arc::new(Undelivered::default());
    let reports = Reports { reporter: settings.reporter, postmaster: settings.postmaster, undelivered: Arc::clone(&undelivered) };
    let (dispatch, active) = Dispatch::new(Arc::clone(&store), settings.schedule, reports, settings.active, outcomes);
    let look = Arc::clone(&active.look);
    let tickets = TicketBook::new(settings.tickets);
    let limits = (SizeLimit(settings.message_size), RecipientLimit(settings.recipients));
    let door = Door::new(Arc::clone(&store), tickets, limits, settings.zone, active, Receipts::of(recent.into_iter().rev()));
    let (stopper, stop) = watch::channel(false);

    let own = rustix::process::geteuid().as_raw();
    let control =
        tokio::spawn(control::serve(control, Arc::clone(&store), Peers(vec![0, own]), control::Role { look, undelivered }, stop.clone()));
    let server = tokio::spawn(serve(listener, Arc::new(door), Peers(settings.peers), stop.clone()));
    let mut dispatching = tokio::spawn(dispatch.run(jobs, stop));
    tracing::info!(event = "started", role = "queue", spool = %settings.spool.display());
    settings.notifier.ready();

    let ended = tokio::select! {
        ended = &mut dispatching => Some(ended),
        () = end => None,
    };
    settings.notifier.stopping();
    let _ = stopper.send(true);
    let _ = tokio::join!(server, control); // a panic in them was told of by the runtime
    let ended = match ended {
        Some(ended) => ended,
        None => dispatching.await,
    };
    closed(store).await;
    tracing::info!(event = "ended", role = "queue");
    Ok(ended.unwrap_or(Err(DeliveryGone))?)
}

/// Closes the database, once the tasks that were cut short have let go of it.
async fn closed(mut store: Arc<SqliteStore>) {
    for _ in 0..100 {
        match Arc::try_unwrap(store) {
            Ok(last) => return drop(last),
            Err(shared) => store = shared,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tracing::info!(event = "store_open", reason = "somebody still waits for it; the log will be read at the next start");
}

/// The listener that was passed by systemd or the supervisor, or one of our own.
fn listener(settings: &QueueSettings) -> Result<UnixListener, RunError> {
    let failed = |source| RunError::Listen { path: settings.handoff.clone(), source };
    let passed = listenfd::ListenFd::from_env().take_unix_listener(0).map_err(failed)?;
    let listener = match passed {
        Some(listener) => listener,
        None => {
            // The database's lock stands around this: there is no second queue with this spool.
            sockets::bind(&settings.handoff, Askers::default(), None).map_err(failed)?
        }
    };
    listener.set_nonblocking(true).map_err(failed)?;
    UnixListener::from_std(listener).map_err(failed)
}
