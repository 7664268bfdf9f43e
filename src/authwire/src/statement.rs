//! What the helper says of itself: the answer to an [`Order`](crate::Order).
//!
//! ```text
//! 0 version  1 what  2 length of the rest (4 bytes)  6 …
//! ```
//!
//! Invariant: what does not decode exactly is no statement, and none is longer than [`MAX_STATEMENT`].

use std::net::IpAddr;

use crate::VERSION;
use crate::cursor::{Reader, put_long, put_text};
use crate::question::Question;
use crate::verdict::{Cause, OutcomeKind};

/// The longest statement.
pub const MAX_STATEMENT: usize = 64 * 1024;
/// The longest text of PAM modules in an [`Attempt`].
pub const MAX_TEXT: usize = 600;

const HEADER: usize = 6;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    Status(Status),
    Throttled(Vec<Held>),
    /// Whether there was anything to forget.
    Released(bool),
    /// The newest first.
    Attempts(Vec<Attempt>),
}

/// How the helper is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Seconds since the start.
    pub uptime: u64,
    /// Workers that compute, and how many may.
    pub busy: u32,
    pub workers: u32,
    /// Workers that wait for a back end or hang, and how many may beside the others.
    pub slow: u32,
    pub slow_workers: u32,
    /// Questions in line, and how many may be.
    pub waiting: u32,
    pub most_waiting: u32,
    /// Memory that nobody else has, in KiB: of the listener, of the template, of all workers.
    pub listener_kib: u64,
    pub template_kib: u64,
    pub workers_kib: u64,
    /// Answers so far.
    pub accepted: u64,
    pub refused: u64,
    pub throttled: u64,
    pub unavailable: u64,
    /// Workers that had to be killed at their deadline, and those that ended without an answer.
    pub killed: u64,
    pub crashed: u64,
    /// How many wrong passwords for one account reach PAM in so many seconds.
    pub account_failures: u32,
    pub account_window: u64,
    /// Whether these are of one network, with pauses between them, because no back end locks accounts.
    pub account_pauses: bool,
}

/// An account or a network that is held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub subject: HeldSubject,
    /// Wrong passwords that count at this moment.
    pub failures: u32,
    /// Seconds until the next try is let through, if nothing else fails.
    pub wait: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldSubject {
    Account(String),
    /// An account, from this network alone.
    AccountFrom(String, IpAddr),
    Network(IpAddr),
    /// The IPv4 /24 or IPv6 /48, by its first address.
    Site(IpAddr),
    /// Everybody who does not come from where he logged in lately.
    All,
}

/// One login, as the helper saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Milliseconds since 1970 at which it was answered.
    pub at: u64,
    pub session: u64,
    pub peer: [u8; 16],
    pub listener: String,
    pub service: String,
    /// The name that was typed, and the one that PAM was given.
    pub typed: String,
    pub asked: String,
    /// Whom PAM named in the end; empty if it did not come to that.
    pub account: String,
    pub outcome: OutcomeKind,
    /// `None` for an accept.
    pub cause: Option<Cause>,
    /// Milliseconds in all, and those of them before a worker began.
    pub took: u32,
    pub waited: u32,
    /// What the modules said, cleaned.
    pub text: String,
}

impl Statement {
    /// The bytes to send. A list that is too long loses its end; `None` only if a text is longer than any can be.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut out = vec![VERSION, 0, 0, 0, 0, 0];
        let kind = match self {
            Self::Status(status) => {
                status.numbers().iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
                1
            }
            Self::Throttled(held) => {
                put_list(&mut out, held, Held::encode)?;
                2
            }
            Self::Released(found) => {
                out.push(u8::from(*found));
                3
            }
            Self::Attempts(attempts) => {
                put_list(&mut out, attempts, Attempt::encode)?;
                4
            }
        };
        let rest = u32::try_from(out.len() - HEADER).ok()?;
        *out.get_mut(1)? = kind;
        out.get_mut(2..HEADER)?.copy_from_slice(&rest.to_le_bytes());
        Some(out)
    }

    /// Reads exactly one statement.
    pub fn decode(frame: &[u8]) -> Option<Self> {
        if frame.len() > MAX_STATEMENT {
            return None;
        }
        let mut rest = Reader(frame);
        if rest.u8()? != VERSION {
            return None;
        }
        let kind = rest.u8()?;
        if usize::try_from(rest.u32()?).ok()? != rest.0.len() {
            return None;
        }
        let statement = match kind {
            1 => Self::Status(Status::decode(&mut rest)?),
            2 => Self::Throttled(list(&mut rest, Held::decode)?),
            3 => Self::Released(flag(&mut rest)?),
            4 => Self::Attempts(list(&mut rest, Attempt::decode)?),
            _ => return None,
        };
        rest.end()?;
        Some(statement)
    }
}

impl Status {
    /// Its numbers in the order of the wire.
    fn numbers(&self) -> [u64; 19] {
        [
            self.uptime,
            self.busy.into(),
            self.workers.into(),
            self.slow.into(),
            self.slow_workers.into(),
            self.waiting.into(),
            self.most_waiting.into(),
            self.listener_kib,
            self.template_kib,
            self.workers_kib,
            self.accepted,
            self.refused,
            self.throttled,
            self.unavailable,
            self.killed,
            self.crashed,
            self.account_failures.into(),
            self.account_window,
            self.account_pauses.into(),
        ]
    }

    fn decode(rest: &mut Reader<'_>) -> Option<Self> {
        let mut wide = || rest.u64();
        let narrow = |number: u64| u32::try_from(number).ok();
        Some(Self {
            uptime: wide()?,
            busy: narrow(wide()?)?,
            workers: narrow(wide()?)?,
            slow: narrow(wide()?)?,
            slow_workers: narrow(wide()?)?,
            waiting: narrow(wide()?)?,
            most_waiting: narrow(wide()?)?,
            listener_kib: wide()?,
            template_kib: wide()?,
            workers_kib: wide()?,
            accepted: wide()?,
            refused: wide()?,
            throttled: wide()?,
            unavailable: wide()?,
            killed: wide()?,
            crashed: wide()?,
            account_failures: narrow(wide()?)?,
            account_window: wide()?,
            account_pauses: match wide()? {
                0 => false,
                1 => true,
                _ => return None,
            },
        })
    }
}

impl Held {
    fn encode(&self, out: &mut Vec<u8>) -> Option<()> {
        match &self.subject {
            HeldSubject::Account(name) => {
                out.push(1);
                put_text(out, name)?;
            }
            HeldSubject::Network(address) => {
                out.push(2);
                out.extend_from_slice(&Question::peer_bytes(*address));
            }
            HeldSubject::All => out.push(3),
            HeldSubject::Site(address) => {
                out.push(4);
                out.extend_from_slice(&Question::peer_bytes(*address));
            }
            HeldSubject::AccountFrom(name, address) => {
                out.push(5);
                put_text(out, name)?;
                out.extend_from_slice(&Question::peer_bytes(*address));
            }
        }
        out.extend_from_slice(&self.failures.to_le_bytes());
        out.extend_from_slice(&self.wait.to_le_bytes());
        Some(())
    }

    fn decode(rest: &mut Reader<'_>) -> Option<Self> {
        let subject = match rest.u8()? {
            1 => HeldSubject::Account(rest.text()?.to_owned()),
            2 => HeldSubject::Network(Question::address(rest.array()?)),
            3 => HeldSubject::All,
            4 => HeldSubject::Site(Question::address(rest.array()?)),
            5 => HeldSubject::AccountFrom(rest.text()?.to_owned(), Question::address(rest.array()?)),
            _ => return None,
        };
        Some(Self { subject, failures: rest.u32()?, wait: rest.u64()? })
    }
}

impl Attempt {
    fn encode(&self, out: &mut Vec<u8>) -> Option<()> {
        out.extend_from_slice(&self.at.to_le_bytes());
        out.extend_from_slice(&self.session.to_le_bytes());
        out.extend_from_slice(&self.peer);
        for text in [&self.listener, &self.service, &self.typed, &self.asked, &self.account] {
            put_text(out, text)?;
        }
        out.push(self.outcome.byte());
        match self.cause {
            Some(cause) => {
                out.push(1);
                cause.encode(out);
            }
            None => out.push(0),
        }
        out.extend_from_slice(&self.took.to_le_bytes());
        out.extend_from_slice(&self.waited.to_le_bytes());
        put_long(out, &self.text)
    }

    fn decode(rest: &mut Reader<'_>) -> Option<Self> {
        let attempt = Self {
            at: rest.u64()?,
            session: rest.u64()?,
            peer: rest.array()?,
            listener: rest.text()?.to_owned(),
            service: rest.text()?.to_owned(),
            typed: rest.text()?.to_owned(),
            asked: rest.text()?.to_owned(),
            account: rest.text()?.to_owned(),
            outcome: OutcomeKind::from_byte(rest.u8()?)?,
            cause: if flag(rest)? { Some(Cause::decode(rest)?) } else { None },
            took: rest.u32()?,
            waited: rest.u32()?,
            text: rest.long()?.to_owned(),
        };
        ((attempt.outcome == OutcomeKind::Accept) == attempt.cause.is_none()).then_some(attempt)
    }
}

/// As many as fit, behind their number.
fn put_list<T>(out: &mut Vec<u8>, items: &[T], put: impl Fn(&T, &mut Vec<u8>) -> Option<()>) -> Option<()> {
    let place = out.len();
    out.extend_from_slice(&[0, 0]);
    let mut count = 0u16;
    for item in items {
        let end = out.len();
        put(item, out)?;
        if out.len() > MAX_STATEMENT {
            out.truncate(end);
            break;
        }
        count = count.checked_add(1)?;
    }
    out.get_mut(place..place + 2)?.copy_from_slice(&count.to_le_bytes());
    Some(())
}

fn list<T>(rest: &mut Reader<'_>, item: impl Fn(&mut Reader<'_>) -> Option<T>) -> Option<Vec<T>> {
    let count = rest.u16()?;
    (0..count).map(|_| item(rest)).collect()
}

fn flag(rest: &mut Reader<'_>) -> Option<bool> {
    match rest.u8()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Phase, Reason};

    fn attempt(outcome: OutcomeKind) -> Attempt {
        let cause = Cause { phase: Phase::Auth, code: 7, reason: Reason::Refused };
        Attempt {
            at: 1_800_000_000_123,
            session: 42,
            peer: [1; 16],
            listener: "submission".into(),
            service: "smtp".into(),
            typed: "Alice@example.org".into(),
            asked: "alice".into(),
            account: String::new(),
            outcome,
            cause: (outcome != OutcomeKind::Accept).then_some(cause),
            took: 70,
            waited: 3,
            text: "x".repeat(MAX_TEXT),
        }
    }

    fn every_statement() -> Vec<Statement> {
        let held = |subject| Held { subject, failures: 3, wait: 900 };
        vec![
            Statement::Status(Status { uptime: 5, busy: 1, account_window: u64::MAX, account_pauses: true, ..Status::default() }),
            Statement::Throttled(vec![
                held(HeldSubject::Account("alice".into())),
                held(HeldSubject::Network("192.0.2.7".parse().unwrap())),
                held(HeldSubject::Network("2001:db8::".parse().unwrap())),
                held(HeldSubject::Site("2001:db8:1::".parse().unwrap())),
                held(HeldSubject::AccountFrom("alice".into(), "192.0.2.7".parse().unwrap())),
                held(HeldSubject::All),
            ]),
            Statement::Released(true),
            Statement::Attempts(vec![attempt(OutcomeKind::Accept), attempt(OutcomeKind::Reject)]),
        ]
    }

    #[test]
    fn every_statement_comes_back_as_it_was() {
        for statement in every_statement() {
            assert_eq!(Statement::decode(&statement.encode().unwrap()), Some(statement));
        }
    }

    #[test]
    fn no_cut_or_lengthened_frame_is_a_statement() {
        for statement in every_statement() {
            let frame = statement.encode().unwrap();

            for cut in 0..frame.len() {
                assert_eq!(Statement::decode(&frame[..cut]), None, "{statement:?} cut at {cut}");
            }
            assert_eq!(Statement::decode(&[&frame[..], b"x"].concat()), None);
        }
    }

    #[test]
    fn a_list_that_is_too_long_loses_its_end() {
        let long = Statement::Attempts(vec![attempt(OutcomeKind::Reject); 512]);

        let frame = long.encode().unwrap();

        assert!(frame.len() <= MAX_STATEMENT);
        let Some(Statement::Attempts(kept)) = Statement::decode(&frame) else { panic!("it does not decode") };
        assert!((64..512).contains(&kept.len()), "{}", kept.len());
    }
}
