//! From the configuration to what each role wants to know, and into the role.
//!
//! A role starts from the accepted copy, as root (it drops to its user itself) or as its user already (systemd).

mod queue;

pub(super) use queue::{queue, watch_files};

use std::fmt::Display;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use super::{Failure, Status};
use crate::auth::Helper;
use crate::config::{Config, Listen, ListenTls, Sandbox};
use crate::front::{self, FrontSettings, Listener, Most, TlsMode};
use crate::keys::KeysSettings;
use crate::keys::law::Law;
use crate::keys::server::Users;
use crate::keys::store::{PairFiles, StoreSettings};
use crate::run::{FRONT_USER, KEYS_USER, QUEUE_USER};
use crate::sandbox::{self, Account, FrontCage, Notifier, Policy};
use crate::session::Site;
use crate::session::driver::Limits;

/// Beyond the helper's own deadline: the way there and back.
const HELPER_SLACK: Duration = Duration::from_secs(2);

/// `pamrelay front`. What needs a file or a path comes before the cage, what needs a thread after it.
pub(super) fn front(path: &Path) -> Result<Status, Failure> {
    let config = start("front", path)?;
    let threads = threads(2);
    let cage = FrontCage { account: account(FRONT_USER)?, jail: config.jail(), policy: policy(&config) };
    let listeners = config.listen.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
    let notifier = Notifier::from_env();
    let caged = sandbox::front(&cage).map_err(failed)?;
    for missing in &caged.missing {
        tracing::warn!(event = "sandbox_part_missing", part = %missing);
    }

    let settings = front_settings(&config, &caged.jail);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().map_err(failed)?;
    let served = runtime.block_on(front::serve(settings, listeners, || notifier.ready()));
    notifier.stopping();
    runtime.shutdown_timeout(Duration::from_secs(1));
    served.map(|()| Status::Ok).map_err(failed)
}

/// Threads for a role that shares the machine with the others: one for so many processors. More of them wake each other
/// for work that one does in the same time.
fn threads(processors_each: usize) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    (processors / processors_each).max(1)
}

fn bind(listen: &Listen) -> Result<Listener, Failure> {
    let mode = match listen.tls {
        ListenTls::Starttls => TlsMode::StartTls,
        ListenTls::Implicit => TlsMode::Implicit,
    };
    let listener = Listener::bind(&listen.name, listen.address, mode)
        .map_err(|error| failed(format!("cannot listen on {}: {error}", listen.address)))?;
    // Port 0 is any port, and somebody wants to know which.
    let address = listener.socket.local_addr().map_or_else(|_| listen.address.to_string(), |address| address.to_string());
    tracing::info!(event = "listening", address, tls = %listen.tls);
    Ok(listener)
}

/// `jail` is how the caged process names the directory of the sockets.
fn front_settings(config: &Config, jail: &Path) -> FrontSettings {
    let limits = &config.limits;
    FrontSettings {
        site: Site {
            host: config.hostname.to_string(),
            domain: config.hostname.clone(),
            message_size: limits.message_size.0,
            recipients: limits.recipients,
        },
        limits: Limits {
            bad_commands: limits.bad_commands,
            command_timeout: limits.command_timeout,
            data_timeout: limits.data_timeout,
            login_timeout: limits.login_timeout,
            session_timeout: limits.session_timeout,
            failure_floor: config.auth.failure_floor,
        },
        sessions: Most { in_all: limits.sessions, per_address: limits.sessions_per_address, per_site: limits.sessions_per_site },
        helper: Helper::new(jail.join("auth"), config.auth.deadline + HELPER_SLACK),
        keys: jail.join("keys"),
        queue: jail.join("queue"),
    }
}

/// `pamrelay keys`
pub(super) fn keys(path: &Path) -> Result<Status, Failure> {
    let config = start("keys", path)?;
    let account = account(KEYS_USER)?;
    let settings = KeysSettings {
        listen: config.jail().join("keys"),
        store: store_settings(&config, account.uid),
        users: Users { front: account_of(FRONT_USER)?, queue: account_of(QUEUE_USER)? },
        account,
        policy: policy(&config),
    };
    let Err(error) = crate::keys::run(settings);
    Err(failed(error))
}

/// What the key process reads, and by which law.
pub(super) fn store_settings(config: &Config, keys_uid: u32) -> StoreSettings {
    let tls = &config.tls;
    StoreSettings {
        directory: tls.directory.clone(),
        server: PairFiles { certificate: (&tls.certificate).into(), key: (&tls.key).into() },
        client: tls.client.as_ref().map(|client| PairFiles { certificate: (&client.certificate).into(), key: (&client.key).into() }),
        secrets: config.secrets().into_iter().map(str::to_owned).collect(),
        hostname: config.hostname.to_string(),
        law: Law::new(keys_uid, KEYS_USER),
    }
}

/// What every role does first.
fn start(role: &'static str, path: &Path) -> Result<Config, Failure> {
    let config = Config::load(path)?;
    crate::log::start(role, config.log);
    Ok(config)
}

fn account(name: &str) -> Result<Account, Failure> {
    Account::named(name).map_err(|error| Failure::new(Status::Config, error))
}

fn account_of(name: &str) -> Result<u32, Failure> {
    account(name).map(|account| account.uid)
}

fn policy(config: &Config) -> Policy {
    match config.sandbox {
        Sandbox::BestEffort => Policy::BestEffort,
        Sandbox::Required => Policy::Required,
    }
}

/// Said in the log, which is standard error too: nobody needs it twice.
fn failed(error: impl Display) -> Failure {
    tracing::error!(event = "cannot_start", reason = %error);
    Failure::new(Status::System, "")
}
