//! `pamrelay check`: everything that would keep the relay from its work, in words, with the command that mends it.
//!
//! It looks and never touches. What it calls a fault, `pamrelay run` and `pamrelay activate` refuse to start with, by the same code.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::json;

mod certificates;
mod exposed;
mod network;
mod pam;
mod places;
mod ports;
mod room;
mod stack;

use super::Status;
use super::out::{self, say};
use crate::config::{Config, Mistakes, Position};
use crate::keys::law::Breach;

/// One thing that was found.
#[derive(Debug)]
pub struct Finding {
    grade: Grade,
    what: String,
    remedy: Option<String>,
    /// The file that it is about, and where in it.
    file: Option<PathBuf>,
    at: Option<Position>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grade {
    /// The relay does not start.
    Fault,
    /// It starts, and something may not work.
    Warning,
}

impl Finding {
    fn new(grade: Grade, what: impl Into<String>, remedy: Option<String>) -> Self {
        Self { grade, what: what.into(), remedy, file: None, at: None }
    }

    fn fault(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Grade::Fault, what, Some(remedy.into()))
    }

    fn warning(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Grade::Warning, what, Some(remedy.into()))
    }

    /// A finding whose words already say how to mend it.
    fn complete(grade: Grade, what: impl fmt::Display) -> Self {
        Self::new(grade, what.to_string(), None)
    }

    fn in_file(self, file: &Path, at: Option<Position>) -> Self {
        Self { file: Some(file.to_owned()), at, ..self }
    }

    /// As documented in pamrelay(8); keys are added and never changed.
    fn in_json(&self) -> serde_json::Value {
        json!({
            "level": match self.grade {
                Grade::Fault => "fault",
                Grade::Warning => "warning",
            },
            "file": self.file,
            "line": self.at.map(|at| at.line),
            "column": self.at.map(|at| at.column),
            "what": self.what,
            "repair": self.remedy,
        })
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
    findings.extend(config.services().into_iter().flat_map(pam::service));
    findings.extend(places::groups(config));
    findings.extend(places::guests(config));
    findings.extend(certificates::look(config));
    findings.extend(exposed::look(config));
    findings.extend(places::directories(config));
    findings.extend(places::beyond_the_unit(config));
    findings.extend(places::trust(config));
    findings
}

/// How the findings are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Words,
    Json,
}

/// The command.
pub(super) fn main(path: &Path, form: Form) -> Status {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(mistakes) => {
            match form {
                Form::Words => {
                    say!("{mistakes}");
                    let count = mistakes.iter().count();
                    say!("{} in the configuration; what it names was not looked at.", counted(count, "mistake"));
                }
                Form::Json => tell_json(&of_mistakes(path, &mistakes)),
            }
            return Status::No;
        }
    };
    let mut findings = system(&config);
    findings.extend(network::look(&config));
    findings.extend(room::look(&config));
    let faults = findings.iter().filter(|finding| finding.is_fault()).count();
    match form {
        Form::Words => tell(&findings, faults),
        Form::Json => tell_json(&findings),
    }
    if faults == 0 { Status::Ok } else { Status::No }
}

fn tell(findings: &[Finding], faults: usize) {
    if !nix::unistd::geteuid().is_root() {
        say!("You are not root: some of this cannot be seen by you.");
    }
    for finding in findings {
        say!("{finding}");
    }
    let so = if faults == 0 { "pamrelay can start" } else { "pamrelay would not start" };
    say!("{so}: {}, {}.", counted(faults, "fault"), counted(findings.len() - faults, "warning"));
}

fn tell_json(findings: &[Finding]) {
    let faults = findings.iter().any(Finding::is_fault);
    let complete = nix::unistd::geteuid().is_root();
    out::json(&json!({ "starts": !faults, "complete": complete, "findings": findings.iter().map(Finding::in_json).collect::<Vec<_>>() }));
}

fn of_mistakes(path: &Path, mistakes: &Mistakes) -> Vec<Finding> {
    mistakes.iter().map(|mistake| Finding::new(Grade::Fault, &mistake.words, None).in_file(path, mistake.at)).collect()
}

/// A breach of the certificate directory's rules, in its own words.
fn of_breach(breach: &Breach) -> Finding {
    let what = format!("{}: {}; wanted: {}", breach.element.display(), breach.found, breach.wanted);
    Finding::fault(what, &breach.repair).in_file(&breach.element, None)
}

fn counted(count: usize, what: &str) -> String {
    match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        more => format!("{more} {what}s"),
    }
}
