//! Finds a message's Message-ID while it streams by, for the line in the log.
//!
//! Invariant: at most `LONGEST` octets are held, whatever the header is. The field may be folded (RFC 5322 §2.2.3); the first
//! one counts.

/// Octets of a Message-ID that are kept.
const LONGEST: usize = 250;

const FIELD: &[u8] = b"message-id:";

/// Reads the header part, piece by piece, and stops looking at the empty line.
#[derive(Debug, Default)]
pub struct MessageId {
    at: At,
    value: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    LineStart,
    /// This much of the field's name matched.
    Name(usize),
    Value,
    /// At the start of a line that goes on with the value if it begins with a blank.
    ValueLineStart,
    /// In a line of another field.
    Other,
    Done,
}

impl MessageId {
    pub fn read(&mut self, text: &[u8]) {
        let mut rest = text;
        while let Some((&octet, after)) = rest.split_first() {
            self.at = match (self.at, octet) {
                (At::Done, _) => return,
                (At::LineStart | At::ValueLineStart, b'\r') => self.at,
                (At::LineStart, b'\n') => At::Done,
                (At::LineStart, b'm' | b'M') => At::Name(1),
                (At::Name(matched), octet) if FIELD.get(matched) == Some(&octet.to_ascii_lowercase()) => {
                    if matched + 1 == FIELD.len() {
                        At::Value
                    } else {
                        At::Name(matched + 1)
                    }
                }
                // Blanks before the colon, as in old mail (RFC 5322 §4.5.4).
                (At::Name(matched), b' ' | b'\t') if matched + 1 == FIELD.len() => self.at,
                (At::Value, b'\n') => At::ValueLineStart,
                (At::ValueLineStart, b' ' | b'\t') => At::Value,
                (At::ValueLineStart, _) => At::Done,
                (At::Value, octet) => {
                    if self.value.len() < LONGEST && !octet.is_ascii_whitespace() {
                        self.value.push(octet);
                    }
                    At::Value
                }
                (At::LineStart | At::Name(_) | At::Other, _) => match memchr::memchr(b'\n', rest) {
                    Some(end) => {
                        rest = rest.get(end + 1..).unwrap_or_default();
                        self.at = At::LineStart;
                        continue;
                    }
                    None => {
                        self.at = At::Other;
                        return;
                    }
                },
            };
            rest = after;
        }
    }

    /// What was found, as text; empty if the header has none.
    pub fn found(&self) -> String {
        String::from_utf8_lossy(&self.value).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pieces: &[&[u8]]) -> String {
        let mut id = MessageId::default();
        pieces.iter().for_each(|piece| id.read(piece));
        id.found()
    }

    #[test]
    fn is_found_in_the_header_alone_folded_or_not_wherever_the_text_is_cut() {
        for (text, id) in [
            ("A: b\r\nMessage-ID: <x@y>\r\n\r\n", "<x@y>"),
            ("message-id:<x@y>\r\n", "<x@y>"),
            ("MESSAGE-ID :\r\n <x@y>\r\nB: c\r\n", "<x@y>"),
            ("Message-ID:\r\n\t<x\r\n @y>\r\nMessage-ID: <z@y>\r\n", "<x@y>"),
            ("X-Message-ID: <x@y>\r\nMessage-IDs: z\r\n\tMessage-ID: <z@y>\r\n", ""),
            ("A: b\r\n\r\nMessage-ID: <x@y>\r\n", ""),
            ("Message-ID: \u{1b}[31m\0\r\n", "?[31m?"),
            ("", ""),
        ] {
            for at in 0..=text.len() {
                let (first, second) = text.as_bytes().split_at(at);
                assert_eq!(found(&[first, second]), id, "{text:?} at {at}");
            }
        }
    }

    #[test]
    fn a_long_one_is_cut() {
        let mut id = MessageId::default();
        id.read(b"Message-ID: ");
        (0..1000).for_each(|_| id.read(&[b'x'; 1000]));

        assert_eq!(id.found().len(), LONGEST);
        assert!(id.value.capacity() < 1000);
    }
}
