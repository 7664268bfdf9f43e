//! Making a configuration the one that holds: directories with their owners, and the accepted copies that the roles start from.
//!
//! Each role has a copy that it alone can read, root has one, and the helper has its settings. All of them are on the disk before
//! the first is replaced, root's copy is replaced last, and their text is the text that was checked.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User};

use super::{FRONT_USER, KEYS_USER, QUEUE_USER};
use crate::config::{Auth, Chosen, Config, Guests, Lockout, LowPorts, Mistakes};
use crate::directory::{self, Given};
use crate::replace::{Access, Staged};

/// A configuration and the very text it was read from.
#[derive(Debug)]
pub struct Accepted {
    pub config: Config,
    text: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    #[error("there is no {0}; the package creates it, or: systemd-sysusers")]
    NoAccount(String),
    #[error("{path}: {doing}: {source}")]
    File { doing: &'static str, path: PathBuf, source: io::Error },
}

/// Numbers behind the names of our users.
#[derive(Clone, Copy, Debug)]
pub struct Accounts {
    pub front: (Uid, Gid),
    pub keys: (Uid, Gid),
    pub queue: (Uid, Gid),
}

impl Accounts {
    pub fn look_up() -> Result<Self, ActivateError> {
        Ok(Self { front: account(FRONT_USER)?, keys: account(KEYS_USER)?, queue: account(QUEUE_USER)? })
    }
}

fn account(name: &str) -> Result<(Uid, Gid), ActivateError> {
    let user = User::from_name(name).ok().flatten().ok_or_else(|| ActivateError::NoAccount(format!("user {name}")))?;
    let group = Group::from_name(name).ok().flatten().ok_or_else(|| ActivateError::NoAccount(format!("group {name}")))?;
    Ok((user.uid, group.gid))
}

impl Accepted {
    pub fn load(path: &Path) -> Result<Self, Mistakes> {
        let text = crate::config::text_of(path)?;
        Ok(Self { config: Config::parse(&text, path)?, text })
    }

    /// Whether the other was read from the same text.
    pub fn reads_like(&self, other: &Self) -> bool {
        self.text == other.text
    }

    /// Directories first, then the copies.
    pub fn activate(&self, accounts: Accounts) -> Result<(), ActivateError> {
        prepare(&self.config, accounts)?;
        let path = self.config.active();
        let active = give(&path, Given::to_root(0o711))?; // entered by all roles, listed by root alone
        let settings = auth_env_file(&self.config);
        let readable = |(_, gid): (Uid, Gid)| Access { mode: 0o640, group: Some(gid.as_raw()) };
        let private = Access { mode: 0o600, group: None };
        let copies = [
            ("auth.env", private, settings.as_str()),
            ("front.yaml", readable(accounts.front), &self.text),
            ("keys.yaml", readable(accounts.keys), &self.text),
            ("queue.yaml", readable(accounts.queue), &self.text),
            (ROOTS_COPY, private, &self.text),
        ];
        let failed = |name: &str, source| ActivateError::File { doing: "cannot be written", path: path.join(name), source };
        let mut staged = Vec::with_capacity(copies.len());
        for (name, access, text) in copies {
            staged.push((name, Staged::write(active.as_fd(), OsStr::new(name), access, text).map_err(|error| failed(name, error))?));
        }
        for (name, copy) in staged {
            copy.take_effect().map_err(|error| failed(name, error))?;
        }
        rustix::fs::fsync(&active).map_err(|error| failed("", error.into()))
    }
}

/// Root's own copy, which a reload compares with.
pub const ROOTS_COPY: &str = "pamrelay.yaml";

/// Makes what is missing and puts owners and modes in order of what is ours alone to make.
fn prepare(config: &Config, accounts: Accounts) -> Result<(), ActivateError> {
    give(&config.runtime_dir, Given::to_root(0o755))?;
    give(&config.jail(), Given::to_root(0o755))?;
    let to_queue = Given { uid: accounts.queue.0.as_raw(), gid: accounts.queue.1.as_raw(), mode: 0o700 };
    if let Some(control) = config.queue_control().parent() {
        give(control, to_queue)?;
    }
    // Spool and maildirs are mail: what is there already is judged by `check` and by the queue, not repaired.
    for place in std::iter::once(config.spool.as_path()).chain(config.maildirs()) {
        if !place.exists() {
            give(place, to_queue)?;
        }
    }
    Ok(())
}

fn give(path: &Path, given: Given) -> Result<OwnedFd, ActivateError> {
    directory::make(path, given).map_err(|source| ActivateError::File { doing: "cannot be made", path: path.to_owned(), source })
}

/// The helper's settings, as `pamrelay-auth` reads them from its environment.
pub fn auth_env(config: &Config) -> Vec<(&'static str, String)> {
    let Auth { service, names, guests, min_uid, groups, deadline, workers, .. } = &config.auth;
    let listeners = config.listen.iter().map(|listen| format!("{}={}", listen.name, listen.service.as_ref().unwrap_or(service)));
    let guest = |part: fn(&Guests) -> &String| guests.as_ref().map(part).cloned().unwrap_or_default();
    // Empty: the helper chooses by what may lock accounts.
    let account_failures = match config.auth.account_limit {
        Chosen::ByAdministrator => config.auth.account_failures.to_string(),
        Chosen::ByDefault => String::new(),
    };
    let lockout = match config.auth.lockout {
        Lockout::Detect => "detect",
        Lockout::None => "none",
    };
    // A second relay, with a runtime directory of its own, keeps there what it knows.
    let state = match config.runtime_dir == Path::new("/run/pamrelay") {
        true => PathBuf::from("/var/lib/pamrelay/auth"),
        false => config.runtime_dir.join("known/auth"),
    };
    let low_ports = match config.auth.low_ports {
        LowPorts::Dropped => "no",
        LowPorts::Needed => "yes",
    };
    vec![
        ("PAMRELAY_SERVICE", service.clone()),
        ("PAMRELAY_LISTENERS", listeners.collect::<Vec<_>>().join(",")),
        ("PAMRELAY_NAMES", names.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
        ("PAMRELAY_GUEST_SERVICE", guest(|guests| &guests.service)),
        ("PAMRELAY_GUEST_ACCOUNT", guest(|guests| &guests.account)),
        ("PAMRELAY_MIN_UID", min_uid.to_string()),
        ("PAMRELAY_GROUPS", groups.join(",")),
        ("PAMRELAY_DEADLINE_MS", deadline.as_millis().to_string()),
        ("PAMRELAY_WORKERS", workers.to_string()),
        ("PAMRELAY_ACCOUNT_FAILURES", account_failures),
        ("PAMRELAY_ACCOUNT_WINDOW_S", config.auth.account_window.as_secs().to_string()),
        ("PAMRELAY_PEER_FAILURES_PER_MINUTE", config.auth.network_failures_per_minute.to_string()),
        ("PAMRELAY_FAILURES_PER_SECOND", config.auth.failures_per_second.to_string()),
        // The helper takes no less than a minute.
        ("PAMRELAY_TICKET_LIFETIME_S", config.limits.session_timeout.as_secs().max(60).to_string()),
        ("PAMRELAY_RUNTIME", config.runtime_dir.display().to_string()),
        ("PAMRELAY_LOCKOUT", lockout.to_owned()),
        ("PAMRELAY_STATE", state.display().to_string()),
        ("PAMRELAY_LOW_PORTS", low_ports.to_owned()),
    ]
}

/// The same as an EnvironmentFile (systemd.exec(5)): quoted, so that no name can become something else.
fn auth_env_file(config: &Config) -> String {
    let mut out = String::from("# Written by pamrelay from the configuration; changes here are lost.\n");
    for (name, value) in auth_env(config) {
        let escaped: String = value.chars().flat_map(|c| "\\\"`$".contains(c).then_some('\\').into_iter().chain([c])).collect();
        out.push_str(&format!("{name}=\"{escaped}\"\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_of_a_windows_domain_survives_the_environment_file() {
        let text = "listen: [{ address: \"127.0.0.1:1\", tls: starttls }]\nauth: { groups: ['AD\\mail users', '$x'] }\n";
        let config = Config::parse(text, Path::new("t")).unwrap();

        let file = auth_env_file(&config);

        assert!(file.contains("\nPAMRELAY_GROUPS=\"AD\\\\mail users,\\$x\"\n"), "{file}");
    }
}
