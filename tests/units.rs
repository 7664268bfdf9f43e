//! The systemd units, as systemd itself reads them.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

const UNITS: [&str; 10] = [
    "pamrelay.service",
    "pamrelay-activate.service",
    "pamrelay-front.service",
    "pamrelay-auth.service",
    "pamrelay-keys.service",
    "pamrelay-queue.service",
    "pamrelay-auth.socket",
    "pamrelay-keys.socket",
    "pamrelay-keys-queue.socket",
    "pamrelay-queue.socket",
];

/// What it costs a role to be attacked, from 0 (best) to 100, by systemd's own reckoning. The helper's worth is uid 0 and the network its modules use.
const EXPOSURE: [(&str, &str); 4] =
    [("pamrelay-front.service", "22"), ("pamrelay-keys.service", "13"), ("pamrelay-queue.service", "18"), ("pamrelay-auth.service", "30")];

const ROLES: [&str; 4] = ["pamrelay-front.service", "pamrelay-auth.service", "pamrelay-keys.service", "pamrelay-queue.service"];

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
        if ROLES.contains(&name) {
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

/// The words of all lines of one setting.
fn words(unit: &str, setting: &str) -> Vec<String> {
    let text = source(unit);
    let lines = text.lines().filter_map(|line| line.strip_prefix(setting)?.strip_prefix('='));
    lines.flat_map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn each_socket_is_for_its_asker_alone() {
    for (unit, group) in [
        ("pamrelay-auth.socket", "pamrelay"),
        ("pamrelay-keys.socket", "pamrelay"),
        ("pamrelay-keys-queue.socket", "pamrelay-queue"),
        ("pamrelay-queue.socket", "pamrelay"),
    ] {
        assert_eq!((words(unit, "SocketGroup"), words(unit, "SocketMode")), (vec![group.to_owned()], vec!["0660".to_owned()]), "{unit}");
        // systemd takes a path from whoever listens there, so it is asked first whether somebody does.
        assert!(words(unit, "Requires").contains(&"pamrelay-activate.service".to_owned()), "{unit}");
        assert!(words(unit, "After").contains(&"pamrelay-activate.service".to_owned()), "{unit}");
    }
    assert_eq!(words("pamrelay-keys-queue.socket", "Service"), ["pamrelay-keys.service"]);
    assert_eq!(words("pamrelay-keys.service", "Sockets"), ["pamrelay-keys.socket", "pamrelay-keys-queue.socket"]);
}

/// systemd stops in the reverse of the order in which it starts.
#[test]
fn the_front_end_stops_before_the_roles_that_its_sessions_need() {
    for role in ["pamrelay-auth.service", "pamrelay-keys.service", "pamrelay-queue.service"] {
        assert!(words("pamrelay-front.service", "After").contains(&role.to_owned()), "{role}");
        assert!(!words(role, "After").contains(&"pamrelay-front.service".to_owned()), "{role}");
    }
    assert!(words("pamrelay-queue.service", "After").contains(&"pamrelay-keys.service".to_owned()));
    // The watching unit waits for the roles by itself: ordered against them, it could not see one that hangs.
    for unit in UNITS {
        assert!(!words(unit, "After").contains(&"pamrelay.service".to_owned()), "{unit}");
    }
}

#[test]
fn a_role_that_needs_a_person_is_not_started_again() {
    for unit in ROLES {
        assert_eq!(words(unit, "RestartPreventExitStatus"), ["64", "77", "78"], "{unit}");
    }
    assert_eq!(
        (words("pamrelay.service", "Type"), words("pamrelay.service", "Restart")),
        (vec!["notify".to_owned()], vec!["no".to_owned()])
    );
}

#[test]
fn memory_and_tasks_of_each_role_are_bounded_with_room_for_the_default_limits() {
    const MIB: u64 = 1024 * 1024;
    let bytes = |unit: &str| {
        let word = words(unit, "MemoryMax").pop().unwrap();
        let (number, unit) = word.split_at(word.len() - 1);
        number.parse::<u64>().unwrap() * if unit == "G" { 1024 * MIB } else { MIB }
    };
    let config = pamrelay::config::Config::parse("listen: [{ address: \"127.0.0.1:1\", tls: starttls }]\n", Path::new("t")).unwrap();

    // As pamrelay(8) says it.
    assert!(bytes("pamrelay-front.service") >= 512 * MIB + config.limits.sessions as u64 * 128 * 1024);
    assert!(bytes("pamrelay-queue.service") >= 1024 * MIB + 16 * config.limits.message_size.0);
    assert!(bytes("pamrelay-keys.service") >= 512 * MIB);
    for unit in ROLES {
        assert!(words(unit, "TasksMax").pop().unwrap().parse::<u32>().unwrap() <= 1024, "{unit}");
    }
    for unit in ["pamrelay-keys.service", "pamrelay-queue.service"] {
        assert_eq!(words(unit, "SocketBindDeny"), ["any"], "{unit}");
    }
}
