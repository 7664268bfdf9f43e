//! The units of systemd, as systemd tells of them.
//!
//! Invariant: what systemctl says is parsed here alone, and a unit of which it says nothing is in no state that would be good news.

use std::path::Path;
use std::process::{Command, Stdio};

use super::Name;

/// Accepts the configuration before the roles start.
pub const ACTIVATE: &str = "pamrelay-activate.service";
/// The unit that an administrator handles; it watches the others.
pub const UMBRELLA: &str = "pamrelay.service";
/// The roles, in the order of [`Name`].
pub const ROLES: [Name; 4] = [Name::Auth, Name::Keys, Name::Queue, Name::Front];
const SOCKETS: [&str; 4] = ["pamrelay-auth.socket", "pamrelay-keys.socket", "pamrelay-keys-queue.socket", "pamrelay-queue.socket"];

const PROPERTIES: &str = "--property=Id,ActiveState,SubState,Job,StatusText,Result,NRestarts,ExecMainStatus";

/// What systemd says of one unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    pub id: String,
    pub active: String,
    pub sub: String,
    /// Whether systemd is to start or stop it.
    pub job: Job,
    /// The role's own words.
    pub status: String,
    pub result: String,
    pub restarts: u32,
    pub exit: String,
}

/// Whether a unit waits for systemd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Job {
    #[default]
    None,
    Queued,
}

impl Unit {
    pub fn is_active(&self) -> bool {
        self.active == "active" || self.active == "reloading"
    }

    pub fn has_failed(&self) -> bool {
        self.active == "failed"
    }

    /// It died, and systemd starts it again in a while.
    pub fn is_between_starts(&self) -> bool {
        self.sub.starts_with("auto-restart")
    }

    /// It runs, and systemd has something to do about it first.
    pub fn is_to_stop(&self) -> bool {
        matches!(self.active.as_str(), "active" | "reloading" | "deactivating") && self.job == Job::Queued
    }

    /// Nobody starts it, and nobody will.
    pub fn is_at_rest(&self) -> bool {
        matches!(self.active.as_str(), "inactive" | "failed") && self.job == Job::None
    }

    /// Why it is not active, in one line.
    pub fn in_words(&self) -> String {
        let why = match (self.status.as_str(), self.result.as_str()) {
            ("", "" | "success") => format!("it is {} ({})", self.active, self.sub),
            ("", "start-limit-hit") => "it failed too often and is not started again".to_owned(),
            ("", result) => format!("{result}, exit status {}; see: journalctl -u {}", self.exit, self.id),
            (status, "start-limit-hit") => format!("{status}; it failed too often and is not started again"),
            (status, _) => status.to_owned(),
        };
        format!("{}: {why}", self.id)
    }
}

pub fn of(role: Name) -> String {
    format!("pamrelay-{role}.service")
}

/// The roles and their sockets. None of them is ordered against the unit that an administrator handles, so it can wait for them.
pub fn roles_and_sockets() -> Vec<String> {
    ROLES.into_iter().map(of).chain(SOCKETS.map(str::to_owned)).collect()
}

/// Whether systemd is the manager here.
pub fn are_here() -> bool {
    Path::new("/run/systemd/system").exists()
}

/// The relay's units that run, are being started or stopped, or wait for it.
pub fn not_at_rest() -> Vec<String> {
    if !are_here() {
        return Vec::new();
    }
    let mut names = roles_and_sockets();
    names.extend([ACTIVATE, UMBRELLA].map(str::to_owned));
    let found = show(&names).unwrap_or_default();
    found.into_iter().filter(|unit| !unit.active.is_empty() && !unit.is_at_rest()).map(|unit| unit.id).collect()
}

/// Asks systemd about units.
pub fn show(names: &[String]) -> Result<Vec<Unit>, String> {
    let asked = Command::new("systemctl").arg("show").arg(PROPERTIES).args(names).stdin(Stdio::null()).output();
    match asked {
        Ok(output) if output.status.success() => Ok(parse(&String::from_utf8_lossy(&output.stdout))),
        Ok(output) => Err(format!("systemctl show: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("cannot run systemctl: {error}")),
    }
}

/// Runs systemctl and waits for it.
pub fn systemctl(arguments: &[&str]) -> Result<(), String> {
    match Command::new("systemctl").args(arguments).stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("systemctl {} failed: {status}", arguments.join(" "))),
        Err(error) => Err(format!("cannot run systemctl: {error}")),
    }
}

/// Paragraphs of `Name=value`, one for each unit.
fn parse(text: &str) -> Vec<Unit> {
    let paragraphs = text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty());
    let units = paragraphs.map(|paragraph| {
        let mut unit = Unit::default();
        for (name, value) in paragraph.lines().filter_map(|line| line.split_once('=')) {
            match name {
                "Id" => unit.id = value.to_owned(),
                "ActiveState" => unit.active = value.to_owned(),
                "SubState" => unit.sub = value.to_owned(),
                "Job" if !value.is_empty() && value != "0" => unit.job = Job::Queued,
                "StatusText" => unit.status = value.to_owned(),
                "Result" => unit.result = value.to_owned(),
                "NRestarts" => unit.restarts = value.parse().unwrap_or(0),
                "ExecMainStatus" => unit.exit = value.to_owned(),
                _ => {}
            }
        }
        unit
    });
    units.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_says_is_read_unit_by_unit() {
        let text = "NRestarts=3\nExecMainStatus=71\nStatusText=cannot listen on 0.0.0.0:587: Address already in use\nResult=exit-code\nId=pamrelay-front.service\nActiveState=activating\nSubState=auto-restart\n\n\
                    Id=pamrelay-keys.service\nActiveState=inactive\nSubState=dead\nJob=12\n\nId=pamrelay-auth.service\nActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainStatus=78\n";

        let units = parse(text);

        let [front, keys, auth] = units.as_slice() else { panic!("{units:?}") };
        assert!(front.is_between_starts() && !front.is_active() && !front.is_at_rest() && front.restarts == 3);
        assert_eq!(front.in_words(), "pamrelay-front.service: cannot listen on 0.0.0.0:587: Address already in use");
        assert!(!keys.is_at_rest() && !keys.is_to_stop(), "a job waits to start it");
        assert!(Unit { job: Job::Queued, active: "active".into(), ..Unit::default() }.is_to_stop());
        assert!(auth.has_failed() && auth.is_at_rest());
        assert_eq!(auth.in_words(), "pamrelay-auth.service: exit-code, exit status 78; see: journalctl -u pamrelay-auth.service");
    }
}
