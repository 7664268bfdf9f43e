//! Cuts what a client sends into command lines.
//!
//! Only CR LF ends a line (RFC 5321 §2.3.8). A bare CR or LF, or a line over its limit, is answered once and
//! everything up to the next CR LF is swallowed, so that no part of a bad line is ever taken for a command.

use memchr::{memchr2, memmem};

/// Octets of a bad line that are swallowed before the connection is given up.
const ENDLESS: usize = 64 * 1024;

/// Where in the stream we are: at the start of a line, or inside one that was refused.
#[derive(Debug, Default)]
pub struct Lines {
    swallowed: Option<usize>,
}

/// What the front of the input turned out to be. `consumed` octets of it are done with.
#[derive(Debug, PartialEq, Eq)]
pub enum Cut<'a> {
    Line {
        text: &'a [u8],
        consumed: usize,
    },
    Bad {
        fault: LineFault,
        consumed: usize,
    },
    /// No whole line yet.
    Incomplete {
        consumed: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFault {
    /// A CR without LF, or an LF without CR.
    BareLineEnd,
    TooLong,
    /// A refused line that does not end: close the connection.
    Endless,
}

impl Lines {
    /// Looks for one line at the front of `input`. `limit` counts the CR LF (RFC 5321 §4.5.3.1.4).
    pub fn cut<'a>(&mut self, input: &'a [u8], limit: usize) -> Cut<'a> {
        match self.swallowed {
            None => self.cut_line(input, limit),
            Some(before) => self.swallow(input, before, limit),
        }
    }

    fn cut_line<'a>(&mut self, input: &'a [u8], limit: usize) -> Cut<'a> {
        let Some(end) = memchr2(b'\r', b'\n', input) else {
            return if input.len() > limit { self.refuse(LineFault::TooLong, input.len()) } else { Cut::Incomplete { consumed: 0 } };
        };
        match (input.get(end), input.get(end + 1)) {
            (Some(b'\r'), Some(b'\n')) if end + 2 > limit => Cut::Bad { fault: LineFault::TooLong, consumed: end + 2 },
            (Some(b'\r'), Some(b'\n')) => Cut::Line { text: &input[..end], consumed: end + 2 },
            (Some(b'\r'), None) => Cut::Incomplete { consumed: 0 },
            _ => self.refuse(LineFault::BareLineEnd, end + 1),
        }
    }

    fn refuse<'a>(&mut self, fault: LineFault, consumed: usize) -> Cut<'a> {
        self.swallowed = Some(consumed);
        Cut::Bad { fault, consumed }
    }

    fn swallow<'a>(&mut self, input: &'a [u8], before: usize, limit: usize) -> Cut<'a> {
        if let Some(end) = memmem::find(input, b"\r\n") {
            self.swallowed = None;
            let skipped = end + 2;
            return match self.cut(&input[skipped..], limit) {
                Cut::Line { text, consumed } => Cut::Line { text, consumed: skipped + consumed },
                Cut::Bad { fault, consumed } => Cut::Bad { fault, consumed: skipped + consumed },
                Cut::Incomplete { consumed } => Cut::Incomplete { consumed: skipped + consumed },
            };
        }
        // A CR at the very end may be the first half of the CR LF we wait for.
        let consumed = input.len() - usize::from(input.last() == Some(&b'\r'));
        let total = before.saturating_add(consumed);
        self.swallowed = Some(total);
        if total > ENDLESS { Cut::Bad { fault: LineFault::Endless, consumed } } else { Cut::Incomplete { consumed } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `input` in pieces and collects what comes out, as the driver does.
    fn cut_all(pieces: &[&[u8]], limit: usize) -> Vec<Result<Vec<u8>, LineFault>> {
        let (mut lines, mut buffer, mut found) = (Lines::default(), Vec::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                let (consumed, more) = match lines.cut(&buffer, limit) {
                    Cut::Line { text, consumed } => {
                        found.push(Ok(text.to_vec()));
                        (consumed, true)
                    }
                    Cut::Bad { fault, consumed } => {
                        found.push(Err(fault));
                        (consumed, fault != LineFault::Endless)
                    }
                    Cut::Incomplete { consumed } => (consumed, false),
                };
                buffer.drain(..consumed);
                if !more {
                    break;
                }
            }
        }
        found
    }

    #[test]
    fn cuts_at_cr_lf_only() {
        assert_eq!(cut_all(&[b"NOOP\r\nQUIT\r\nRS"], 512), [Ok(b"NOOP".to_vec()), Ok(b"QUIT".to_vec())]);
    }

    #[test]
    fn a_bare_line_end_is_answered_once_and_hides_no_command() {
        use LineFault::BareLineEnd;

        assert_eq!(cut_all(&[b"NOOP\nQUIT\nRSET\n"], 512), [Err(BareLineEnd)]);
        assert_eq!(cut_all(&[b"NOOP\rQUIT\r\nRSET\r\n"], 512), [Err(BareLineEnd), Ok(b"RSET".to_vec())]);
        assert_eq!(cut_all(&[b"NOOP\n\r\nRSET\r\n"], 512), [Err(BareLineEnd), Ok(b"RSET".to_vec())]);
        assert_eq!(cut_all(&[b"NOOP\r\r\nRSET\r\n"], 512), [Err(BareLineEnd), Ok(b"RSET".to_vec())]);
    }

    #[test]
    fn a_line_over_the_limit_is_swallowed_whole() {
        let long = [&b"X".repeat(511)[..], b"\r\nNOOP\r\n"].concat();

        assert_eq!(cut_all(&[&long], 512), [Err(LineFault::TooLong), Ok(b"NOOP".to_vec())]);
        assert_eq!(cut_all(&[&b"X".repeat(600), b"MAIL\r", b"\nNOOP\r\n"], 512), [Err(LineFault::TooLong), Ok(b"NOOP".to_vec())]);
    }

    #[test]
    fn gives_up_on_a_line_that_never_ends() {
        let piece = b"X".repeat(40_000);

        assert_eq!(cut_all(&[&piece, &piece], 512), [Err(LineFault::TooLong), Err(LineFault::Endless)]);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(input in "[\r\nax]{0,40}", at in 0..40_usize) {
            let bytes = input.as_bytes();
            let at = at.min(bytes.len());

            prop_assert_eq!(cut_all(&[bytes], 8).len(), cut_all(&[&bytes[..at], &bytes[at..]], 8).len());
            prop_assert_eq!(
                cut_all(&[bytes], 64).into_iter().filter_map(Result::ok).collect::<Vec<_>>(),
                cut_all(&[&bytes[..at], &bytes[at..]], 64).into_iter().filter_map(Result::ok).collect::<Vec<_>>()
            );
        }
    }
}
