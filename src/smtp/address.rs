//! Mailboxes and paths (RFC 5321 §4.1.2, with the international forms of RFC 6531 §3.3).
//!
//! Parsed once, never checked again: a `Mailbox` has no control characters, at most `MAILBOX_LIMIT` octets, and its text
//! can be put between angle brackets as it is.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::envelope::International;

/// Octets in a mailbox. The 64 of a local part (RFC 5321 §4.5.3.1.1) and the 256 of a path (RFC 5321 §4.5.3.1.3) are what
/// everybody must take; longer ones are in use. This is what fits into `MAIL FROM:<>` in the 512 octets that every server
/// reads (RFC 5321 §4.5.3.1.4): mail of a longer sender could neither be sent nor reported on.
const MAILBOX_LIMIT: usize = 498;
/// Octets in a domain (RFC 5321 §4.5.3.1.2).
const DOMAIN_LIMIT: usize = 255;
/// Octets in one label of a domain (RFC 1035 §2.3.4).
const LABEL_LIMIT: usize = 63;

/// Where reports about a message go: MAIL FROM's argument.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `<>`: the message is itself a report and must never be answered (RFC 5321 §4.5.5).
    Null,
    Mailbox(Mailbox),
}

impl ReversePath {
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// `MAIL FROM:`'s path, angle brackets included.
    pub fn parse(path: &str, international: International) -> Result<Self, AddressError> {
        match inside_brackets(path)? {
            "" => Ok(Self::Null),
            inner => Mailbox::parse(without_source_route(inner)?, international).map(Self::Mailbox),
        }
    }
}

/// Without angle brackets; empty for the null path.
impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Mailbox(mailbox) => mailbox.fmt(f),
        }
    }
}

/// Where a message goes: RCPT TO's argument.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ForwardPath {
    /// `<Postmaster>` without a domain, in any case of letters (RFC 5321 §4.1.1.3).
    Postmaster,
    Mailbox(Mailbox),
}

impl ForwardPath {
    /// `RCPT TO:`'s path, angle brackets included.
    pub fn parse(path: &str, international: International) -> Result<Self, AddressError> {
        let inner = inside_brackets(path)?;
        if inner.eq_ignore_ascii_case("postmaster") {
            return Ok(Self::Postmaster);
        }
        let mailbox = Mailbox::parse(without_source_route(inner)?, international)?;
        // `x@10`: no such name can be in DNS, and many resolvers take it for an address.
        if mailbox.domain().ends_in_number() { Err(AddressError::Number) } else { Ok(Self::Mailbox(mailbox)) }
    }
}

/// A local part at a domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mailbox {
    /// As it must be written in a path: quoted if it needs quotes.
    local: String,
    domain: Domain,
}

impl Mailbox {
    /// Reads `local@domain` without angle brackets.
    pub fn parse(text: &str, international: International) -> Result<Self, AddressError> {
        if text.chars().any(char::is_control) {
            return Err(AddressError::Control);
        }
        if !text.is_ascii() && international == International::Ascii {
            return Err(AddressError::NeedsUtf8);
        }
        let (local, domain) = split_local(text)?;
        if text.len() > MAILBOX_LIMIT {
            return Err(AddressError::LongMailbox);
        }
        let domain = Domain::parse(domain)?;
        // In A-labels a name may be longer, and a server without SMTPUTF8 gets those.
        if !domain.is_ascii() && domain.to_dns().is_some_and(|name| local.len() + 1 + name.len() > MAILBOX_LIMIT) {
            return Err(AddressError::LongMailbox);
        }
        Ok(Self { local: local.to_owned(), domain })
    }

    /// `postmaster` at a domain of ours.
    pub fn postmaster(domain: Domain) -> Self {
        Self { local: "postmaster".to_owned(), domain }
    }

    /// A local part that is a dot-string by construction, such as a login name, at a domain of ours.
    pub fn of_user(user: &str, domain: Domain) -> Result<Self, AddressError> {
        is_dot_string(user).then(|| Self { local: user.to_owned(), domain }).ok_or(AddressError::LocalPart)
    }

    /// The local part as it is written in a path, with its quotes if it has any.
    pub fn local(&self) -> &str {
        &self.local
    }

    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    pub fn is_ascii(&self) -> bool {
        self.local.is_ascii() && self.domain.is_ascii()
    }

    /// The same mailbox for those who know nothing of SMTPUTF8: with the domain's A-labels (RFC 5890 §2.3.2.1). `None` if
    /// its local part is not US-ASCII.
    pub fn in_ascii(&self) -> Option<Self> {
        if self.is_ascii() {
            return Some(self.clone());
        }
        let domain = self.domain.to_dns().filter(|_| self.local.is_ascii())?;
        Some(Self { local: self.local.clone(), domain: Domain::Name(domain) })
    }

    /// Equal for what is one mailbox to delivery: the domain folds case and spelling, the local part does not (RFC 5321 §2.4).
    pub fn delivery_key(&self) -> String {
        let domain = self.domain.to_dns().unwrap_or_else(|| self.domain.to_string());
        format!("{}@{domain}", self.local)
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

/// A domain name or an address literal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Domain {
    /// As it was given; may have non-ASCII labels (U-labels) when the transaction is international.
    Name(String),
    Literal(IpAddr),
}

impl Domain {
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix('[').map(|inner| inner.strip_suffix(']')) {
            Some(Some(inner)) => literal(inner).map(Self::Literal),
            Some(None) => Err(AddressError::Domain),
            None => name(text).map(Self::Name),
        }
    }

    /// The name as DNS has it: A-labels, lower case. `None` for an address literal.
    pub fn to_dns(&self) -> Option<String> {
        match self {
            Self::Name(name) => idna::domain_to_ascii(name).ok(),
            Self::Literal(_) => None,
        }
    }

    pub fn is_ascii(&self) -> bool {
        match self {
            Self::Name(name) => name.is_ascii(),
            Self::Literal(_) => true,
        }
    }

    /// Whether a resolver library might take the name for an IPv4 address.
    pub fn ends_in_number(&self) -> bool {
        match self {
            Self::Name(name) if name.is_ascii() => ends_in_number(name),
            Self::Name(_) => self.to_dns().is_some_and(|name| ends_in_number(&name)),
            Self::Literal(_) => false,
        }
    }
}

/// Whether the last label is a number, decimal or hexadecimal, as in `127.0.0.1`, `10` and `0x7f.1`. A top-level domain
/// never is (RFC 3696 §2), and inet_aton(3) reads such names as addresses.
pub fn ends_in_number(name: &str) -> bool {
    let last = name.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    (!last.is_empty() && digits(last)) || hexadecimal.is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Literal(IpAddr::V4(address)) => write!(f, "[{address}]"),
            Self::Literal(IpAddr::V6(address)) => write!(f, "[IPv6:{address}]"),
        }
    }
}

/// Why a path or mailbox cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("the address is not between angle brackets")]
    Brackets,
    #[error("the address has a control character")]
    Control,
    #[error("the domain is malformed")]
    Domain,
    #[error("the local part is malformed")]
    LocalPart,
    #[error("the domain is longer than 255 octets or a label longer than 63")]
    LongDomain,
    #[error("the address is longer than 498 octets")]
    LongMailbox,
    #[error("the address has no domain")]
    NoDomain,
    #[error("the address is not US-ASCII and SMTPUTF8 was not asked for")]
    NeedsUtf8,
    #[error("the domain ends in a number; an IP address is written between brackets")]
    Number,
    #[error("the source route is malformed")]
    SourceRoute,
}

fn inside_brackets(path: &str) -> Result<&str, AddressError> {
    path.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).ok_or(AddressError::Brackets)
}

/// `@a,@b:` before a mailbox is checked, dropped and never used (RFC 5321 appendix C).
fn without_source_route(inner: &str) -> Result<&str, AddressError> {
    if !inner.starts_with('@') {
        return Ok(inner);
    }
    let (route, mailbox) = inner.split_once(':').ok_or(AddressError::SourceRoute)?;
    for hop in route.split(',') {
        let domain = hop.strip_prefix('@').ok_or(AddressError::SourceRoute)?;
        name(domain).map_err(|_| AddressError::SourceRoute)?;
    }
    Ok(mailbox)
}

/// Splits at the `@` that ends the local part, which is checked here: a dot-string or a quoted string.
fn split_local(text: &str) -> Result<(&str, &str), AddressError> {
    let end = if text.starts_with('"') { end_of_quoted(text)? } else { text.find('@').ok_or(AddressError::NoDomain)? };
    let (local, rest) = text.split_at(end);
    let domain = rest.strip_prefix('@').ok_or(if rest.is_empty() { AddressError::NoDomain } else { AddressError::LocalPart })?;
    if local.starts_with('"') || is_dot_string(local) { Ok((local, domain)) } else { Err(AddressError::LocalPart) }
}

/// The octet after the closing quote (RFC 5321 §4.1.2, Quoted-string).
fn end_of_quoted(text: &str) -> Result<usize, AddressError> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match (escaped, c) {
            (true, ' '..='~') => escaped = false,
            (true, _) => return Err(AddressError::LocalPart),
            (false, '\\') => escaped = true,
            (false, '"') => return Ok(at + 1),
            (false, _) => {}
        }
    }
    Err(AddressError::LocalPart)
}

fn is_dot_string(local: &str) -> bool {
    local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

/// RFC 5322 §3.2.3, and any non-ASCII character (RFC 6532 §3.2).
fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || (!c.is_ascii() && !c.is_control())
}

fn name(text: &str) -> Result<String, AddressError> {
    let ascii = if text.is_ascii() { text.to_owned() } else { idna::domain_to_ascii(text).map_err(|_| AddressError::Domain)? };
    if ascii.len() > DOMAIN_LIMIT || ascii.split('.').any(|label| label.len() > LABEL_LIMIT) {
        return Err(AddressError::LongDomain);
    }
    if ascii.split('.').all(is_label) { Ok(text.to_owned()) } else { Err(AddressError::Domain) }
}

/// Letters, digits and inner hyphens (RFC 5321 §4.1.2, sub-domain).
fn is_label(label: &str) -> bool {
    !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// `127.0.0.1` or `IPv6:::1` (RFC 5321 §4.1.3).
fn literal(inner: &str) -> Result<IpAddr, AddressError> {
    let v6 = inner.get(..5).filter(|tag| tag.eq_ignore_ascii_case("IPv6:")).and_then(|_| inner.get(5..));
    match v6 {
        Some(address) => address.parse::<Ipv6Addr>().map(IpAddr::V6),
        None => inner.parse::<Ipv4Addr>().map(IpAddr::V4),
    }
    .map_err(|_| AddressError::Domain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mailbox(text: &str) -> Result<Mailbox, AddressError> {
        Mailbox::parse(text, International::Ascii)
    }

    #[test]
    fn takes_the_forms_of_rfc_5321() {
        for text in [
            "a@b.example",
            "a.b+c@b.example",
            "\"a b\"@b.example",
            "\"a\\\"b@c\"@b.example",
            "a@[127.0.0.1]",
            "a@[IPv6:::1]",
            "a@localhost",
        ] {
            assert_eq!(mailbox(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_the_grammar_does_not_have() {
        use AddressError::*;
        let cases = [
            ("a..b@x.example", LocalPart),
            (".a@x.example", LocalPart),
            ("a.@x.example", LocalPart),
            ("a b@x.example", LocalPart),
            ("\"a\"b@x.example", LocalPart),
            ("\"a@x.example", LocalPart),
            ("@x.example", LocalPart),
            ("a", NoDomain),
            ("|cmd", NoDomain),
            ("/etc/x", NoDomain),
            ("\"a\"", NoDomain),
            ("a@", Domain),
            ("a@-x.example", Domain),
            ("a@x..example", Domain),
            ("a@x_y.example", Domain),
            ("a@[1.2.3]", Domain),
            ("a@[1.2.3.4", Domain),
            ("a@[::1]", Domain),
            ("a@b@c.example", Domain),
            ("a\r@x.example", Control),
            ("\"a\rb\"@x.example", Control),
            ("ä@x.example", NeedsUtf8),
            ("a@ä.example", NeedsUtf8),
        ];
        for (text, error) in cases {
            assert_eq!(mailbox(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn keeps_to_the_limits_in_octets() {
        let label = "b".repeat(63);

        assert!(mailbox(&format!("a@{label}.example")).is_ok());
        assert!(mailbox(&format!("a@{}", [&label[..], &label, &label, &label[..61]].join("."))).is_ok());
        assert_eq!(mailbox(&format!("{}@x.example", "a".repeat(MAILBOX_LIMIT))), Err(AddressError::LongMailbox));
        assert_eq!(mailbox(&format!("a@b{label}.example")), Err(AddressError::LongDomain));
        assert_eq!(mailbox(&format!("a@{}", [label.as_str(); 5].join("."))), Err(AddressError::LongDomain));
    }

    #[test]
    fn local_parts_and_paths_longer_than_the_standards_minimum_are_taken() {
        for local in ["a".repeat(65), format!("\"{}\"", "a b".repeat(30)), "a".repeat(300), "a".repeat(MAILBOX_LIMIT - 10)] {
            assert!(mailbox(&format!("{local}@x.example")).is_ok(), "{}", local.len());
        }
    }

    #[test]
    fn takes_international_mailboxes_only_when_asked() {
        let text = "jürgen@bücher.example";

        let it = Mailbox::parse(text, International::Utf8).unwrap();

        assert_eq!(it.to_string(), text);
        assert_eq!(it.domain().to_dns().as_deref(), Some("xn--bcher-kva.example"));
    }

    #[test]
    fn drops_a_source_route_and_never_uses_it() {
        let path = ForwardPath::parse("<@hop.example,@two.example:a@b.example>", International::Ascii);

        assert_eq!(path, Ok(ForwardPath::Mailbox(mailbox("a@b.example").unwrap())));
        assert_eq!(ForwardPath::parse("<@hop.example>", International::Ascii), Err(AddressError::SourceRoute));
    }

    #[test]
    fn an_address_that_fits_into_no_command_line_is_refused_before_there_is_mail_for_it() {
        for domain in ["x.example", "bücher.example", "[192.0.2.1]"] {
            for length in 430..520 {
                let Ok(mailbox) = Mailbox::parse(&format!("{}@{domain}", "a".repeat(length)), International::Utf8) else { continue };
                let sent = mailbox.in_ascii().unwrap().to_string();

                assert!(format!("MAIL FROM:<{sent}>\r\n").len() <= 512, "{domain} {length}");
            }
        }
    }

    #[test]
    fn a_recipients_domain_that_ends_in_a_number_is_refused_and_a_sender_or_a_literal_is_not() {
        let forward = |domain: &str| ForwardPath::parse(&format!("<x@{domain}>"), International::Utf8);
        for domain in ["127.0.0.1", "10", "1.2.3.4", "2130706433", "0x7f.1", "0X7F000001", "127.0x1", "017700000001", "0x", "a.example.9"] {
            assert_eq!(forward(domain), Err(AddressError::Number), "{domain}");
        }
        for domain in ["\u{ff11}\u{ff12}\u{ff17}.0.0.\u{ff11}", "127\u{3002}0\u{3002}0\u{3002}1"] {
            assert_eq!(forward(domain), Err(AddressError::Number), "{domain}");
        }
        for domain in ["[127.0.0.1]", "1.example", "0x1.example", "example.0xg", "4chan", "x.c0m", "0x7f.example"] {
            assert!(forward(domain).is_ok(), "{domain}");
        }
        assert!(ReversePath::parse("<x@10>", International::Ascii).is_ok(), "what is in old spools stays readable");
    }

    #[test]
    fn knows_postmaster_and_the_null_path() {
        assert_eq!(ForwardPath::parse("<PostMaster>", International::Ascii), Ok(ForwardPath::Postmaster));
        assert_eq!(ReversePath::parse("<>", International::Ascii), Ok(ReversePath::Null));
        assert!(ForwardPath::parse("<>", International::Ascii).is_err());
    }

    #[test]
    fn one_mailbox_has_one_key_whatever_the_spelling_of_its_domain() {
        let key = |text| Mailbox::parse(text, International::Utf8).unwrap().delivery_key();

        assert_eq!(key("a@BÜCHER.example"), key("a@xn--bcher-kva.EXAMPLE"));
        assert_ne!(key("a@b.example"), key("A@b.example"));
        // Neither is a name that DNS could have; they are still two.
        assert_ne!(key("a@xn--a.example"), key("a@xn--b.example"));
    }

    proptest! {
        #[test]
        fn never_panics_and_reads_back_its_own_text(text in "\\PC*") {
            if let Ok(it) = Mailbox::parse(&text, International::Utf8) {
                prop_assert_eq!(Mailbox::parse(&it.to_string(), International::Utf8), Ok(it));
            }
        }
    }
}
