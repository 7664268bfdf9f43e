//! The helper's few settings, from its environment (`/run/pamrelay/active/auth.env`).
//!
//! [`TABLE`] lists them, and `pamrelay-auth --help` prints it.
//!
//! `pamrelay run` adds `PAMRELAY_SUPERVISED`, its own pid: the helper does not outlive it.
//!
//! Invariant: every value is within its bounds or the helper does not start; all mistakes are told at
//! once, and so is a `PAMRELAY_` variable that does not exist.

use std::path::PathBuf;
use std::time::Duration;

use pamrelay_authwire::{MAX_GROUPS, MAX_LISTENER, MAX_NAME, NameRule};

use crate::rules::{Guests, Rules};
use crate::window::MOST_FAILURES;

/// Name (behind `PAMRELAY_`), default, meaning.
const TABLE: &[(&str, &str, &str)] = &[
    ("SERVICE", "smtp", "the PAM service, a file in /etc/pam.d, for listeners that have none of their own; never part of a question"),
    ("LISTENERS", "", "NAME=SERVICE, comma-separated: the listeners that there are, and the PAM service of each"),
    ("NAMES", "", "rules for names, comma-separated, in order: strip-realm=R, strip-domain=D, add-realm=R, add-domain=D, case=lower"),
    ("GUEST_SERVICE", "", "the PAM service for names that the host does not know; without it they are refused"),
    ("GUEST_ACCOUNT", "", "the account whose uid guests have; needed with GUEST_SERVICE"),
    ("MIN_UID", "1000", "accounts below may not send"),
    ("GROUPS", "", "comma-separated, at most 32; when set, only their members may send"),
    ("DEADLINE_MS", "10000", "a question is answered by then, counted from its arrival"),
    ("WORKERS", "8", "workers at once"),
    ("SLOW_WORKERS", "24", "workers beyond those, while others wait for a back end rather than compute"),
    ("WAITING", "512", "questions that wait for a worker; more are answered unavailable"),
    ("WORKER_MEMORY_MIB", "512", "address space of one worker (less than 32 looks like wrong passwords)"),
    ("ACCOUNT_FAILURES", "", "wrong passwords for one account that reach PAM in the window, at most 10; 0: no limit; empty: 4, or pauses"),
    ("ACCOUNT_WINDOW_S", "1800", "that window; pam_faillock in the service makes both stricter by itself"),
    ("LOCKOUT", "detect", "whether a back end behind a module may lock accounts, which rules out pauses: detect, or none"),
    ("PEER_FAILURES_PER_MINUTE", "60", "the same for one IPv4 address or IPv6 /64, fourfold for a /24 or /48; half at once; 0: no limit"),
    ("FAILURES_PER_SECOND", "20", "refused passwords in all; ten seconds' worth may come at once"),
    ("TICKET_LIFETIME_S", "3600", "the longest session that the front permits"),
    ("RUNTIME", "/run/pamrelay", "the ticket keys are the file tickets in it"),
    ("STATE", "/var/lib/pamrelay/auth", "the file known in it has who was accepted from which network lately, as keyed hashes"),
    ("SOCKET", "/run/pamrelay/jail/auth", "bound only when no socket is passed (LISTEN_FDS)"),
    ("FRONT_USER", "pamrelay", "the one user beside root that may ask"),
    ("QUEUE_GROUP", "pamrelay-queue", "the one group that may read the ticket keys"),
    ("LOW_PORTS", "no", "yes keeps CAP_NET_BIND_SERVICE, which NIS shadow maps need"),
];

/// What the listener needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) rules: Rules,
    pub(crate) deadline: Duration,
    pub(crate) workers: usize,
    pub(crate) slow_workers: usize,
    pub(crate) waiting: usize,
    /// `None`: nobody has chosen.
    pub(crate) account_failures: Option<u32>,
    pub(crate) unseen_locks: UnseenLocks,
    pub(crate) account_window: Duration,
    pub(crate) peer_failures_per_minute: u32,
    pub(crate) failures_per_second: u32,
    pub(crate) ticket_lifetime: Duration,
    pub(crate) runtime: PathBuf,
    /// Where known pairs are kept.
    pub(crate) state: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) front_user: String,
    pub(crate) queue_group: String,
    pub(crate) low_ports: LowPorts,
    pub(crate) supervisor: Option<i32>,
}

/// What is thought of back ends that cannot be looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnseenLocks {
    Possible,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LowPorts {
    Needed,
    Dropped,
}

/// Not for administrators, so not in the table.
const SUPERVISED: &str = "SUPERVISED";

impl Settings {
    /// Reads the variables whose names begin with `PAMRELAY_`, or says everything that is wrong.
    pub(crate) fn read(variables: impl Iterator<Item = (String, String)>) -> Result<Self, Vec<String>> {
        let ours = variables.filter_map(|(name, value)| Some((name.strip_prefix("PAMRELAY_")?.to_owned(), value)));
        let mut reader = Reader { values: ours.collect(), mistakes: Vec::new() };
        let unknown = reader.values.iter().filter(|(name, _)| name != SUPERVISED && TABLE.iter().all(|row| row.0 != name));
        reader.mistakes = unknown.map(|(name, _)| format!("PAMRELAY_{name}: there is no such setting")).collect();

        let rules = Rules {
            service: reader.service("SERVICE", "smtp"),
            listeners: reader.listeners(),
            names: reader.names(),
            guests: reader.guests(),
            min_uid: reader.number("MIN_UID", 1000, 1, u32::MAX - 1),
            groups: reader.groups(),
            worker_memory_mib: reader.number("WORKER_MEMORY_MIB", 512, 32, 65536),
        };
        let runtime = reader.path("RUNTIME", "/run/pamrelay".into());
        let settings = Self {
            rules,
            deadline: Duration::from_millis(reader.number("DEADLINE_MS", 10_000, 100, 300_000).into()),
            workers: reader.number("WORKERS", 8, 1, 64) as usize,
            slow_workers: reader.number("SLOW_WORKERS", 24, 0, 128) as usize,
            waiting: reader.number("WAITING", 512, 1, 512) as usize,
            account_failures: reader.value("ACCOUNT_FAILURES").map(|_| reader.number("ACCOUNT_FAILURES", 0, 0, MOST_FAILURES as u32)),
            unseen_locks: reader.unseen_locks(),
            account_window: Duration::from_secs(reader.number("ACCOUNT_WINDOW_S", 1800, 1, 7 * 86_400).into()),
            peer_failures_per_minute: reader.number("PEER_FAILURES_PER_MINUTE", 60, 0, 1_000_000),
            failures_per_second: reader.number("FAILURES_PER_SECOND", 20, 1, 100_000),
            ticket_lifetime: Duration::from_secs(reader.number("TICKET_LIFETIME_S", 3600, 60, 7 * 86_400).into()),
            state: reader.path("STATE", "/var/lib/pamrelay/auth".into()),
            socket: reader.path("SOCKET", runtime.join("jail/auth")),
            runtime,
            front_user: reader.name("FRONT_USER", "pamrelay"),
            queue_group: reader.name("QUEUE_GROUP", "pamrelay-queue"),
            low_ports: reader.low_ports(),
            supervisor: reader.value(SUPERVISED).and_then(|pid| pid.parse().ok()),
        };
        if reader.mistakes.is_empty() { Ok(settings) } else { Err(reader.mistakes) }
    }
}

/// The table as text.
pub(crate) fn help() -> String {
    let rows = TABLE.iter().map(|(name, default, what)| {
        let default = if default.is_empty() { String::new() } else { format!(" [{default}]") };
        format!("  PAMRELAY_{name}{default}\n      {what}\n")
    });
    rows.collect()
}

struct Reader {
    values: Vec<(String, String)>,
    mistakes: Vec<String>,
}

impl Reader {
    /// An empty value is the default, so that a line of auth.env may be left blank.
    fn value(&self, name: &str) -> Option<String> {
        self.values.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    }

    fn wrong(&mut self, name: &str, value: &str, wanted: &str) {
        self.mistakes.push(format!("PAMRELAY_{name}: \"{}\" is not {wanted}", value.escape_debug()));
    }

    fn number(&mut self, name: &str, default: u32, least: u32, most: u32) -> u32 {
        let Some(value) = self.value(name) else { return default };
        match value.parse() {
            Ok(number) if (least..=most).contains(&number) => number,
            _ => {
                self.wrong(name, &value, &format!("a number from {least} to {most}"));
                default
            }
        }
    }

    fn path(&mut self, name: &str, default: PathBuf) -> PathBuf {
        let Some(value) = self.value(name) else { return default };
        if !value.starts_with('/') {
            self.wrong(name, &value, "an absolute path");
        }
        value.into()
    }

    fn name(&mut self, name: &str, default: &str) -> String {
        let value = self.value(name).unwrap_or_else(|| default.to_owned());
        if value.len() > MAX_NAME || value.contains(|c: char| c.is_control() || c == ':') {
            self.wrong(name, &value, "a name");
        }
        value
    }

    fn service(&mut self, name: &str, default: &str) -> String {
        let value = self.name(name, default);
        if !is_service(&value) {
            self.wrong(name, &value, "the name of a service file (and \"other\" is not one)");
        }
        value
    }

    fn listeners(&mut self) -> Vec<(String, String)> {
        let value = self.value("LISTENERS").unwrap_or_default();
        let pairs: Option<Vec<(String, String)>> = items(&value).map(listener).collect();
        pairs.unwrap_or_else(|| {
            self.wrong("LISTENERS", &value, "a list of NAME=SERVICE");
            Vec::new()
        })
    }

    fn names(&mut self) -> Vec<NameRule> {
        let value = self.value("NAMES").unwrap_or_default();
        let rules: Option<Vec<NameRule>> = items(&value).map(NameRule::parse).collect();
        rules.unwrap_or_else(|| {
            self.wrong("NAMES", &value, "a list of rules such as strip-realm=example.org");
            Vec::new()
        })
    }

    fn guests(&mut self) -> Option<Guests> {
        match (self.value("GUEST_SERVICE"), self.value("GUEST_ACCOUNT")) {
            (Some(_), Some(_)) => Some(Guests { service: self.service("GUEST_SERVICE", ""), account: self.name("GUEST_ACCOUNT", "") }),
            (None, None) => None,
            (service, account) => {
                let given = service.or(account).unwrap_or_default();
                self.wrong("GUEST_SERVICE", &given, "enough: PAMRELAY_GUEST_SERVICE and PAMRELAY_GUEST_ACCOUNT belong together");
                None
            }
        }
    }

    fn groups(&mut self) -> Vec<String> {
        let value = self.value("GROUPS").unwrap_or_default();
        let groups: Vec<String> = items(&value).map(str::to_owned).collect();
        let wrong = groups.len() > MAX_GROUPS || groups.iter().any(|name| name.len() > MAX_NAME || name.contains(char::is_control));
        if wrong {
            self.wrong("GROUPS", &value, &format!("a list of at most {MAX_GROUPS} group names"));
        }
        groups
    }

    fn unseen_locks(&mut self) -> UnseenLocks {
        match self.value("LOCKOUT").as_deref() {
            None | Some("detect") => UnseenLocks::Possible,
            Some("none") => UnseenLocks::None,
            Some(other) => {
                self.wrong("LOCKOUT", other, "detect or none");
                UnseenLocks::Possible
            }
        }
    }

    fn low_ports(&mut self) -> LowPorts {
        match self.value("LOW_PORTS").as_deref() {
            None | Some("no") => LowPorts::Dropped,
            Some("yes") => LowPorts::Needed,
            Some(other) => {
                self.wrong("LOW_PORTS", other, "yes or no");
                LowPorts::Dropped
            }
        }
    }
}

/// The parts of a list.
fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn listener(pair: &str) -> Option<(String, String)> {
    let (name, service) = pair.rsplit_once('=')?;
    let plain = !name.is_empty() && name.len() <= MAX_LISTENER && name.bytes().all(|byte| byte.is_ascii_graphic());
    (plain && is_service(service)).then(|| (name.to_owned(), service.to_owned()))
}

/// A plain file name: libpam would follow `../`.
fn is_service(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    plain && !name.is_empty() && !name.starts_with(['.', '-']) && name.len() <= 64 && name != "other"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
        Settings::read(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn an_empty_environment_gives_the_documented_defaults() {
        let settings = read(&[("PATH", "/bin"), ("PAMRELAY_GROUPS", "")]).unwrap();

        assert_eq!((settings.rules.service.as_str(), settings.rules.min_uid, &settings.rules.guests), ("smtp", 1000, &None));
        assert_eq!(settings.socket, PathBuf::from("/run/pamrelay/jail/auth"));
        assert_eq!((settings.workers, settings.deadline), (8, Duration::from_secs(10)));
    }

    #[test]
    fn the_table_tells_the_true_defaults() {
        let by_default = read(&[]).unwrap();

        for (name, default, _) in TABLE {
            assert_eq!(read(&[(&format!("PAMRELAY_{name}"), default)]).as_ref(), Ok(&by_default), "{name}");
        }
    }

    #[test]
    fn every_setting_in_the_table_has_an_effect() {
        let by_default = read(&[]);

        for (name, _, _) in TABLE {
            let value = match *name {
                "RUNTIME" | "SOCKET" | "STATE" => "/elsewhere",
                "LOW_PORTS" => "yes",
                "LOCKOUT" => "none",
                "SERVICE" | "GROUPS" | "FRONT_USER" | "QUEUE_GROUP" | "GUEST_SERVICE" | "GUEST_ACCOUNT" => "another",
                "LISTENERS" => "[::]:587=smtp",
                "NAMES" => "strip-realm=*",
                "ACCOUNT_FAILURES" => "9",
                _ => "100",
            };
            assert_ne!(read(&[(&format!("PAMRELAY_{name}"), value)]), by_default, "{name}");
        }
        let guests = read(&[("PAMRELAY_GUEST_SERVICE", "guests"), ("PAMRELAY_GUEST_ACCOUNT", "mail")]).unwrap().rules.guests;
        assert_eq!(guests, Some(Guests { service: "guests".into(), account: "mail".into() }));
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let mistakes = read(&[
            ("PAMRELAY_SERVICE", "../login"),
            ("PAMRELAY_MIN_UID", "0"),
            ("PAMRELAY_WORKERS", "eight"),
            ("PAMRELAY_WORKRES", "8"),
            ("PAMRELAY_SOCKET", "auth"),
            ("PAMRELAY_LOW_PORTS", "maybe"),
            ("PAMRELAY_GROUPS", "a\nb"),
            ("PAMRELAY_NAMES", "strip"),
            ("PAMRELAY_LISTENERS", "submission"),
            ("PAMRELAY_GUEST_SERVICE", "guests"),
        ]);

        assert_eq!(mistakes.unwrap_err().len(), 10);
    }

    #[test]
    fn the_service_other_is_nobody_s_service() {
        for service in ["other", ".smtp", "-smtp", "a/b", "smtp\n", "s mtp"] {
            assert!(read(&[("PAMRELAY_SERVICE", service)]).is_err(), "{service:?}");
        }
    }
}
