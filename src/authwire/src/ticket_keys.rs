//! The file of ticket keys: written by the helper (root), read by the queue, by nobody else.
//!
//! ```text
//! pamrelay-tickets 1
//! 3141592653 1800000000 <64 hexadecimal digits>      the key in use: id, made at, key
//! 2718281828 1799913600 <64 hexadecimal digits>      the one before it, until its tickets have expired
//! ```
//!
//! Invariant: a file that is not exactly this is no file of keys at all.

use std::fmt;

use crate::wipe;

/// Bytes in a key.
pub const KEY_LEN: usize = 32;

const TITLE: &str = "pamrelay-tickets 1";

/// One key, wiped on drop.
#[derive(PartialEq, Eq)]
pub struct TicketKey {
    pub id: u32,
    /// Seconds since 1970.
    pub made: u64,
    pub key: [u8; KEY_LEN],
}

/// The key that signs, and the one that signed before it.
#[derive(Debug, PartialEq, Eq)]
pub struct TicketKeys {
    pub current: TicketKey,
    pub previous: Option<TicketKey>,
}

impl TicketKeys {
    /// The key that a ticket names.
    pub fn find(&self, id: u32) -> Option<&TicketKey> {
        std::iter::once(&self.current).chain(&self.previous).find(|key| key.id == id)
    }

    /// Reads the file's text.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        if lines.next()? != TITLE {
            return None;
        }
        let current = TicketKey::parse(lines.next()?)?;
        let previous = match lines.next() {
            Some(line) => Some(TicketKey::parse(line)?),
            None => None,
        };
        let ambiguous = previous.as_ref().is_some_and(|previous| previous.id == current.id);
        (lines.next().is_none() && !ambiguous).then_some(Self { current, previous })
    }

    /// The file's text. The caller wipes it when it is written.
    pub fn print(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512); // never grows, so that no copy is left behind
        out.extend_from_slice(TITLE.as_bytes());
        out.push(b'\n');
        for key in std::iter::once(&self.current).chain(&self.previous) {
            out.extend_from_slice(format!("{} {} ", key.id, key.made).as_bytes());
            for byte in key.key {
                out.push(hex_digit(byte >> 4));
                out.push(hex_digit(byte & 15));
            }
            out.push(b'\n');
        }
        out
    }
}

impl TicketKey {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let id = number(words.next()?)?;
        let made = number(words.next()?)?;
        let digits = words.next()?.as_bytes();
        if words.next().is_some() || digits.len() != 2 * KEY_LEN {
            return None;
        }
        let mut parsed = Self { id: u32::try_from(id).ok()?, made, key: [0; KEY_LEN] };
        for (byte, pair) in parsed.key.iter_mut().zip(digits.chunks_exact(2)) {
            let &[high, low] = pair else { return None };
            *byte = hex_value(high)? << 4 | hex_value(low)?;
        }
        Some(parsed)
    }
}

impl Drop for TicketKey {
    fn drop(&mut self) {
        wipe(&mut self.key);
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketKey(id {}, made {}, hidden)", self.id, self.made)
    }
}

/// Digits alone: no sign, no blank.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn hex_digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' - 10 + value }
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u32) -> TicketKey {
        let mut key = [0; KEY_LEN];
        for (at, byte) in key.iter_mut().enumerate() {
            *byte = (at as u8).wrapping_mul(37).wrapping_add(id as u8);
        }
        TicketKey { id, made: 1_800_000_000, key }
    }

    #[test]
    fn comes_back_as_it_was_with_one_key_and_with_two() {
        for previous in [None, Some(key(1))] {
            let keys = TicketKeys { current: key(u32::MAX), previous };
            let text = String::from_utf8(keys.print()).unwrap();

            assert_eq!(TicketKeys::parse(&text), Some(keys));
        }
    }

    #[test]
    fn a_key_is_found_by_its_id() {
        let keys = TicketKeys { current: key(2), previous: Some(key(1)) };

        assert_eq!(keys.find(1), Some(&key(1)));
        assert_eq!(keys.find(2), Some(&key(2)));
        assert_eq!(keys.find(3), None);
    }

    #[test]
    fn anything_else_is_refused() {
        let keys = TicketKeys { current: key(2), previous: Some(key(1)) };
        let good = String::from_utf8(keys.print()).unwrap();

        for bad in [
            String::new(),
            good.trim_end().to_owned(),
            format!("{good}\n"),
            good.replace("tickets 1", "tickets 2"),
            good.replacen("\n2 ", "\n+2 ", 1),
            good.replacen("\n2 ", "\n4294967296 ", 1),
            good.replacen("\n2 ", "\n1 ", 1),
            good.replacen("\n2 ", "\n2  ", 1),
            good.to_uppercase(),
            good.replacen('\n', "\r\n", 1),
            format!("{good}3 1800000000 {}\n", "0".repeat(64)),
        ] {
            assert_eq!(TicketKeys::parse(&bad), None, "{bad:?}");
        }
        for cut in 0..good.len() {
            let whole_first_key = good[..cut].matches('\n').count() == 2 && good[..cut].ends_with('\n');
            assert_eq!(TicketKeys::parse(&good[..cut]).is_some(), whole_first_key, "cut at {cut}");
        }
    }

    #[test]
    fn keys_are_not_in_debug_output() {
        assert_eq!(format!("{:?}", key(3)), "TicketKey(id 3, made 1800000000, hidden)");
    }
}
