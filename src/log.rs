//! One line on standard error for each event: `event=accepted role=queue id=… user=… size=1234`.
//!
//! A value is text from anywhere, and a line is a line whatever is in it: what is not plain is put between quotes, what cannot be seen is escaped.
//! Nothing here opens a file, looks up a time zone or fails: a sandboxed role logs as well as any, and one whose log is gone goes on.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::Log;
use crate::visible::is_letter;

/// How long a reader of the log that has stopped is waited for, in milliseconds.
const PATIENCE: u8 = 100;
/// Lines that nobody took since the last one that somebody did.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Octets of one value that are shown; no event of ours needs more, and a peer must not decide how much is written.
const LONGEST_VALUE: usize = 2048;

/// From now on events of this process go to standard error. `role` is in every line. Called once; a second call changes nothing.
pub fn start(role: &'static str, level: Log) {
    let style = if goes_to_journal() { Style::Journal } else { Style::Plain };
    let filter = match level {
        Log::Error => LevelFilter::ERROR,
        Log::Warn => LevelFilter::WARN,
        Log::Info => LevelFilter::INFO,
        Log::Debug => LevelFilter::DEBUG,
    };
    let lines = Lines { role, style };
    // Libraries speak in sentences meant for their authors; only our own events are a log.
    let ours = tracing_subscriber::filter::filter_fn(|about| about.target().starts_with("pamrelay"));
    // An error means that somebody set a subscriber before us, such as a test.
    let _ = tracing_subscriber::registry().with(lines.with_filter(ours).with_filter(filter)).try_init();
    std::panic::set_hook(Box::new(panicked));
}

/// A panic is a line like any other: a backtrace would open files, which a cage forbids.
fn panicked(panic: &std::panic::PanicHookInfo<'_>) {
    let at = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(event = "panic", at, reason = panic.payload_as_str().unwrap_or("not a text"));
}

/// Whether standard error *is* the stream named by $JOURNAL_STREAM, and not something that a parent put in its place (systemd.exec(5)).
fn goes_to_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(std::io::stderr()).is_ok_and(|about| named == format!("{}:{}", about.st_dev, about.st_ino))
}

#[derive(Clone, Copy)]
enum Style {
    /// `<6>` in front, as systemd-journald reads it (sd-daemon(3)); it has the time itself.
    Journal,
    /// Time in front, UTC as in RFC 3339.
    Plain,
}

struct Lines {
    role: &'static str,
    style: Style,
}

thread_local! {
    /// The line being made and a value of it, kept for the next.
    static LINE: RefCell<(String, String)> = const { RefCell::new((String::new(), String::new())) };
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        LINE.with(|kept| {
            // Taken already when a value's own `Display` logs: that inner event is the one to lose.
            let Ok(mut kept) = kept.try_borrow_mut() else { return };
            let (line, value) = &mut *kept;
            line.clear();
            self.write(event, line, value);
            deliver(line);
        });
    }
}

/// One write for one line, so that lines of threads and roles do not mix. With nobody left to read there is nobody to tell.
///
/// A reader that has stopped must not stop the role: it is waited for once, for a moment, then lines are lost and
/// counted until it reads again.
fn deliver(line: &str) {
    let patience = if LOST.load(Ordering::Relaxed) == 0 { PollTimeout::from(PATIENCE) } else { PollTimeout::ZERO };
    let stderr = std::io::stderr();
    let mut asked = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    if matches!(poll(&mut asked, patience), Ok(0)) {
        LOST.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let lost = LOST.swap(0, Ordering::Relaxed);
    if lost > 0 {
        let _ = (&stderr).write_all(format!("event=log_lines_lost lines={lost}\n").as_bytes());
    }
    let _ = (&stderr).write_all(line.as_bytes());
}

impl Lines {
    fn write(&self, event: &Event<'_>, line: &mut String, value: &mut String) {
        let level = *event.metadata().level();
        match self.style {
            Style::Journal => line.push_str(priority(level)),
            Style::Plain => {
                let _ = write!(line, "{:.3} ", jiff::Timestamp::now());
            }
        }
        // The supervisor speaks about other roles and names them itself.
        let names_a_role = event.metadata().fields().field("role").is_some();
        let mut fields = Fields { line, value, place: Place::First(if names_a_role { None } else { Some(self.role) }) };
        event.record(&mut fields);
        match level {
            Level::ERROR => line.push_str(" level=error"),
            Level::WARN => line.push_str(" level=warn"),
            Level::INFO => {}
            Level::DEBUG | Level::TRACE => line.push_str(" level=debug"),
        }
        line.push('\n');
    }
}

/// syslog(3)'s numbers.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

struct Fields<'l> {
    line: &'l mut String,
    value: &'l mut String,
    place: Place,
}

/// Where in the line the next field stands.
#[derive(Clone, Copy)]
enum Place {
    /// It is `event`; the role follows it, if it is to be written.
    First(Option<&'static str>),
    Later,
}

impl Fields<'_> {
    fn put(&mut self, field: &Field, text: &str) {
        let role = match self.place {
            Place::First(role) => role,
            Place::Later => {
                self.line.push(' ');
                None
            }
        };
        self.place = Place::Later;
        self.line.push_str(field.name());
        self.line.push('=');
        put_value(self.line, text);
        if let Some(role) = role {
            self.line.push_str(" role=");
            self.line.push_str(role);
        }
    }

    fn put_display(&mut self, field: &Field, text: fmt::Arguments<'_>) {
        let mut value = std::mem::take(self.value);
        value.clear();
        let _ = value.write_fmt(text);
        self.put(field, &value);
        *self.value = value;
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put_display(field, format_args!("{value:?}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put_display(field, format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put_display(field, format_args!("{value}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        // The causes say what really happened.
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        self.put(field, &text);
    }
}

/// A value as it stands in a line: bare when it is plain, else between quotes.
fn put_value(line: &mut String, text: &str) {
    let shown = text.get(..text.floor_char_boundary(LONGEST_VALUE)).unwrap_or_default();
    if !shown.is_empty() && shown.bytes().all(|octet| octet.is_ascii_graphic() && !matches!(octet, b'"' | b'\\' | b'=')) {
        line.push_str(shown);
    } else {
        line.push('"');
        for c in shown.chars() {
            match c {
                '"' => line.push_str("\\\""),
                '\\' => line.push_str("\\\\"),
                ' '..='~' => line.push(c),
                // Letters of all scripts can be read; marks, blanks and directions of other scripts can deceive.
                _ if is_letter(c) => line.push(c),
                _ => {
                    let mut octets = [0; 4];
                    for octet in c.encode_utf8(&mut octets).bytes() {
                        let _ = write!(line, "\\x{octet:02x}");
                    }
                }
            }
        }
        line.push('"');
    }
    if shown.len() < text.len() {
        line.push_str("[...]");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(text: &str) -> String {
        let mut line = String::new();
        put_value(&mut line, text);
        line
    }

    #[test]
    fn plain_values_stand_bare_and_others_between_quotes() {
        for (text, wanted) in [
            ("1.2.3.4:25", "1.2.3.4:25"),
            ("a@b.example", "a@b.example"),
            ("<>", "<>"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("x from=<y>", "\"x from=<y>\""),
            ("a=b", "\"a=b\""),
            ("say \"hi\"", "\"say \\\"hi\\\"\""),
            ("a\\nb", "\"a\\\\nb\""),
            ("\x1b[31m", "\"\\x1b[31m\""),
            ("a\r\nevent=forged", "\"a\\x0d\\x0aevent=forged\""),
            ("nul\0", "\"nul\\x00\""),
            ("\u{85}\u{202e}", "\"\\xc2\\x85\\xe2\\x80\\xae\""),
            ("jürgen", "\"jürgen\""),
        ] {
            assert_eq!(value(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn a_long_value_is_cut_and_says_so() {
        let long = value(&"ä".repeat(5000));

        assert!(long.len() < LONGEST_VALUE + 20);
        assert!(long.ends_with("ä\"[...]"));
    }

    proptest! {
        #[test]
        fn no_value_breaks_its_line(text in "\\PC*|[\\x00-\\x7f]*|.*") {
            let shown = value(&text);

            prop_assert!(!shown.chars().any(char::is_control));
            let quoted = shown.starts_with('"');
            prop_assert!(quoted || !shown.contains([' ', '"', '=']));
        }
    }

    #[test]
    fn an_event_is_one_line_with_its_name_first() {
        let seen = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        struct Capture(Lines, std::sync::Arc<std::sync::Mutex<String>>);
        impl<S: Subscriber> Layer<S> for Capture {
            fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
                self.0.write(event, &mut self.1.lock().unwrap(), &mut String::new());
            }
        }
        let lines = Lines { role: "front", style: Style::Journal };
        let subscriber = tracing_subscriber::registry().with(Capture(lines, seen.clone()));

        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(event = "accepted", sender = "<>", user = %"a b", rcpts = 3, size = 1234_u64);
            tracing::warn!(event = "slow", why = "x");
            tracing::error!(event = "role_died", role = "keys");
        });

        assert_eq!(
            *seen.lock().unwrap(),
            "<6>event=accepted role=front sender=<> user=\"a b\" rcpts=3 size=1234\n<4>event=slow role=front why=x level=warn\n<3>event=role_died role=keys level=error\n"
        );
    }
}
