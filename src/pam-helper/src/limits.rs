//! How many wrong passwords are answered: per account, per network they come from, per site around it, and in all.
//!
//! A front end that was taken over can then guess no faster than a stranger. The order is account, network, site, all:
//!
//! - *account* ([`accounts`]): where a back end may lock accounts, so many within a window reach PAM, fewer than make it do
//!   so. Strangers may use up most of them and never the rest, which is for networks where the account was accepted lately:
//!   password guessing elsewhere does not shut the owner out. Where nothing locks there are pauses instead, for each network
//!   on its own and for strangers together, which grow from seconds to minutes.
//! - *network* (an IPv4 address, an IPv6 /64), *site* (a /24, a /48) and *all*: each count is one number, the time at which
//!   the bucket is full again (GCRA); a failure moves it one step into the future. A network may use a quarter of all
//!   at most, a site half. A question from a network where the account was accepted lately is not subject to these three.
//!
//! A password that PAM has refused for an account is known again. Said once more within the window it is no guess, so it
//! counts for no network; and while half of what strangers may is used up, PAM is not asked about it again. While all of
//! that is used up, it is not asked about any that it refused in the last seven days, so that a telephone with an old
//! password neither locks its owner's account nor uses up what is kept for him. A name that PAM does not know gets the
//! same answers, or it could be told from one that it knows; but "unknown" may be an outage, so after a minute PAM is
//! asked once more about the same in the same spelling while there is room, and the same answer counts for nothing. Under
//! pauses all this is judged by the failures from the asker's own network: a password that was typed before it was set is
//! asked about again, however many strangers guess at the account.
//!
//! Everything is a keyed hash in a table of fixed size; when a set is full, the one with the least to remember is
//! forgotten, so a flood of new names cannot wash out one under attack. Only an accept makes a network known, and it
//! takes nothing back that was counted.
//!
//! Invariant: memory is constant, and neither name, address nor password can be read back from it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use pamrelay_authwire::Reason;

use crate::known::Pair;
use crate::lockout::Locks;
use crate::rate::{Rate, UsedUp};
use crate::settings::Settings;
use crate::table::{Key, Table};

mod accounts;
mod keys;

use accounts::Accounts;
pub(crate) use accounts::Rule;
use keys::Hasher;
pub(crate) use keys::Keys;

/// So many seconds' worth of failures may come at once.
const BURST_SECONDS: u32 = 10;
/// A single network may use at most a quarter of the failures in all, a single site half of them.
const SHARE: u32 = 4;
const SHARE_OF_SITE: u32 = 2;
/// And a site as much as four of its networks.
const NETWORKS_OF_SITE: u32 = 4;
/// An accept is "lately" for so long.
const LATELY: Duration = Duration::from_secs(7 * 86_400);
/// A password that was said before is no new guess for so much longer than it counts: for less, it would count beside itself.
const LONGER: Duration = Duration::from_secs(2);
/// Pairs of account and network.
const KNOWN_SETS: usize = 2048;
/// A name that PAM did not know may be known after so long.
const UNKNOWN: Duration = Duration::from_secs(60);

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
    /// PAM did not know the name a while ago, and is asked once more.
    OnceMore,
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

/// What was refused before: times on the clock of the limits, plus one; nought is never.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Before {
    /// When it was a new guess.
    first: u64,
    /// When PAM said so last.
    last: u64,
    name: bool,
}

/// When a pair was accepted, in seconds on the clock of the limits, from 30 years before their start on; 0 means never.
type Seen = u64;
const EPOCH: u64 = 30 * 365 * 86_400;
/// A login renews the time in the file no more often than this.
const RENEWAL: u64 = 3600;

/// The counts.
pub(crate) struct Limits {
    hasher: Hasher,
    start: Instant,
    accounts: Accounts,
    per_network: Option<Rate>,
    per_site: Option<Rate>,
    in_all: Rate,
    all: u64,
    networks: Table<u64>,
    sites: Table<u64>,
    /// When each pair of account and network was last accepted. All pairs of an account are in one set: whoever has many
    /// networks does not push out the others'.
    known: Table<Seen, KNOWN_SETS>,
    /// Whether there is a pair that the file does not have, or has with an old time.
    news: bool,
    /// Each pair of account and password that was refused.
    wrong: Table<Before>,
}

impl Limits {
    /// `lasting` is the secret of known pairs.
    pub(crate) fn new(settings: &Settings, secret: [u8; 32], lasting: [u8; 32], start: Instant) -> Self {
        let in_all = Rate::of(settings.failures_per_second.saturating_mul(BURST_SECONDS), Duration::from_secs(BURST_SECONDS.into()));
        let per_network = Rate::of(settings.peer_failures_per_minute, Duration::from_secs(60));
        let per_network = per_network.with_half_at_once().at_most(in_all.shared_by(SHARE));
        let of_site = settings.peer_failures_per_minute.saturating_mul(NETWORKS_OF_SITE);
        let per_site = Rate::of(of_site, Duration::from_secs(60)).with_half_at_once().at_most(in_all.shared_by(SHARE_OF_SITE));
        let is_limited = settings.peer_failures_per_minute > 0;
        Self {
            hasher: Hasher::new(secret, lasting),
            start,
            accounts: Accounts::new(settings),
            per_network: is_limited.then_some(per_network),
            per_site: is_limited.then_some(per_site),
            in_all,
            all: 0,
            networks: Table::new(),
            sites: Table::new(),
            known: Table::new(),
            news: false,
            wrong: Table::new(),
        }
    }

    /// Stays below what locks an account behind PAM. Gives what holds now, if that is news.
    pub(crate) fn heed(&mut self, locks: &Locks) -> Option<Rule> {
        self.accounts.heed(locks)
    }

    /// What holds for one account.
    pub(crate) fn per_account(&self) -> Rule {
        self.accounts.rule()
    }

    /// The places in the tables of a question to `service` about `user` with `password` from `peer`.
    pub(crate) fn keys(&self, service: &str, user: &[u8], password: &[u8], peer: IpAddr) -> Keys {
        self.hasher.question(service, user, password, peer)
    }

    /// Whether this may be asked now, beside those that are under way.
    pub(crate) fn room<'a>(&self, asked: &Keys, under_way: impl Iterator<Item = &'a Keys> + Clone, now: Instant) -> Room {
        let used = self.failures_of(asked, now);
        let standing = self.standing(asked, now);
        let tries = self.accounts.tries(asked, standing, self.second(now));
        let same_account = under_way.clone().filter(|other| other.account == asked.account).count();
        let same_place = under_way.clone().filter(|other| other.place == asked.place).count();
        if let Some(before) = self.holds_back(asked, used, now) {
            let alone = under_way.clone().all(|other| other.password != asked.password);
            let is_room = same_account < tries.account && same_place < tries.place;
            let once_more = self.may_be_known_by_now(before, now) && alone && is_room;
            return if once_more { Room::OnceMore } else { Room::Again };
        }
        let mut budgets = vec![(tries.account, same_account, Reason::AccountFailures), (tries.place, same_place, Reason::AccountFailures)];
        if standing == Standing::Stranger {
            let strangers = under_way.filter(|other| !self.is_known(other, now));
            let same_network = strangers.clone().filter(|other| other.network == asked.network).count();
            budgets.push((self.left_from(asked, now) as usize, same_network, Reason::PeerFailures));
            let same_site = strangers.clone().filter(|other| other.site == asked.site).count();
            budgets.push((self.left_around(asked, now) as usize, same_site, Reason::PeerFailures));
            budgets.push((self.left_in_all(now) as usize, strangers.count(), Reason::AllFailures));
        }
        match budgets.iter().find(|(left, ..)| *left == 0) {
            Some((.., reason)) => Room::Never(*reason),
            None if budgets.iter().any(|(left, under_way, _)| under_way >= left) => Room::Later,
            None => Room::Now,
        }
    }

    /// What PAM refused before, if this is not to be asked like any other for it: what is kept for the owner is kept for
    /// passwords that are not known to be wrong.
    fn holds_back(&self, asked: &Keys, used: usize, now: Instant) -> Option<Before> {
        let before = self.refused_lately(asked, now)?;
        let window = self.accounts.window();
        let spared = window.spares(used) && self.counts_still(before, now);
        (spared || used >= window.of_strangers()).then_some(before)
    }

    /// Whether PAM is to be asked once more about a name that it did not know. Such a question never waits for others: from
    /// outside it is told by nothing from one that PAM is not asked about.
    fn may_be_known_by_now(&self, before: Before, now: Instant) -> bool {
        before.name && self.counts_still(before, now) && self.since(before.last, now) >= UNKNOWN
    }

    /// Who asks this.
    pub(crate) fn standing(&self, asked: &Keys, now: Instant) -> Standing {
        if self.is_known(asked, now) { Standing::Known } else { Standing::Stranger }
    }

    /// A password was refused.
    pub(crate) fn failed(&mut self, asked: &Keys, refused: Refused, now: Instant) {
        let before = self.refused_lately(asked, now).filter(|before| self.counts_still(*before, now));
        let (standing, time) = (self.standing(asked, now), self.clock(now));
        // The back end counts this one, whether it was said before or not.
        self.accounts.failed(asked, standing, self.second(now));
        if before.is_none() {
            if let Some(rate) = self.per_network {
                self.networks.update(asked.network, |until| until, |until| rate.used(until, time));
            }
            if let Some(rate) = self.per_site {
                self.sites.update(asked.site, |until| until, |until| rate.used(until, time));
            }
            self.all = self.in_all.used(self.all, time);
        }
        let last = time.saturating_add(1);
        let first = before.map_or(last, |before| before.first);
        self.remember(asked, Before { first, last, name: refused == Refused::Name });
    }

    /// PAM was asked once more, and still does not know the name.
    pub(crate) fn still_unknown(&mut self, asked: &Keys, now: Instant) {
        if let Some(before) = self.refused_lately(asked, now) {
            self.remember(asked, Before { last: self.clock(now).saturating_add(1), ..before });
        }
    }

    fn remember(&mut self, asked: &Keys, refused: Before) {
        self.wrong.update(asked.password, |before| before.first, |_| refused);
    }

    /// A login succeeded. What its network or account has used up stays used up.
    pub(crate) fn accepted(&mut self, asked: &Keys, now: Instant) {
        let now = self.seen(now);
        // The time stays until it is renewed, so that it is renewed at all where somebody logs in every minute.
        if self.known.get(asked.pair).is_none_or(|then| now.saturating_sub(then) >= RENEWAL) {
            self.known.update(asked.pair, |then| then, |_| now);
            self.news = true;
        }
        self.wrong.forget(asked.password);
    }

    /// What this account has used up, if strangers are held back there now.
    pub(crate) fn account(&self, user: &str, now: Instant) -> Option<UsedUp> {
        self.accounts.used_up(self.hasher.account(user), self.second(now))
    }

    /// What the network of this question has used up of its account, if it waits for itself alone.
    pub(crate) fn account_from(&self, asked: &Keys, now: Instant) -> Option<UsedUp> {
        self.accounts.used_up_from(asked, self.standing(asked, now), self.second(now))
    }

    /// The same for the network of an address.
    pub(crate) fn network(&self, peer: IpAddr, now: Instant) -> Option<UsedUp> {
        let until = self.networks.get(self.hasher.network(peer)).unwrap_or_default();
        self.per_network.and_then(|rate| rate.used_up(until, self.clock(now)))
    }

    /// The same for the site around it.
    pub(crate) fn site(&self, peer: IpAddr, now: Instant) -> Option<UsedUp> {
        let until = self.sites.get(self.hasher.site(peer)).unwrap_or_default();
        self.per_site.and_then(|rate| rate.used_up(until, self.clock(now)))
    }

    /// The same for all together.
    pub(crate) fn everybody(&self, now: Instant) -> Option<UsedUp> {
        self.in_all.used_up(self.all, self.clock(now))
    }

    /// Forgets the failures of an account; whether there were any.
    pub(crate) fn release_account(&mut self, user: &str) -> bool {
        self.accounts.forget(self.hasher.account(user))
    }

    /// And those of the site around it.
    pub(crate) fn release_network(&mut self, peer: IpAddr) -> bool {
        let site = self.sites.forget(self.hasher.site(peer));
        self.networks.forget(self.hasher.network(peer)) || site
    }

    /// Forgets every failure, and nobody's known networks.
    pub(crate) fn release_all(&mut self) {
        self.all = 0;
        self.accounts.forget_all();
        (self.networks, self.sites, self.wrong) = (Table::new(), Table::new(), Table::new());
    }

    fn failures_of(&self, asked: &Keys, now: Instant) -> usize {
        self.accounts.used(asked, self.second(now))
    }

    /// How many more failures this network may have now.
    fn left_from(&self, asked: &Keys, now: Instant) -> u32 {
        let until = self.networks.get(asked.network).unwrap_or_default();
        self.per_network.map_or(u32::MAX, |rate| rate.left(until, self.clock(now)))
    }

    /// The same for the site around it.
    fn left_around(&self, asked: &Keys, now: Instant) -> u32 {
        let until = self.sites.get(asked.site).unwrap_or_default();
        self.per_site.map_or(u32::MAX, |rate| rate.left(until, self.clock(now)))
    }

    /// How many more failures there may be now.
    fn left_in_all(&self, now: Instant) -> u32 {
        self.in_all.left(self.all, self.clock(now))
    }

    fn is_known(&self, asked: &Keys, now: Instant) -> bool {
        let now = self.seen(now);
        self.known.get(asked.pair).is_some_and(|then| now.saturating_sub(then) < LATELY.as_secs())
    }

    /// That PAM refused this very password.
    fn refused_lately(&self, asked: &Keys, now: Instant) -> Option<Before> {
        let before = self.wrong.get(asked.password).filter(|before| before.first > 0);
        before.filter(|before| self.since(before.first, now) < LATELY)
    }

    /// Whether that is so lately that the same again is no new guess.
    fn counts_still(&self, before: Before, now: Instant) -> bool {
        self.since(before.first, now) < self.accounts.window().length.saturating_add(LONGER)
    }

    fn since(&self, time: u64, now: Instant) -> Duration {
        Duration::from_millis(self.clock(now).saturating_sub(time.saturating_sub(1)))
    }

    fn clock(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }

    fn seen(&self, now: Instant) -> Seen {
        EPOCH.saturating_add(self.clock(now) / 1000)
    }

    /// Takes pairs from the file, whose times are by the clock of the host. A time to come is now: the clock was set back.
    pub(crate) fn remember_pairs(&mut self, pairs: &[Pair], host: u64, now: Instant) {
        let now = self.seen(now);
        for (number, time) in pairs {
            let age = host.saturating_sub(*time);
            if age < LATELY.as_secs() {
                self.known.update(Key::from_number(*number), |then| then, |then| then.max(now.saturating_sub(age)));
            }
        }
    }

    /// What the file is to have, if that is news.
    pub(crate) fn pairs_to_keep(&mut self, host: u64, now: Instant) -> Option<Vec<Pair>> {
        let now = self.seen(now);
        let age = |then: Seen| now.saturating_sub(then);
        let all = self.known.iter().filter(|(_, then)| age(*then) < LATELY.as_secs());
        std::mem::take(&mut self.news).then(|| all.map(|(number, then)| (number, host.saturating_sub(age(then)))).collect())
    }

    fn second(&self, now: Instant) -> u32 {
        u32::try_from(self.clock(now) / 1000).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests;
