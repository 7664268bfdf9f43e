//! `pamrelay reload`: a changed configuration is checked here, where the person who changed it looks, and then made to hold.
//!
//! Under `pamrelay run` the supervisor does the rest; under systemd the units are told from here.

use std::path::Path;
use std::process::Command;

use super::out::say;
use super::{Failure, Status, accepted, as_root};
use crate::config::Config;
use crate::run::activate::{Accepted, Accounts, ActivateError, ROOTS_COPY};
use crate::run::{self, Follow, Name};

pub(super) fn main(path: &Path) -> Result<Status, Failure> {
    as_root("reload the relay")?;
    let new = accepted(path)?;
    if let Some(pid) = run::running(&new.config.runtime_dir) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGHUP)
            .map_err(|error| Failure::new(Status::Unavailable, format!("cannot tell the relay (pid {pid}): {error}")))?;
        say!("The configuration is in order; the relay (pid {pid}) was told to use it.");
        return Ok(Status::Ok);
    }
    if !Path::new("/run/systemd/system").exists() {
        return Err(Failure::new(Status::Unavailable, "the configuration is in order, but no relay runs here"));
    }
    let old = Accepted::load(&new.config.active().join(ROOTS_COPY))
        .map_err(|_| Failure::new(Status::Unavailable, "the relay was not started yet; start it with: systemctl start pamrelay"))?;
    if let Some(reason) = run::needs_new_start(&old.config, &new.config) {
        return Err(Failure::new(Status::Config, reason));
    }
    let failed = |error: ActivateError| Failure::new(Status::System, error);
    let accounts = Accounts::look_up().map_err(failed)?;
    new.activate(accounts).map_err(failed)?;
    let mut faults = tell(&old.config, &new.config, systemctl);
    if faults.is_empty() {
        return Ok(Status::Ok);
    }
    // The next reload must see the same difference, or nobody would ever tell those who were not told now.
    match old.activate(accounts) {
        Ok(()) => faults.push("not every role follows: the accepted copy of before was put back; mend this, and reload again".to_owned()),
        Err(error) => faults.push(format!("not every role follows, and the accepted copy of before cannot be put back: {error}")),
    }
    Err(Failure::new(Status::Unavailable, faults.join("\n")))
}

/// Tells every role that is concerned, whatever became of the others; what went wrong.
fn tell(old: &Config, new: &Config, systemctl: impl Fn(&[&str]) -> Result<(), String>) -> Vec<String> {
    // Not waited for: this may run as the umbrella's own ExecReload.
    let restart = |unit: &str| systemctl(&["--no-block", "try-restart", unit]);
    let mut faults = Vec::new();
    for role in [Name::Auth, Name::Keys, Name::Queue, Name::Front] {
        let unit = format!("pamrelay-{role}.service");
        let (told, what) = match run::follow(role, old, new) {
            Follow::Nothing => continue,
            // One that is about to start anyway cannot be signalled.
            Follow::Reread => match systemctl(&["kill", "--kill-who=main", "--signal=HUP", &unit]) {
                Ok(()) => (Ok(()), "reads its files again"),
                Err(_) => (restart(&unit), "restarts"),
            },
            Follow::Restart if role == Name::Front => (restart(&unit), "restarts; its sessions end"),
            Follow::Restart => (restart(&unit), "restarts"),
        };
        match told {
            Ok(()) => say!("{role}: {what}"),
            Err(fault) => faults.push(fault),
        }
    }
    faults
}

fn systemctl(arguments: &[&str]) -> Result<(), String> {
    match Command::new("systemctl").args(arguments).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("systemctl {} failed: {status}", arguments.join(" "))),
        Err(error) => Err(format!("cannot run systemctl: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn config(more: &str) -> Config {
        Config::parse(&format!("listen: [{{ address: \"127.0.0.1:1\", tls: starttls }}]\n{more}\n"), Path::new("t")).unwrap()
    }

    #[test]
    fn a_role_that_cannot_be_told_keeps_nobody_else_from_being_told() {
        let said = RefCell::new(Vec::new());
        let systemctl = |arguments: &[&str]| {
            said.borrow_mut().push(arguments.join(" "));
            if arguments.iter().any(|word| word.contains("keys") || word.contains("queue")) { Err("no".to_owned()) } else { Ok(()) }
        };

        let faults = tell(&config(""), &config("limits: { message_size: 1MiB }"), systemctl);

        assert_eq!(faults.len(), 2, "{faults:?}");
        let said = said.into_inner();
        assert_eq!(said.first().unwrap(), "kill --kill-who=main --signal=HUP pamrelay-keys.service");
        assert!(said.contains(&"--no-block try-restart pamrelay-keys.service".to_owned()), "{said:?}");
        assert_eq!(said.last().unwrap(), "--no-block try-restart pamrelay-front.service");
    }
}
