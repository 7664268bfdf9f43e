//! The certificate directory, judged by the very law and store of the key process.

use std::time::SystemTime;

use caps::{CapSet, Capability};
use nix::unistd::geteuid;

use super::{Finding, Grade};
use crate::cli::roles;
use crate::config::Config;
use crate::keys::store::{Problem, Store};
use crate::run::KEYS_USER;

pub(super) fn look(config: &Config) -> Vec<Finding> {
    // Without the user there is no law to judge by, and that it is missing was said.
    let Some(uid) = super::places::uid_of(KEYS_USER) else { return Vec::new() };
    if !geteuid().is_root() && geteuid().as_raw() != uid {
        let what = format!("only root and {KEYS_USER} can look into {}", config.tls.directory.display());
        return vec![Finding::warning(what, "sudo pamrelay check")];
    }
    let mut findings: Vec<Finding> = match Store::load(&roles::store_settings(config, uid)) {
        Ok(store) => store.notices(SystemTime::now()).iter().map(|notice| Finding::complete(Grade::Warning, notice)).collect(),
        Err(error) => error.problems.iter().map(of_problem).collect(),
    };
    findings.extend(reading_right(config, uid));
    findings
}

fn of_problem(problem: &Problem) -> Finding {
    match problem {
        Problem::Breach(breach) => super::of_breach(breach),
        other => Finding::complete(Grade::Fault, other),
    }
}

/// Where a container withholds CAP_DAC_READ_SEARCH, the key process can read only what is its own.
fn reading_right(config: &Config, uid: u32) -> Option<Finding> {
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(&config.tls.directory).ok()?.uid();
    let may = caps::has_cap(None, CapSet::Bounding, Capability::CAP_DAC_READ_SEARCH).unwrap_or(true);
    (owner != uid && !may).then(|| {
        let directory = config.tls.directory.display();
        Finding::fault(
            format!(
                "{directory} belongs to uid {owner}, and CAP_DAC_READ_SEARCH, by which {KEYS_USER} could read it, is not to be had here"
            ),
            format!("chown -R {KEYS_USER}: {directory}"),
        )
    })
}
