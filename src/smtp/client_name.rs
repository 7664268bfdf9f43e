//! The name in EHLO or HELO, as it is kept: for the trace field and the log, and for nothing else.
//!
//! A client may call itself anything: RFC 5321 §4.1.4 forbids refusing mail because the name is wrong, and printers, phones
//! and old Windows hosts send octets that are no name at all. Invariant: the text has no control character, no blank and at
//! most `LONGEST` octets, and is never empty.

/// Octets of the name that are kept: as many as a domain has at most (RFC 5321 §4.5.3.1.2).
const LONGEST: usize = 255;
/// What a client that said no name is called.
const UNKNOWN: &str = "unknown";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientName(String);

impl ClientName {
    /// Cleans what stands behind the verb.
    pub fn of(said: &[u8]) -> Self {
        let text = String::from_utf8_lossy(said);
        let mut name = String::new();
        for c in text.trim().chars() {
            let c = if c.is_control() || c.is_whitespace() || c == char::REPLACEMENT_CHARACTER { '?' } else { c };
            if name.len() + c.len_utf8() > LONGEST {
                break;
            }
            name.push(c);
        }
        if name.is_empty() { Self(UNKNOWN.to_owned()) } else { Self(name) }
    }

    pub fn into_text(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_letter_becomes_a_question_mark_and_nothing_becomes_unknown() {
        for (said, kept) in [
            (&b"client.example "[..], "client.example"),
            (b"[IPv6:::1]", "[IPv6:::1]"),
            (b"ann's phone", "ann's?phone"),
            (b"M\xdcLLER-PC", "M?LLER-PC"),
            ("MÜLLER-PC".as_bytes(), "MÜLLER-PC"),
            (b"a\0b\x1b[31m", "a?b?[31m"),
            (b"", "unknown"),
            (b"  ", "unknown"),
        ] {
            assert_eq!(ClientName::of(said).into_text(), kept, "{said:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_said_a_short_printable_name_is_kept(said in proptest::collection::vec(any::<u8>(), 0..600)) {
            let name = ClientName::of(&said).into_text();

            prop_assert!((1..=LONGEST).contains(&name.len()));
            prop_assert!(!name.contains(|c: char| c.is_control() || c.is_whitespace()));
        }
    }
}
