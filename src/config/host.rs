//! The host's own fully qualified name, for those who did not write `hostname:`.
//!
//! Read before any sandbox is up, from the kernel and two small files; DNS is not asked, so that a start never waits for the network.

use std::fs;

use crate::smtp::address::Domain;

/// The kernel's name if it has a dot, else what /etc/hosts or the search domain of /etc/resolv.conf make of it, else the bare name.
pub(super) fn own_name() -> Option<Domain> {
    let bare = nix::unistd::gethostname().ok()?.into_string().ok()?;
    let name = qualified(&bare, &text("/etc/hosts"), &text("/etc/resolv.conf"));
    match Domain::parse(&name) {
        Ok(domain @ Domain::Name(_)) => Some(domain),
        Ok(Domain::Literal(_)) | Err(_) => None,
    }
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn qualified(bare: &str, hosts: &str, resolv: &str) -> String {
    if bare.contains('.') {
        return bare.to_owned();
    }
    from_hosts(bare, hosts).or_else(|| from_search(bare, resolv)).unwrap_or_else(|| bare.to_owned())
}

/// The first name with a dot in a line that has the bare name too.
fn from_hosts(bare: &str, hosts: &str) -> Option<String> {
    hosts.lines().find_map(|line| {
        let line = line.split('#').next()?;
        let names: Vec<&str> = line.split_whitespace().skip(1).collect();
        let ours = names.iter().any(|name| name.eq_ignore_ascii_case(bare));
        let full = names.iter().find(|name| name.contains('.') && !name.starts_with("localhost"))?;
        ours.then(|| (*full).to_owned())
    })
}

fn from_search(bare: &str, resolv: &str) -> Option<String> {
    resolv.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let first = words.next()?;
        let domain = words.next()?.trim_matches('.');
        (matches!(first, "domain" | "search") && !domain.is_empty()).then(|| format!("{bare}.{domain}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_completed_from_hosts_then_from_the_search_domain() {
        let hosts = "127.0.0.1 localhost localhost.localdomain\n127.0.1.1 mail.example.org mail # ours\n";

        assert_eq!(qualified("mail", hosts, "search other.example\n"), "mail.example.org");
        assert_eq!(qualified("box", hosts, "nameserver 127.0.0.1\nsearch other.example more.example\n"), "box.other.example");
        assert_eq!(qualified("box", hosts, "search .\n"), "box");
        assert_eq!(qualified("a.example", hosts, ""), "a.example");
    }
}
