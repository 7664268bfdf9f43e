//! What is generated and committed is up to date: `PAMRELAY_WRITE=1 cargo test --test documents` writes it again.

use std::path::{Path, PathBuf};

use pamrelay::config::{Config, manual};

fn committed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name)
}

fn compare(name: &str, wanted: &str) {
    let path = committed(name);
    if std::env::var_os("PAMRELAY_WRITE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, wanted).unwrap();
    }

    let found = std::fs::read_to_string(&path).unwrap_or_default();

    assert!(found == wanted, "{} is out of date; write it again with: PAMRELAY_WRITE=1 cargo test --test documents", path.display());
}

#[test]
fn the_example_configuration_is_up_to_date() {
    compare("pamrelay.yaml", &manual::example());
}

#[test]
fn the_manual_page_of_the_configuration_is_up_to_date() {
    compare("man/pamrelay.yaml.5", &manual::page());
}

#[test]
fn the_example_configuration_is_taken() {
    let config = Config::parse(&manual::example(), Path::new("example")).unwrap();

    assert_eq!(config.listen.len(), 4);
}

/// Every commented key is right as it stands: uncommented, the file is still a configuration.
#[test]
fn every_key_that_the_example_shows_is_taken() {
    let all: String = manual::example().lines().filter_map(|line| uncommented(line).map(|line| format!("{line}\n"))).collect();

    let config = Config::parse(&all, Path::new("example")).unwrap_or_else(|mistakes| panic!("{mistakes}\n{all}"));

    assert_eq!(config.routes.len(), 2);
    assert_eq!(config.auth.groups, ["staff", "mailusers"]);
    assert!(config.tls.client.is_some());
}

/// `# Prose` goes; `#key` and `#  key` become keys.
fn uncommented(line: &str) -> Option<&str> {
    match line.strip_prefix('#') {
        Some(rest) if rest.is_empty() || (rest.starts_with(' ') && !rest.starts_with("  ")) => None,
        Some(rest) => Some(rest),
        None => Some(line),
    }
}
