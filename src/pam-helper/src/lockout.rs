//! What locks an account in the PAM stack itself: `pam_faillock` and its settings.
//!
//! Invariant: of several the strictest is told; a value that cannot be read is the module's default.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::service::{DEEPEST_INCLUDE, DIRECTORY, logical_lines};

const SETTINGS: &str = "/etc/security/faillock.conf";
/// faillock.conf(5).
const DENY: u32 = 3;
const FAIL_INTERVAL: u64 = 900;

/// So many failures in so long lock an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lockout {
    pub(crate) failures: u32,
    pub(crate) window: Duration,
}

/// The strictest in these services.
pub(crate) fn of(services: &[&str]) -> Option<Lockout> {
    let directory = Path::new(DIRECTORY);
    let found = services.iter().flat_map(|service| in_file(directory, &directory.join(service), DEEPEST_INCLUDE));
    found.reduce(|one, other| Lockout { failures: one.failures.min(other.failures), window: one.window.max(other.window) })
}

fn in_file(directory: &Path, path: &Path, depth: u32) -> Vec<Lockout> {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut found = Vec::new();
    for line in logical_lines(&text) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let included = match words.as_slice() {
            ["@include", file, ..] | [_, "include" | "substack", file, ..] => Some(directory.join(file)),
            _ => None,
        };
        if let Some(file) = included.filter(|_| depth > 0) {
            found.extend(in_file(directory, &file, depth - 1));
        }
        let is_auth = words.first().is_some_and(|kind| kind.trim_start_matches('-').eq_ignore_ascii_case("auth"));
        if let Some(at) = words.iter().position(|word| word.ends_with("pam_faillock.so")).filter(|_| is_auth) {
            found.extend(faillock(words.get(at + 1..).unwrap_or_default()));
        }
    }
    found
}

/// Its arguments, and behind them its file. No failures at all lock nothing.
fn faillock(arguments: &[&str]) -> Option<Lockout> {
    let argument = |name: &str| arguments.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let file = argument("conf").map_or_else(|| PathBuf::from(SETTINGS), PathBuf::from);
    let text = fs::read_to_string(file).unwrap_or_default();
    let setting = |name: &str| {
        let lines = text.lines().filter_map(|line| line.split('#').next());
        lines
            .filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(['=', ' ', '\t']))
            .map(|value| value.trim_matches(['=', ' ', '\t']))
            .next_back()
    };
    let number = |name: &str| argument(name).or_else(|| setting(name)).and_then(|value| value.parse::<u32>().ok());
    let failures = number("deny").unwrap_or(DENY);
    let window = Duration::from_secs(number("fail_interval").map_or(FAIL_INTERVAL, u64::from));
    (failures > 0).then_some(Lockout { failures, window })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_of_faillock_come_before_its_file_and_its_file_before_its_defaults() {
        let path = std::env::temp_dir().join(format!("pamrelay-faillock-{}", std::process::id()));
        fs::write(&path, "# deny = 9\ndeny = 5 # five\nfail_interval=60\n").unwrap();
        let conf = format!("conf={}", path.display());

        let lockout = |failures, seconds| Some(Lockout { failures, window: Duration::from_secs(seconds) });
        assert_eq!(faillock(&["conf=/nonexistent"]), lockout(3, 900));
        assert_eq!(faillock(&["preauth", &conf]), lockout(5, 60));
        assert_eq!(faillock(&[&conf, "deny=7"]), lockout(7, 60));
        assert_eq!(faillock(&[&conf, "deny=0"]), None, "it never locks");
        fs::write(&path, "silent\ndeny 2\nfail_interval\t= 30\n").unwrap();
        assert_eq!(faillock(&[&conf]), lockout(2, 30), "a blank does as well");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn is_found_through_every_kind_of_include() {
        let directory = std::env::temp_dir().join(format!("pamrelay-lockout-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        for (name, text) in [
            ("debian", "@include common-auth\n"),
            ("redhat", "auth substack common-auth\naccount include common-auth\n"),
            ("common-auth", "auth required pam_faillock.so preauth deny=4 fail_interval=60 conf=/nonexistent\n"),
            ("continued", "auth required \\\n pam_faillock.so preauth \\\n deny=4 conf=/nonexistent\n"),
            ("none", "auth required pam_unix.so\n# auth required pam_faillock.so\naccount required pam_faillock.so\n"),
            ("loop", "@include loop\n"),
        ] {
            fs::write(directory.join(name), text).unwrap();
        }
        let found = |name: &str| in_file(&directory, &directory.join(name), DEEPEST_INCLUDE).first().map(|lockout| lockout.failures);

        assert_eq!(["debian", "redhat", "common-auth", "continued"].map(found), [Some(4); 4]);
        assert_eq!(["none", "loop", "missing"].map(found), [None; 3]);
        fs::remove_dir_all(directory).unwrap();
    }
}
