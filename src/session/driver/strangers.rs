//! Lines that somebody who has not logged in can cause: the first ones are written, the rest are counted.
//!
//! Whoever can connect could otherwise decide how much is logged, and push out what matters. For each network the first
//! lines of a kind in a minute are written; the others are counted and written as one line when the minute is over.
//! Invariant: lines about sessions that logged in do not pass through here. Whoever connects from wherever, at most
//! [`OF_ALL`] lines of a kind are written in a minute, [`NETWORKS`] networks are remembered for each kind, and
//! [`SUMMARIES`] of all have a line of their own when the minute is over; the others share one. No kind takes from another.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pamrelay_authwire::network;

const MINUTE: Duration = Duration::from_secs(60);
/// Lines of one kind and one network in a minute that are written.
const OF_NETWORK: u64 = 5;
/// Lines of one kind in a minute that are written, of all networks.
const OF_ALL: u64 = 100;
/// Networks that are counted on their own, for each kind.
const NETWORKS: usize = 512;
/// Networks that have a line of their own when the minute is over.
const SUMMARIES: usize = 20;

/// The kinds of lines; each is counted apart from the others, so that none pushes out another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Line {
    AcceptFailed,
    ConnectionsTooFast,
    Injection,
    Login,
    LoginUnanswered,
    PlainOnTlsPort,
    SessionEnded,
    TlsOnPlainPort,
    TooManySessions,
}

impl Line {
    const ALL: [Self; 9] = [
        Self::AcceptFailed,
        Self::ConnectionsTooFast,
        Self::Injection,
        Self::Login,
        Self::LoginUnanswered,
        Self::PlainOnTlsPort,
        Self::SessionEnded,
        Self::TlsOnPlainPort,
        Self::TooManySessions,
    ];

    /// The event of the line.
    const fn event(self) -> &'static str {
        match self {
            Self::AcceptFailed => "accept_failed",
            Self::ConnectionsTooFast => "connections_too_fast",
            Self::Injection => "starttls_injection",
            Self::Login => "login",
            Self::LoginUnanswered => "login_unanswered",
            Self::PlainOnTlsPort => "plain_on_tls_port",
            Self::SessionEnded => "session_ended",
            Self::TlsOnPlainPort => "tls_on_plain_port",
            Self::TooManySessions => "too_many_sessions",
        }
    }
}

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    Yes,
    /// Only counted.
    Counted,
}

#[derive(Debug)]
pub struct Strangers {
    minute: Mutex<Minute>,
}

#[derive(Debug)]
struct Minute {
    began: Instant,
    kinds: HashMap<Line, Kind>,
}

#[derive(Debug, Default)]
struct Kind {
    written: u64,
    by_network: HashMap<IpAddr, Count>,
    /// What was left out of networks that are not remembered.
    others: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    written: u64,
    left_out: u64,
}

/// A line about lines that were left out.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    of: Line,
    /// `None` for several networks together.
    network: Option<IpAddr>,
    lines: u64,
}

impl Default for Strangers {
    fn default() -> Self {
        Self { minute: Mutex::new(Minute::new(Instant::now())) }
    }
}

impl Strangers {
    /// Whether this line about `peer` is written now.
    pub fn note(&self, line: Line, peer: IpAddr) -> Written {
        self.end_minute();
        self.minute().note(line, network(peer))
    }

    /// Writes what was counted, if the minute is over. To be called now and then, because strangers may fall silent.
    pub fn end_minute(&self) {
        self.end(MINUTE);
    }

    /// Writes what was counted so far.
    pub fn close(&self) {
        self.end(Duration::ZERO);
    }

    fn end(&self, least: Duration) {
        let over = {
            let mut minute = self.minute();
            let now = Instant::now();
            if now.saturating_duration_since(minute.began) < least {
                return;
            }
            std::mem::replace(&mut *minute, Minute::new(now))
        };
        let seconds = over.began.elapsed().as_secs();
        for Summary { of, network, lines } in over.summaries() {
            let of = of.event();
            match network {
                Some(network) => tracing::warn!(event = "repeats", of, network = %network, lines, seconds),
                None => tracing::warn!(event = "repeats", of, network = "others", lines, seconds),
            }
        }
    }

    fn minute(&self) -> MutexGuard<'_, Minute> {
        self.minute.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Minute {
    fn new(began: Instant) -> Self {
        Self { began, kinds: HashMap::new() }
    }

    fn note(&mut self, line: Line, network: IpAddr) -> Written {
        self.kinds.entry(line).or_default().note(network)
    }

    /// The networks that had most left out, and what was left out of the others.
    fn summaries(mut self) -> Vec<Summary> {
        let counts = |(line, kind): (&Line, &Kind)| {
            let line = *line;
            kind.by_network.iter().map(move |(network, count)| (line, *network, count.left_out)).collect::<Vec<_>>()
        };
        let mut own: Vec<_> = self.kinds.iter().flat_map(counts).filter(|(_, _, left_out)| *left_out > 0).collect();
        own.sort_unstable_by_key(|(line, network, left_out)| (std::cmp::Reverse(*left_out), *line, *network));
        for (line, _, left_out) in own.drain(own.len().min(SUMMARIES)..) {
            self.kinds.entry(line).or_default().others += left_out;
        }
        let own = own.into_iter().map(|(of, network, lines)| Summary { of, network: Some(network), lines });
        let others =
            Line::ALL.into_iter().filter_map(|of| self.kinds.get(&of).map(|kind| Summary { of, network: None, lines: kind.others }));
        own.chain(others.filter(|summary| summary.lines > 0)).collect()
    }
}

impl Kind {
    fn note(&mut self, network: IpAddr) -> Written {
        if self.by_network.len() >= NETWORKS && !self.by_network.contains_key(&network) {
            self.others += 1;
            return Written::Counted;
        }
        let count = self.by_network.entry(network).or_default();
        if count.written < OF_NETWORK && self.written < OF_ALL {
            count.written += 1;
            self.written += 1;
            return Written::Yes;
        }
        count.left_out += 1;
        Written::Counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    fn written(minute: &mut Minute, line: Line, networks: impl Iterator<Item = u32>) -> usize {
        networks.filter(|number| minute.note(line, ip(*number)) == Written::Yes).count()
    }

    #[test]
    fn eleven_thousand_lines_of_one_network_are_five_and_one_with_their_number() {
        let mut minute = Minute::new(Instant::now());

        assert_eq!(written(&mut minute, Line::SessionEnded, std::iter::repeat_n(7, 11_000)), 5);
        assert_eq!(written(&mut minute, Line::SessionEnded, std::iter::once(8)), 1, "another network still has its lines");
        assert_eq!(written(&mut minute, Line::PlainOnTlsPort, std::iter::once(7)), 1, "and so has another kind");

        assert_eq!(minute.summaries(), [Summary { of: Line::SessionEnded, network: Some(ip(7)), lines: 10_995 }]);
    }

    #[test]
    fn however_many_networks_there_are_lines_and_memory_are_bounded_and_nothing_goes_uncounted() {
        let mut minute = Minute::new(Instant::now());
        let all = 100_000;

        let lines = written(&mut minute, Line::SessionEnded, 0..all);

        assert_eq!(lines as u64, OF_ALL);
        assert!(minute.kinds[&Line::SessionEnded].by_network.len() <= NETWORKS);
        let summaries = minute.summaries();
        assert_eq!(summaries.len(), SUMMARIES + 1);
        assert_eq!(summaries.iter().map(|it| it.lines).sum::<u64>() + OF_ALL, u64::from(all));
        assert_eq!(summaries.last().unwrap().network, None);
    }

    #[test]
    fn many_networks_that_cause_one_kind_of_line_push_out_no_other_kind() {
        let mut minute = Minute::new(Instant::now());
        written(&mut minute, Line::SessionEnded, 0..100_000);

        assert_eq!(written(&mut minute, Line::AcceptFailed, std::iter::once(200_000)), 1);
        assert_eq!(written(&mut minute, Line::Login, 200_000..200_010), 10);
    }

    #[test]
    fn a_new_minute_begins_with_lines_again() {
        let strangers = Strangers::default();
        let note = || strangers.note(Line::Login, ip(7));
        let first: Vec<_> = (0..6).map(|_| note()).collect();

        strangers.end_minute();
        let before = note();
        strangers.close();

        assert_eq!(first.iter().filter(|it| **it == Written::Yes).count(), 5);
        assert_eq!((before, note()), (Written::Counted, Written::Yes));
    }
}
