//! From the configuration to what each role wants to know, and into the role.
//!
//! A role starts from the accepted copy, as root (it drops to its user itself) or as its user already (systemd).

use std::fmt::Display;
use std::path::Path;

use super::{Failure, Status};
use crate::config::{Config, Sandbox};
use crate::keys::KeysSettings;
use crate::keys::law::Law;
use crate::keys::server::Users;
use crate::keys::store::{PairFiles, StoreSettings};
use crate::run::{FRONT_USER, KEYS_USER, QUEUE_USER};
use crate::sandbox::{Account, Policy};

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

/// In the log too: under a supervisor nobody reads what a role says without it.
fn failed(error: impl Display) -> Failure {
    tracing::error!(event = "cannot_start", reason = %error);
    Failure::new(Status::System, error)
}
