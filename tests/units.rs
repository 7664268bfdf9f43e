//! The systemd units, as systemd itself reads them.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

const UNITS: [&str; 8] = [
    "pamrelay.service",
    "pamrelay-front.service",
    "pamrelay-auth.service",
    "pamrelay-keys.service",
    "pamrelay-queue.service",
    "pamrelay-auth.socket",
    "pamrelay-keys.socket",
    "pamrelay-queue.socket",
];

/// What it costs a role to be attacked, from 0 (best) to 100, by systemd's own reckoning. The helper's worth is uid 0 and the network its modules use.
const EXPOSURE: [(&str, &str); 4] =
    [("pamrelay-front.service", "22"), ("pamrelay-keys.service", "13"), ("pamrelay-queue.service", "18"), ("pamrelay-auth.service", "30")];

fn source(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)).unwrap()
}

fn systemd_is_missing(test: &str) -> bool {
    let missing = Command::new("systemd-analyze").arg("--version").output().is_err();
    if missing {
        // Past the capture of tests that pass, which would hide it; tests/bed/count.awk counts it.
        let _ = writeln!(std::io::stdout(), "SKIPPED (needs systemd-analyze: apt-get install systemd): {test}");
    }
    missing
}

/// The units in a directory of their own, with programs that exist here.
fn staged() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in UNITS {
        let text = source(name)
            .replace("/usr/sbin/pamrelay", env!("CARGO_BIN_EXE_pamrelay"))
            .replace("/usr/libexec/pamrelay/pamrelay-auth", "/bin/true");
        fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

#[test]
fn every_service_logs_as_a_mail_system() {
    for name in UNITS.into_iter().filter(|name| name.ends_with(".service")) {
        let lines = source(name);

        assert!(lines.lines().any(|line| line == "SyslogFacility=mail"), "{name}");
        assert!(!lines.contains("SyslogLevelPrefix"), "{name}: <6> before each line is its level");
    }
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    if systemd_is_missing("systemd_has_nothing_to_say_about_the_units") {
        return;
    }
    let directory = staged();

    let verify =
        Command::new("systemd-analyze").args(["verify", "--man=no"]).args(UNITS.map(|name| directory.path().join(name))).output().unwrap();

    let said = String::from_utf8_lossy(&verify.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("pamrelay")).collect();
    assert!(verify.status.success() && ours.is_empty(), "{said}");
}

#[test]
fn the_roles_stay_as_closed_as_they_are() {
    if systemd_is_missing("the_roles_stay_as_closed_as_they_are") {
        return;
    }
    let directory = staged();
    for (name, threshold) in EXPOSURE {
        let security = Command::new("systemd-analyze")
            .args(["security", "--no-pager", "--offline=true", &format!("--threshold={threshold}")])
            .arg(directory.path().join(name))
            .output()
            .unwrap();

        assert!(
            security.status.success(),
            "{name}: {}{}",
            String::from_utf8_lossy(&security.stdout),
            String::from_utf8_lossy(&security.stderr)
        );
    }
}

#[test]
fn every_role_follows_the_umbrella_and_restarts_by_itself() {
    for name in UNITS.into_iter().filter(|name| *name != "pamrelay.service") {
        assert!(source(name).contains("\nPartOf=pamrelay.service\n"), "{name}");
        assert!(!source(name).contains("\nRuntimeDirectory="), "{name}");
        if name.ends_with(".service") {
            assert!(source(name).contains("\nRestart=always\n") && source(name).contains("\nStartLimitIntervalSec=0\n"), "{name}");
        }
    }
}

#[test]
fn what_holds_passwords_or_keys_has_no_swap() {
    for name in ["pamrelay-front.service", "pamrelay-auth.service", "pamrelay-keys.service"] {
        assert!(source(name).contains("\nLimitMEMLOCK=infinity\nMemorySwapMax=0\n"), "{name}");
    }
}

/// systemd leaves /run writable under ProtectSystem=strict as soon as ProtectControlGroups= or another of its kind is there.
#[test]
fn run_is_read_only_but_where_a_unit_says_otherwise() {
    for name in UNITS.into_iter().filter(|name| name.ends_with(".service")) {
        assert!(source(name).contains("\nReadOnlyPaths=/run\n"), "{name}");
        assert!(
            !source(name).lines().any(|line| line.starts_with("ReadWritePaths=") && line.split(['=', ' ']).any(|path| path == "/run")),
            "{name}"
        );
    }
}

/// Neither gives up: a door under a storm of connections to a role that cannot start, nor a start that takes long for good reasons.
#[test]
fn doors_and_long_starts_are_not_given_up() {
    for name in UNITS.into_iter().filter(|name| name.ends_with(".socket")) {
        assert!(source(name).contains("\nTriggerLimitIntervalSec=0\n"), "{name}");
    }
    for name in ["pamrelay-queue.service", "pamrelay-front.service"] {
        assert!(source(name).contains("\nTimeoutStartSec=infinity\n"), "{name}");
    }
}
