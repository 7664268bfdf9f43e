//! The list of routes: which domains go where.
//!
//! First fit wins, so a route that an earlier one hides is a mistake, not a preference.

use std::path::PathBuf;

use super::mistake::Position;
use super::section::{Section, Word};
use super::value::{self, Host};
use crate::smtp::address::Domain;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Never empty.
    pub domains: Vec<Pattern>,
    pub target: Target,
}

/// Which domains a route is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// This domain, as DNS has it: A-labels, lower case.
    Exact(String),
    /// Everything below this domain, but not the domain itself; without the leading dot.
    Below(String),
    Any,
}

impl Pattern {
    /// Whether a domain in DNS form fits.
    pub fn fits(&self, domain: &str) -> bool {
        match self {
            Self::Exact(name) => name == domain,
            Self::Below(name) => domain.strip_suffix(name.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            Self::Any => true,
        }
    }

    /// Whether nothing that fits `later` is left over for it.
    fn hides(&self, later: &Self) -> bool {
        match (self, later) {
            (Self::Any, Self::Any | Self::Exact(_) | Self::Below(_)) => true,
            (Self::Exact(_) | Self::Below(_), Self::Any) => false,
            (earlier, Self::Exact(name)) => earlier.fits(name),
            (Self::Below(earlier), Self::Below(later)) => earlier == later || Self::Below(earlier.clone()).fits(later),
            (Self::Exact(_), Self::Below(_)) => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// In order of preference; never empty.
    SmartHosts(Vec<SmartHost>),
    /// By the MX records of the recipient's domain.
    Mx,
    Maildir(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmartHost {
    pub host: Host,
    pub port: u16,
    pub tls: SmartHostTls,
    pub login: Option<Login>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmartHostTls {
    None,
    Opportunistic,
    /// And the certificate must prove the name.
    Required,
}

/// A user and the name of the file that has the password; keys alone opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub secret: String,
}

#[derive(Clone, Copy)]
struct Direct;

impl Word for Direct {
    const WORDS: &'static [(&'static str, Self)] = &[("direct", Self)];
}

impl Word for SmartHostTls {
    const WORDS: &'static [(&'static str, Self)] =
        &[("none", Self::None), ("opportunistic", Self::Opportunistic), ("required", Self::Required)];
}

pub(super) fn read(top: &Section<'_>) -> Vec<Route> {
    let Some(sections) = top.sections("routes") else {
        return vec![Route { domains: vec![Pattern::Any], target: Target::Mx }];
    };
    let mut seen: Vec<(Pattern, Position)> = Vec::new();
    let mut routes = Vec::new();
    for section in &sections {
        let patterns = section.list("domains", pattern);
        for (pattern, at) in &patterns {
            if let Some((_, earlier)) = seen.iter().find(|(earlier, _)| earlier.hides(pattern)) {
                let words = format!("this is never reached, line {} already takes it; the first route that fits wins", earlier.line);
                section.mistake(Some(*at), "domains", words);
            }
            seen.push((pattern.clone(), *at));
        }
        if let Some(target) = target(section) {
            routes.push(Route { domains: patterns.into_iter().map(|(pattern, _)| pattern).collect(), target });
        }
    }
    routes
}

fn pattern(text: &str) -> Result<Pattern, String> {
    let dns = |name: &str| value::domain(name)?.to_dns().ok_or_else(|| "it has no form that DNS can take".to_owned());
    match text {
        "*" => Ok(Pattern::Any),
        _ => match text.strip_prefix('.').or_else(|| text.strip_prefix("*.")) {
            Some(name) => dns(name).map(Pattern::Below),
            None => match Domain::parse(text) {
                Ok(Domain::Literal(_)) => Err("an address literal has no route of its own".to_owned()),
                Ok(Domain::Name(_)) | Err(_) => dns(text).map(Pattern::Exact),
            },
        },
    }
}

fn target(section: &Section<'_>) -> Option<Target> {
    let hosts = section.sections("smart_hosts").map(|hosts| Target::SmartHosts(hosts.iter().filter_map(smart_host).collect()));
    let mx = section.optional_word::<Direct>("mx").map(|Direct| Target::Mx);
    let maildir = section.optional_path("maildir").map(Target::Maildir);
    let given = ["smart_hosts", "mx", "maildir"].into_iter().filter(|key| section.has(key)).count();
    if given != 1 && section.is_map() {
        let found = if given == 0 { "it has none" } else { "it has more than one" };
        section.mistake(section.place("domains"), "domains", format!("a route has exactly one of smart_hosts, mx, maildir; {found}"));
    }
    hosts.or(mx).or(maildir)
}

fn smart_host(section: &Section<'_>) -> Option<SmartHost> {
    let host = section.host("host");
    let port = section.optional_count("port");
    let tls = section.word("tls");
    let user = section.login("user");
    let secret = section.optional_file("secret");
    match (section.has("user"), section.has("secret")) {
        (true, false) => section.mistake(section.place("user"), "user", "there is no secret beside it; name the file with the password"),
        (false, true) => section.mistake(section.place("secret"), "secret", "there is no user beside it; write whose password it is"),
        (true, true) if tls != SmartHostTls::Required => {
            section.mistake(section.place("tls"), "tls", "with a login it must be required, else the password could go to a stranger");
        }
        (true, true) | (false, false) => {}
    }
    let login = user.zip(secret).map(|(user, secret)| Login { user, secret });
    let port = port.unwrap_or(if login.is_some() { 587 } else { 25 });
    Some(SmartHost { host: host?, port, tls, login })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_labels_only() {
        let below = pattern(".Example.org").unwrap();

        assert!(below.fits("a.example.org"));
        assert!(below.fits("b.a.example.org"));
        assert!(!below.fits("example.org"));
        assert!(!below.fits("badexample.org"));
        assert!(!below.fits(".example.org"));
        assert!(pattern("example.org").unwrap().fits("example.org"));
        assert!(pattern("*").unwrap().fits("anything.example"));
    }

    #[test]
    fn a_wider_pattern_hides_a_narrower_one() {
        let hides = |a: &str, b: &str| pattern(a).unwrap().hides(&pattern(b).unwrap());

        assert!(hides("*", "example.org"));
        assert!(hides("*", "*"));
        assert!(hides(".example.org", "a.example.org"));
        assert!(hides(".example.org", ".a.example.org"));
        assert!(!hides(".example.org", "example.org"));
        assert!(!hides("example.org", ".example.org"));
        assert!(!hides(".a.example.org", ".example.org"));
    }
}
