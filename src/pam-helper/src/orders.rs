//! What root asks of the helper itself: how it fares, whom it holds back, what became of a login.
//!
//! Invariant: nothing here asks PAM or accepts anybody; at most it forgets failures.

use std::time::Instant;

use nix::unistd::getpid;
use pamrelay_authwire::{Held, HeldSubject, Order, Question, Statement, Status, Subject, site};

use crate::limits::Rule;
use crate::listener::Listener;
use crate::log::{Level, Line};
use crate::rate::UsedUp;
use crate::window::MOST_FAILURES;
use crate::workshop::own_kib;

impl Listener {
    pub(crate) fn statement(&mut self, order: Order, now: Instant) -> Statement {
        match order {
            Order::Status => Statement::Status(self.status(now)),
            Order::Throttled => Statement::Throttled(self.throttled(now)),
            Order::Release(subject) => Statement::Released(self.release(&subject)),
            Order::Explain(logins) => Statement::Attempts(self.ledger.find(&logins)),
        }
    }

    fn status(&self, now: Instant) -> Status {
        let (census, totals) = (self.workshop.census(now), self.ledger.totals());
        let (failures, length, pauses) = match self.limits.per_account() {
            Rule::Window(window) if window.most == usize::MAX => (0, window.length, false),
            Rule::Window(window) => (window.most, window.length, false),
            Rule::Pauses(length) => (MOST_FAILURES, length, true),
        };
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Status {
            uptime: now.saturating_duration_since(self.began).as_secs(),
            busy: small(census.busy),
            workers: small(self.settings.workers),
            slow: small(census.slow),
            slow_workers: small(self.settings.slow_workers),
            waiting: small(self.waiting.len()),
            most_waiting: small(self.settings.waiting),
            listener_kib: own_kib(getpid()),
            template_kib: census.template_kib,
            workers_kib: census.workers_kib,
            accepted: totals.accepted,
            refused: totals.refused,
            throttled: totals.throttled,
            unavailable: totals.unavailable,
            killed: self.losses.killed,
            crashed: self.losses.crashed,
            account_failures: small(failures),
            account_window: length.as_secs(),
            account_pauses: pauses,
        }
    }

    /// Of those who came lately: the tables themselves have no names.
    fn throttled(&self, now: Instant) -> Vec<Held> {
        let held = |subject, used: UsedUp| Held { subject, failures: used.failures, wait: used.wait.as_secs_f64().ceil() as u64 };
        let all = self.limits.everybody(now).map(|used| held(HeldSubject::All, used));
        let accounts = self.ledger.accounts().into_iter().filter_map(|name| {
            let used = self.limits.account(name, now)?;
            Some(held(HeldSubject::Account(name.to_owned()), used))
        });
        let networks = self.ledger.peers().into_iter().filter_map(|peer| {
            let used = self.limits.network(peer, now)?;
            Some(held(HeldSubject::Network(peer), used))
        });
        let sites = self.ledger.sites().into_iter().filter_map(|peer| {
            let used = self.limits.site(peer, now)?;
            Some(held(HeldSubject::Site(site(peer)), used))
        });
        let places = self.ledger.places().into_iter().filter_map(|attempt| {
            let peer = Question::address(attempt.peer);
            let keys = self.limits.keys(&attempt.service, attempt.asked.as_bytes(), b"", peer);
            let used = self.limits.account_from(&keys, now)?;
            Some(held(HeldSubject::AccountFrom(attempt.asked.clone(), peer), used))
        });
        all.into_iter().chain(accounts).chain(places).chain(networks).chain(sites).collect()
    }

    fn release(&mut self, subject: &Subject) -> bool {
        let line = Line::event(Level::Notice, "released");
        let (line, found) = match subject {
            Subject::Account(name) => (line.text("account", name), self.limits.release_account(name)),
            Subject::Network(octets) => {
                let peer = Question::address(*octets);
                (line.with("network", peer), self.limits.release_network(peer))
            }
            Subject::All => {
                self.limits.release_all();
                (line.with("what", "all"), true)
            }
        };
        line.write();
        found
    }
}
