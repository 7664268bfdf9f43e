//! The front end: the role that speaks with strangers, and the only one that does.
//!
//! Order of its start: bind, connect what cannot be connected later, close the cage, then build the runtime, because
//! the cage binds the thread that enters it.

mod arrivals;
mod connection;
mod door;
mod hello_limit;
mod listener;
mod tls;
mod wiping;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use arrivals::Arrivals;
pub use door::{Door, Most};
pub use listener::{Listener, TlsMode};
pub use tls::{Tls, TlsError};

use crate::auth::Helper;
use crate::handoff::Pool;
use crate::keys::client::Keys;
use crate::session::Site;
use crate::session::driver::{Limits, Strangers, World};

/// How long sessions may take to end once the front end is asked to stop.
const LEAVE: Duration = Duration::from_secs(10);

/// How often it is looked whether a minute of lines about strangers is over.
const LOOK_AT_STRANGERS: Duration = Duration::from_secs(5);

/// What the front end needs to know, checked already.
pub struct FrontSettings {
    pub site: Site,
    pub limits: Limits,
    pub sessions: Most,
    /// The doors to the other roles, as the caged front end names them.
    pub helper: Helper,
    pub keys: PathBuf,
    pub queue: PathBuf,
}

/// What every connection of the front end shares.
pub(crate) struct Front {
    world: World,
    tls: Tls,
    door: Arc<Door>,
    arrivals: Arrivals,
}

/// Why the front end cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    #[error("cannot watch for signals: {0}")]
    Signals(io::Error),
    #[error("cannot listen: {0}")]
    Listen(io::Error),
    #[error("a listener ended by itself")]
    ListenerGone,
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Serves until SIGTERM. Call it inside the cage, in a runtime; `ready` is called once clients are served.
pub async fn serve(settings: FrontSettings, listeners: Vec<Listener>, ready: impl FnOnce()) -> Result<(), FrontError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(FrontError::Signals)?;
    let (close, closing) = watch::channel(false);
    let keys = tokio::select! {
        keys = meet_keys(settings.keys) => keys,
        _ = terminate.recv() => return Ok(()),
    };
    let door = Door::new(settings.sessions);
    let front = Arc::new(Front {
        world: World {
            site: settings.site,
            helper: settings.helper,
            queue: Pool::new(settings.queue, crate::handoff::Limits::default()),
            limits: settings.limits,
            closing,
            scarce: door.scarce(),
            strangers: Strangers::default(),
        },
        tls: Tls::new(keys.server_certs())?,
        door,
        // As many new ones in a second as there may be at once.
        arrivals: Arrivals::new(settings.sessions.per_address),
    });
    let mut listening = JoinSet::new();
    for listener in listeners {
        let listener = listener.open().map_err(FrontError::Listen)?;
        listening.spawn(listener.accept(Arc::clone(&front)));
    }
    ready();
    tracing::info!(event = "front_ready", listeners = listening.len());
    let minutes = tokio::spawn(end_minutes(Arc::clone(&front)));
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        // A listener ends only when it is asked to, or by a fault of ours.
        _ = listening.join_next() => Err(FrontError::ListenerGone),
    };
    tracing::info!(event = "front_stopping");
    let _ = close.send(true);
    while listening.join_next().await.is_some() {}
    let _ = tokio::time::timeout(LEAVE, async {
        while !front.door.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    minutes.abort();
    front.world.strangers.close();
    ended
}

/// What strangers did is written when its minute is over, also when none of them comes any more.
async fn end_minutes(front: Arc<Front>) {
    loop {
        tokio::time::sleep(LOOK_AT_STRANGERS).await;
        front.world.strangers.end_minute();
    }
}

/// Waits for the key process, for as long as it takes: clients wait in the backlog meanwhile.
async fn meet_keys(path: PathBuf) -> Arc<Keys> {
    let mut pause = Duration::from_millis(50);
    loop {
        let path = path.clone();
        match tokio::task::spawn_blocking(move || Keys::connect(path)).await {
            Ok(Ok(keys)) => return keys,
            Ok(Err(error)) => tracing::warn!(event = "waiting_for_keys", error = %error),
            Err(error) => tracing::warn!(event = "waiting_for_keys", error = %error),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}
