//! How many wrong passwords are answered: per account, per network they come from, and in all.
//!
//! A front end that was taken over can then guess no faster than a stranger. The order is account, network, all:
//!
//! - *account*: so many within a window reach PAM, fewer than make the back end lock the account. Strangers may use up
//!   most of them and never the rest, which is for networks where the account was accepted lately: whoever guesses
//!   does not shut the owner out.
//! - *network* and *all*: each count is one number, the time at which it would be used up to nothing again (GCRA); a
//!   failure moves it one step into the future. No network can use up what is meant for everybody. Who comes from
//!   where he was accepted lately is not held back by these two.
//!
//! A password that PAM has refused for an account is known again. Said once more within the window it is no guess, so it
//! counts for no network; and while half of what strangers may is used up, PAM is not asked about it again. While all of
//! that is used up, it is not asked about any that it refused in the last seven days, so that a telephone with an old
//! password neither locks its owner's account nor uses up what is kept for him. A name that PAM does not know gets the
//! same answers, or it could be told from one that it knows; but "unknown" may be an outage, so after a minute PAM is
//! asked about it again, and that counts for nothing.
//!
//! Everything is a keyed hash in a table of fixed size; when a set is full, the one with the least to remember is
//! forgotten, so a flood of new names cannot wash out one under attack. Only an accept makes a network known, and it
//! takes nothing back that was counted.
//!
//! Invariant: memory is constant, and neither name, address nor password can be read back from it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use hmac_sha256::HMAC;
use pamrelay_authwire::Reason;

use crate::check;
use crate::lockout::Lockout;
use crate::rate::{Rate, UsedUp};
use crate::settings::Settings;
use crate::table::{Key, Table};
use crate::window::{Recent, Window};

pub(crate) use crate::window::MOST_FAILURES;

/// So many seconds' worth of failures may come at once.
const BURST_SECONDS: u32 = 10;
/// One network may take one part in so many of the failures in all.
const SHARE: u32 = 4;
/// An accept is "lately" for so long.
const LATELY: Duration = Duration::from_secs(7 * 86_400);
/// A password that was said before is no new guess for so much longer than it counts: for less, it would count beside itself.
const LONGER: Duration = Duration::from_secs(2);
/// Accounts: at most `failures_per_second` new ones come in a second, for half an hour that is as many as there is room for.
const ACCOUNT_SETS: usize = 4096;
/// Pairs of account and network.
const KNOWN_SETS: usize = 2048;
/// A name that PAM did not know may be known after so long.
const UNKNOWN: Duration = Duration::from_secs(60);

/// What a question counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    /// The account, however it was written.
    account: Key,
    /// An IPv4 address or an IPv6 /64.
    network: Key,
    /// Both together, for this very name and service: a guest of the same name in another realm is somebody else.
    pair: Key,
    /// The account and the password.
    password: Key,
}

impl Keys {
    pub(crate) fn is_of_network_of(&self, other: &Self) -> bool {
        self.network == other.network
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The account was accepted from there lately.
    Known,
    Stranger,
}

/// Whether a question may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Now,
    /// When those under way are answered: each of them may still fail.
    Later,
    /// PAM refused this very password a while ago, and is not asked again.
    Again,
    Never(Reason),
}

/// What PAM refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The password, or an account that it knows.
    Password,
    /// The name: there is nothing to lock, and codes lie.
    Name,
}

/// What was refused before, and when.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Before {
    /// On the clock of the limits, plus one; nought is never.
    time: u64,
    name: bool,
}

/// The counts.
pub(crate) struct Limits {
    secret: [u8; 32],
    start: Instant,
    configured: Window,
    per_account: Window,
    per_network: Option<Rate>,
    in_all: Rate,
    all: u64,
    accounts: Table<Recent, ACCOUNT_SETS>,
    networks: Table<u64>,
    /// When each pair of account and network was last accepted. All pairs of an account are in one set: whoever has many
    /// networks does not push out the others'.
    known: Table<u64, KNOWN_SETS>,
    /// Each pair of account and password that was refused.
    wrong: Table<Before>,
}

impl Limits {
    pub(crate) fn new(settings: &Settings, secret: [u8; 32], start: Instant) -> Self {
        let in_all = Rate::of(settings.failures_per_second.saturating_mul(BURST_SECONDS), Duration::from_secs(BURST_SECONDS.into()));
        let per_network = Rate::of(settings.peer_failures_per_minute, Duration::from_secs(60));
        let per_network = per_network.with_half_at_once().at_most(in_all.shared_by(SHARE));
        let per_account = Window::new(settings.account_failures, settings.account_window);
        Self {
            secret,
            start,
            configured: per_account,
            per_account,
            per_network: (settings.peer_failures_per_minute > 0).then_some(per_network),
            in_all,
            all: 0,
            accounts: Table::new(),
            networks: Table::new(),
            known: Table::new(),
            wrong: Table::new(),
        }
    }

    /// Stays below what locks an account in the stack itself. Gives what holds now, if that is news.
    pub(crate) fn keep_below(&mut self, lockout: Option<Lockout>) -> Option<Window> {
        let window = lockout.map_or(self.configured, |lockout| self.configured.below(lockout.failures, lockout.window));
        (std::mem::replace(&mut self.per_account, window) != window).then_some(window)
    }

    /// What holds for one account.
    pub(crate) fn per_account(&self) -> Window {
        self.per_account
    }

    /// The places in the tables of a question to `service` about `user` with `password` from `peer`.
    pub(crate) fn keys(&self, service: &str, user: &[u8], password: &[u8], peer: IpAddr) -> Keys {
        let account = check::account(user).into_bytes();
        let network = network(peer);
        let name = check::spelling(user).into_bytes();
        let account_key = self.key(b"account", &[&account]);
        Keys {
            account: account_key,
            network: self.key(b"network", &[&network]),
            pair: self.key(b"pair", &[&network, b"\0", service.as_bytes(), b"\0", &name]).beside(account_key),
            password: self.key(b"password", &[&account, b"\0", password]),
        }
    }

    /// Whether this may be asked now, beside those that are under way.
    pub(crate) fn room<'a>(&self, asked: &Keys, under_way: impl Iterator<Item = &'a Keys> + Clone, now: Instant) -> Room {
        let used = self.failures_of(asked, now);
        if let Some(room) = self.room_for_repeat(asked, used, under_way.clone(), now) {
            return room;
        }
        let is_known = self.is_known(asked, now);
        let most = if is_known { self.per_account.most } else { self.per_account.of_strangers() };
        let same_account = under_way.clone().filter(|other| other.account == asked.account).count();
        let mut budgets = vec![(most.saturating_sub(used), same_account, Reason::AccountFailures)];
        if !is_known {
            let strangers = under_way.filter(|other| !self.is_known(other, now));
            let same_network = strangers.clone().filter(|other| other.network == asked.network).count();
            budgets.push((self.left_from(asked, now) as usize, same_network, Reason::PeerFailures));
            budgets.push((self.left_in_all(now) as usize, strangers.count(), Reason::AllFailures));
        }
        match budgets.iter().find(|(left, ..)| *left == 0) {
            Some((.., reason)) => Room::Never(*reason),
            None if budgets.iter().any(|(left, under_way, _)| under_way >= left) => Room::Later,
            None => Room::Now,
        }
    }

    /// The same for a password that PAM has refused before; `None` if it is to be asked like any other. What is kept for the
    /// owner is kept for passwords that are not known to be wrong.
    fn room_for_repeat<'a>(&self, asked: &Keys, used: usize, mut under_way: impl Iterator<Item = &'a Keys>, now: Instant) -> Option<Room> {
        let before = self.refused_lately(asked, now)?;
        let age = self.since(before.time, now);
        if before.name && age >= UNKNOWN && self.counts_still(before, now) && self.per_account.spares(used) {
            return Some(if under_way.any(|other| other.password == asked.password) { Room::Later } else { Room::Now });
        }
        let spared = self.per_account.spares(used) && self.counts_still(before, now);
        (spared || used >= self.per_account.of_strangers()).then_some(Room::Again)
    }

    /// Who asks this.
    pub(crate) fn standing(&self, asked: &Keys, now: Instant) -> Standing {
        if self.is_known(asked, now) { Standing::Known } else { Standing::Stranger }
    }

    /// A password was refused.
    pub(crate) fn failed(&mut self, asked: &Keys, refused: Refused, now: Instant) {
        let before = self.refused_lately(asked, now).filter(|before| self.counts_still(*before, now));
        let (window, second, time) = (self.per_account, self.second(now), self.clock(now));
        if before.is_none_or(|before| !before.name) {
            // The back end counts this one, whether it was said before or not.
            self.accounts.update(asked.account, |recent| recent.worth(window, second), |recent| recent.with(second));
        }
        if before.is_none() {
            if let Some(rate) = self.per_network {
                self.networks.update(asked.network, |until| until, |until| rate.used(until, time));
            }
            self.all = self.in_all.used(self.all, time);
        }
        let name = refused == Refused::Name;
        self.wrong.update(
            asked.password,
            |before| before.time,
            |old| match before {
                Some(before) if !before.name && !name => old,
                Some(_) | None => Before { time: time.saturating_add(1), name },
            },
        );
    }

    /// A login succeeded. What its network or account has used up stays used up.
    pub(crate) fn accepted(&mut self, asked: &Keys, now: Instant) {
        let now = self.clock(now);
        self.known.update(asked.pair, |then| then, |_| now);
        self.wrong.forget(asked.password);
    }

    /// What this account has used up, if strangers are held back there now.
    pub(crate) fn account(&self, user: &str, now: Instant) -> Option<UsedUp> {
        let recent = self.accounts.get(self.account_key(user)).unwrap_or_default();
        let (used, most) = (recent.within(self.per_account, self.second(now)), self.per_account.of_strangers());
        let wait = || Duration::from_secs(recent.frees_one_of(most, self.per_account, self.second(now)));
        (used >= most).then(|| UsedUp { failures: u32::try_from(used).unwrap_or(u32::MAX), wait: wait() })
    }

    /// The same for the network of an address.
    pub(crate) fn network(&self, peer: IpAddr, now: Instant) -> Option<UsedUp> {
        let until = self.networks.get(self.key(b"network", &[&network(peer)])).unwrap_or_default();
        self.per_network.and_then(|rate| rate.used_up(until, self.clock(now)))
    }

    /// The same for all together.
    pub(crate) fn everybody(&self, now: Instant) -> Option<UsedUp> {
        self.in_all.used_up(self.all, self.clock(now))
    }

    /// Forgets the failures of an account; whether there were any.
    pub(crate) fn release_account(&mut self, user: &str) -> bool {
        self.accounts.forget(self.account_key(user))
    }

    pub(crate) fn release_network(&mut self, peer: IpAddr) -> bool {
        self.networks.forget(self.key(b"network", &[&network(peer)]))
    }

    /// Forgets every failure, and nobody's known networks.
    pub(crate) fn release_all(&mut self) {
        self.all = 0;
        (self.accounts, self.networks, self.wrong) = (Table::new(), Table::new(), Table::new());
    }

    fn failures_of(&self, asked: &Keys, now: Instant) -> usize {
        self.accounts.get(asked.account).unwrap_or_default().within(self.per_account, self.second(now))
    }

    /// How many more failures this network may have now.
    fn left_from(&self, asked: &Keys, now: Instant) -> u32 {
        let until = self.networks.get(asked.network).unwrap_or_default();
        self.per_network.map_or(u32::MAX, |rate| rate.left(until, self.clock(now)))
    }

    /// How many more failures there may be now.
    fn left_in_all(&self, now: Instant) -> u32 {
        self.in_all.left(self.all, self.clock(now))
    }

    fn is_known(&self, asked: &Keys, now: Instant) -> bool {
        let now = self.clock(now);
        self.known.get(asked.pair).is_some_and(|then| u128::from(now.saturating_sub(then)) < LATELY.as_millis())
    }

    /// That PAM refused this very password.
    fn refused_lately(&self, asked: &Keys, now: Instant) -> Option<Before> {
        let before = self.wrong.get(asked.password).filter(|before| before.time > 0);
        before.filter(|before| self.since(before.time, now) < LATELY)
    }

    /// Whether that is so lately that the same again is no new guess.
    fn counts_still(&self, before: Before, now: Instant) -> bool {
        self.since(before.time, now) < self.per_account.length.saturating_add(LONGER)
    }

    fn since(&self, time: u64, now: Instant) -> Duration {
        Duration::from_millis(self.clock(now).saturating_sub(time.saturating_sub(1)))
    }

    fn account_key(&self, user: &str) -> Key {
        self.key(b"account", &[check::account(user.as_bytes()).as_bytes()])
    }

    fn key(&self, kind: &[u8], parts: &[&[u8]]) -> Key {
        let mut hash = HMAC::new(self.secret);
        hash.update(kind);
        parts.iter().for_each(|part| hash.update(part));
        Key::from_hash(&hash.finalize())
    }

    fn clock(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }

    fn second(&self, now: Instant) -> u32 {
        u32::try_from(self.clock(now) / 1000).unwrap_or(u32::MAX)
    }
}

/// The octets that one host can hardly change: an IPv4 address, or an IPv6 /64.
pub(crate) fn network(peer: IpAddr) -> Vec<u8> {
    match peer.to_canonical() {
        IpAddr::V4(four) => four.octets().to_vec(),
        IpAddr::V6(six) => six.octets().into_iter().take(8).collect(), // never the same as four
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn limits(variables: &[(&str, &str)]) -> (Limits, Instant) {
        let variables = variables.iter().map(|(name, value)| (format!("PAMRELAY_{name}"), (*value).to_owned()));
        let start = Instant::now();
        (Limits::new(&Settings::read(variables).unwrap(), [7; 32], start), start)
    }

    /// A question with a password that nobody has said before.
    fn from(limits: &Limits, peer: &str, user: &str) -> Keys {
        static SAID: AtomicU32 = AtomicU32::new(0);
        said(limits, peer, user, &SAID.fetch_add(1, Ordering::Relaxed).to_string())
    }

    fn said(limits: &Limits, peer: &str, user: &str, password: &str) -> Keys {
        limits.keys("smtp", user.as_bytes(), password.as_bytes(), peer.parse().unwrap())
    }

    fn fail(limits: &mut Limits, asked: &Keys, now: Instant) {
        limits.failed(asked, Refused::Password, now);
    }

    fn account(limits: &Limits, user: &str) -> Keys {
        from(limits, "192.0.2.1", user)
    }

    /// A question while no other is under way.
    fn room(limits: &Limits, asked: &Keys, now: Instant) -> Room {
        limits.room(asked, [].iter(), now)
    }

    /// Guesses at one account after the other until that is refused; how many were answered.
    fn guesses(limits: &mut Limits, peer: &str, now: Instant) -> u32 {
        for n in 0.. {
            let name = from(limits, peer, &format!("{peer} {n} {now:?}"));
            if room(limits, &name, now) != Room::Now {
                return n;
            }
            fail(limits, &name, now);
        }
        unreachable!("a limit comes first")
    }

    const MINUTE: Duration = Duration::from_secs(60);

    /// One more failure of this account, from where it is.
    fn fail_at(limits: &mut Limits, user: &str, now: Instant) {
        let asked = account(limits, user);
        fail(limits, &asked, now);
    }

    /// Guesses at one account from one new address after the other; how many reach PAM.
    fn guesses_at_many(limits: &mut Limits, user: &str, addresses: u32, now: Instant) -> u32 {
        let mut asked = 0;
        for address in 0..addresses {
            let guess = from(limits, &format!("198.51.{}.{}", address / 256, address % 256), user);
            if room(limits, &guess, now) == Room::Now {
                fail(limits, &guess, now);
                asked += 1;
            }
        }
        asked
    }

    #[test]
    fn ten_thousand_guesses_from_a_thousand_addresses_stay_below_what_locks_the_account() {
        for (failures, most) in [("4", 3), ("10", 8), ("2", 1), ("1", 1)] {
            let (mut limits, mut now) = limits(&[("ACCOUNT_FAILURES", failures), ("FAILURES_PER_SECOND", "100000")]);

            for _ in 0..10 {
                let asked = guesses_at_many(&mut limits, "alice", 1000, now);
                assert!(asked <= most, "{failures}: {asked}");
                now += 3 * MINUTE; // the ten of them are within one window
            }

            let in_window = limits.failures_of(&account(&limits, "alice"), now);
            assert_eq!(in_window, most as usize, "{failures}");
            assert_eq!(room(&limits, &account(&limits, "bob"), now), Room::Now, "others are not touched");
        }
    }

    #[test]
    fn the_owner_logs_in_from_where_he_did_lately_whoever_guesses() {
        let (mut limits, now) = limits(&[]);
        limits.accepted(&account(&limits, "alice"), now);

        guesses_at_many(&mut limits, "alice", 1000, now);

        assert_eq!(room(&limits, &from(&limits, "203.0.113.9", "alice"), now), Room::Never(Reason::AccountFailures));
        assert_eq!(room(&limits, &account(&limits, "alice"), now), Room::Now);
        limits.accepted(&account(&limits, "alice"), now);
        assert_eq!(
            room(&limits, &from(&limits, "203.0.113.9", "alice"), now),
            Room::Never(Reason::AccountFailures),
            "a success takes nothing back"
        );
        fail_at(&mut limits, "alice", now);
        assert_eq!(
            room(&limits, &account(&limits, "alice"), now),
            Room::Never(Reason::AccountFailures),
            "the back end's own count is the last word"
        );
    }

    #[test]
    fn an_account_is_forgiven_when_its_failures_leave_the_window() {
        let (mut limits, now) = limits(&[]);
        for minute in 0..3 {
            fail_at(&mut limits, "alice", now + minute * MINUTE);
        }
        let state = limits.account("ALICE", now + 2 * MINUTE).unwrap();

        assert_eq!(state.failures, 3);
        assert!(state.wait.abs_diff(28 * MINUTE) < Duration::from_secs(3), "{state:?}");
        assert_eq!(room(&limits, &account(&limits, "alice"), now + 29 * MINUTE), Room::Never(Reason::AccountFailures));
        assert_eq!(room(&limits, &account(&limits, "alice"), now + 31 * MINUTE), Room::Now);
        assert_eq!(limits.account("alice", now + 31 * MINUTE), None);
    }

    #[test]
    fn a_lock_out_in_the_stack_makes_the_limit_stricter_and_never_looser() {
        let (mut limits, now) = limits(&[("FAILURES_PER_SECOND", "100000")]);
        let lockout = |failures, minutes| Some(Lockout { failures, window: minutes * MINUTE });

        assert!(limits.keep_below(lockout(3, 60)).is_some());
        assert_eq!(guesses_at_many(&mut limits, "alice", 100, now), 1);
        fail_at(&mut limits, "alice", now);
        assert_eq!(limits.failures_of(&account(&limits, "alice"), now + 59 * MINUTE), 2);
        assert!(limits.keep_below(lockout(3, 60)).is_none(), "no news");
        limits.keep_below(lockout(100, 1));
        assert_eq!((limits.per_account.most, limits.per_account.length), (4, 30 * MINUTE));
        limits.keep_below(None);
        assert_eq!((limits.per_account.most, limits.per_account.length), (4, 30 * MINUTE));
    }

    #[test]
    fn the_same_wrong_password_again_is_no_guess() {
        let (mut limits, now) = limits(&[]);
        limits.accepted(&account(&limits, "alice"), now);
        let telephone = said(&limits, "192.0.2.1", "alice", "last year's");
        let mut asked = 0;

        for minute in 0..7 * 24 * 60 {
            let now = now + minute * MINUTE;
            match room(&limits, &telephone, now) {
                Room::Now => {
                    fail(&mut limits, &telephone, now);
                    asked += 1;
                }
                other => assert_eq!(other, Room::Again),
            }
            assert_eq!(room(&limits, &account(&limits, "alice"), now), Room::Now, "the owner beside it");
            assert_eq!(room(&limits, &from(&limits, "203.0.113.9", "alice"), now), Room::Now, "and elsewhere");
            assert_eq!(room(&limits, &account(&limits, "bob"), now), Room::Now, "and the others in the office");
        }
        assert!((336..=2 * 337).contains(&asked), "PAM was asked {asked} times in a week");
    }

    #[test]
    fn guessers_and_an_old_telephone_together_do_not_shut_the_owner_out() {
        let (mut limits, now) = limits(&[("FAILURES_PER_SECOND", "100000")]);
        limits.accepted(&account(&limits, "alice"), now);
        let telephone = said(&limits, "192.0.2.1", "alice", "last year's");
        let mut shut_out = 0;

        for minute in 0..2 * 24 * 60 {
            let now = now + minute * MINUTE;
            guesses_at_many(&mut limits, "alice", 20, now);
            if room(&limits, &telephone, now) == Room::Now {
                fail(&mut limits, &telephone, now);
            }
            shut_out += u32::from(room(&limits, &account(&limits, "alice"), now) != Room::Now);
        }

        assert!(shut_out <= 31, "{shut_out} minutes of two days: one window, the first time");
    }

    #[test]
    fn a_success_takes_nothing_back_that_was_counted_for_its_network() {
        let (mut limits, now) = limits(&[]);
        guesses(&mut limits, "192.0.2.1", now);

        let alice = account(&limits, "alice");
        limits.accepted(&alice, now);

        assert_eq!(room(&limits, &account(&limits, "bob"), now), Room::Never(Reason::PeerFailures));
        assert_eq!(room(&limits, &alice, now), Room::Now);
    }

    #[test]
    fn a_guest_of_the_same_name_makes_no_network_known_for_the_account() {
        let (mut limits, now) = limits(&[]);
        let guest = from(&limits, "198.51.100.1", "alice@elsewhere.example");
        limits.accepted(&guest, now);

        assert_eq!(limits.standing(&guest, now), Standing::Known);
        assert_eq!(limits.standing(&from(&limits, "198.51.100.1", "alice"), now), Standing::Stranger);
        let peer = "198.51.100.1".parse().unwrap();
        limits.accepted(&limits.keys("smtp", b"bob", b"", peer), now);
        assert_eq!(limits.standing(&limits.keys("smtp", b"BOB", b"", peer), now), Standing::Known);
        assert_eq!(limits.standing(&limits.keys("smtp-guests", b"bob", b"", peer), now), Standing::Stranger);
    }

    #[test]
    fn an_account_with_very_many_networks_pushes_out_few_others() {
        let (mut limits, now) = limits(&[]);
        let others: Vec<Keys> = (0..100).map(|n| from(&limits, "192.0.2.1", &format!("user{n}"))).collect();
        others.iter().for_each(|other| limits.accepted(other, now));

        for n in 0..50_000u32 {
            let wanderer = from(&limits, &format!("2001:db8:{:x}:{:x}::1", n >> 16, n & 0xffff), "wanderer");
            limits.accepted(&wanderer, now + Duration::from_secs(1));
        }

        let left = others.iter().filter(|other| limits.standing(other, now) == Standing::Known).count();
        assert!(left >= 98, "{left} of 100");
    }

    #[test]
    fn a_name_that_pam_does_not_know_is_answered_as_one_that_it_knows() {
        let (mut limits, now) = limits(&[]);
        let mut answered = |user: &str, refused, password: fn(u64) -> String, second| {
            let now = now + Duration::from_secs(second);
            let asked = said(&limits, "192.0.2.1", user, &password(second));
            match room(&limits, &asked, now) {
                Room::Now => {
                    limits.failed(&asked, refused, now);
                    "535"
                }
                Room::Again => "535",
                Room::Never(_) => "454",
                Room::Later => "later",
            }
        };

        for second in (0..7200).step_by(7) {
            let same = |_| "always the same".to_owned();
            assert_eq!(answered("alice", Refused::Password, same, second), "535");
            assert_eq!(answered("nobody", Refused::Name, same, second), "535");
            let other = |second: u64| second.to_string();
            assert_eq!(answered("bob", Refused::Password, other, second), answered("noone", Refused::Name, other, second), "{second}");
        }
    }

    #[test]
    fn a_name_that_pam_did_not_know_is_asked_for_again_after_a_minute_and_once_at_a_time() {
        let (mut limits, now) = limits(&[]);
        let away = said(&limits, "192.0.2.1", "alice", "right, but the directory is away");
        (0..2).for_each(|_| limits.failed(&away, Refused::Name, now));
        guesses_at_many(&mut limits, "alice", 9, now);

        assert_eq!(room(&limits, &away, now + UNKNOWN / 2), Room::Again);
        assert_eq!(room(&limits, &away, now + UNKNOWN), Room::Now);
        assert_eq!(limits.room(&away, [away].iter(), now + UNKNOWN), Room::Later);
        limits.failed(&away, Refused::Name, now + UNKNOWN);
        assert_eq!(limits.failures_of(&away, now + UNKNOWN), 3, "nothing was counted for it");
        limits.accepted(&away, now + 2 * UNKNOWN);
    }

    #[test]
    fn a_password_that_became_right_is_asked_again_while_tries_are_left() {
        let (mut limits, now) = limits(&[]);
        let new = said(&limits, "192.0.2.1", "alice", "not there yet");
        fail(&mut limits, &new, now);

        assert_eq!(room(&limits, &new, now), Room::Now);
        limits.accepted(&new, now);
        fail_at(&mut limits, "alice", now);
        assert_eq!(room(&limits, &new, now), Room::Now, "and is no longer known as wrong");
    }

    #[test]
    fn what_is_released_may_try_again() {
        let (mut limits, now) = limits(&[]);
        guesses_at_many(&mut limits, "alice", 9, now);
        guesses(&mut limits, "192.0.2.1", now);
        assert!(limits.network("192.0.2.1".parse().unwrap(), now).is_some());

        assert!(limits.release_account("LAB\\Alice"));
        assert!(!limits.release_account("alice"));
        assert!(limits.release_network("192.0.2.1".parse().unwrap()));

        assert_eq!((limits.account("alice", now), limits.network("192.0.2.1".parse().unwrap(), now)), (None, None));
        assert_eq!(room(&limits, &account(&limits, "alice"), now), Room::Now);
        guesses_at_many(&mut limits, "alice", 9, now);
        limits.release_all();
        assert_eq!(room(&limits, &account(&limits, "alice"), now), Room::Now);
    }

    #[test]
    fn nought_is_no_limit_for_accounts() {
        let (mut limits, now) = limits(&[("ACCOUNT_FAILURES", "0"), ("FAILURES_PER_SECOND", "100000")]);

        assert_eq!(guesses_at_many(&mut limits, "alice", 500, now), 500);
    }

    #[test]
    fn spelling_makes_no_second_account() {
        let (limits, _) = limits(&[]);

        for (one, other) in [
            ("alice", "aLICE"),
            ("alice", "LAB\\alice"),
            ("alice", "lab.test\\Alice"),
            ("alice", "alice@lab.test"),
            ("alice", "alice@LAB@TEST"),
            ("alice", "LAB\\alice@lab.test"),
            ("alice", "LAB\\ alice @lab.test"),
            ("zo\u{eb}", "ZO\u{cb}"),
            ("zo\u{eb}", "zoe"),
            ("alice", "LAB+alice"),
            ("strasse", "Stra\u{df}e"),
            ("k", "\u{212a}"),
            ("\u{3c3}", "\u{3c2}"),
        ] {
            assert_eq!(account(&limits, one).account, account(&limits, other).account, "{one} {other}");
        }
        for (one, other) in [("alice", "alicf"), ("first last", "firstlast"), ("@a", "@b"), ("A\\", "B\\")] {
            assert_ne!(account(&limits, one).account, account(&limits, other).account, "{one} {other}");
        }
    }

    #[test]
    fn a_network_is_an_address_or_a_64() {
        let (limits, _) = limits(&[]);
        let network = |peer| from(&limits, peer, "alice").network;

        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
        assert_eq!(network("2001:db8:0:1::1"), network("2001:db8:0:1:ffff::2"));
        assert_ne!(network("2001:db8:0:1::1"), network("2001:db8:0:2::1"));
        assert_ne!(network("1.2.3.4"), network("102:304::"));
        assert_eq!(network("192.0.2.1"), network("::ffff:192.0.2.1"));
    }

    #[test]
    fn a_network_has_half_a_minute_s_failures_at_once_and_then_its_rate() {
        let (mut limits, now) = limits(&[]);

        assert_eq!(guesses(&mut limits, "192.0.2.1", now), 30);
        assert_eq!(room(&limits, &account(&limits, "another"), now), Room::Never(Reason::PeerFailures));
        assert_eq!(guesses(&mut limits, "192.0.2.1", now + Duration::from_secs(2)), 2);
        assert_eq!(guesses(&mut limits, "192.0.2.2", now), 30, "others are not touched");
    }

    #[test]
    fn one_network_never_uses_up_what_is_meant_for_all() {
        for (in_all, of_one) in [("20", "60"), ("1", "60"), ("1", "1000000"), ("20", "1000000")] {
            let (mut limits, mut now) = limits(&[("FAILURES_PER_SECOND", in_all), ("PEER_FAILURES_PER_MINUTE", of_one)]);

            for _ in 0..60 {
                now += Duration::from_secs(1);
                guesses(&mut limits, "192.0.2.1", now);
                assert_eq!(room(&limits, &from(&limits, "192.0.2.2", "bob"), now), Room::Now, "{in_all} {of_one}");
            }
        }
    }

    #[test]
    fn nought_is_no_limit_for_networks() {
        let (mut limits, now) = limits(&[("PEER_FAILURES_PER_MINUTE", "0")]);

        assert_eq!(guesses(&mut limits, "192.0.2.1", now), 200);
        assert_eq!(room(&limits, &account(&limits, "another"), now), Room::Never(Reason::AllFailures));
    }

    #[test]
    fn guesses_under_way_count_as_if_they_had_failed() {
        let (mut limits, now) = limits(&[("PEER_FAILURES_PER_MINUTE", "4")]);
        let (bob, carol, dave) = (account(&limits, "bob"), account(&limits, "carol"), account(&limits, "dave"));

        assert_eq!(limits.room(&dave, [bob].iter(), now), Room::Now);
        assert_eq!(limits.room(&dave, [bob, carol].iter(), now), Room::Later);
        assert_eq!(limits.room(&from(&limits, "192.0.2.2", "dave"), [bob, carol].iter(), now), Room::Now);
        limits.accepted(&carol, now);
        assert_eq!(limits.room(&dave, [bob, carol].iter(), now), Room::Now, "carol may be trusted to know her password");
        assert_eq!(limits.room(&bob, [bob; 3].iter(), now), Room::Later);
    }

    #[test]
    fn failures_in_all_have_a_rate_and_a_burst() {
        let (mut limits, now) = limits(&[("FAILURES_PER_SECOND", "2")]);
        for n in 0..20 {
            assert!(limits.left_in_all(now) > 0);
            let asked = account(&limits, &n.to_string());
            fail(&mut limits, &asked, now);
        }

        assert_eq!(limits.left_in_all(now), 0);
        assert_eq!(limits.left_in_all(now + Duration::from_secs(1)), 2);
    }

    #[test]
    fn an_account_accepted_lately_passes_the_other_limits_there() {
        let (mut limits, now) = limits(&[]);
        let alice = from(&limits, "192.0.2.1", "alice");
        limits.accepted(&alice, now);

        for host in 1..=50 {
            guesses(&mut limits, &format!("192.0.2.{host}"), now);
        }

        assert_eq!(room(&limits, &from(&limits, "192.0.2.1", "bob"), now), Room::Never(Reason::PeerFailures));
        assert_eq!(room(&limits, &from(&limits, "198.51.100.1", "alice"), now), Room::Never(Reason::AllFailures));
        assert!(limits.everybody(now).is_some());
        assert_eq!(room(&limits, &alice, now), Room::Now);
        fail(&mut limits, &alice, now);
        assert_eq!(limits.left_in_all(now + Duration::from_millis(50)), 1, "the end of the limit was not moved");
        assert!(limits.is_known(&alice, now + LATELY - Duration::from_secs(1)));
        assert!(!limits.is_known(&alice, now + LATELY));
    }

    #[test]
    fn a_flood_of_names_does_not_wash_out_the_attacked() {
        let (mut limits, now) = limits(&[]);
        let attacked = account(&limits, "root-of-all-mail");
        (0..3).for_each(|_| fail(&mut limits, &attacked, now));

        // As many as the limit in all lets through in a window.
        for n in 0..36_000u32 {
            let name = account(&limits, &n.to_string());
            fail(&mut limits, &name, now + Duration::from_millis(u64::from(n) * 50));
        }

        assert_eq!(limits.failures_of(&attacked, now + 29 * MINUTE), 3);
    }
}
