//! The key role: it alone reads private keys and secrets, and it signs TLS handshakes with them.
//!
//! ```text
//! front ──text of a handshake──▶ server ▸ signer ▸ ring ──signature──▶ front
//! queue ──text, or a secret's name──▶           ▲
//!                                    law ▸ store (start, SIGHUP)
//! ```
//!
//! Invariant: private keys and secrets come into this process only by way of the [`law`], and leave it never
//! (keys) or only towards the queue (secrets). The other roles' half is [`client`].

use std::{
    io,
    os::unix::{fs::MetadataExt, net::UnixListener},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use signal_hook::{consts::SIGHUP, iterator::Signals};

use crate::sandbox::{self, Account, KeysCage, Notifier, Policy, SandboxError};
use crate::sockets;

pub mod client;
pub mod law;
mod link;
pub mod notices;
pub mod ring;
pub mod server;
pub mod signer;
pub mod store;
mod walk;
pub mod wire;

use notices::Notice;
use ring::Ring;
use server::{Server, Users};
use store::{Store, StoreError, StoreSettings};

/// All that the role needs to know.
#[derive(Debug, Clone)]
pub struct KeysSettings {
    /// The front end's socket; the queue's is [`queue_socket`]. They are bound here only when none was passed in by LISTEN_FDS.
    pub listen: PathBuf,
    pub store: StoreSettings,
    /// Whom the role runs as.
    pub account: Account,
    /// Who may ask.
    pub users: Users,
    pub policy: Policy,
}

#[derive(Debug, thiserror::Error)]
pub enum KeysRunError {
    #[error("cannot listen on {path}: {source}")]
    Listen { path: PathBuf, source: io::Error },
    #[error("cannot take the socket that was passed in: {0}")]
    Passed(io::Error),
    #[error("the socket that was passed in, {0}, is neither the front end's nor the queue's")]
    ForeignSocket(PathBuf),
    #[error("no socket was passed in")]
    NoSocket,
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error("the certificate directory is not in order:\n{0}")]
    Store(#[from] StoreError),
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// The role's main: returns only when it cannot start.
pub fn run(settings: KeysSettings) -> Result<std::convert::Infallible, KeysRunError> {
    let doors = doors(&settings.listen, settings.users)?; // 1. while binding is still allowed
    let notifier = Notifier::from_env(); // 2. its socket is connected now, there is no connecting later
    let caged = sandbox::keys(&KeysCage {
        account: settings.account.clone(),
        directory: settings.store.directory.clone(),
        policy: settings.policy,
    })?; // 3. before the first thread and before the first byte of any file
    let signals = Signals::new([SIGHUP]).map_err(KeysRunError::Signals)?; // 4. from here on SIGHUP no longer kills
    for missing in &caged.missing {
        tracing::warn!(event = "sandbox_part_missing", part = %missing);
    }

    let store = Store::load(&settings.store)?;
    say_what_is_in_use(&store);
    let ring = Ring::new(store);
    spawn("reload", {
        let ring = Arc::clone(&ring);
        move || reload_on(signals, &ring, &settings.store)
    })?;
    spawn("time", {
        let ring = Arc::clone(&ring);
        move || watch_time(&ring)
    })?;

    // A server for each door: its own connections and its own lines in the log.
    let mut servers = doors.into_iter().map(|door| (Server::new(Arc::clone(&ring), door.users), door.listener));
    let Some((server, listener)) = servers.next() else { return Err(KeysRunError::NoSocket) };
    for (server, listener) in servers {
        spawn("door", move || server.serve(&listener))?;
    }
    notifier.ready();
    server.serve(&listener)
}

/// The queue's socket stands beside the jail, which is the front end's.
pub fn queue_socket(front: &Path) -> PathBuf {
    front.parent().and_then(Path::parent).unwrap_or(Path::new("/")).join("keys")
}

/// One socket, and the one role that is answered there.
struct Door {
    path: PathBuf,
    listener: UnixListener,
    users: Users,
}

/// The sockets of the role: those passed in, each known by its path; else both are bound here.
fn doors(front: &Path, users: Users) -> Result<Vec<Door>, KeysRunError> {
    let wanted = [(front.to_owned(), users.front_alone(), users.front), (queue_socket(front), users.queue_alone(), users.queue)];
    let mut passed = listenfd::ListenFd::from_env();
    if passed.len() > 0 {
        return doors_from(&mut passed, wanted);
    }
    let lock = front.parent().and_then(Path::parent).map(|runtime| runtime.join(sockets::LOCK));
    let bound = wanted.into_iter().map(|(path, users, uid)| match server::bind_for(&path, uid, lock.as_deref()) {
        Ok(listener) => Ok(Door { path, listener, users }),
        Err(source) => Err(KeysRunError::Listen { path, source }),
    });
    bound.collect()
}

fn doors_from(passed: &mut listenfd::ListenFd, wanted: [(PathBuf, Users, u32); 2]) -> Result<Vec<Door>, KeysRunError> {
    let mut doors: Vec<Door> = Vec::new();
    for index in 0..passed.len() {
        let Some(listener) = passed.take_unix_listener(index).map_err(KeysRunError::Passed)? else { continue };
        let path = listener.local_addr().map_err(KeysRunError::Passed)?.as_pathname().map(Path::to_owned);
        match wanted.iter().find(|(wanted, ..)| path.as_ref() == Some(wanted)) {
            Some((path, users, _)) => doors.push(Door { path: path.clone(), listener, users: *users }),
            None => return Err(KeysRunError::ForeignSocket(path.unwrap_or_default())),
        }
    }
    for (path, ..) in wanted.iter().filter(|(path, ..)| doors.iter().all(|door| door.path != *path)) {
        tracing::warn!(event = "socket_not_passed", path = %path.display(), effect = "the role that asks there gets no answer");
    }
    Ok(doors)
}

fn reload_on(mut signals: Signals, ring: &Ring, settings: &StoreSettings) {
    for _ in signals.forever() {
        reload(ring, settings);
    }
}

/// Reads the directory again: a good set becomes the current one, a bad one changes nothing.
pub fn reload(ring: &Ring, settings: &StoreSettings) {
    match Store::load(settings) {
        Ok(store) => {
            say_what_is_in_use(&store);
            ring.replace(store, Instant::now());
        }
        Err(error) => {
            for problem in &error.problems {
                tracing::error!(event = "reload_refused", problem = %problem);
            }
            tracing::error!(event = "reload_refused", effect = "the certificates and secrets read before stay in use");
        }
    }
}

/// What `check` says where the key process could not open root's files: the machine (a container, mostly) does not
/// give CAP_DAC_READ_SEARCH to anybody, and the directory is not its user's.
pub fn reach_notice(settings: &StoreSettings) -> Option<String> {
    let given = caps::has_cap(None, caps::CapSet::Bounding, caps::Capability::CAP_DAC_READ_SEARCH).unwrap_or(false);
    let owner = std::fs::metadata(&settings.directory).ok()?.uid();
    let law = &settings.law;
    (!given && owner != law.keys_uid()).then(|| {
        format!(
            "{0}: the key process cannot open it, because CAP_DAC_READ_SEARCH is not to be had here; repair: chown -R {1}: {2}",
            settings.directory.display(),
            law.keys_name(),
            law::quoted(&settings.directory)
        )
    })
}

/// Forgets replaced keys each minute, and says each day what is unwise: a certificate ends while nobody looks.
fn watch_time(ring: &Ring) -> ! {
    loop {
        for _ in 0..24 * 60 {
            thread::sleep(Duration::from_secs(60));
            ring.forget(Instant::now());
        }
        say_notices(&ring.notices(SystemTime::now()));
    }
}

fn say_what_is_in_use(store: &Store) {
    tracing::info!(
        event = "keys_in_use",
        server = %format_args!("{:016x}", store.server.generation.0),
        client = store.client.as_ref().map_or_else(|| "none".to_owned(), |client| format!("{:016x}", client.generation.0)),
    );
    say_notices(&store.notices(SystemTime::now()));
}

fn say_notices(notices: &[Notice]) {
    for notice in notices {
        tracing::warn!(event = "certificate_notice", notice = %notice);
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), KeysRunError> {
    thread::Builder::new().name(name.into()).spawn(work).map(drop).map_err(KeysRunError::Thread)
}
