//! What root runs is a short list that nobody lengthens unseen.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

/// The helper's own choice.
const DIRECT: &str = "hmac-sha256 nix pam pamrelay-authwire zeroize";
/// What those bring along at run time (procedural macros run in the compiler alone).
const INDIRECT: &str = "bitflags cfg-if libc memchr memoffset pam-sys";

#[test]
fn the_helper_depends_on_one_line_of_crates() {
    let manifest = include_str!("../Cargo.toml");
    let section = manifest.split("[dependencies]").nth(1).unwrap();
    let section = section.split("\n[").next().unwrap();
    let names: Vec<&str> = section.lines().filter_map(|line| line.split([' ', '=', '.']).next()).filter(|name| !name.is_empty()).collect();

    assert_eq!(names.join(" "), DIRECT);
    assert_eq!(manifest.matches("dependencies").count(), 1, "no second table of dependencies");
}

#[test]
fn nothing_else_is_linked_into_it() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "--edges",
            "normal,no-proc-macro",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--package",
            "pamrelay-auth",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    let found: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).filter(|name| *name != "pamrelay-auth").collect();
    let allowed: BTreeSet<&str> = DIRECT.split(' ').chain(INDIRECT.split(' ')).collect();

    assert_eq!(found, allowed);
}

#[test]
fn the_wire_format_depends_on_nothing() {
    assert!(!include_str!("../../authwire/Cargo.toml").contains("dependencies"));
}

#[test]
fn unsafe_code_lives_in_two_files() {
    let mut with_unsafe = Vec::new();
    let mut folders = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if std::fs::read_to_string(&path).unwrap().contains("allow(unsafe_code)") {
                with_unsafe.push(path.file_name().unwrap().to_owned());
            }
        }
    }
    with_unsafe.sort();

    assert_eq!(with_unsafe, ["pam.rs", "sys.rs"]);
    assert!(include_str!("../src/main.rs").contains("#![deny(unsafe_code)]"));
}
