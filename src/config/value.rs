//! Single values as they are written in the configuration: durations, sizes, names, addresses.
//!
//! Each parser takes the whole text or says in words what is wrong with it; none of them guesses a unit.

use std::fmt;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use pamrelay_authwire::{MAX_LISTENER, NameRule};

use crate::smtp::address::{Domain, Mailbox};
use crate::smtp::envelope::International;

/// A number of octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// A server to talk to: a name to look up, or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// As DNS has it: A-labels, lower case.
    Name(String),
    Address(IpAddr),
}

/// In milliseconds.
const DURATION_UNITS: [(&str, u64); 6] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];
const SIZE_UNITS: [(&str, u64); 7] =
    [("", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("kB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000)];

/// `90s`, `5m`, `1h30m`, `5d`, `200ms`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("it is empty".to_owned());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = leading_number(rest)?;
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if unit.is_empty() {
            return Err("it has no unit".to_owned());
        }
        let Some((_, factor)) = DURATION_UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("there is no unit {unit:?}, only ms, s, m, h, d, w"));
        };
        total = number.checked_mul(*factor).and_then(|part| total.checked_add(part)).ok_or("the number is too large")?;
        rest = after.trim_start();
    }
    Ok(Duration::from_millis(total))
}

/// `1h30m`, in the largest units that fit.
pub fn duration_text(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if left == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    for (unit, factor) in DURATION_UNITS.iter().rev() {
        let count = left / factor;
        // Five days read better than "5d", but a week only when it comes out even.
        if count > 0 && (*unit != "w" || left.is_multiple_of(*factor)) {
            out.push_str(&format!("{count}{unit}"));
            left %= factor;
        }
    }
    out
}

/// `25MiB`, `100 kB`, `26214400`.
pub(super) fn size(text: &str) -> Result<Bytes, String> {
    let (number, unit) = leading_number(text.trim())?;
    let Some((_, factor)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit.trim()) else {
        return Err(format!("there is no unit {:?}, only KiB, MiB, GiB, kB, MB, GB", unit.trim()));
    };
    number.checked_mul(*factor).map(Bytes).ok_or_else(|| "the number is too large".to_owned())
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{}", self.0)
    }
}

pub(super) fn count(text: &str) -> Result<u64, String> {
    match leading_number(text.trim())? {
        (number, "") => Ok(number),
        (_, rest) => Err(format!("{rest:?} is not part of a number")),
    }
}

fn leading_number(text: &str) -> Result<(u64, &str), String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if digits.is_empty() {
        return Err("it does not begin with a number".to_owned());
    }
    if rest.starts_with(['.', ',']) {
        return Err("only whole numbers are taken".to_owned());
    }
    let number = digits.parse().map_err(|_| "the number is too large".to_owned())?;
    Ok((number, rest.trim_start()))
}

/// A domain name, not an address.
pub(super) fn domain(text: &str) -> Result<Domain, String> {
    if text.parse::<IpAddr>().is_ok() {
        return Err("it is an address".to_owned());
    }
    match Domain::parse(text) {
        Ok(Domain::Literal(_)) => Err("it is an address".to_owned()),
        Ok(name @ Domain::Name(_)) => Ok(name),
        Err(error) => Err(error.to_string()),
    }
}

/// An address that any server can be given: at a domain name, with a local part in US-ASCII.
pub(super) fn mailbox(text: &str) -> Result<Mailbox, String> {
    let mailbox = Mailbox::parse(text, International::Utf8).map_err(|error| error.to_string())?;
    let ascii = mailbox.in_ascii().ok_or_else(|| "the part before the @ is not US-ASCII".to_owned())?;
    match ascii.domain() {
        Domain::Literal(_) => Err("it is at an IP address".to_owned()),
        Domain::Name(_) => Ok(ascii),
    }
}

/// A domain name as it goes over the wire to those who know nothing of SMTPUTF8: A-labels, lower case.
pub(super) fn dns_domain(text: &str) -> Result<Domain, String> {
    domain(text)?.to_dns().map(Domain::Name).ok_or_else(|| "it has no form that DNS can take".to_owned())
}

impl Host {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self::Address(address));
        }
        let name = domain(text)?;
        name.to_dns().map(Self::Name).ok_or_else(|| "it has no form that DNS can take".to_owned())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// From the root, without `..`.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.contains('\0') {
        return Err("it has a NUL".to_owned());
    }
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err("it does not begin with /".to_owned());
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err("it has a \"..\" in it".to_owned());
    }
    if path == Path::new("/") {
        return Err("it is the root directory".to_owned());
    }
    Ok(path.components().collect())
}

/// A template whose variable was empty must not quietly mean "no restriction".
fn no_blank_edges(text: &str) -> Result<(), String> {
    match text {
        "" => Err("it is empty; leave the line out if you mean none".to_owned()),
        _ if text.trim() != text => Err("it begins or ends with a blank".to_owned()),
        _ => Ok(()),
    }
}

/// One name within a directory.
pub(super) fn file_name(text: &str) -> Result<String, String> {
    no_blank_edges(text)?;
    match text {
        _ if text.contains('/') => Err("it has a / in it".to_owned()),
        "." | ".." => Err("it is a directory".to_owned()),
        _ if text.chars().any(char::is_control) => Err("it has a control character".to_owned()),
        _ if text.len() > 255 => Err("it is longer than 255 octets".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

/// A name under /etc/pam.d, as libpam takes it: it lower-cases the name and looks up the result.
pub(super) fn service(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 64 || !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b)) {
        return Err("it has something else than small letters, digits, - and _".to_owned());
    }
    if text == "other" {
        return Err("that is the service PAM takes when there is no other; give mail a service of its own".to_owned());
    }
    Ok(text.to_owned())
}

/// A name for a listener, in logs and in questions to the helper.
pub(super) fn listener_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > MAX_LISTENER || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Err(format!("it has something else than letters, digits, \".\", \"_\" and \"-\", or more than {MAX_LISTENER} of them"));
    }
    Ok(text.to_owned())
}

/// How a name is changed before PAM gets it.
pub(super) fn name_rule(text: &str) -> Result<NameRule, String> {
    NameRule::parse(text).ok_or_else(|| "there is no such rule".to_owned())
}

/// A group or login name.
pub(super) fn name(text: &str) -> Result<String, String> {
    no_blank_edges(text)?;
    let well = !text.starts_with('-')
        && text.len() <= pamrelay_authwire::MAX_NAME
        && !text.chars().any(|c| c.is_control() || c == ':' || c == ',' || c == '/');
    if well { Ok(text.to_owned()) } else { Err("it cannot be a name on a Unix system".to_owned()) }
}

/// What is sent to a smart host as user name (RFC 4616 §2: no NUL).
pub(super) fn login(text: &str) -> Result<String, String> {
    no_blank_edges(text)?;
    if text.len() > 255 || text.chars().any(char::is_control) {
        return Err("it has a control character or more than 255 octets".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_read_back() {
        for (text, seconds) in [("90s", 90), ("5m", 300), ("1h30m", 5400), ("1h 30m", 5400), ("5d", 432_000), ("1w", 604_800), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
            assert_eq!(duration(&duration_text(Duration::from_secs(seconds))), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration("1s200ms"), Ok(Duration::from_millis(1200)));
        assert_eq!(duration_text(Duration::from_millis(1200)), "1s200ms");
        for text in ["", "5", "m", "-5m", "5 minutes", "1.5h", "5m7", "99999999999999999999s", "9999999999999999999w", "5M"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_know_both_kinds_of_unit() {
        for (text, octets) in [("25MiB", 25 << 20), ("25 MiB", 25 << 20), ("1MB", 1_000_000), ("26214400", 26_214_400), ("1KiB", 1024)] {
            assert_eq!(size(text), Ok(Bytes(octets)), "{text}");
        }
        for text in ["", "MiB", "1.5MiB", "1mib", "1 TB", "99999999999GiB", "-1"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(Bytes(25 << 20).to_string(), "25MiB");
        assert_eq!(Bytes(1000).to_string(), "1000");
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        assert_eq!(Host::parse("Relay.Example.NET"), Ok(Host::Name("relay.example.net".to_owned())));
        assert_eq!(Host::parse("::1"), Ok(Host::Address("::1".parse().unwrap())));
        assert_eq!(Host::parse("[::1]"), Ok(Host::Address("::1".parse().unwrap())));
        assert_eq!(Host::parse("bücher.example"), Ok(Host::Name("xn--bcher-kva.example".to_owned())));
        for text in ["", "a b", "a..b", "-a.example", "relay.example:25"] {
            assert!(Host::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths_are_absolute_and_without_detours() {
        assert_eq!(path("/var//spool/./x/"), Ok(PathBuf::from("/var/spool/x")));
        for text in ["x", "", "/", "//", "/a/../b", "/a\0b"] {
            assert!(path(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_empty_or_blank_is_no_name() {
        for text in ["", " ", "\t", " staff", "staff "] {
            assert!(name(text).is_err() && login(text).is_err() && file_name(text).is_err(), "{text:?}");
        }
        assert_eq!(name("domain users"), Ok("domain users".to_owned()));
    }

    #[test]
    fn the_catch_all_service_of_pam_is_never_taken() {
        assert!(service("other").is_err());
        assert!(service("../passwd").is_err());
        assert_eq!(service("smtp"), Ok("smtp".to_owned()));
    }
}
