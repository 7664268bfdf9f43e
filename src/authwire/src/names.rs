//! From the name that was typed to the name that PAM is given: an ordered list of rules.
//!
//! ```text
//! strip-realm=example.org  ann@example.org ─▶ ann       strip-domain=LAB  LAB\ann ─▶ ann
//! add-realm=lab.test       ann ─▶ ann@lab.test          add-domain=LAB    ann ─▶ LAB\ann
//! case=lower               Ann ─▶ ann
//! ```
//!
//! The configuration has them, the helper applies them. Each rule sees what the one before it made. A realm or a domain is compared without case, and `*` is any.
//! Invariant: without rules the name is the one that was typed, and no rule makes an empty name.

use std::fmt;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameRule {
    StripRealm(String),
    StripDomain(String),
    AddRealm(String),
    AddDomain(String),
    LowerCase,
}

/// Any realm, any domain.
const ANY: &str = "*";

impl NameRule {
    /// Reads `strip-realm=example.org` and its kind.
    pub fn parse(text: &str) -> Option<Self> {
        let (rule, value) = text.split_once('=')?;
        let plain = !value.is_empty() && value.len() <= 255 && !value.contains(|c: char| c.is_control() || "@\\,= ".contains(c));
        let value = plain.then(|| value.to_owned())?;
        match rule {
            "strip-realm" => Some(Self::StripRealm(value)),
            "strip-domain" => Some(Self::StripDomain(value)),
            "add-realm" if value != ANY => Some(Self::AddRealm(value)),
            "add-domain" if value != ANY => Some(Self::AddDomain(value)),
            "case" if value == "lower" => Some(Self::LowerCase),
            _ => None,
        }
    }

    fn apply(&self, name: String) -> String {
        let is_bare = !name.contains(['@', '\\']);
        match self {
            Self::StripRealm(realm) => match name.rsplit_once('@') {
                Some((user, found)) if !user.is_empty() && is(found, realm) => user.to_owned(),
                Some(_) | None => name,
            },
            Self::StripDomain(domain) => match name.split_once('\\') {
                Some((found, user)) if !user.is_empty() && is(found, domain) => user.to_owned(),
                Some(_) | None => name,
            },
            Self::AddRealm(realm) if is_bare => format!("{name}@{realm}"),
            Self::AddDomain(domain) if is_bare => format!("{domain}\\{name}"),
            Self::AddRealm(_) | Self::AddDomain(_) => name,
            Self::LowerCase => name.to_lowercase(),
        }
    }
}

fn is(found: &str, wanted: &str) -> bool {
    wanted == ANY || found.to_lowercase() == wanted.to_lowercase()
}

impl fmt::Display for NameRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StripRealm(realm) => write!(f, "strip-realm={realm}"),
            Self::StripDomain(domain) => write!(f, "strip-domain={domain}"),
            Self::AddRealm(realm) => write!(f, "add-realm={realm}"),
            Self::AddDomain(domain) => write!(f, "add-domain={domain}"),
            Self::LowerCase => f.write_str("case=lower"),
        }
    }
}

/// What the rules make of a name, one after the other.
pub fn rewrite(rules: &[NameRule], typed: &str) -> String {
    rules.iter().fold(typed.to_owned(), |name, rule| rule.apply(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(rules: &str, typed: &str) -> String {
        let rules: Vec<NameRule> = rules.split_whitespace().map(|rule| NameRule::parse(rule).unwrap()).collect();
        rewrite(&rules, typed)
    }

    #[test]
    fn each_rule_does_one_thing_in_the_order_of_the_list() {
        for (rules, typed, asked) in [
            ("", "Ann@Example.org", "Ann@Example.org"),
            ("strip-realm=example.org", "ann@EXAMPLE.org", "ann"),
            ("strip-realm=example.org", "ann@example.net", "ann@example.net"),
            ("strip-realm=example.org", "ann@x@example.org", "ann@x"),
            ("strip-realm=*", "ann@anywhere", "ann"),
            ("strip-realm=*", "@anywhere", "@anywhere"),
            ("strip-domain=LAB", "lab\\ann", "ann"),
            ("strip-domain=LAB", "OTHER\\ann", "OTHER\\ann"),
            ("strip-domain=*", "OTHER\\ann", "ann"),
            ("strip-domain=LAB", "LAB\\", "LAB\\"),
            ("add-domain=LAB", "ann", "LAB\\ann"),
            ("add-domain=LAB", "ann@lab.test", "ann@lab.test"),
            ("add-realm=lab.test", "ann", "ann@lab.test"),
            ("add-realm=lab.test", "LAB\\ann", "LAB\\ann"),
            ("case=lower", "Ann ZO\u{cb}", "ann zo\u{eb}"),
            ("strip-realm=example.org add-domain=LAB case=lower", "Ann@example.org", "lab\\ann"),
            ("add-domain=LAB strip-domain=LAB", "ann", "ann"),
        ] {
            assert_eq!(rewritten(rules, typed), asked, "{rules}: {typed}");
        }
    }

    #[test]
    fn rules_are_read_as_they_are_written_and_nothing_else_is_one() {
        for rule in ["strip-realm=example.org", "strip-realm=*", "strip-domain=LAB", "add-realm=LAB.TEST", "add-domain=LAB", "case=lower"] {
            assert_eq!(NameRule::parse(rule).unwrap().to_string(), rule);
        }
        for text in ["", "strip-realm", "strip-realm=", "add-realm=*", "case=upper", "lower", "strip-realm=a@b", "strip-domain=A\\", "x=y"]
        {
            assert_eq!(NameRule::parse(text), None, "{text}");
        }
    }
}
