//! Lines about logins that cost their sender nothing: the first ones are written, the rest are counted.
//!
//! A guesser over a limit, a name that cannot be one, a device that repeats an old password, a client that hangs up: PAM is not
//! asked, so nothing else bounds how often they come. For each network the first of each kind in a minute is written; the others
//! are counted and written as one line when the minute is over. A login that was asked about and got no answer may be a person
//! during an outage, so more of those are written.
//!
//! Invariant: lines about accepted logins and about refusals of PAM do not pass through here. At most [`NETWORKS`] networks are
//! remembered and [`LINES`] lines written in a minute, whoever connects from wherever.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use pamrelay_authwire::{Outcome, Phase, Question, Reason, network, site};

use crate::log::{Level, Line};
use crate::pam::Code;

const MINUTE: Duration = Duration::from_secs(60);
/// Networks that are counted on their own, and those of them in one site; further ones are counted together.
const NETWORKS: usize = 256;
const NETWORKS_OF_SITE: usize = 16;
/// Lines of one network in a minute that are written: about logins that PAM was not asked about, and about those that got no
/// answer.
const UNASKED: u32 = 4;
const UNANSWERED: u32 = 30;
/// Lines in a minute, of all networks.
const LINES: u32 = 1000;

/// What a login cost whoever sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cost {
    /// PAM decided: always a line.
    Asked,
    /// PAM was asked in vain.
    Unanswered(Reason),
    /// PAM was not asked, or asked again about the same.
    Nothing(Reason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Yes,
    Counted,
}

/// Whose lines are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Whose {
    Network(IpAddr),
    Site(IpAddr),
    Others,
}

/// One minute of one of them.
struct Count {
    began: Instant,
    unasked: u32,
    unanswered: u32,
    /// What was not written, by reason.
    unwritten: Vec<(Reason, u64)>,
    /// Reasons that have had their line.
    seen: Vec<Reason>,
}

pub(crate) struct Repeats {
    counts: HashMap<Whose, Count>,
    /// Since when, and how many lines were written since then.
    lines: (Instant, u32),
}

impl Cost {
    pub(crate) fn of(outcome: &Outcome, once_more: bool) -> Self {
        match outcome {
            Outcome::Accept(_) | Outcome::MustChange(_) | Outcome::Expired(_) | Outcome::NotPermitted(_) => Self::Asked,
            Outcome::Throttled(cause) => Self::Nothing(cause.reason),
            Outcome::Reject(cause) => match cause.phase {
                Phase::Auth if once_more && Code(cause.code) == Code::USER_UNKNOWN => Self::Nothing(cause.reason),
                Phase::Auth | Phase::Account | Phase::Identity => Self::Asked,
                Phase::Check | Phase::Limit | Phase::Start | Phase::Worker => Self::Nothing(cause.reason),
            },
            Outcome::Unavailable(cause) => match cause.phase {
                Phase::Auth | Phase::Account | Phase::Identity | Phase::Worker => Self::Unanswered(cause.reason),
                Phase::Check | Phase::Limit | Phase::Start => Self::Nothing(cause.reason),
            },
        }
    }
}

impl Repeats {
    pub(crate) fn new(now: Instant) -> Self {
        Self { counts: HashMap::new(), lines: (now, 0) }
    }

    /// Whether the line about this login is written; if not, it is counted.
    pub(crate) fn note(&mut self, peer: [u8; 16], cost: Cost, now: Instant) -> Written {
        let reason = match cost {
            Cost::Asked => return Written::Yes,
            Cost::Unanswered(reason) | Cost::Nothing(reason) => reason,
        };
        if now.saturating_duration_since(self.lines.0) >= MINUTE {
            self.lines = (now, 0);
        }
        let full = self.lines.1 >= LINES;
        let whose = self.whose(Question::address(peer));
        let count = self.counts.entry(whose).or_insert_with(|| Count::new(now));
        if !full && whose != Whose::Others && count.has_room(cost, reason) {
            self.lines.1 += 1;
            return Written::Yes;
        }
        count.leave_out(reason);
        Written::Counted
    }

    /// Writes what was counted in minutes that are over.
    pub(crate) fn write(&mut self, now: Instant) {
        for (whose, count) in self.counts.extract_if(|_, count| now.saturating_duration_since(count.began) >= MINUTE) {
            count.line(whose, now).into_iter().for_each(Line::write);
        }
    }

    /// Writes all that was counted.
    pub(crate) fn close(&mut self, now: Instant) {
        for (whose, count) in self.counts.drain() {
            count.line(whose, now).into_iter().for_each(Line::write);
        }
    }

    /// When there may be something to write.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.counts.values().map(|count| count.began + MINUTE).min()
    }

    fn whose(&self, peer: IpAddr) -> Whose {
        let (own, site_of) = (Whose::Network(network(peer)), Whose::Site(site(peer)));
        if self.counts.contains_key(&own) {
            return own;
        }
        let of_site = self.counts.keys().filter(|whose| matches!(whose, Whose::Network(other) if site(*other) == site(peer))).count();
        let wanted = if of_site < NETWORKS_OF_SITE { own } else { site_of };
        if self.counts.len() < NETWORKS || self.counts.contains_key(&wanted) { wanted } else { Whose::Others }
    }
}

impl Count {
    fn new(began: Instant) -> Self {
        Self { began, unasked: 0, unanswered: 0, unwritten: Vec::new(), seen: Vec::new() }
    }

    fn has_room(&mut self, cost: Cost, reason: Reason) -> bool {
        let (used, most) = match cost {
            Cost::Asked => return true,
            Cost::Unanswered(_) => (&mut self.unanswered, UNANSWERED),
            Cost::Nothing(_) if self.seen.contains(&reason) => return false,
            Cost::Nothing(_) => (&mut self.unasked, UNASKED),
        };
        let has_room = *used < most;
        if has_room {
            *used += 1;
            self.seen.push(reason);
        }
        has_room
    }

    fn leave_out(&mut self, reason: Reason) {
        match self.unwritten.iter_mut().find(|(of, _)| *of == reason) {
            Some((_, times)) => *times += 1,
            None => self.unwritten.push((reason, 1)),
        }
    }

    fn line(&self, whose: Whose, now: Instant) -> Option<Line> {
        let all: u64 = self.unwritten.iter().map(|(_, times)| times).sum();
        if all == 0 {
            return None;
        }
        let reasons: Vec<String> = self.unwritten.iter().map(|(reason, times)| format!("{reason} {times}")).collect();
        let from = match whose {
            Whose::Network(IpAddr::V4(four)) => four.to_string(),
            Whose::Network(IpAddr::V6(six)) => format!("{six}/64"),
            Whose::Site(IpAddr::V4(four)) => format!("{four}/24"),
            Whose::Site(IpAddr::V6(six)) => format!("{six}/48"),
            Whose::Others => "others".to_owned(),
        };
        let seconds = now.saturating_duration_since(self.began).as_secs();
        let line = Line::event(Level::Warning, "repeats").with("network", from).with("logins", all).with("seconds", seconds);
        Some(line.text("reasons", reasons.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use pamrelay_authwire::{Accepted, Cause};

    use super::*;

    const THROTTLED: Cost = Cost::Nothing(Reason::AccountFailures);

    fn peer(text: &str) -> [u8; 16] {
        Question::peer_bytes(text.parse().unwrap())
    }

    fn lines(repeats: &mut Repeats, now: Instant) -> Vec<String> {
        let over = repeats.counts.extract_if(|_, count| now.saturating_duration_since(count.began) >= MINUTE);
        let mut lines: Vec<String> = over.filter_map(|(whose, count)| count.line(whose, now)).map(|line| line.to_string()).collect();
        lines.sort();
        lines
    }

    #[test]
    fn six_guessers_write_six_lines_and_six_more_when_the_minute_is_over() {
        let now = Instant::now();
        let mut repeats = Repeats::new(now);
        let mut written = 0;

        for n in 0..480 {
            let note = repeats.note(peer(&format!("198.51.{}.7", n % 6)), THROTTLED, now + Duration::from_millis(n * 100));
            written += u32::from(note == Written::Yes);
        }

        assert_eq!(written, 6);
        assert!(lines(&mut repeats, now + MINUTE / 2).is_empty());
        let lines = lines(&mut repeats, now + MINUTE + Duration::from_secs(1));
        assert_eq!(lines.len(), 6);
        assert_eq!(lines[0], r#"event=repeats network=198.51.0.7 logins=79 seconds=61 reasons="account-failures 79""#);
        assert_eq!(repeats.note(peer("198.51.0.7"), THROTTLED, now + 2 * MINUTE), Written::Yes, "a new minute begins with a line");
    }

    #[test]
    fn what_pam_decided_is_always_written() {
        let now = Instant::now();
        let mut repeats = Repeats::new(now);
        let cause = |phase, reason| Cause { phase, code: 7, reason };
        let accept = Outcome::Accept(Accepted { user: "ann".into(), uid: 1000, groups: vec![], ticket: vec![] });
        (0..100_000u32).for_each(|n| {
            repeats.note(n.to_be_bytes().repeat(4).try_into().unwrap(), THROTTLED, now);
        });

        for outcome in [
            accept,
            Outcome::Reject(cause(Phase::Auth, Reason::Refused)),
            Outcome::Reject(cause(Phase::Identity, Reason::Root)),
            Outcome::NotPermitted(cause(Phase::Account, Reason::AccountRefused)),
            Outcome::Expired(cause(Phase::Account, Reason::AccountExpired)),
            Outcome::MustChange(cause(Phase::Account, Reason::PasswordAged)),
        ] {
            assert_eq!(repeats.note(peer("192.0.2.1"), Cost::of(&outcome, false), now), Written::Yes, "{outcome:?}");
        }
        let again = Outcome::Reject(Cause { code: Code::USER_UNKNOWN.0, ..cause(Phase::Auth, Reason::Refused) });
        assert_eq!(Cost::of(&again, true), Cost::Nothing(Reason::Refused));
        assert_eq!(Cost::of(&again, false), Cost::Asked);
    }

    #[test]
    fn memory_and_lines_are_bounded_however_many_networks_there_are() {
        let now = Instant::now();
        let mut repeats = Repeats::new(now);
        let reasons =
            [Reason::AccountFailures, Reason::PeerFailures, Reason::AllFailures, Reason::SameAgain, Reason::BadName, Reason::Busy];
        let mut written = 0u32;

        for n in 0..200_000u32 {
            let address = if n % 2 == 0 {
                format!("2001:db8:{:x}:{:x}::1", n % 700, n)
            } else {
                format!("10.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255)
            };
            let reason = reasons[n as usize % reasons.len()];
            let cost = if n % 3 == 0 { Cost::Unanswered(reason) } else { Cost::Nothing(reason) };
            written += u32::from(
                repeats.note(peer(&address.replace(&format!(":{n:x}::"), &format!(":{:x}::", n & 0xffff))), cost, now) == Written::Yes,
            );
        }

        assert!(written <= LINES, "{written}");
        assert!(repeats.counts.len() <= NETWORKS + 1, "{}", repeats.counts.len());
        let lines = lines(&mut repeats, now + MINUTE);
        assert!(lines.iter().any(|line| line.contains("network=others")), "{lines:?}");
        assert!(lines.len() <= NETWORKS + 1);
    }

    #[test]
    fn a_site_of_many_networks_takes_few_places_and_one_line_more() {
        let now = Instant::now();
        let mut repeats = Repeats::new(now);

        (0..1000).for_each(|n| {
            repeats.note(peer(&format!("2001:db8:1:{n:x}::1")), THROTTLED, now);
        });

        assert_eq!(repeats.counts.len(), NETWORKS_OF_SITE + 1);
        assert_eq!(repeats.note(peer("2001:db8:2::1"), THROTTLED, now), Written::Yes, "others have theirs");
        let lines = lines(&mut repeats, now + MINUTE);
        assert_eq!(lines, [r#"event=repeats network=2001:db8:1::/48 logins=983 seconds=60 reasons="account-failures 983""#]);
    }

    #[test]
    fn each_reason_has_its_first_line_and_an_outage_has_more() {
        let now = Instant::now();
        let mut repeats = Repeats::new(now);
        let mut note = |cost| repeats.note(peer("192.0.2.1"), cost, now) == Written::Yes;

        assert!(note(THROTTLED) && !note(THROTTLED));
        assert!(note(Cost::Nothing(Reason::BadName)) && !note(Cost::Nothing(Reason::BadName)));
        let unanswered = (0..100).filter(|_| note(Cost::Unanswered(Reason::Fault))).count();
        assert_eq!(unanswered, UNANSWERED as usize);
    }
}
