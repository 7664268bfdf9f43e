//! Rules between keys: values that are each well and make no sense together.
//!
//! A rule speaks only about values that were written or are defaults within their bounds; a value that was refused already is not judged again.

use pamrelay_authwire::MAX_GROUPS;

use super::section::Section;
use super::value::duration_text;
use super::{Config, Target};

/// The longest path a Unix socket can have, the final NUL not counted (unix(7)).
const SOCKET_PATH_LIMIT: usize = 107;

pub(super) fn check(config: &Config, top: &Section<'_>) {
    delivery(config, top);
    limits(config, top);
    auth(config, top);
    directories(config, top);
}

fn delivery(config: &Config, top: &Section<'_>) {
    let section = top.quiet_section("delivery");
    let it = &config.delivery;
    let order =
        [("first_retry", it.first_retry, "longest_retry", it.longest_retry), ("longest_retry", it.longest_retry, "give_up", it.give_up)];
    for (short, shorter, long, longer) in order {
        if shorter > longer {
            let key = if section.has(short) { short } else { long };
            let words = format!("{short} ({}) is longer than {long} ({})", duration_text(shorter), duration_text(longer));
            section.mistake(section.place(key), key, words);
        }
    }
}

fn limits(config: &Config, top: &Section<'_>) {
    let section = top.quiet_section("limits");
    let it = &config.limits;
    for (key, wait) in [("command_timeout", it.command_timeout), ("data_timeout", it.data_timeout)] {
        // A short session_timeout alone is a wish that needs no more words.
        if section.has(key) && section.has("session_timeout") && wait > it.session_timeout {
            let words = format!("{key} ({}) is longer than session_timeout ({})", duration_text(wait), duration_text(it.session_timeout));
            section.mistake(section.place(key), key, words);
        }
    }
}

fn auth(config: &Config, top: &Section<'_>) {
    let section = top.quiet_section("auth");
    let it = &config.auth;
    if it.groups.len() > MAX_GROUPS {
        section.mistake(
            section.place("groups"),
            "groups",
            format!("there are {} groups; {MAX_GROUPS} are as many as can be asked about", it.groups.len()),
        );
    }
    let mut seen: Vec<&str> = Vec::new();
    for group in &it.groups {
        if seen.contains(&group.as_str()) {
            section.mistake(section.place("groups"), "groups", format!("the group {group} is there twice"));
        }
        seen.push(group);
    }
}

fn directories(config: &Config, top: &Section<'_>) {
    let socket = config.jail().join("queue");
    let octets = socket.as_os_str().len();
    if octets > SOCKET_PATH_LIMIT {
        let words =
            format!("the socket {} would have a path of {octets} octets; a Unix socket can have {SOCKET_PATH_LIMIT}", socket.display());
        top.mistake(top.place("runtime_dir"), "runtime_dir", words);
    }
    let tls = top.quiet_section("tls");
    if config.spool.starts_with(&config.runtime_dir) {
        top.mistake(
            top.place("spool"),
            "spool",
            "it is within runtime_dir, which is empty after a restart of the machine; mail would be lost",
        );
    }
    if config.tls.directory.starts_with(&config.spool) || config.spool.starts_with(&config.tls.directory) {
        top.mistake(top.place("spool"), "spool", "spool and tls.directory must be apart: each belongs to another process");
    }
    if config.tls.directory.starts_with(&config.runtime_dir) {
        tls.mistake(tls.place("directory"), "directory", "it is within runtime_dir, which is empty after a restart of the machine");
    }
    for route in &config.routes {
        if let Target::Maildir(maildir) = &route.target
            && (maildir.starts_with(&config.spool) || config.spool.starts_with(maildir))
        {
            let words = format!("the maildir {} and the spool {} must be apart", maildir.display(), config.spool.display());
            top.mistake(top.place("routes"), "routes", words);
        }
    }
}
