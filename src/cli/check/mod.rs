//! `pamrelay check`: everything that would keep the relay from its work, in words, with the command that mends it.
//!
//! It looks and never touches. What it calls a fault, `pamrelay run` and `pamrelay activate` refuse to start with, by the same code.

use std::fmt;
use std::path::Path;

mod certificates;
mod exposed;
mod network;
mod places;

use super::Status;
use super::out::say;
use crate::config::Config;

/// One thing that was found.
#[derive(Debug)]
pub struct Finding {
    grade: Grade,
    what: String,
    remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grade {
    /// The relay does not start.
    Fault,
    /// It starts, and something may not work.
    Warning,
}

impl Finding {
    fn fault(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { grade: Grade::Fault, what: what.into(), remedy: Some(remedy.into()) }
    }

    fn warning(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { grade: Grade::Warning, what: what.into(), remedy: Some(remedy.into()) }
    }

    /// A finding whose words already say how to mend it.
    fn complete(grade: Grade, what: impl fmt::Display) -> Self {
        Self { grade, what: what.to_string(), remedy: None }
    }

    pub fn is_fault(&self) -> bool {
        self.grade == Grade::Fault
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.grade {
            Grade::Fault => "fault: ",
            Grade::Warning => "warning: ",
        })?;
        f.write_str(&self.what)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n  mend it: {remedy}"),
            None => Ok(()),
        }
    }
}

/// What can be seen on this host, without asking the network.
pub fn system(config: &Config) -> Vec<Finding> {
    let mut findings = places::accounts();
    findings.extend(config.services().into_iter().flat_map(places::pam_service));
    findings.extend(places::guests(config));
    findings.extend(certificates::look(config));
    findings.extend(exposed::look(config));
    findings.extend(places::directories(config));
    findings.extend(places::beyond_the_unit(config));
    findings.extend(places::trust(config));
    findings
}

/// The command.
pub(super) fn main(path: &Path) -> Status {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(mistakes) => {
            say!("{mistakes}");
            let count = mistakes.iter().count();
            say!("{} in the configuration; what it names was not looked at.", counted(count, "mistake"));
            return Status::No;
        }
    };
    if !nix::unistd::geteuid().is_root() {
        say!("You are not root: some of this cannot be seen by you.");
    }
    let mut findings = system(&config);
    findings.extend(network::look(&config));
    for finding in &findings {
        say!("{finding}");
    }
    let faults = findings.iter().filter(|finding| finding.is_fault()).count();
    let warnings = findings.len() - faults;
    let so = if faults == 0 { "pamrelay can start" } else { "pamrelay would not start" };
    say!("{so}: {}, {}.", counted(faults, "fault"), counted(warnings, "warning"));
    if faults == 0 { Status::Ok } else { Status::No }
}

fn counted(count: usize, what: &str) -> String {
    match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        more => format!("{more} {what}s"),
    }
}
