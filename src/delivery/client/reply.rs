//! Replies of a remote server (RFC 5321 §4.2), read from bytes it chose.
//!
//! However much the server sends, one reply never takes more than `LINES` lines of `LINE` octets to read, and what is
//! kept of it is at most `KEPT` octets without a control character.

use bytes::{Buf, BytesMut};

use crate::smtp::status::{Class, EnhancedStatus};

/// Lines in one reply.
const LINES: usize = 100;
/// Octets in one line, far above RFC 5321 §4.5.3.1.5's 512.
const LINE: usize = 2048;
/// Octets of text kept from one reply, so that with the code, and some words about it, it is at most 2 KiB.
const KEPT: usize = 2000;

/// Reads replies one after the other; its text buffer is used again for each.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    code: u16,
    lines: usize,
    /// The lines' texts, joined by `\n`.
    text: String,
}

/// One complete reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply<'a> {
    pub(crate) code: u16,
    text: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Complete,
    NeedsMore,
}

/// The server does not speak SMTP, or too much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReplyError {
    #[error("the server sent what is no SMTP reply")]
    Malformed,
    #[error("the server's reply is too long")]
    TooLong,
}

impl Replies {
    /// Takes the next reply off `input`; whether it is complete, or more octets are needed.
    pub(crate) fn take(&mut self, input: &mut BytesMut) -> Result<Progress, ReplyError> {
        loop {
            let Some(end) = memchr::memchr(b'\n', input) else {
                return if input.len() > LINE { Err(ReplyError::TooLong) } else { Ok(Progress::NeedsMore) };
            };
            if end > LINE || self.lines == LINES {
                return Err(ReplyError::TooLong);
            }
            let last = self.line(input.get(..end).unwrap_or_default())?;
            input.advance(end + 1);
            if last {
                self.lines = 0;
                return Ok(Progress::Complete);
            }
        }
    }

    /// The reply that was last complete.
    pub(crate) fn current(&self) -> Reply<'_> {
        Reply { code: self.code, text: &self.text }
    }

    /// Takes in one line without its LF; says whether the reply is complete.
    fn line(&mut self, line: &[u8]) -> Result<bool, ReplyError> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (code, rest) = line.split_at_checked(3).ok_or(ReplyError::Malformed)?;
        let code = code_of(code).ok_or(ReplyError::Malformed)?;
        let (last, text) = match rest.split_first() {
            None => (true, rest),
            Some((b' ', text)) => (true, text),
            Some((b'-', text)) => (false, text),
            Some(_) => return Err(ReplyError::Malformed),
        };
        if self.lines == 0 {
            self.text.clear();
            self.code = code;
        } else if self.code == code {
            self.keep('\n');
        } else {
            return Err(ReplyError::Malformed);
        }
        self.lines += 1;
        self.keep_text(text);
        Ok(last)
    }

    fn keep_text(&mut self, text: &[u8]) {
        for chunk in text.utf8_chunks() {
            chunk.valid().chars().for_each(|c| self.keep(if c.is_control() { '?' } else { c }));
            if !chunk.invalid().is_empty() {
                self.keep('?');
            }
        }
    }

    fn keep(&mut self, c: char) {
        if self.text.len() + c.len_utf8() <= KEPT {
            self.text.push(c);
        }
    }
}

/// Three digits, of which the first is 2 to 5 (RFC 5321 §4.2).
fn code_of(digits: &[u8]) -> Option<u16> {
    match digits {
        [first @ b'2'..=b'5', second @ b'0'..=b'9', third @ b'0'..=b'9'] => {
            Some(u16::from(first - b'0') * 100 + u16::from(second - b'0') * 10 + u16::from(third - b'0'))
        }
        _ => None,
    }
}

impl<'a> Reply<'a> {
    #[cfg(test)]
    pub(crate) fn of(code: u16, text: &'a str) -> Self {
        Self { code, text }
    }

    /// The text of each line.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &'a str> {
        self.text.split('\n')
    }

    pub(crate) fn is_positive(&self) -> bool {
        (200..300).contains(&self.code)
    }

    pub(crate) fn is_permanent(&self) -> bool {
        self.code >= 500
    }

    /// The enhanced status it carries, if it agrees with the code (RFC 2034 §4); else the code's class alone.
    pub(crate) fn status(&self) -> EnhancedStatus {
        let class = Class::of_code(self.code).unwrap_or(Class::Transient);
        match EnhancedStatus::parse_prefix(self.text.lines().next().unwrap_or_default()) {
            Some((status, _)) if status.class == class => status,
            Some(_) | None => EnhancedStatus::new(class, 0, 0),
        }
    }

    /// Code and text on one line, for logs and reports.
    pub(crate) fn words(&self) -> String {
        format!("{} {}", self.code, self.text.replace('\n', " "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(input: &[u8]) -> Result<Option<(u16, String)>, ReplyError> {
        let mut replies = Replies::default();
        let mut input = BytesMut::from(input);
        Ok(match replies.take(&mut input)? {
            Progress::Complete => Some((replies.current().code, replies.current().text.to_owned())),
            Progress::NeedsMore => None,
        })
    }

    #[test]
    fn reads_one_line_and_several() {
        assert_eq!(read(b"250 ok\r\n"), Ok(Some((250, "ok".into()))));
        assert_eq!(read(b"250\r\n"), Ok(Some((250, "".into()))));
        assert_eq!(read(b"250-a\r\n250-b\r\n250 c\r\n"), Ok(Some((250, "a\nb\nc".into()))));
        assert_eq!(read(b"250-a\r\n250"), Ok(None));
    }

    #[test]
    fn reads_replies_that_came_together_one_by_one_and_in_pieces() {
        let mut replies = Replies::default();
        let mut input = BytesMut::from(&b"250 a\r\n354-b\r\n"[..]);

        assert_eq!(replies.take(&mut input), Ok(Progress::Complete));
        assert_eq!(replies.current(), Reply::of(250, "a"));
        assert_eq!(replies.take(&mut input), Ok(Progress::NeedsMore));
        input.extend_from_slice(b"354 c\r\n");
        assert_eq!(replies.take(&mut input), Ok(Progress::Complete));
        assert_eq!(replies.current(), Reply::of(354, "b\nc"));
        assert!(input.is_empty());
    }

    #[test]
    fn refuses_what_is_no_reply() {
        for input in
            [&b"\r\n"[..], b"25\r\n", b"hello there\r\n", b"250_ok\r\n", b"150 x\r\n", b"650 x\r\n", b"250-a\r\n251 b\r\n", b"HTTP/1.1\n"]
        {
            assert_eq!(read(input), Err(ReplyError::Malformed), "{input:?}");
        }
    }

    #[test]
    fn an_endless_reply_ends_here() {
        let endless_line = vec![b'2'; LINE + 1];
        let endless_lines = b"250-x\r\n".repeat(LINES + 1);

        assert_eq!(read(&endless_line), Err(ReplyError::TooLong));
        assert_eq!(read(&endless_lines), Err(ReplyError::TooLong));
    }

    #[test]
    fn keeps_little_and_nothing_that_moves_a_cursor() {
        let mut input = b"550-".to_vec();
        input.extend_from_slice(&[b'x'; 1500]);
        input.extend_from_slice(b"\r\n550-\x1b[2J\x00 \xff\xfe z\xc3\xa4\r\n550 ");
        input.extend_from_slice(&[b'y'; 1500]);
        input.extend_from_slice(b"\r\n");

        let (_, text) = read(&input).unwrap().unwrap();

        assert!(text.len() <= KEPT);
        assert!(text.contains("\n?[2J? ?? zä\ny"), "{text}");
        assert!(Reply::of(550, &text).words().len() <= KEPT + 4);
    }

    #[test]
    fn takes_an_enhanced_status_only_if_it_agrees_with_the_code() {
        assert_eq!(Reply::of(550, "5.1.1 no such user\nx").status().to_string(), "5.1.1");
        assert_eq!(Reply::of(450, "5.1.1 no such user").status().to_string(), "4.0.0");
        assert_eq!(Reply::of(550, "no such user").status().to_string(), "5.0.0");
        assert_eq!(Reply::of(550, "5.1.1 no\nsuch").words(), "550 5.1.1 no such");
    }

    proptest! {
        #[test]
        fn never_panics_and_never_keeps_more_than_it_may(input: Vec<u8>) {
            let mut replies = Replies::default();
            let mut input = BytesMut::from(&input[..]);
            while replies.take(&mut input) == Ok(Progress::Complete) {
                let reply = replies.current();
                prop_assert!(reply.text.len() <= KEPT && !reply.text.contains('\r'));
            }
        }
    }
}
