//! `pamrelay queue list` and its like: what an administrator asks the queue, and the answers for people or for programs.
//!
//! The queue alone opens the spool; everything here goes over its control socket. What strangers chose (addresses, replies) reaches a terminal
//! only as letters.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;

use super::out::{self, say};
use super::{Failure, RunningRelay, Status};
use crate::config::{Bytes, duration_text};
use crate::queue::control::{Client, ClientError, Entry, Filter, RecipientEntry, RecipientState, Shown, State, Target};
use crate::run;
use crate::visible::visible;

/// How long a queue may take to open its store.
const STARTING: Duration = Duration::from_secs(5);

#[derive(Subcommand)]
pub(super) enum Ask {
    /// List the messages that wait
    ///
    /// Each with its size, age, sender and recipients, and why it still waits; as `mailq` does for other mail systems.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        how: How,
    },
    /// Show one message: its state and its header, never its body
    Show {
        /// As `list` shows it
        id: String,
        #[command(flatten)]
        how: How,
    },
    /// Show what needs attention: delivery reports that could not be delivered
    Status {
        #[command(flatten)]
        how: How,
    },
    /// Try to deliver now
    ///
    /// The pause after this attempt is no longer for it. Held messages stay held: `release` tries them at once.
    #[command(visible_alias = "flush")]
    Retry(Change),
    /// Keep messages from being tried until they are released
    Hold(Change),
    /// Let held messages go, at once
    Release(Change),
    /// Remove messages for good; nobody is told
    Delete(Change),
}

#[derive(Args)]
pub(super) struct How {
    /// Answer in JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    relay: RunningRelay,
}

#[derive(Args)]
#[group(skip)]
pub(super) struct Which {
    /// Only those in this state
    #[arg(long, value_enum)]
    state: Option<StateWord>,
    /// Only from this address, `@domain` or `<>`
    #[arg(long, value_name = "ADDRESS")]
    sender: Option<String>,
    /// Only to this address or `@domain`
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,
    /// Only from this login name
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

#[derive(Args)]
pub(super) struct Change {
    /// Messages, as `list` shows them
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// All messages
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    how: How,
}

#[derive(Clone, Copy, ValueEnum)]
enum StateWord {
    Queued,
    Active,
    Deferred,
    Held,
}

/// What is asked of the queue about some messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Retry,
    Hold,
    Release,
    Delete,
}

impl Asked {
    fn of(self, client: &Client, target: Target) -> Result<Vec<String>, ClientError> {
        match self {
            Self::Retry => client.retry(target),
            Self::Hold => client.hold(target),
            Self::Release => client.release(target),
            Self::Delete => client.delete(target),
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Retry => "to be tried now",
            Self::Hold => "held",
            Self::Release => "released",
            Self::Delete => "deleted",
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let status = match &error {
            ClientError::Unreachable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Status::NotPermitted,
            ClientError::Unreachable { .. } | ClientError::Cut(_) => Status::Unavailable,
            ClientError::Nonsense => Status::Software,
            ClientError::Refused(_) => Status::No,
        };
        Self::new(status, error)
    }
}

pub(super) fn main(ask: Ask) -> Result<Status, Failure> {
    match ask {
        Ask::List { which, how } => list(&client(&how)?, which.filter(), &how),
        Ask::Show { id, how } => {
            let shown = client(&how)?.show(&id)?;
            if how.json {
                out::json(&shown)
            } else {
                out::text(page(&shown, Timestamp::now()))
            }
            Ok(Status::Ok)
        }
        Ask::Status { how } => {
            let status = client(&how)?.status()?;
            if how.json {
                out::json(&status)
            } else {
                out::text(format!("Delivery reports that could not be delivered since the queue started: {}\n", status.undelivered_reports))
            }
            Ok(Status::Ok)
        }
        Ask::Retry(change) => alter(change, Asked::Retry),
        Ask::Hold(change) => alter(change, Asked::Hold),
        Ask::Release(change) => alter(change, Asked::Release),
        Ask::Delete(change) => alter(change, Asked::Delete),
    }
}

/// The queue of the relay in question, once it listens: one that was started a moment ago is waited for.
fn client(how: &How) -> Result<Client, Failure> {
    let config = how.relay.config()?;
    let until = Instant::now() + STARTING;
    while !listens(&config.queue_control()) && run::runs(&config.runtime_dir) && Instant::now() < until {
        thread::sleep(Duration::from_millis(20));
    }
    Ok(Client::new(&config.queue_control()))
}

fn listens(path: &Path) -> bool {
    match UnixStream::connect(path) {
        Ok(_) => true,
        // Anything else will not pass by waiting, and the client says what it is.
        Err(error) => !matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound),
    }
}

impl Which {
    fn filter(self) -> Filter {
        let state = self.state.map(|word| match word {
            StateWord::Queued => State::Queued,
            StateWord::Active => State::Active,
            StateWord::Deferred => State::Deferred,
            StateWord::Held => State::Held,
        });
        Filter { state, sender: self.sender, recipient: self.recipient, user: self.user }
    }
}

fn list(client: &Client, filter: Filter, how: &How) -> Result<Status, Failure> {
    let now = Timestamp::now();
    let (mut count, mut octets) = (0_u64, 0_u64);
    // Half a list with an end would be a whole one: after an error none is written.
    client.list_while(filter, |entry| {
        if how.json {
            out::json_element(if count == 0 { "[" } else { ",\n " }, &entry);
        } else {
            out::text(format_args!("{}{}", if count == 0 { TITLE } else { "" }, row(&entry, now)));
        }
        count += 1;
        octets = octets.saturating_add(entry.size);
        out::go_on()
    })?;
    match (how.json, count) {
        (true, 0) => say!("[]"),
        (true, _) => say!("]"),
        (false, 0) => say!("No messages."),
        (false, 1) => say!("-- 1 message, {}", rounded(octets)),
        (false, _) => say!("-- {count} messages, {}", rounded(octets)),
    }
    Ok(Status::Ok)
}

const TITLE: &str = "ID             STATE     SIZE     AGE     NEXT    SENDER, RECIPIENTS\n";

/// One message: a line of its own, and one for each recipient.
fn row(entry: &Entry, now: Timestamp) -> String {
    let sender = if entry.sender.is_empty() { "<>" } else { &entry.sender };
    let from = match (&entry.user, &entry.about) {
        (Some(user), _) => format!("{} (user {})", visible(sender), visible(user)),
        (None, Some(about)) => format!("{sender} (report about {})", visible(about)),
        (None, None) => visible(sender),
    };
    let mut out = format!(
        "{:<14} {:<9} {:<8} {:<7} {:<7} {from}\n",
        visible(&entry.id),
        state(entry.state),
        rounded(entry.size),
        since(&entry.arrived, now),
        entry.next.as_deref().map_or_else(|| "-".to_owned(), |next| until(next, now)),
    );
    for recipient in &entry.recipients {
        out.push_str(&format!("    {}\n", about(recipient)));
    }
    out
}

fn about(recipient: &RecipientEntry) -> String {
    let word = match recipient.state {
        RecipientState::Waiting => "waiting",
        RecipientState::Deferred => "deferred",
        RecipientState::Delivered => "delivered",
        RecipientState::Failed => "failed",
    };
    let mut out = format!("{}  {word}", visible(&recipient.address));
    for part in [&recipient.status, &recipient.remote, &recipient.reason].into_iter().flatten() {
        out.push_str(": ");
        out.push_str(&visible(part));
    }
    out
}

fn page(shown: &Shown, now: Timestamp) -> String {
    let entry = &shown.entry;
    let mut out = format!("{TITLE}{}Arrived {}", row(entry, now), visible(&entry.arrived));
    if let Some(next) = &entry.next {
        out.push_str(&format!(", next attempt {}", visible(next)));
    }
    out.push_str(&format!(", attempts so far: {}\n", entry.attempts));
    if let Some(session) = &entry.session {
        out.push_str(&format!("Session {}\n", visible(session)));
    }
    out.push('\n');
    for line in shown.headers.lines() {
        out.push_str(&visible(line));
        out.push('\n');
    }
    out
}

fn alter(change: Change, asked: Asked) -> Result<Status, Failure> {
    let Change { ids, all, which, how } = change;
    let filter = which.filter();
    let narrowed = filter != Filter::default();
    let target = match (ids.is_empty(), all || narrowed) {
        (false, false) => Target::Ids(ids.clone()),
        (true, true) => Target::Filter(filter.clone()),
        (true, false) => {
            return Err(Failure::new(Status::Usage, "name the messages, or say --all, or which: --state, --sender, --recipient, --user"));
        }
        (false, true) => return Err(Failure::new(Status::Usage, "either name the messages or say which; not both")),
    };
    let client = client(&how)?;
    let changed = asked.of(&client, target)?;
    if how.json {
        out::json(&changed);
    } else {
        changed.iter().for_each(|id| say!("{}: {}", visible(id), asked.done()));
    }
    let unchanged = ids.iter().filter(|id| !changed.iter().any(|done| done.eq_ignore_ascii_case(id)));
    let mut reasons = unchanged.map(|id| unchanged_because(id, &client)).collect::<Result<Vec<_>, _>>()?;
    if asked == Asked::Retry && ids.is_empty() {
        reasons.extend(held_back(&client, filter)?);
    }
    if reasons.is_empty() { Ok(Status::Ok) } else { Err(Failure::new(Status::No, reasons.join("\n"))) }
}

/// Why a message that was named is as it was.
fn unchanged_because(id: &str, client: &Client) -> Result<String, Failure> {
    let shown = visible(id);
    match client.show(id).map(|shown| shown.entry.state) {
        Ok(State::Held) => Ok(format!("{shown} is held, and was not tried; to release it and try it now: pamrelay queue release {shown}")),
        Ok(other) => Ok(format!("{shown} is {}, and nothing was changed", state(other))),
        Err(ClientError::Refused(_)) => Ok(format!("not in the queue: {shown}")),
        Err(error) => Err(error.into()),
    }
}

/// Whether held messages are among those that were to be tried.
fn held_back(client: &Client, filter: Filter) -> Result<Option<String>, Failure> {
    if filter.state.is_some_and(|state| state != State::Held) {
        return Ok(None);
    }
    let held = client.list(Filter { state: Some(State::Held), ..filter }, |_| {})?;
    let are = if held == 1 { "1 message is" } else { &format!("{held} messages are") };
    Ok((held > 0).then(|| format!("{are} held, and not tried; to release: pamrelay queue release ID, or --state held for all of them")))
}

fn state(state: State) -> &'static str {
    match state {
        State::Queued => "queued",
        State::Active => "active",
        State::Deferred => "deferred",
        State::Held => "held",
    }
}

/// Like `1.2MiB`, in few characters.
fn rounded(octets: u64) -> String {
    for (unit, factor) in [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if octets >= factor {
            let tenths = octets.saturating_mul(10) / factor;
            return if tenths < 100 { format!("{}.{}{unit}", tenths / 10, tenths % 10) } else { format!("{}{unit}", tenths / 10) };
        }
    }
    Bytes(octets).to_string()
}

fn since(then: &str, now: Timestamp) -> String {
    apart(then.parse().map(|then: Timestamp| now.as_second() - then.as_second()))
}

fn until(then: &str, now: Timestamp) -> String {
    apart(then.parse().map(|then: Timestamp| then.as_second() - now.as_second()))
}

/// The largest two units at most.
fn apart(seconds: Result<i64, jiff::Error>) -> String {
    let Ok(seconds) = seconds else { return "?".to_owned() };
    let seconds = u64::try_from(seconds).unwrap_or(0);
    let step = match seconds {
        0..3_600 => 1,
        3_600..86_400 => 60,
        _ => 3_600,
    };
    duration_text(Duration::from_secs(seconds / step * step))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            id: "0123456789abc".into(),
            state: State::Deferred,
            arrived: "2026-11-20T10:00:00Z".into(),
            next: Some("2026-11-20T12:05:00Z".into()),
            attempts: 3,
            size: 1300,
            sender: "alice@a.example".into(),
            user: Some("alice".into()),
            uid: Some(1000),
            session: None,
            about: None,
            recipients: vec![RecipientEntry {
                address: "bob@b.example".into(),
                state: RecipientState::Deferred,
                status: Some("4.4.1".into()),
                remote: Some("mx.b.example[192.0.2.1]:25".into()),
                reason: Some("451 \u{1b}[2Jlater".into()),
            }],
        }
    }

    #[test]
    fn a_row_says_who_how_long_and_why() {
        let text = row(&entry(), "2026-11-20T12:00:30Z".parse().unwrap());

        assert_eq!(
            text,
            "0123456789abc  deferred  1.2KiB   2h      4m30s   alice@a.example (user alice)\n    bob@b.example  deferred: 4.4.1: mx.b.example[192.0.2.1]:25: 451 \\u{1b}[2Jlater\n"
        );
    }

    #[test]
    fn a_report_has_no_sender_and_a_held_message_no_next_attempt() {
        let report =
            Entry { sender: String::new(), user: None, about: Some("00000000000aa".into()), state: State::Held, next: None, ..entry() };

        let text = row(&report, "2026-11-22T12:00:30Z".parse().unwrap());

        assert!(text.starts_with("0123456789abc  held      1.2KiB   2d2h    -       <> (report about 00000000000aa)\n"), "{text}");
    }
}
