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
use crate::keys::law::Law;
use crate::keys::server::Users;
use crate::keys::store::{PairFiles, StoreSettings};
use crate::keys::{KeysRunError, KeysSettings};
use crate::run::child::SUPERVISED;
use crate::run::{FRONT_USER, KEYS_USER, QUEUE_USER};
use crate::sandbox::{self, Account, FrontCage, Notifier, Policy, SandboxError};
use crate::session::Site;
use crate::session::driver::Limits;

/// Beyond the helper's own deadline: the way there and back.
const HELPER_SLACK: Duration = Duration::from_secs(2);

/// How long a role that cannot start waits before it ends, where systemd starts it again at once: the log stays readable.
const BEFORE_THE_NEXT_TRY: Duration = Duration::from_secs(4);

/// Runs a role. When it cannot start, the unit's status line says why; the exit status says whether another try may help: a mistake of
/// configuration is no reason for one.
fn role(work: impl FnOnce(&Notifier) -> Result<Status, Failure>) -> Result<Status, Failure> {
    let notifier = Notifier::from_env(); // before the cage
    let ended = work(&notifier);
    if let Err(failure) = &ended {
        notifier.status(&failure.words);
        // Its log is standard error too: what was logged is not said once more by `main`.
        if failure.status == Status::System {
            tracing::error!(event = "cannot_start", reason = %failure.words);
            if std::env::var_os(SUPERVISED).is_none() && std::env::var_os("NOTIFY_SOCKET").is_some() {
                std::thread::sleep(BEFORE_THE_NEXT_TRY);
            }
            return Err(Failure::new(Status::System, ""));
        }
    }
    ended
}

/// `pamrelay front`. What needs a file or a path comes before the cage, what needs a thread after it.
pub(super) fn front(path: &Path) -> Result<Status, Failure> {
    role(|notifier| serve(path, notifier))
}

fn serve(path: &Path, notifier: &Notifier) -> Result<Status, Failure> {
    let config = start("front", path)?;
    let threads = threads(2);
    let cage = FrontCage { account: account(FRONT_USER)?, jail: config.jail(), policy: policy(&config) };
    let listeners = config.listen.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
    let caged = sandbox::front(&cage).map_err(outside)?;
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
    role(|_| answer(path))
}

fn answer(path: &Path) -> Result<Status, Failure> {
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
    Err(match error {
        KeysRunError::Sandbox(error) => outside(error),
        KeysRunError::Store(_) | KeysRunError::ForeignSocket(_) => unfit(error),
        KeysRunError::Listen { .. }
        | KeysRunError::Passed(_)
        | KeysRunError::NoSocket
        | KeysRunError::Signals(_)
        | KeysRunError::Thread(_) => failed(error),
    })
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
    Account::named(name).map_err(outside)
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

/// What may pass: the role is started again.
fn failed(error: impl Display) -> Failure {
    Failure::new(Status::System, error)
}

/// The role is not in its cage.
fn outside(error: SandboxError) -> Failure {
    if error.lasts() { unfit(error) } else { failed(error) }
}

/// What lasts until a person does something.
fn unfit(error: impl Display) -> Failure {
    tracing::error!(event = "cannot_start", reason = %error, remedy = "repair this, then: systemctl restart pamrelay");
    Failure::new(Status::Config, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_that_had_no_memory_is_started_again_and_one_without_its_user_is_not() {
        let no_memory = std::io::Error::from_raw_os_error(nix::libc::ENOMEM);

        assert_eq!(outside(SandboxError::Step { doing: "look up a user", source: no_memory }).status, Status::System);
        assert_eq!(outside(SandboxError::NoUser("nobody".into())).status, Status::Config);
        assert_eq!(outside(SandboxError::Incomplete(Vec::new())).status, Status::Config);
    }
}
