//! The two encodings of MIME bodies (RFC 2045 §6.7, §6.8), piece by piece.
//!
//! Invariant: what is written is US-ASCII in lines of at most 76 characters, and decodes to the octets that came in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Octets in an encoded line, without its end.
const LINE: usize = 76;
/// Octets that become one line of base64.
const GROUP: usize = LINE / 4 * 3;

/// Appends one line of text in quoted-printable; `line` is without its CR LF, and so is what is appended. What a soft line
/// break puts at the start of a line is never a delimiter of MIME parts, a mailbox line or a lone dot.
pub(crate) fn quoted_printable(line: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut column = 0;
    for (at, &octet) in line.iter().enumerate() {
        let last = at + 1 == line.len();
        let limit = LINE - usize::from(!last);
        // One column is kept for the `=` of a soft line break.
        let mut width = if is_plain(octet, column, last) { 1 } else { 3 };
        if column + width > limit {
            out.extend_from_slice(b"=\r\n");
            column = 0;
            width = if is_plain(octet, column, last) && octet != b'-' { 1 } else { 3 };
        }
        let plain = width == 1;
        if plain {
            out.push(octet);
        } else {
            out.extend_from_slice(&[b'=', DIGITS[usize::from(octet >> 4)], DIGITS[usize::from(octet & 15)]]);
        }
        column += width;
    }
}

/// Whether an octet may stand for itself in this column.
fn is_plain(octet: u8, column: usize, last: bool) -> bool {
    match octet {
        b'=' => false,
        // A blank at the end of a line may be lost on the way.
        b' ' | b'\t' => !last,
        // `From ` at the start of a line is changed by programs that keep mailbox files; a lone dot by some others.
        b'F' | b'.' => column > 0,
        b'!'..=b'~' => true,
        _ => false,
    }
}

/// Appends a line that is in quoted-printable already but for octets that should not be there.
pub(crate) fn repaired(line: &[u8], out: &mut Vec<u8>) {
    let mut column = 0;
    let mut rest = line;
    while let Some((&octet, after)) = rest.split_first() {
        let length = if octet == b'=' && after.len() >= 2 { 3 } else { 1 };
        let (unit, after) = rest.split_at(length);
        rest = after;
        let mut encoded = Vec::with_capacity(3);
        if unit.is_ascii() {
            encoded.extend_from_slice(unit);
        } else {
            unit.iter().for_each(|octet| encoded.extend_from_slice(format!("={octet:02X}").as_bytes()));
        }
        if column + encoded.len() > LINE - usize::from(!rest.is_empty()) {
            out.extend_from_slice(b"=\r\n");
            column = 0;
            if let [octet @ (b'-' | b'F' | b'.')] = unit {
                encoded = format!("={octet:02X}").into_bytes();
            }
        }
        column += encoded.len();
        out.extend_from_slice(&encoded);
    }
}

/// A whole text in quoted-printable. Only CR LF ends a line of it.
pub(crate) fn quoted_printable_text(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 4);
    let mut rest = text;
    while let Some(end) = memchr::memmem::find(rest, b"\r\n") {
        let (line, after) = rest.split_at(end);
        quoted_printable(line, &mut out);
        out.extend_from_slice(b"\r\n");
        rest = after.get(2..).unwrap_or_default();
    }
    quoted_printable(rest, &mut out);
    out
}

/// Base64 in lines, of octets that come in pieces.
#[derive(Debug, Default)]
pub(crate) struct Base64 {
    /// Octets that do not fill a line yet.
    rest: Vec<u8>,
}

impl Base64 {
    pub(crate) fn write(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        self.rest.extend_from_slice(octets);
        let whole = self.rest.len() / GROUP * GROUP;
        for line in self.rest.get(..whole).unwrap_or_default().chunks(GROUP) {
            out.extend_from_slice(STANDARD.encode(line).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        self.rest.drain(..whole);
    }

    /// The last line, with its end unless it is empty.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.rest.is_empty() {
            out.extend_from_slice(STANDARD.encode(&self.rest).as_bytes());
            out.extend_from_slice(b"\r\n");
            self.rest.clear();
        }
    }
}

/// A whole text in base64.
pub(crate) fn base64_text(text: &[u8]) -> Vec<u8> {
    let (mut out, mut encoder) = (Vec::with_capacity(text.len() / 2 * 3), Base64::default());
    encoder.write(text, &mut out);
    encoder.finish(&mut out);
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As a reader of mail decodes it.
    pub(crate) fn from_quoted_printable(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = text;
        while let Some((&octet, after)) = rest.split_first() {
            rest = match (octet, after) {
                (b'=', [b'\r', b'\n', after @ ..]) => after,
                (b'=', [high, low, after @ ..]) => {
                    let digits = [*high, *low];
                    out.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                    after
                }
                _ => {
                    out.push(octet);
                    after
                }
            };
        }
        out
    }

    fn lines_are_short(text: &[u8]) -> bool {
        text.is_ascii() && text.split(|octet| *octet == b'\n').all(|line| line.len() <= LINE + 1)
    }

    #[test]
    fn text_that_is_ascii_stays_readable() {
        assert_eq!(quoted_printable_text(b"a=b \r\nFrom x\r\n.\r\n\xfc"), b"a=3Db=20\r\n=46rom x\r\n=2E\r\n=FC");
    }

    proptest! {
        #[test]
        fn quoted_printable_decodes_to_what_it_was(text in "[ -~\t\u{e4}\u{20ac}\r\n]{0,300}") {
            let encoded = quoted_printable_text(text.as_bytes());

            prop_assert!(lines_are_short(&encoded));
            prop_assert!(!encoded.windows(3).any(|three| matches!(three, [b' ' | b'\t', b'\r', b'\n'])));
            prop_assert_eq!(from_quoted_printable(&encoded), text.as_bytes());
        }

        #[test]
        fn a_soft_line_break_makes_no_delimiter_and_no_mailbox_line(before in 60_usize..90, word in "(--b|From x|\\.)") {
            let line = format!("{}{word}", "x".repeat(before));
            let (mut out, mut again) = (Vec::new(), Vec::new());
            quoted_printable(line.as_bytes(), &mut out);
            repaired(line.as_bytes(), &mut again);

            for encoded in [out, again] {
                prop_assert!(lines_are_short(&encoded));
                prop_assert_eq!(from_quoted_printable(&encoded), line.as_bytes());
                prop_assert!(encoded.split(|octet| *octet == b'\n').all(|line| !matches!(line.first(), Some(b'-' | b'F' | b'.'))));
            }
        }

        #[test]
        fn base64_decodes_to_what_it_was_in_whatever_pieces_it_came(octets in proptest::collection::vec(any::<u8>(), 0..400), at in 0_usize..400) {
            let at = at.min(octets.len());
            let (mut out, mut encoder) = (Vec::new(), Base64::default());
            encoder.write(&octets[..at], &mut out);
            encoder.write(&octets[at..], &mut out);
            encoder.finish(&mut out);

            prop_assert!(lines_are_short(&out));
            prop_assert_eq!(&out, &base64_text(&octets));
            let bare: Vec<u8> = out.into_iter().filter(|octet| !octet.is_ascii_whitespace()).collect();
            prop_assert_eq!(STANDARD.decode(bare).unwrap(), octets);
        }
    }
}
