//! `pamrelay reload`: a changed configuration is checked here, where the person who changed it looks, and then made to hold.
//!
//! Under `pamrelay run` the supervisor does the rest; under systemd the units are told from here. Either way it returns when the roles
//! that were restarted are ready. One reload at a time: a second waits for the first, and reads the file when it is its turn.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use rustix::fs::OFlags;

use super::out::say;
use super::{Failure, Status, accepted, as_root};
use crate::config::Config;
use crate::run::activate::{Accepted, Accounts, ActivateError, ROOTS_COPY};
use crate::run::units::{self, systemctl};
use crate::run::{self, Follow, Name};

/// For a supervisor whose front end lets its sessions finish, and for the start of all roles.
const PATIENCE: Duration = Duration::from_secs(180);

pub(super) fn main(path: &Path) -> Result<Status, Failure> {
    as_root("reload the relay")?;
    let directory = Accepted::load(path)?.config.runtime_dir;
    let turn = Turn::wait(&directory)?;
    let new = accepted(path)?;
    match run::running(&directory) {
        Ok(Some(supervisor)) => return told(&supervisor),
        Ok(None) => {}
        Err(error) => return Err(Failure::new(Status::Unavailable, format!("cannot reach the relay that runs here: {error}"))),
    }
    if !units::are_here() {
        return Err(Failure::new(Status::Unavailable, "the configuration is in order, but no relay runs here"));
    }
    follow(&new, &turn)
}

/// Only one at a time reloads below a runtime directory.
pub(super) struct Turn(#[expect(dead_code, reason = "the lock is what it is for")] Flock<File>);

impl Turn {
    pub(super) fn wait(directory: &Path) -> Result<Self, Failure> {
        let path = directory.join("reload.lock");
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(Status::Unavailable, format!("no relay was started here yet: {}: {error}", path.display()))
        };
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let options = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(&path);
        let file = options.map_err(|error| failed(&error))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self(lock)),
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
                say!("Another reload is under way; this one waits for it.");
                Flock::lock(file, FlockArg::LockExclusive).map(Self).map_err(|(_, error)| failed(&error))
            }
            Err((_, error)) => Err(failed(&error)),
        }
    }
}

/// Tells the supervisor, and waits until it has done it.
fn told(supervisor: &run::Supervisor) -> Result<Status, Failure> {
    let pid = supervisor.pid;
    let unavailable = |what: String| Failure::new(Status::Unavailable, what);
    let until = Instant::now() + PATIENCE;
    let reloads = || loop {
        match supervisor.reloads() {
            Some(reloads) => return Ok(reloads),
            None if supervisor.is_gone() => return Err(unavailable(format!("the relay (pid {pid}) has ended"))),
            None if Instant::now() > until => return Err(unavailable(format!("the relay (pid {pid}) does not say what becomes of it"))),
            None => thread::sleep(Duration::from_millis(20)),
        }
    };
    let before = reloads()?.begun;
    supervisor.tell_to_reload().map_err(|error| unavailable(format!("cannot tell the relay (pid {pid}): {error}")))?;
    loop {
        let now = reloads()?;
        if now.done > before {
            if now.refusal.is_empty() {
                say!("The configuration is in force; the relay (pid {pid}) uses it.");
                return Ok(Status::Ok);
            }
            return Err(Failure::new(Status::Config, now.refusal.join("\n")));
        }
        if Instant::now() > until {
            return Err(unavailable(format!("after {} s the relay (pid {pid}) still reloads; see its log", PATIENCE.as_secs())));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Under systemd: the accepted copy, and then every unit that is concerned.
pub(super) fn follow(new: &Accepted, _turn: &Turn) -> Result<Status, Failure> {
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
        Ok(()) => faults.push("not every role follows: the accepted copy of before was put back; repair this, and reload again".to_owned()),
        Err(error) => faults.push(format!("not every role follows, and the accepted copy of before cannot be put back: {error}")),
    }
    Err(Failure::new(Status::Unavailable, faults.join("\n")))
}

/// Tells every role that is concerned, whatever became of the others; what went wrong. Those that restart do so in one transaction: systemd then
/// stops the front end first and starts it last, and its sessions finish.
fn tell(old: &Config, new: &Config, systemctl: impl Fn(&[&str]) -> Result<(), String>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut restarts = Vec::new();
    for role in units::ROLES {
        let unit = units::of(role);
        let what = match run::follow(role, old, new) {
            Follow::Nothing => continue,
            // One that is about to start anyway cannot be signalled.
            Follow::Reread => match systemctl(&["kill", "--kill-who=main", "--signal=HUP", &unit]) {
                Ok(()) => "reads its files again",
                Err(_) => {
                    restarts.push(unit);
                    "restarts"
                }
            },
            Follow::Restart => {
                restarts.push(unit);
                if role == Name::Front { "restarts; its sessions end" } else { "restarts" }
            }
        };
        say!("{role}: {what}");
    }
    if !restarts.is_empty() {
        let mut words = vec!["try-restart"];
        words.extend(restarts.iter().map(String::as_str));
        if let Err(fault) = systemctl(&words) {
            faults.push(fault);
            let shown = units::show(&restarts).unwrap_or_default();
            faults.extend(shown.iter().filter(|unit| !unit.is_active()).map(units::Unit::in_words));
        }
    }
    faults
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
            if arguments.contains(&"kill") { Err("no".to_owned()) } else { Ok(()) }
        };

        let faults = tell(&config(""), &config("limits: { message_size: 1MiB }"), systemctl);

        assert_eq!(faults.len(), 0, "{faults:?}");
        let said = said.into_inner();
        assert_eq!(said.first().unwrap(), "kill --kill-who=main --signal=HUP pamrelay-keys.service");
        // One transaction, in which systemd stops the front end before what it asks.
        assert_eq!(said.last().unwrap(), "try-restart pamrelay-keys.service pamrelay-queue.service pamrelay-front.service");
        assert_eq!(said.len(), 2);
    }

    #[test]
    fn what_systemd_refuses_is_told() {
        let faults = tell(&config(""), &config("limits: { bad_commands: 5 }"), |words| {
            if words.contains(&"try-restart") { Err("front did not start".to_owned()) } else { Ok(()) }
        });

        assert_eq!(faults.first().unwrap(), "front did not start");
    }
}
