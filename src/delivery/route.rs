//! Where a recipient's mail goes: an ordered list of domains and the first that fits. Pure.
//!
//! A route never depends on anything but the recipient's domain, so that all recipients of one domain travel together.

use std::path::PathBuf;
use std::sync::Arc;

use crate::smtp::address::Domain;

/// The routes in the order of the configuration; the first whose pattern fits decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes(Vec<Rule>);

/// Some domains and where their mail goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub domains: Vec<Pattern>,
    pub route: Arc<Route>,
}

/// Which domains a rule is about. Names are kept as DNS has them: A-labels, lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// `example.org`, or `[192.0.2.1]`: itself and nothing below it.
    Exact(String),
    /// `.example.org`: everything below it, but not itself. Kept with its dot.
    Below(String),
    /// `*`
    Any,
}

/// How mail for a domain leaves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// In order: the next one is asked when the one before cannot be reached or does not want to talk.
    SmartHosts(Vec<SmartHost>),
    /// The domain's own exchangers (RFC 5321 §5.1).
    Mx,
    /// A directory, one file for each message and recipient.
    Maildir(PathBuf),
}

/// One host that relays for us.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SmartHost {
    /// A name, which TLS verifies, or an address without brackets.
    pub host: String,
    /// On 465 TLS comes first (RFC 8314 §3.3), unless `tls` says none.
    pub port: u16,
    pub tls: TlsDemand,
    pub login: Option<Login>,
}

/// What a connection must be before a message may cross it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsDemand {
    /// STARTTLS is not asked for, even if offered.
    None,
    /// Encrypted when the host can, without asking who it is.
    Opportunistic,
    /// Encrypted, and the host proved its configured name; else nothing is sent.
    Required,
}

/// Who we are to a smart host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Login {
    pub user: String,
    /// The name under which the key process knows the secret; never the secret.
    pub secret: String,
}

impl Routes {
    pub fn new(rules: Vec<Rule>) -> Self {
        Self(rules)
    }

    /// The route for a domain; `None` when no pattern fits.
    pub fn find(&self, domain: &Domain) -> Option<&Arc<Route>> {
        let name = canonical(domain);
        self.0.iter().find(|rule| rule.domains.iter().any(|pattern| pattern.fits(&name))).map(|rule| &rule.route)
    }
}

impl Pattern {
    /// Reads `example.org`, `.example.org`, `[192.0.2.1]` or `*`. `None` if it is no domain.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix('.') {
            _ if text == "*" => Some(Self::Any),
            Some(parent) => match Domain::parse(parent).ok()? {
                domain @ Domain::Name(_) => Some(Self::Below(format!(".{}", canonical(&domain)))),
                Domain::Literal(_) => None,
            },
            None => Domain::parse(text).ok().map(|domain| Self::Exact(canonical(&domain))),
        }
    }

    fn fits(&self, name: &str) -> bool {
        match self {
            Self::Exact(domain) => domain == name,
            Self::Below(suffix) => name.len() > suffix.len() && name.ends_with(suffix.as_str()),
            Self::Any => true,
        }
    }
}

impl SmartHost {
    /// TLS from the first octet instead of STARTTLS.
    pub fn is_implicit(&self) -> bool {
        self.port == 465 && self.tls != TlsDemand::None
    }
}

/// One spelling for all spellings of a domain. Plain ASCII names, nearly all of them, need no IDNA tables.
pub(super) fn canonical(domain: &Domain) -> String {
    match domain {
        Domain::Name(name) if name.is_ascii() => name.to_ascii_lowercase(),
        Domain::Name(name) => domain.to_dns().unwrap_or_else(|| name.clone()),
        Domain::Literal(_) => domain.to_string().to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(domains: &[&str], path: &str) -> Rule {
        Rule { domains: domains.iter().map(|text| Pattern::parse(text).unwrap()).collect(), route: Arc::new(Route::Maildir(path.into())) }
    }

    fn found(routes: &Routes, domain: &str) -> Option<String> {
        routes.find(&Domain::parse(domain).unwrap()).map(|route| match &**route {
            Route::Maildir(path) => path.display().to_string(),
            Route::SmartHosts(_) | Route::Mx => unreachable!("the tests use maildirs only"),
        })
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let routes =
            Routes::new(vec![rule(&["archive.example", ".inner.example"], "/a"), rule(&["x.inner.example"], "/b"), rule(&["*"], "/c")]);

        for (domain, path) in [
            ("archive.example", "/a"),
            ("Archive.EXAMPLE", "/a"),
            ("x.inner.example", "/a"),
            ("deep.x.inner.example", "/a"),
            ("inner.example", "/c"),
            ("notarchive.example", "/c"),
            ("[127.0.0.1]", "/c"),
        ] {
            assert_eq!(found(&routes, domain).as_deref(), Some(path), "{domain}");
        }
    }

    #[test]
    fn international_spellings_are_one_domain() {
        let routes = Routes::new(vec![rule(&["bücher.example"], "/a"), rule(&[".Grüße.example"], "/b")]);

        assert_eq!(found(&routes, "xn--bcher-kva.example").as_deref(), Some("/a"));
        assert_eq!(found(&routes, "BÜCHER.example").as_deref(), Some("/a"));
        assert_eq!(found(&routes, "x.grüße.example").as_deref(), Some("/b"));
    }

    #[test]
    fn no_fitting_rule_means_no_route() {
        let routes = Routes::new(vec![rule(&["[192.0.2.1]", "a.example"], "/a")]);

        assert_eq!(found(&routes, "b.example"), None);
        assert_eq!(found(&routes, "[192.0.2.1]").as_deref(), Some("/a"));
        assert_eq!(found(&routes, "[192.0.2.2]"), None);
    }

    #[test]
    fn what_is_no_domain_is_no_pattern() {
        for text in ["", ".", "..example", "a b", "*.example", ".[127.0.0.1]", "-x.example"] {
            assert_eq!(Pattern::parse(text), None, "{text}");
        }
    }
}
