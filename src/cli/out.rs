//! What a command answers on standard output, all of it: for people with characters that cannot be seen escaped, for programs as JSON.
//!
//! Invariant: output that was lost is never a success. A reader that has gone, such as `head`, ends the command without a word and with the status
//! that a shell shows for SIGPIPE; any other failure is said. Neither is a panic, which `println!` would make of it.

use std::fmt;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::OnceLock;

use serde::Serialize;

use super::{Failure, Status};
use crate::visible::{visible_json, visible_lines};

/// Why output was lost, the first time.
static LOST: OnceLock<io::Error> = OnceLock::new();

/// One answer with its newline, as `println!` takes it.
macro_rules! say {
    ($($words:tt)*) => { $crate::cli::out::text(format_args!("{}\n", format_args!($($words)*))) };
}
pub(super) use say;

/// As it is, with its newlines.
pub(super) fn text(text: impl fmt::Display) {
    write(&visible_lines(&text.to_string()));
}

/// A whole JSON document, in lines.
pub(super) fn json(value: &impl Serialize) {
    write(&(in_json(value, serde_json::to_string_pretty) + "\n"));
}

/// One element of an array, on one line, after a bracket or a comma.
pub(super) fn json_element(before: &str, value: &impl Serialize) {
    write(&(before.to_owned() + &in_json(value, serde_json::to_string)));
}

/// `Break` once there is no use in saying more.
pub(super) fn go_on() -> ControlFlow<()> {
    if LOST.get().is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

fn in_json<T: Serialize>(value: &T, how: fn(&T) -> serde_json::Result<String>) -> String {
    // A value of ours always has a form in JSON: no map with keys that are no strings.
    visible_json(&how(value).unwrap_or_default())
}

/// Octets of a foreign printer, such as the help of clap.
pub(super) fn printed(outcome: io::Result<()>) {
    if let Err(error) = outcome {
        let _ = LOST.set(error);
    }
}

fn write(text: &str) {
    if go_on().is_continue() {
        printed(io::stdout().lock().write_all(text.as_bytes()));
    }
}

/// How the command ends: as it wants to, unless its output was lost. Called once, when all is said.
pub(super) fn finish(wanted: Status) -> Result<Status, Failure> {
    printed(io::stdout().lock().flush());
    match LOST.get() {
        None => Ok(wanted),
        Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Status::Unread),
        Some(error) => Err(Failure::new(Status::Output, format!("cannot write the answer: {error}"))),
    }
}
