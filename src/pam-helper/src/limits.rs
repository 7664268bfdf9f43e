//! How many wrong passwords are answered: per account, per network they come from, and in all.
//!
//! A front end that was taken over can then guess no faster than a stranger. Each count is one number,
//! the time at which it would be used up to nothing again (GCRA); a failure moves it one step into the
//! future. The order is account, network, all: no network can use up what is meant for everybody, and
//! an account that was accepted from a network lately is held back there by its own count alone, so that
//! strangers who fail do not shut people out. Everything is a keyed hash in a table of fixed size; when a
//! set is full, the one with the least to remember is forgotten, so a flood of new names cannot wash out
//! one under attack. Only an accept makes an account known.
//!
//! Invariant: memory is constant, and neither name nor address can be read back from it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use hmac_sha256::HMAC;
use pamrelay_authwire::Reason;

use crate::check;
use crate::settings::Settings;
use crate::table::{Key, Table};

/// So many seconds' worth of failures may come at once.
const BURST_SECONDS: u32 = 10;
/// One network may take one part in so many of the failures in all.
const SHARE: u32 = 4;
/// An accept is "lately" for so long.
const LATELY: Duration = Duration::from_secs(7 * 86_400);

/// What a question counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    /// The account, however it was written.
    account: Key,
    /// An IPv4 address or an IPv6 /64.
    network: Key,
    /// Both together.
    pair: Key,
}

/// Whether a question may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Now,
    /// When those under way are answered: each of them may still fail.
    Later,
    Never(Reason),
}

/// The counts.
pub(crate) struct Limits {
    secret: [u8; 32],
    start: Instant,
    per_minute: Rate,
    per_hour: Rate,
    per_network: Option<Rate>,
    in_all: Rate,
    all: u64,
    accounts: Table<Counts>,
    networks: Table<u64>,
    /// When each pair of account and network was last accepted.
    known: Table<u64>,
}

/// `burst` at once, and one more every `step` milliseconds.
#[derive(Clone, Copy)]
struct Rate {
    step: u64,
    burst: u32,
}

/// What an account has used up. The hour comes first: it is what must be remembered longest.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Counts {
    hour: u64,
    minute: u64,
}

impl Limits {
    pub(crate) fn new(settings: &Settings, secret: [u8; 32], start: Instant) -> Self {
        let in_all = Rate::of(settings.failures_per_second.saturating_mul(BURST_SECONDS), Duration::from_secs(BURST_SECONDS.into()));
        let per_network = Rate::of(settings.peer_failures_per_minute, Duration::from_secs(60));
        let per_network = Rate { burst: per_network.burst.div_ceil(2), ..per_network }.at_most(in_all.shared_by(SHARE));
        Self {
            secret,
            start,
            per_minute: Rate::of(settings.account_failures_per_minute, Duration::from_secs(60)),
            // Half at once and half with time, so that no hour sees more than all.
            per_hour: Rate::of(settings.account_failures_per_hour.div_ceil(2), Duration::from_secs(3600)),
            per_network: (settings.peer_failures_per_minute > 0).then_some(per_network),
            in_all,
            all: 0,
            accounts: Table::new(),
            networks: Table::new(),
            known: Table::new(),
        }
    }

    /// The places in the tables of a question about `user` from `peer`.
    pub(crate) fn keys(&self, user: &[u8], peer: IpAddr) -> Keys {
        let account = check::account(user).into_bytes();
        let network = match peer {
            IpAddr::V4(four) => four.octets().to_vec(),
            IpAddr::V6(six) => six.octets().into_iter().take(8).collect(), // never the same as four
        };
        Keys {
            account: self.key(b"account", &[&account]),
            network: self.key(b"network", &[&network]),
            pair: self.key(if peer.is_ipv4() { b"pair4" } else { b"pair6" }, &[&network, &account]),
        }
    }

    /// Whether this may be asked now, beside those that are under way.
    pub(crate) fn room<'a>(&self, asked: &Keys, under_way: impl Iterator<Item = &'a Keys> + Clone, now: Instant) -> Room {
        let same_account = under_way.clone().filter(|other| other.account == asked.account).count();
        let mut budgets = vec![(self.left_for(asked, now), same_account, Reason::AccountFailures)];
        if !self.is_known(asked, now) {
            let strangers = under_way.filter(|other| !self.is_known(other, now));
            let same_network = strangers.clone().filter(|other| other.network == asked.network).count();
            budgets.push((self.left_from(asked, now), same_network, Reason::PeerFailures));
            budgets.push((self.left_in_all(now), strangers.count(), Reason::AllFailures));
        }
        match budgets.iter().find(|(left, ..)| *left == 0) {
            Some((.., reason)) => Room::Never(*reason),
            None if budgets.iter().any(|(left, under_way, _)| *under_way >= *left as usize) => Room::Later,
            None => Room::Now,
        }
    }

    /// A password was refused.
    pub(crate) fn failed(&mut self, asked: &Keys, now: Instant) {
        let now = self.clock(now);
        let (per_minute, per_hour) = (self.per_minute, self.per_hour);
        self.accounts
            .update(asked.account, |counts| Counts { hour: per_hour.used(counts.hour, now), minute: per_minute.used(counts.minute, now) });
        if let Some(rate) = self.per_network {
            self.networks.update(asked.network, |until| rate.used(until, now));
        }
        self.all = self.in_all.used(self.all, now);
    }

    /// A login succeeded. What its network or account has used up stays used up.
    pub(crate) fn accepted(&mut self, asked: &Keys, now: Instant) {
        let now = self.clock(now);
        self.known.update(asked.pair, |_| now);
    }

    /// How many more failures this account may have now.
    fn left_for(&self, asked: &Keys, now: Instant) -> u32 {
        let now = self.clock(now);
        let counts = self.accounts.get(asked.account).unwrap_or_default();
        self.per_minute.left(counts.minute, now).min(self.per_hour.left(counts.hour, now))
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

    fn key(&self, kind: &[u8], parts: &[&[u8]]) -> Key {
        let mut hash = HMAC::new(self.secret);
        hash.update(kind);
        parts.iter().for_each(|part| hash.update(part));
        Key::from_hash(&hash.finalize())
    }

    fn clock(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }
}

impl Rate {
    fn of(count: u32, period: Duration) -> Self {
        let step = u64::try_from(period.as_millis()).unwrap_or(u64::MAX) / u64::from(count.max(1));
        Self { step: step.max(1), burst: count }
    }

    /// What each of so many gets.
    fn shared_by(self, count: u32) -> Self {
        Self { step: self.step.saturating_mul(count.into()), burst: (self.burst / count).max(1) }
    }

    fn at_most(self, other: Self) -> Self {
        Self { step: self.step.max(other.step), burst: self.burst.min(other.burst) }
    }

    fn left(self, until: u64, now: u64) -> u32 {
        let used = until.saturating_sub(now).div_ceil(self.step);
        self.burst.saturating_sub(u32::try_from(used).unwrap_or(u32::MAX))
    }

    /// One more. Those who pass a limit cannot push its end further away than it can be.
    fn used(self, until: u64, now: u64) -> u64 {
        until.max(now).saturating_add(self.step).min(now.saturating_add(self.step.saturating_mul(self.burst.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(variables: &[(&str, &str)]) -> (Limits, Instant) {
        let variables = variables.iter().map(|(name, value)| (format!("PAMRELAY_{name}"), (*value).to_owned()));
        let start = Instant::now();
        (Limits::new(&Settings::read(variables).unwrap(), [7; 32], start), start)
    }

    fn from(limits: &Limits, peer: &str, user: &str) -> Keys {
        limits.keys(user.as_bytes(), peer.parse().unwrap())
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
            limits.failed(&name, now);
        }
        unreachable!("a limit comes first")
    }

    #[test]
    fn five_failures_in_a_minute_and_twenty_in_an_hour_are_all() {
        let (mut limits, mut now) = limits(&[]);
        let alice = account(&limits, "alice");

        for left in (0..5).rev() {
            limits.failed(&alice, now);
            assert_eq!(limits.left_for(&alice, now), left);
        }
        let mut answered = 5;
        for _ in 0..3600 {
            now += Duration::from_secs(1);
            if limits.left_for(&alice, now) > 0 {
                limits.failed(&alice, now);
                answered += 1;
            }
        }
        assert!((18..=20).contains(&answered), "{answered} in an hour");
        assert_eq!(limits.left_for(&account(&limits, "bob"), now), 5, "others are not touched");
    }

    #[test]
    fn an_account_is_forgiven_with_time() {
        let (mut limits, now) = limits(&[]);
        let alice = account(&limits, "alice");
        (0..5).for_each(|_| limits.failed(&alice, now));

        assert_eq!(limits.left_for(&alice, now + Duration::from_secs(11)), 0);
        assert_eq!(limits.left_for(&alice, now + Duration::from_secs(12)), 1);
        assert_eq!(limits.left_for(&alice, now + Duration::from_secs(61)), 5);
        assert_eq!(limits.left_for(&alice, now + Duration::from_secs(4000)), 5);
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
            ("strasse", "Stra\u{df}e"),
            ("k", "\u{212a}"),
            ("\u{3c3}", "\u{3c2}"),
        ] {
            assert_eq!(account(&limits, one), account(&limits, other), "{one} {other}");
        }
        for (one, other) in [("alice", "alicf"), ("first last", "firstlast"), ("@a", "@b"), ("A\\", "B\\")] {
            assert_ne!(account(&limits, one), account(&limits, other), "{one} {other}");
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
        assert_eq!(limits.room(&bob, [bob; 5].iter(), now), Room::Later);
    }

    #[test]
    fn failures_in_all_have_a_rate_and_a_burst() {
        let (mut limits, now) = limits(&[("FAILURES_PER_SECOND", "2")]);
        for n in 0..20 {
            assert!(limits.left_in_all(now) > 0);
            limits.failed(&account(&limits, &n.to_string()), now);
        }

        assert_eq!(limits.left_in_all(now), 0);
        assert_eq!(limits.left_in_all(now + Duration::from_secs(1)), 2);
    }

    #[test]
    fn an_account_accepted_lately_passes_there_while_its_own_count_lasts() {
        let (mut limits, now) = limits(&[]);
        let alice = from(&limits, "192.0.2.1", "alice");
        limits.accepted(&alice, now);

        for host in 1..=50 {
            guesses(&mut limits, &format!("192.0.2.{host}"), now);
        }

        assert_eq!(room(&limits, &from(&limits, "192.0.2.1", "bob"), now), Room::Never(Reason::PeerFailures));
        assert_eq!(room(&limits, &from(&limits, "198.51.100.1", "alice"), now), Room::Never(Reason::AllFailures));
        for _ in 0..5 {
            assert_eq!(room(&limits, &alice, now), Room::Now);
            limits.failed(&alice, now);
        }
        assert_eq!(room(&limits, &alice, now), Room::Never(Reason::AccountFailures));
        assert_eq!(limits.left_in_all(now + Duration::from_millis(50)), 1, "the end of the limit was not moved");
        assert!(limits.is_known(&alice, now + LATELY - Duration::from_secs(1)));
        assert!(!limits.is_known(&alice, now + LATELY));
    }

    #[test]
    fn a_flood_of_names_does_not_wash_out_the_attacked() {
        let (mut limits, now) = limits(&[]);
        let attacked = account(&limits, "root-of-all-mail");
        (0..5).for_each(|_| limits.failed(&attacked, now));

        for n in 0..100_000u32 {
            limits.failed(&account(&limits, &n.to_string()), now);
        }

        assert_eq!(limits.left_for(&attacked, now), 0);
    }
}
