//! One line per event on standard error, in the form `event=… name=value name="text"`.
//!
//! Invariants: text that somebody else chose is escaped and bounded; writing never blocks the listener
//! (a line that does not fit is counted and the next one says so); no function here is given a password.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

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
pub(crate) struct Line {
    level: Level,
    text: String,
}

impl Line {
    pub(crate) fn event(level: Level, event: &str) -> Self {
        let mut text = String::with_capacity(256);
        text.push_str("event=");
        text.push_str(event);
        Self { level, text }
    }

    /// A value of ours: a number, a word.
    pub(crate) fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        let _ = write!(self.text, " {name}={value}");
        self
    }

    /// A text that somebody else chose.
    pub(crate) fn text(mut self, name: &str, text: impl AsRef<[u8]>) -> Self {
        let _ = write!(self.text, " {name}=\"{}\"", Escaped(text.as_ref()));
        self
    }

    pub(crate) fn write(self) {
        static JOURNAL: OnceLock<bool> = OnceLock::new();
        let lost = LOST.swap(0, Ordering::Relaxed);
        let mut line = if *JOURNAL.get_or_init(|| std::env::var_os("JOURNAL_STREAM").is_some()) {
            format!("<{}>{} role=auth", self.level as u8, self.text)
        } else {
            format!("{} {} role=auth", Utc(SystemTime::now()), self.text)
        };
        if lost > 0 {
            let _ = write!(line, " lost_lines={lost}");
        }
        line.push('\n');
        let stderr = io::stderr();
        let mut room = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        let ready = poll(&mut room, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
        if !ready || stderr.lock().write_all(line.as_bytes()).is_err() {
            LOST.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A time as RFC 3339 has it, in UTC, so that no file is looked into for a time zone.
struct Utc(SystemTime);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        // Years that begin in March end with the day that some of them lack; 400 of them repeat, 146,097 days long.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let march = (5 * day + 2) / 153;
        let (month, turn) = if march < 10 { (march + 3, 0) } else { (march - 9, 1) };
        let (year, day) = (era * 400 + year + turn, day - (153 * march + 2) / 5 + 1);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
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

/// A text of at most 255 octets for people to read, escaped as in a line.
pub(crate) fn shown(text: &[u8]) -> String {
    let mut shown = Escaped(text).to_string();
    let end = (0..=shown.len().min(255)).rev().find(|at| shown.is_char_boundary(*at)).unwrap_or_default();
    shown.truncate(end);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_798_761_599, "2026-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Utc(UNIX_EPOCH + std::time::Duration::from_secs(seconds)).to_string(), text);
        }
    }

    #[test]
    fn what_others_wrote_cannot_leave_its_quotes_or_its_line() {
        let line = Line::event(Level::Info, "login").text("user", b"a\"\\\r\n\x1b[31m\xff\xe2\x80\xaee '\xc3\xa9").with("ms", 3);

        assert_eq!(line.text, r#"event=login user="a\"\\\r\n\u{1b}[31m\xff\u{202e}e 'é" ms=3"#);
    }

    #[test]
    fn long_text_is_cut_and_says_so() {
        let shown = Escaped(&[b'x'; 5000]).to_string();

        assert_eq!(shown.chars().count(), TEXT_LIMIT + 1);
        assert!(shown.ends_with('…'));
    }

    #[test]
    fn what_is_shown_is_escaped_and_short() {
        assert_eq!(shown(b"a\r\xff"), "a\\r\\xff");
        assert!(shown("\u{e9}".repeat(300).as_bytes()).len() <= 255);
    }
}
