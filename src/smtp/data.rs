//! The text after DATA, decoded in one pass (RFC 5321 §4.1.1.4, §4.5.2).
//!
//! Only CR LF `.` CR LF ends it. A bare CR or LF, or a NUL, makes the message refused but is never an end, so no
//! two servers can disagree where one message stops and the next begins.
//!
//! ```text
//!   LineStart --'.'--> Dot --CR--> DotCr --LF--> end
//!       ^               | other
//!       |               v
//!       +---LF-- Cr <--CR-- Inside
//! ```

use memchr::memchr3;

/// Octets in one line of text with its CR LF; RFC 5321 §4.5.3.1.6 asks for 1,000 at least.
pub const TEXT_LINE_LIMIT: usize = 65_536;

#[derive(Debug)]
pub struct Decoder {
    at: At,
    /// Octets of the present line so far.
    line: usize,
    fault: Option<TextFault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    LineStart,
    Inside,
    /// After a CR inside a line.
    Cr,
    /// After the dot that starts a line, which is not text.
    Dot,
    /// After that dot and a CR.
    DotCr,
}

/// Why a text cannot be taken; the first that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFault {
    BareLineEnd,
    LongLine,
    Nul,
}

/// How far one call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All input was text; there is more to come.
    More,
    /// The end stands before this octet of the input; what follows are commands.
    End { consumed: usize },
}

impl Default for Decoder {
    fn default() -> Self {
        Self { at: At::LineStart, line: 0, fault: None }
    }
}

impl Decoder {
    /// Decodes `input` and appends the text to `out`, without the dots that were stuffed.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Progress {
        let mut rest = input;
        while let Some((&octet, after)) = rest.split_first() {
            match (self.at, octet) {
                (At::LineStart, b'.') => {
                    self.at = At::Dot;
                    rest = after;
                }
                (At::Dot, b'\r') => {
                    self.at = At::DotCr;
                    rest = after;
                }
                (At::DotCr, b'\n') => return Progress::End { consumed: input.len() - after.len() },
                (At::DotCr, _) => {
                    // A dot, then a CR that ends nothing: both are text after all.
                    self.at = At::Cr;
                    out.push(b'\r');
                    self.line += 1;
                }
                (At::Cr, b'\n') => {
                    self.at = At::LineStart;
                    self.line = 0;
                    out.push(b'\n');
                    rest = after;
                }
                (At::Cr, _) => {
                    self.blame(TextFault::BareLineEnd);
                    self.at = At::Inside;
                }
                (At::LineStart | At::Inside | At::Dot, _) => rest = self.text(rest, out),
            }
        }
        Progress::More
    }

    /// Copies text up to and with the next CR, or the whole of it.
    fn text<'a>(&mut self, input: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        self.at = At::Inside;
        let mut from = 0;
        let end = loop {
            let Some(found) = input.get(from..).and_then(|rest| memchr3(b'\r', b'\n', 0, rest)) else {
                break input.len();
            };
            from += found + 1;
            // The whole of the usual case: a line that ends as it should.
            match input.get(from - 1..) {
                Some([b'\r', ..]) => {
                    self.at = At::Cr;
                    break from;
                }
                Some([b'\n', ..]) => self.blame(TextFault::BareLineEnd),
                _ => self.blame(TextFault::Nul),
            }
        };
        let (text, rest) = input.split_at(end);
        out.extend_from_slice(text);
        self.line += text.len();
        if self.line >= TEXT_LINE_LIMIT {
            self.blame(TextFault::LongLine);
        }
        rest
    }

    fn blame(&mut self, fault: TextFault) {
        self.fault.get_or_insert(fault);
    }

    /// After the end: whether the text may be taken.
    pub fn verdict(&self) -> Result<(), TextFault> {
        self.fault.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twenty lines that say the same thing slowly: find the end, check the line ends, remove the dots.
    fn reference(input: &[u8]) -> Option<(Result<Vec<u8>, ()>, usize)> {
        let framed = [b"\r\n", input].concat();
        let end = framed.windows(5).position(|window| window == b"\r\n.\r\n")?;
        let raw = &framed[2..(end + 2).max(2)];
        let mut text = Vec::new();
        let mut bad = false;
        for (at, &octet) in raw.iter().enumerate() {
            let before = if at == 0 { b'\n' } else { raw[at - 1] };
            let next = raw.get(at + 1).copied();
            let line_start = at == 0 || (before == b'\n' && at >= 2 && raw[at - 2] == b'\r');
            bad |= octet == 0 || (octet == b'\r' && next != Some(b'\n')) || (octet == b'\n' && (at == 0 || before != b'\r'));
            if !(octet == b'.' && line_start) {
                text.push(octet);
            }
        }
        Some((if bad { Err(()) } else { Ok(text) }, end + 3))
    }

    fn decode(pieces: &[&[u8]]) -> Option<(Result<Vec<u8>, ()>, usize)> {
        let (mut decoder, mut text, mut before) = (Decoder::default(), Vec::new(), 0);
        for piece in pieces {
            match decoder.decode(piece, &mut text) {
                Progress::More => before += piece.len(),
                Progress::End { consumed } => return Some((decoder.verdict().map(|()| text).map_err(|_| ()), before + consumed)),
            }
        }
        None
    }

    #[test]
    fn agrees_with_the_reference_on_every_short_text_at_every_split() {
        const ALPHABET: &[u8] = b"\r\n.\0x";
        for length in 0..=7_u32 {
            for number in 0..ALPHABET.len().pow(length) {
                let mut left = number;
                let head: Vec<u8> = (0..length)
                    .map(|_| {
                        let octet = ALPHABET[left % ALPHABET.len()];
                        left /= ALPHABET.len();
                        octet
                    })
                    .collect();
                let input = [&head[..], b"\r\n.\r\n"].concat();
                let expected = reference(&input);
                for split in 0..=input.len() {
                    assert_eq!(decode(&[&input[..split], &input[split..]]), expected, "{input:?} split at {split}");
                }
            }
        }
    }

    #[test]
    fn removes_stuffed_dots_and_leaves_what_follows_the_end() {
        assert_eq!(decode(&[b"..a\r\n.b\r\n.\r\nQUIT\r\n"]), Some((Ok(b".a\r\nb\r\n".to_vec()), 12)));
        assert_eq!(decode(&[b".\r\n"]), Some((Ok(Vec::new()), 3)));
    }

    #[test]
    fn refuses_a_line_over_its_limit_but_finds_the_end() {
        let long = [&b"x".repeat(TEXT_LINE_LIMIT)[..], b"\r\n.\r\n"].concat();
        let fits = [&b"x".repeat(TEXT_LINE_LIMIT - 2)[..], b"\r\n.\r\n"].concat();

        assert!(matches!(decode(&[&long]), Some((Err(()), _))));
        assert!(matches!(decode(&[&fits]), Some((Ok(_), _))));
    }
}
