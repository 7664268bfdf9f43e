//! Enhanced status codes (RFC 3463): class, subject, detail.

use std::fmt;

/// What a reply is about, for machines: `5.7.8` and the like (RFC 3463 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EnhancedStatus {
    pub class: Class,
    /// 0 to 999.
    pub subject: u16,
    /// 0 to 999.
    pub detail: u16,
}

/// The first digit: what the sender should make of it (RFC 3463 §3.1 to §3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    Success,
    Transient,
    Permanent,
}

impl Class {
    pub const fn digit(self) -> u8 {
        match self {
            Self::Success => 2,
            Self::Transient => 4,
            Self::Permanent => 5,
        }
    }

    /// The class a reply code belongs to; `None` for 3yz and for what is no reply code.
    pub const fn of_code(code: u16) -> Option<Self> {
        match code {
            200..=299 => Some(Self::Success),
            400..=499 => Some(Self::Transient),
            500..=599 => Some(Self::Permanent),
            _ => None,
        }
    }
}

impl EnhancedStatus {
    pub const fn new(class: Class, subject: u16, detail: u16) -> Self {
        Self { class, subject, detail }
    }

    /// Reads `5.7.8` at the start of `text`, followed by a blank or the end (RFC 2034 §4); also gives what follows.
    pub fn parse_prefix(text: &str) -> Option<(Self, &str)> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut parts = word.split('.');
        let class = match parts.next()? {
            "2" => Class::Success,
            "4" => Class::Transient,
            "5" => Class::Permanent,
            _ => return None,
        };
        let subject = number(parts.next()?)?;
        let detail = number(parts.next()?)?;
        match parts.next() {
            None => Some((Self { class, subject, detail }, rest)),
            Some(_) => None,
        }
    }
}

/// One to three digits, no sign (RFC 3463 §2).
fn number(digits: &str) -> Option<u16> {
    let well_formed = (1..=3).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if well_formed { digits.parse().ok() } else { None }
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class.digit(), self.subject, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_what_follows() {
        let (status, rest) = EnhancedStatus::parse_prefix("5.7.8 no such luck").unwrap();

        assert_eq!(status, EnhancedStatus::new(Class::Permanent, 7, 8));
        assert_eq!(status.to_string(), "5.7.8");
        assert_eq!(rest, "no such luck");
    }

    #[test]
    fn takes_nothing_that_only_looks_like_a_status() {
        for text in ["", "5", "5.7", "5.7.8.9 x", "3.0.0 x", "5.7.x", "5.+7.8", "5.7777.1", "5..1", "mail.5.7"] {
            assert_eq!(EnhancedStatus::parse_prefix(text), None, "{text}");
        }
    }
}
