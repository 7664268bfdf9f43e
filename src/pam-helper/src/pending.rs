//! A question that is to be answered, and what is told of it: one line in the log, one entry in the ledger.
//!
//! Invariant: every answer has exactly one line, but for those that [`repeats`](crate::repeats) counts; and a line says all: who, from where, by which listener and service, how
//! far it came, what PAM and its modules said, how long it took, what the client hears.

use std::os::unix::net::UnixStream;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use pamrelay_authwire::{Attempt, Outcome, OutcomeKind, Phase, Question, QuestionFrame, Reason, SessionId};

use crate::limits::{Keys, Standing};
use crate::log::{Level, Line, shown};
use crate::repeats::Written;
use crate::settings::Settings;

pub(crate) struct Pending {
    pub(crate) stream: UnixStream,
    pub(crate) frame: QuestionFrame,
    pub(crate) id: u64,
    pub(crate) session: u64,
    pub(crate) peer: [u8; 16],
    pub(crate) listener: String,
    /// As far as it is known: a worker may find that it takes the one for guests.
    pub(crate) service: String,
    pub(crate) typed: Vec<u8>,
    /// What the rules made of it.
    pub(crate) asked: String,
    pub(crate) keys: Keys,
    pub(crate) standing: Standing,
    /// Why it will never be asked. It waits in line like any other, so that its time tells nothing.
    pub(crate) unfit: Option<Reason>,
    pub(crate) arrived: Instant,
    /// When a worker took it.
    pub(crate) began: Option<Instant>,
    /// PAM did not know the name before.
    pub(crate) once_more: bool,
}

impl Pending {
    /// A question that has waited half its time has too little left to be worth a worker.
    pub(crate) fn latest_start(&self, settings: &Settings) -> Instant {
        self.arrived + settings.deadline / 2
    }

    /// Its asker went away.
    pub(crate) fn abandoned(&self, now: Instant) {
        self.line(Level::Notice, "abandoned", now).write();
    }

    /// Writes the line, unless it is only counted, and gives the entry.
    pub(crate) fn told(&self, outcome: &Outcome, text: &str, written: Written, now: Instant) -> Attempt {
        let account = match outcome {
            Outcome::Accept(accepted) => &accepted.user,
            Outcome::Reject(_)
            | Outcome::Throttled(_)
            | Outcome::MustChange(_)
            | Outcome::Expired(_)
            | Outcome::NotPermitted(_)
            | Outcome::Unavailable(_) => &self.asked,
        };
        match written {
            Written::Yes => self.log(outcome, account, text, now),
            Written::Counted => {}
        }
        let milliseconds = |to: Instant| u32::try_from(to.saturating_duration_since(self.arrived).as_millis()).unwrap_or(u32::MAX);
        Attempt {
            at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
            session: self.session,
            peer: self.peer,
            listener: self.listener.clone(),
            service: self.service.clone(),
            typed: shown(&self.typed),
            asked: self.asked.clone(),
            account: if outcome.kind() == OutcomeKind::Accept { account.clone() } else { String::new() },
            outcome: outcome.kind(),
            cause: outcome.cause(),
            took: milliseconds(now),
            waited: milliseconds(self.began.unwrap_or(now)),
            text: text.to_owned(),
        }
    }

    fn line(&self, level: Level, event: &str, now: Instant) -> Line {
        let time = now.saturating_duration_since(self.arrived).as_millis();
        let peer = Question::address(self.peer);
        Line::event(level, event).with("session", SessionId(self.session)).text("user", &self.typed).with("peer", peer).with("ms", time)
    }

    fn log(&self, outcome: &Outcome, account: &str, text: &str, now: Instant) {
        let level = match outcome.kind() {
            OutcomeKind::Accept => Level::Info,
            OutcomeKind::Reject | OutcomeKind::MustChange | OutcomeKind::Expired | OutcomeKind::NotPermitted => Level::Notice,
            OutcomeKind::Throttled => Level::Warning,
            OutcomeKind::Unavailable => Level::Error,
        };
        let mut line = self.line(level, "login", now).with("verdict", outcome.word());
        if let Some(cause) = outcome.cause() {
            line = line.with("stage", stage(cause.phase)).with("phase", cause.phase).with("code", cause.code).with("reason", cause.reason);
        }
        line = line.text("account", account);
        if let Outcome::Accept(accepted) = outcome {
            line = line.with("uid", accepted.uid);
        }
        if !self.listener.is_empty() {
            line = line.text("listener", &self.listener);
        }
        line = line.with("service", &self.service).text("reply", outcome.kind().reply());
        if !text.is_empty() {
            line = line.text("text", text);
        }
        line.write();
    }
}

/// Which part of pamrelay decided.
fn stage(phase: Phase) -> &'static str {
    match phase {
        Phase::Check => "check",
        Phase::Limit => "limit",
        Phase::Start => "start",
        Phase::Auth | Phase::Account => "pam",
        Phase::Identity => "identity",
        Phase::Worker => "worker",
    }
}
