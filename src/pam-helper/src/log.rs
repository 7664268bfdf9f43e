//! One line per event on standard error, in the form `event=… name=value name="text"`.
//!
//! Invariants: text that somebody else chose is escaped and bounded; writing never blocks the listener
//! (a line that does not fit is counted and the next one says so); no function here is given a password.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Text in a line is cut after this many bytes.
const TEXT_LIMIT: usize = 600;

static LOST: AtomicU64 = AtomicU64::new(0);

/// How loud a line is: the number that journald takes from `<n>`.
#[derive(Clone, Copy)]
pub(crate) enum Level {
    Error = 3,
    Warning = 4,
    Notice = 5,
    Info = 6,
}

/// A line under construction.
pub(crate) struct Line(String);

impl Line {
    pub(crate) fn event(level: Level, event: &str) -> Self {
        static JOURNAL: OnceLock<bool> = OnceLock::new();
        let mut line = String::with_capacity(256);
        if *JOURNAL.get_or_init(|| std::env::var_os("JOURNAL_STREAM").is_some()) {
            let _ = write!(line, "<{}>", level as u8);
        }
        line.push_str("event=");
        line.push_str(event);
        Self(line)
    }

    /// A value of ours: a number, a word.
    pub(crate) fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        let _ = write!(self.0, " {name}={value}");
        self
    }

    /// A text that somebody else chose.
    pub(crate) fn text(mut self, name: &str, text: impl AsRef<[u8]>) -> Self {
        let _ = write!(self.0, " {name}=\"{}\"", Escaped(text.as_ref()));
        self
    }

    pub(crate) fn write(mut self) {
        let lost = LOST.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = write!(self.0, " lost_lines={lost}");
        }
        self.0.push('\n');
        let stderr = io::stderr();
        let mut room = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        let ready = poll(&mut room, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
        if !ready || stderr.lock().write_all(self.0.as_bytes()).is_err() {
            LOST.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }
}

/// Printable characters as they are; the rest, quotes and backslashes escaped.
pub(crate) struct Escaped<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.0.get(..TEXT_LIMIT).unwrap_or(self.0);
        for chunk in kept.utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    '\'' => f.write_char('\'')?,
                    _ => write!(f, "{}", character.escape_debug())?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        if kept.len() < self.0.len() { f.write_str("…") } else { Ok(()) }
    }
}

/// A session as all of pamrelay writes it: 13 characters of base 32.
pub(crate) struct Session(pub(crate) u64);

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for digit in (0..13).rev() {
            let value = (self.0 >> (digit * 5)) as u8 & 31;
            f.write_char(char::from(if value < 10 { b'0' + value } else { b'a' - 10 + value }))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_cannot_leave_its_quotes_or_its_line() {
        let line = Line::event(Level::Info, "login").text("user", b"a\"\\\r\n\x1b[31m\xff\xe2\x80\xaee '\xc3\xa9").with("ms", 3);

        assert_eq!(line.0.trim_start_matches("<6>"), r#"event=login user="a\"\\\r\n\u{1b}[31m\xff\u{202e}e 'é" ms=3"#);
    }

    #[test]
    fn long_text_is_cut_and_says_so() {
        let shown = Escaped(&[b'x'; 5000]).to_string();

        assert_eq!(shown.chars().count(), TEXT_LIMIT + 1);
        assert!(shown.ends_with('…'));
    }

    #[test]
    fn a_session_is_written_as_everywhere_else() {
        assert_eq!(Session(0).to_string(), "0000000000000");
        assert_eq!(Session(u64::MAX).to_string(), "fvvvvvvvvvvvv");
        assert_eq!(Session(33).to_string(), "0000000000011");
    }
}
