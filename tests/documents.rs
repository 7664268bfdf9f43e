//! What is generated and committed is up to date: `PAMRELAY_WRITE=1 cargo test --test documents` writes it again.

use std::collections::BTreeSet;
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
fn the_manual_page_of_the_program_is_up_to_date() {
    compare("man/pamrelay.8", &program_page());
}

#[test]
fn the_manual_page_of_the_helper_has_every_setting() {
    let settings = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pam-helper/src/settings.rs")).unwrap();
    let page = std::fs::read_to_string(committed("man/pamrelay-auth.8")).unwrap();
    // The rows of its table of settings, as `pamrelay-auth --help` prints them.
    let row = |line: &str| Some(format!("PAMRELAY_{}", line.strip_prefix("    (\"")?.split('"').next()?));
    let names: Vec<String> =
        settings.lines().skip_while(|line| !line.contains("const TABLE")).take_while(|line| *line != "];").filter_map(row).collect();

    let shown: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix(".B ")).filter(|name| name.starts_with("PAMRELAY_")).collect();

    assert!(names.len() > 5);
    assert_eq!(shown, names);
}

#[test]
fn the_readme_installs_the_pages_the_configuration_and_the_units_and_builds_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let commands: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix("       ")).collect();
    let installs = |file: &str| {
        let (directory, name) = file.rsplit_once('/').unwrap();
        let pattern = format!("{directory}/*.{}", name.rsplit('.').next().unwrap());
        commands.iter().any(|line| line.starts_with("install ") && line.split(' ').any(|word| word == file || word == pattern))
    };

    for directory in ["packaging", "packaging/man", "systemd"] {
        for entry in std::fs::read_dir(root.join(directory)).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
            let file = format!("{directory}/{}", entry.file_name().into_string().unwrap());
            assert!(installs(&file), "README.md does not install {file}");
        }
    }
    let builds: Vec<&&str> = commands.iter().filter(|line| line.contains("make ") || line.contains("cargo ")).collect();
    assert_eq!(builds, [&"make release"]);
    assert!(readme.contains("](certs/README.md)") && readme.contains("strip-realm="));
}

/// docs/pam.md prints what tests/pam installs, so that page and tests cannot part.
#[test]
fn the_page_about_pam_prints_every_file_of_pam_d_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/pam.md")).unwrap();
    let mut printed = BTreeSet::new();
    let mut lines = page.lines();

    while let Some(line) = lines.next() {
        let Some(name) = line.strip_suffix(")):").and_then(|line| line.rsplit_once("](../pam.d/")).map(|(_, name)| name) else { continue };
        assert!(lines.next().is_some_and(|line| line.starts_with("```")), "{name}: no block follows its name");
        let block: String = lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
        assert_eq!(block, std::fs::read_to_string(root.join("pam.d").join(name)).unwrap(), "docs/pam.md and pam.d/{name} differ");
        printed.insert(name.to_owned());
    }

    let files = ["recipes", "etc"].into_iter().flat_map(|part| {
        let entries = std::fs::read_dir(root.join("pam.d").join(part)).unwrap();
        entries.map(move |entry| format!("{part}/{}", entry.unwrap().file_name().into_string().unwrap()))
    });
    assert_eq!(printed, files.collect());
}

/// One page for all commands, as an administrator looks for it: the frame by clap_mangen, the commands one after the other.
fn program_page() -> String {
    let mut command = pamrelay::cli::command().disable_help_subcommand(true);
    command.build();
    let page =
        clap_mangen::Man::new(command.clone()).title("PAMRELAY").section("8").manual("System administration").source("pamrelay").date("");
    let mut out = Vec::new();
    page.render_title(&mut out).unwrap();
    page.render_name_section(&mut out).unwrap();
    let mut out = String::from_utf8(out).unwrap();
    out.push_str(".SH SYNOPSIS\n");
    synopses(&command, &mut out);
    out.push_str(".SH DESCRIPTION\n");
    paragraphs(&command, &mut out);
    out.push_str(".SH COMMANDS\n");
    commands(&command, &mut out);
    out.push_str(include_str!("documents/pamrelay.8.end"));
    out
}

fn visible(command: &clap::Command) -> impl Iterator<Item = &clap::Command> {
    command.get_subcommands().filter(|inner| !inner.is_hide_set())
}

fn synopses(command: &clap::Command, out: &mut String) {
    for inner in visible(command) {
        if !inner.is_subcommand_required_set() {
            let usage = inner.clone().render_usage().to_string();
            let line = usage.trim_start_matches("Usage:").lines().next().unwrap_or_default().trim().replace(" [COMMAND]", "");
            out.push_str(&format!(".B {}\n.br\n", roff(&line)));
        }
        synopses(inner, out);
    }
}

fn commands(command: &clap::Command, out: &mut String) {
    for inner in visible(command) {
        if !inner.is_subcommand_required_set() {
            let name = inner.get_bin_name().unwrap_or(inner.get_name());
            out.push_str(&format!(".SS {}\n", roff(name)));
            paragraphs(inner, out);
            for argument in inner.get_arguments().filter(|argument| !argument.is_hide_set() && argument.get_id() != "help") {
                let value = argument.get_value_names().map(|names| names.join(" ")).filter(|_| argument.get_action().takes_values());
                let written = match (argument.get_long(), value) {
                    (Some(long), Some(value)) => format!("--{long} {value}"),
                    (Some(long), None) => format!("--{long}"),
                    (None, value) => value.unwrap_or_default(),
                };
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                let default: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
                let default = if default.is_empty() || !argument.get_action().takes_values() {
                    String::new()
                } else {
                    format!(" ({})", default.join(" "))
                };
                out.push_str(&format!(".TP\n.B {}\n{}{}.\n", roff(&written), roff(&help), roff(&default)));
            }
        }
        commands(inner, out);
    }
}

fn paragraphs(command: &clap::Command, out: &mut String) {
    let text = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    for (i, paragraph) in text.split("\n\n").enumerate() {
        if i > 0 {
            out.push_str(".PP\n");
        }
        let end = if paragraph.ends_with(['.', ':']) { "" } else { "." };
        out.push_str(&format!("{}{end}\n", roff(paragraph)));
    }
}

fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('`', "\"");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
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
