//! The latest logins as they were answered, so that an administrator can ask why.
//!
//! Invariant: memory is bounded, there is no password in it, and logins that PAM was not asked about, which cost their sender
//! nothing, never push out those that it was asked about.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;

use pamrelay_authwire::{Attempt, Logins, OutcomeKind, Phase, Question, network, site, spelling};

/// So many are remembered; with every text as long as it can be they take less than a mebibyte.
const REMEMBERED: usize = 512;
/// And of these so many that PAM was not asked about.
const UNASKED: usize = REMEMBERED / 2;
/// So many are told at once.
const TOLD: usize = 16;

#[derive(Default)]
pub(crate) struct Ledger {
    attempts: VecDeque<Attempt>,
    totals: [u64; 4],
}

/// What was answered since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) throttled: u64,
    pub(crate) unavailable: u64,
}

impl Ledger {
    pub(crate) fn enter(&mut self, attempt: Attempt) {
        let [accepted, refused, throttled, unavailable] = &mut self.totals;
        *match attempt.outcome {
            OutcomeKind::Accept => accepted,
            OutcomeKind::Reject | OutcomeKind::MustChange | OutcomeKind::Expired | OutcomeKind::NotPermitted => refused,
            OutcomeKind::Throttled => throttled,
            OutcomeKind::Unavailable => unavailable,
        } += 1;
        // What PAM was not asked about costs its sender nothing: the same from the same network takes one place.
        if let Some(at) = self.attempts.iter().position(|known| is_repeated(known, &attempt)) {
            self.attempts.remove(at);
        } else if is_unasked(&attempt) && self.attempts.iter().filter(|known| is_unasked(known)).count() >= UNASKED {
            if let Some(oldest) = self.attempts.iter().rposition(is_unasked) {
                self.attempts.remove(oldest);
            }
        } else if self.attempts.len() >= REMEMBERED {
            self.attempts.pop_back();
        }
        self.attempts.push_front(attempt);
    }

    pub(crate) fn totals(&self) -> Totals {
        let [accepted, refused, throttled, unavailable] = self.totals;
        Totals { accepted, refused, throttled, unavailable }
    }

    /// Those that are asked for, the newest first.
    pub(crate) fn find(&self, wanted: &Logins) -> Vec<Attempt> {
        let account = match wanted {
            Logins::OfUser(user) => spelling::account(user.as_bytes()),
            Logins::OfSession(_) | Logins::Latest => String::new(),
        };
        let is_theirs = |name: &String| !name.is_empty() && spelling::account(name.as_bytes()) == account;
        let fits = |attempt: &&Attempt| match wanted {
            Logins::OfSession(session) => attempt.session == *session,
            Logins::OfUser(_) => [&attempt.typed, &attempt.asked, &attempt.account].into_iter().any(is_theirs),
            Logins::Latest => true,
        };
        self.attempts.iter().filter(fits).take(TOLD).cloned().collect()
    }

    /// The accounts that were named lately, each once, in its latest spelling.
    pub(crate) fn accounts(&self) -> Vec<&str> {
        let mut seen = HashSet::new();
        let names = self.attempts.iter().map(|attempt| attempt.asked.as_str()).filter(|name| !name.is_empty());
        names.filter(|name| seen.insert(spelling::account(name.as_bytes()))).collect()
    }

    /// The latest login of each account from each network.
    pub(crate) fn places(&self) -> Vec<&Attempt> {
        let mut seen = HashSet::new();
        let named = self.attempts.iter().filter(|attempt| !attempt.asked.is_empty());
        named
            .filter(|attempt| seen.insert((spelling::account(attempt.asked.as_bytes()), network(Question::address(attempt.peer)))))
            .collect()
    }

    /// An address of each site that came lately.
    pub(crate) fn sites(&self) -> Vec<IpAddr> {
        let mut seen = HashSet::new();
        let peers = self.attempts.iter().map(|attempt| Question::address(attempt.peer));
        peers.filter(|peer| seen.insert(site(*peer))).collect()
    }

    /// An address of each network that came lately.
    pub(crate) fn peers(&self) -> Vec<IpAddr> {
        let mut seen = HashSet::new();
        let peers = self.attempts.iter().map(|attempt| Question::address(attempt.peer));
        peers.filter(|peer| seen.insert(network(*peer))).collect()
    }
}

fn is_unasked(attempt: &Attempt) -> bool {
    attempt.cause.is_some_and(|cause| matches!(cause.phase, Phase::Check | Phase::Limit | Phase::Start))
}

fn is_repeated(known: &Attempt, attempt: &Attempt) -> bool {
    let unasked = attempt.cause.filter(|cause| matches!(cause.phase, Phase::Check | Phase::Limit));
    let same_name = unasked.is_some_and(|cause| cause.phase == Phase::Check) || known.asked == attempt.asked;
    unasked.is_some()
        && known.cause == attempt.cause
        && same_name
        && network(Question::address(known.peer)) == network(Question::address(attempt.peer))
}

#[cfg(test)]
pub(crate) mod tests {
    use pamrelay_authwire::{Cause, Phase, Reason};

    use super::*;

    pub(crate) fn attempt(session: u64, user: &str, peer: &str) -> Attempt {
        Attempt {
            at: session,
            session,
            peer: Question::peer_bytes(peer.parse().unwrap()),
            listener: String::new(),
            service: "smtp".into(),
            typed: user.into(),
            asked: user.into(),
            account: String::new(),
            outcome: OutcomeKind::Reject,
            cause: Some(Cause { phase: Phase::Auth, code: 7, reason: Reason::Refused }),
            took: 1,
            waited: 0,
            text: String::new(),
        }
    }

    #[test]
    fn finds_by_session_and_by_however_the_name_was_written() {
        let mut ledger = Ledger::default();
        ledger.enter(attempt(1, "alice", "192.0.2.1"));
        ledger.enter(attempt(2, "LAB\\Alice", "192.0.2.1"));
        ledger.enter(attempt(3, "bob", "192.0.2.2"));
        let sessions = |wanted| ledger.find(&wanted).iter().map(|attempt| attempt.session).collect::<Vec<_>>();

        assert_eq!(sessions(Logins::OfSession(1)), [1]);
        assert_eq!(sessions(Logins::OfUser("ALICE@lab.test".into())), [2, 1]);
        assert_eq!(sessions(Logins::Latest), [3, 2, 1]);
        assert_eq!(sessions(Logins::OfUser("nobody".into())), [0u64; 0]);
        assert_eq!((ledger.accounts(), ledger.peers().len()), (vec!["bob", "LAB\\Alice"], 2));
        assert_eq!(ledger.totals().refused, 3);
    }

    #[test]
    fn what_pam_was_not_asked_about_takes_one_place_for_a_network() {
        let mut ledger = Ledger::default();
        ledger.enter(attempt(1, "owner", "192.0.2.1"));
        let cause = |phase, reason| Some(Cause { phase, code: 0, reason });

        for session in 2..2000u64 {
            let held = cause(Phase::Limit, Reason::AccountFailures);
            ledger.enter(Attempt { cause: held, ..attempt(session, "owner", &format!("2001:db8::{session:x}")) });
            let unfit = cause(Phase::Check, Reason::BadName);
            ledger.enter(Attempt { cause: unfit, ..attempt(session, &session.to_string(), "192.0.2.9") });
        }

        assert_eq!(ledger.attempts.len(), 3);
        assert_eq!(ledger.find(&Logins::OfUser("owner".into())).iter().map(|attempt| attempt.session).collect::<Vec<_>>(), [1999, 1]);
    }

    #[test]
    fn guesses_from_many_networks_do_not_push_out_what_pam_was_asked_about() {
        let mut ledger = Ledger::default();
        (0..200).for_each(|session| ledger.enter(attempt(session, "alice", "192.0.2.1")));

        for n in 0..5000u64 {
            let cause = Some(Cause { phase: Phase::Limit, code: 0, reason: Reason::AccountFailures });
            ledger.enter(Attempt { cause, ..attempt(1000 + n, &format!("user{n}"), &format!("2001:db8:{n:x}::1")) });
        }

        assert_eq!(ledger.attempts.iter().filter(|attempt| !is_unasked(attempt)).count(), 200);
        assert_eq!(ledger.attempts.len(), 200 + UNASKED);
        assert_eq!(ledger.attempts.front().unwrap().session, 5999);
    }

    #[test]
    fn remembers_so_many_and_no_more() {
        let mut ledger = Ledger::default();

        (0..2000).for_each(|session| ledger.enter(attempt(session, "alice", "192.0.2.1")));

        assert_eq!(ledger.attempts.len(), REMEMBERED);
        assert_eq!(ledger.find(&Logins::Latest).len(), TOLD);
        assert_eq!(ledger.find(&Logins::OfSession(1)), []);
        assert_eq!(ledger.totals().refused, 2000);
    }
}
