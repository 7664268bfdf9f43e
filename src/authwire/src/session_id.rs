//! The name of one client connection, in every log line and in the ticket of its login.

use std::fmt;

/// A random 64-bit number, shown as 13 characters of base 32 (the alphabet of RFC 4648 §7, lower case).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub u64);

impl SessionId {
    /// Reads what is shown.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.bytes().map(|digit| ALPHABET.iter().position(|known| *known == digit.to_ascii_lowercase()));
        let number = digits.enumerate().try_fold(0u64, |number, (at, digit)| {
            let digit = u64::try_from(digit?).ok()?;
            (at > 0 || digit < 16).then_some(number << 5 | digit) // the first has four bits
        })?;
        (text.len() == 13).then_some(Self(number))
    }
}

const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for digit in (0..13).rev() {
            let five = (self.0 >> (digit * 5)) & 0x1f;
            write!(f, "{}", char::from(ALPHABET[five as usize]))?;
        }
        Ok(())
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_thirteen_characters_whatever_the_number() {
        assert_eq!(SessionId(0).to_string(), "0000000000000");
        assert_eq!(SessionId(u64::MAX).to_string(), "fvvvvvvvvvvvv");
        assert_eq!(SessionId(33).to_string(), "0000000000011");
    }

    #[test]
    fn is_read_as_it_is_shown() {
        for number in [0, 33, u64::MAX, 0x0123_4567_89ab_cdef] {
            assert_eq!(SessionId::parse(&SessionId(number).to_string()), Some(SessionId(number)));
        }
        for text in ["", "0", "00000000000111", "000000000001z", "gvvvvvvvvvvvv", "00000000000-1"] {
            assert_eq!(SessionId::parse(text), None, "{text}");
        }
    }
}
