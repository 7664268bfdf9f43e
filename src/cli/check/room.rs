//! Whether there is room where messages go. A full disk is no obstacle to a start: the queue delivers and makes room.

use std::path::Path;

use super::Finding;
use crate::config::{Bytes, Config};
use crate::queue::sqlite::LOW_WATER;

pub(super) fn look(config: &Config) -> Vec<Finding> {
    let spool = wanted(config.limits.message_size.0.saturating_add(LOW_WATER));
    let mut findings: Vec<Finding> =
        full("the spool", "new mail is refused with 452 until there is", &config.spool, spool).into_iter().collect();
    let mail = wanted(config.limits.message_size.0);
    findings.extend(
        config.maildirs().filter_map(|maildir| full("the maildir", "mail for it waits in the queue until there is", maildir, mail)),
    );
    findings
}

/// What must be free.
#[derive(Clone, Copy)]
struct Wanted {
    octets: u64,
    files: u64,
}

fn wanted(octets: u64) -> Wanted {
    Wanted { octets, files: 16 }
}

fn full(what: &str, otherwise: &str, path: &Path, wanted: Wanted) -> Option<Finding> {
    // One that is not there yet will be made on the disk of the nearest directory above it.
    let found = path.ancestors().find_map(|place| rustix::fs::statvfs(place).ok())?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let shown = path.display();
    let short = if free < wanted.octets {
        format!("{} free, and {} needed", Bytes(free), Bytes(wanted.octets))
    } else if found.f_files > 0 && found.f_favail < wanted.files {
        format!("{} files left to be made", found.f_favail)
    } else {
        return None;
    };
    let repair = format!("see what fills it: df -h {shown}; df -i {shown}; pamrelay queue list");
    Some(Finding::warning(format!("{what} {shown} has no room: {short}; {otherwise}"), repair).in_file(path, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_is_found_also_when_the_directory_is_not_there_yet() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("not/yet");
        let found = |octets, files| full("the spool", "mail waits", &path, Wanted { octets, files }).map(|finding| finding.to_string());

        assert_eq!(found(1, 1), None);
        assert!(found(u64::MAX, 1).unwrap().contains("has no room: "));
    }
}
