//! `pamrelay reload`: a changed configuration is checked here, where the person who changed it looks, and then made to hold.
//!
//! Under `pamrelay run` the supervisor does the rest; under systemd the units are told from here.

use std::path::Path;
use std::process::Command;

use super::{Failure, Status, accepted, activate, as_root};
use crate::config::Config;
use crate::run::{self, Follow, Name};

pub(super) fn main(path: &Path) -> Result<Status, Failure> {
    as_root("reload the relay")?;
    let accepted = accepted(path)?;
    if let Some(pid) = run::running(&accepted.config.runtime_dir) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGHUP)
            .map_err(|error| Failure::new(Status::Unavailable, format!("cannot tell the relay (pid {pid}): {error}")))?;
        println!("The configuration is in order; the relay (pid {pid}) was told to use it.");
        return Ok(Status::Ok);
    }
    if !Path::new("/run/systemd/system").exists() {
        return Err(Failure::new(Status::Unavailable, "the configuration is in order, but no relay runs here"));
    }
    let old = Config::load(&accepted.config.active().join("pamrelay.yaml"))
        .map_err(|_| Failure::new(Status::Unavailable, "the relay was not started yet; start it with: systemctl start pamrelay"))?;
    if let Some(reason) = run::needs_new_start(&old, &accepted.config) {
        return Err(Failure::new(Status::Config, reason));
    }
    let new = activate(path)?.config;
    for role in [Name::Auth, Name::Keys, Name::Queue, Name::Front] {
        let unit = format!("pamrelay-{role}.service");
        match run::follow(role, &old, &new) {
            Follow::Nothing => {}
            Follow::Reread => {
                systemctl(&["kill", "--kill-who=main", "--signal=HUP", &unit])?;
                println!("{role}: reads its files again");
            }
            Follow::Restart => {
                // Not waited for: this may run as the umbrella's own ExecReload.
                systemctl(&["--no-block", "try-restart", &unit])?;
                println!("{role}: restarts");
            }
        }
    }
    Ok(Status::Ok)
}

fn systemctl(arguments: &[&str]) -> Result<(), Failure> {
    let done = Command::new("systemctl").args(arguments).status();
    let words = match done {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => format!("systemctl {} failed: {status}", arguments.join(" ")),
        Err(error) => format!("cannot run systemctl: {error}"),
    };
    Err(Failure::new(Status::Unavailable, words))
}
