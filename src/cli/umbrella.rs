//! `pamrelay watch-units`: the process behind pamrelay.service, the unit that an administrator handles.
//!
//! ```text
//! activation went well ▸ every role is ready ▸ READY ▸ look again every few seconds ▸ a role stays down ▸ end as failed
//! ```
//!
//! Invariant: the unit is active only while all four roles are, give or take [`GRACE`], and its status line says what is wrong.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::reload::{self, Turn};
use super::{Failure, Status, accepted, as_root};
use crate::config::ACTIVE;
use crate::run::activate::Accepted;
use crate::run::units::{self, Unit};
use crate::sandbox::Notifier;

/// Between two looks while the roles start.
const SOON: Duration = Duration::from_millis(200);
/// Between two looks later on.
const LATER: Duration = Duration::from_secs(5);
/// Starts of one role that may fail before the start of the whole is given up. systemd goes on trying that role.
const TRIES: u32 = 2;
/// How long a role may be neither active nor about to start.
const UNSTARTED: Duration = Duration::from_secs(3);
/// How long a role that was active may be down, such as between a crash and its next start.
const GRACE: Duration = Duration::from_secs(60);

pub(super) fn main(path: &Path) -> Result<Status, Failure> {
    as_root("watch the units")?;
    let notifier = Notifier::from_env();
    let watched = watch(path, &notifier);
    if let Err(failure) = &watched {
        notifier.status(&failure.words);
    }
    watched
}

/// Until nothing waits to be stopped: `systemctl stop pamrelay` returns when the whole relay has ended, not this unit alone.
pub(super) fn until_stopped() -> Status {
    while units::show(&units::roles_and_sockets()).is_ok_and(|units| units.iter().any(Unit::is_to_stop)) {
        thread::sleep(SOON / 4);
    }
    Status::Ok
}

fn watch(path: &Path, notifier: &Notifier) -> Result<Status, Failure> {
    let note = activation(path, notifier)?;
    starting(notifier)?;
    let fine = note.unwrap_or_else(|| "front, auth, keys and queue run".to_owned());
    notifier.status(&fine);
    notifier.ready();
    let (mut down, mut reasons) = (Down::default(), Reasons::default());
    loop {
        thread::sleep(LATER);
        // When systemd does not answer, nothing is known to be wrong.
        let Ok(mut roles) = look() else { continue };
        reasons.fill(&mut roles);
        match down.judge(&roles, Instant::now()) {
            Judgement::Fine => notifier.status(&fine),
            Judgement::Waits(words) => notifier.status(words),
            Judgement::Failed(words) => return Err(Failure::new(Status::Unavailable, words)),
        }
    }
}

/// The accepted configuration is there, and what the file says now is in force, or a broken file is noted.
fn activation(path: &Path, notifier: &Notifier) -> Result<Option<String>, Failure> {
    let unit = units::show(&[units::ACTIVATE.to_owned()]).ok().and_then(|units| units.into_iter().next()).unwrap_or_default();
    if !unit.is_active() {
        // The role logs to its own unit, but the administrator started this one and looks here.
        accepted(path)?;
        return Err(Failure::new(Status::Unavailable, unit.in_words()));
    }
    let (Ok(active), file) = (Accepted::load(Path::new(ACTIVE)), Accepted::load(path)) else {
        return Err(Failure::new(Status::Unavailable, format!("{ACTIVE} cannot be read; systemctl restart pamrelay")));
    };
    let broken = |words: &str| {
        let mistakes = words.lines().collect::<Vec<_>>().join("; ");
        let note = format!("the configuration is broken and the one accepted before is in force: {mistakes}");
        for line in words.lines() {
            eprint(line);
        }
        Ok(Some(note))
    };
    let new = match file {
        Ok(new) if new.reads_like(&active) => return Ok(None),
        Ok(_) => match accepted(path) {
            Ok(new) => new,
            Err(failure) => return broken(&failure.words),
        },
        Err(mistakes) => return broken(&mistakes.to_string()),
    };
    // Changed while the roles ran without this unit, such as after its start had failed.
    notifier.status("a changed configuration is put in force");
    let turn = Turn::wait(&new.config.runtime_dir)?;
    reload::follow(&new, &turn)?;
    Ok(None)
}

fn eprint(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "pamrelay: {line}");
}

/// Until every role is active.
fn starting(notifier: &Notifier) -> Result<(), Failure> {
    let mut before: Option<Vec<Unit>> = None;
    let mut unstarted: Option<Instant> = None;
    let mut reasons = Reasons::default();
    loop {
        let mut roles = look().map_err(|error| Failure::new(Status::Unavailable, error))?;
        reasons.fill(&mut roles);
        let first = before.get_or_insert_with(|| roles.clone());
        let missing: Vec<&Unit> = roles.iter().filter(|role| !role.is_active()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let words = || missing.iter().map(|role| role.in_words()).collect::<Vec<_>>().join("\n");
        let tried = |role: &Unit| {
            let then = first.iter().find(|then| then.id == role.id).map_or(0, |then| then.restarts);
            role.restarts.saturating_sub(then)
        };
        if missing.iter().any(|role| tried(role) >= TRIES) {
            return Err(Failure::new(Status::Unavailable, words()));
        }
        if missing.iter().any(|role| role.is_at_rest()) {
            if unstarted.get_or_insert_with(Instant::now).elapsed() > UNSTARTED {
                return Err(Failure::new(Status::Unavailable, words()));
            }
        } else {
            unstarted = None;
        }
        notifier.status(format!("waits for {}", words()));
        thread::sleep(SOON);
    }
}

fn look() -> Result<Vec<Unit>, String> {
    units::show(&units::ROLES.map(units::of))
}

/// What each role said last. systemd forgets it when it starts the role again.
#[derive(Default)]
struct Reasons(BTreeMap<String, String>);

impl Reasons {
    fn fill(&mut self, roles: &mut [Unit]) {
        for role in roles {
            if role.is_active() {
                self.0.remove(&role.id);
            } else if !role.status.is_empty() {
                self.0.insert(role.id.clone(), role.status.clone());
            } else if let Some(last) = self.0.get(&role.id) {
                role.status.clone_from(last);
            }
        }
    }
}

/// Since when some role has been down for a reason that does not pass by itself.
#[derive(Default)]
struct Down {
    since: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Fine,
    Waits(String),
    Failed(String),
}

impl Down {
    fn judge(&mut self, roles: &[Unit], now: Instant) -> Judgement {
        let missing: Vec<&Unit> = roles.iter().filter(|role| !role.is_active()).collect();
        let words = missing.iter().map(|role| role.in_words()).collect::<Vec<_>>().join("; ");
        if missing.is_empty() {
            self.since = None;
            return Judgement::Fine;
        }
        let since = *self.since.get_or_insert(now);
        // A start that takes long (a long queue, a slow disk) is none of these.
        let ended = missing.iter().any(|role| role.is_at_rest() || role.is_between_starts() || role.restarts > 0);
        if ended && now.duration_since(since) > GRACE { Judgement::Failed(words) } else { Judgement::Waits(words) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(active: &str, sub: &str) -> Unit {
        Unit { id: "pamrelay-front.service".into(), active: active.into(), sub: sub.into(), ..Unit::default() }
    }

    #[test]
    fn a_role_that_stays_down_fails_the_whole_and_one_that_comes_back_does_not() {
        let (mut down, now) = (Down::default(), Instant::now());
        let dead = [Unit { status: "cannot listen on 0.0.0.0:587".into(), ..role("activating", "auto-restart") }];

        assert!(matches!(down.judge(&dead, now), Judgement::Waits(words) if words.contains("0.0.0.0:587")));
        assert_eq!(down.judge(&[role("active", "running")], now + GRACE / 2), Judgement::Fine);
        assert!(matches!(down.judge(&dead, now + GRACE), Judgement::Waits(_)));
        assert!(matches!(down.judge(&dead, now + GRACE * 3), Judgement::Failed(words) if words.contains("0.0.0.0:587")));
    }

    #[test]
    fn the_reason_of_the_last_try_is_kept_over_the_next_one() {
        let mut reasons = Reasons::default();
        let said = |reasons: &mut Reasons, unit: Unit| {
            let mut roles = [unit];
            reasons.fill(&mut roles);
            roles[0].status.clone()
        };

        said(&mut reasons, Unit { status: "port taken".into(), ..role("activating", "auto-restart") });
        assert_eq!(said(&mut reasons, role("activating", "start")), "port taken");
        said(&mut reasons, role("active", "running"));

        assert_eq!(said(&mut reasons, role("activating", "start")), "");
    }

    #[test]
    fn a_start_that_takes_long_is_waited_for() {
        let (mut down, now) = (Down::default(), Instant::now());
        let long = [role("activating", "start")];

        down.judge(&long, now);

        assert!(matches!(down.judge(&long, now + GRACE * 10), Judgement::Waits(_)));
    }
}
