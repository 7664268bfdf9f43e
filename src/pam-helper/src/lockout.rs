//! What locks an account behind PAM: `pam_faillock` with its settings, and modules behind which something may.
//!
//! Invariant: of several faillocks the strictest is told; a value that cannot be read is the module's default; and only modules
//! that are known to lock nobody are taken for such.

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

/// What locks accounts in some services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Locks {
    /// The strictest pam_faillock.
    pub(crate) faillock: Option<Lockout>,
    /// A module that asks others, who may lock accounts, or that nobody here knows.
    pub(crate) perhaps: Option<String>,
}

/// Modules that look at files of this host, at a table, or at no password at all: behind them nothing counts failures.
const LOCK_NOBODY: &[&str] = &[
    "access",
    "cap",
    "debug",
    "deny",
    "echo",
    "env",
    "faildelay",
    "faillock",
    "group",
    "issue",
    "keyinit",
    "limits",
    "listfile",
    "localuser",
    "loginuid",
    "mysql",
    "nologin",
    "permit",
    "pgsql",
    "pwdfile",
    "rhosts",
    "rootok",
    "securetty",
    "shells",
    "succeed_if",
    "time",
    "umask",
    "unix",
    "userdb",
    "usertype",
    "warn",
    "wheel",
];

pub(crate) fn of(services: &[&str]) -> Locks {
    let directory = Path::new(DIRECTORY);
    let found = services.iter().map(|service| in_file(directory, &directory.join(service), DEEPEST_INCLUDE));
    found.fold(Locks::default(), Locks::and)
}

impl Locks {
    fn and(self, other: Self) -> Self {
        let strictest =
            |one: Lockout, other: Lockout| Lockout { failures: one.failures.min(other.failures), window: one.window.max(other.window) };
        let faillock = self.faillock.into_iter().chain(other.faillock).reduce(strictest);
        Self { faillock, perhaps: self.perhaps.or(other.perhaps) }
    }

    fn perhaps(what: impl Into<String>) -> Self {
        Self { faillock: None, perhaps: Some(what.into()) }
    }
}

fn in_file(directory: &Path, path: &Path, depth: u32) -> Locks {
    let Ok(text) = fs::read(path) else { return Locks::perhaps(path.display().to_string()) };
    let text = String::from_utf8_lossy(&text);
    let mut found = Locks::default();
    for line in logical_lines(&text) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_auth = words.first().is_some_and(|kind| kind.trim_start_matches('-').eq_ignore_ascii_case("auth"));
        let included = match words.as_slice() {
            ["@include", file, ..] => Some(directory.join(file)),
            [_, how, file, ..] if is_auth && ["include", "substack"].iter().any(|word| how.eq_ignore_ascii_case(word)) => {
                Some(directory.join(file))
            }
            _ => None,
        };
        found = match included {
            Some(file) if depth > 0 => found.and(in_file(directory, &file, depth - 1)),
            Some(file) => found.and(Locks::perhaps(file.display().to_string())),
            None if is_auth => found.and(of_module(&words)),
            None => found,
        };
    }
    found
}

/// Of one line: its module is the first word behind the control, which may be several words between brackets.
fn of_module(line: &[&str]) -> Locks {
    let after_control = match line.iter().position(|word| word.ends_with(']')) {
        Some(end) if line.get(1).is_some_and(|word| word.starts_with('[')) => end + 1,
        Some(_) | None => 2,
    };
    let Some((module, arguments)) = line.get(after_control..).and_then(<[&str]>::split_first) else {
        return Locks::perhaps("a line without a module");
    };
    let name = module.rsplit('/').next().unwrap_or_default();
    match name.strip_prefix("pam_").and_then(|name| name.strip_suffix(".so")) {
        Some("faillock") => Locks { faillock: faillock(arguments), perhaps: None },
        Some(known) if LOCK_NOBODY.contains(&known) => Locks::default(),
        Some(_) | None => Locks::perhaps(name),
    }
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
        let found = |name: &str| in_file(&directory, &directory.join(name), DEEPEST_INCLUDE);
        let failures = |name: &str| found(name).faillock.map(|lockout| lockout.failures);

        assert_eq!(["debian", "redhat", "common-auth", "continued"].map(failures), [Some(4); 4]);
        assert_eq!(["none", "loop", "missing"].map(failures), [None; 3]);
        assert_eq!(found("debian").perhaps, None);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn only_modules_that_are_known_to_lock_nobody_are_taken_for_such() {
        let directory = std::env::temp_dir().join(format!("pamrelay-locks-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let perhaps = |text: &str| {
            fs::write(directory.join("smtp"), text).unwrap();
            in_file(&directory, &directory.join("smtp"), DEEPEST_INCLUDE).perhaps
        };

        for quiet in [
            "auth [success=1 default=ignore] pam_unix.so nullok\nauth requisite pam_deny.so\nauth required pam_permit.so\nauth optional pam_cap.so\n",
            "auth required /lib/security/pam_pwdfile.so pwdfile=/x nodelay\naccount required pam_ldap.so\nsession optional pam_sss.so\n",
            "# auth required pam_ldap.so\nAUTH sufficient pam_unix.so\naccount include missing\n",
        ] {
            assert_eq!(perhaps(quiet), None, "{quiet}");
        }
        for (asks, module) in [
            ("auth [success=done default=die] pam_ldap.so minimum_uid=1000\n", "pam_ldap.so"),
            ("-auth sufficient pam_sss.so forward_pass\n", "pam_sss.so"),
            ("auth sufficient pam_unix.so\nauth required pam_winbind.so\n", "pam_winbind.so"),
            ("auth required pam_krb5.so\n", "pam_krb5.so"),
            ("auth required pam_tally2.so deny=3\n", "pam_tally2.so"),
            ("auth required pam_exec.so quiet /bin/x\n", "pam_exec.so"),
            ("auth required\n", "a line without a module"),
            ("auth required pam_unix.so.disabled\n", "pam_unix.so.disabled"),
        ] {
            assert_eq!(perhaps(asks).as_deref(), Some(module), "{asks}");
        }
        assert!(perhaps("auth include gone\n").unwrap().ends_with("/gone"), "what cannot be read may have anything in it");
        assert!(perhaps("@include smtp\n").unwrap().ends_with("/smtp"), "an endless include");
        fs::remove_dir_all(directory).unwrap();
    }
}
