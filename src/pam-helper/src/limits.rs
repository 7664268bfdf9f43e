//! How many wrong passwords are answered: per account, and in all.
//!
//! A front end that was taken over can then guess no faster than a stranger. Each count is one number,
//! the time at which it would be used up to nothing again (GCRA); a failure moves it one step into the
//! future. Accounts are keyed hashes in a table of fixed size; when a set is full, the account with the
//! least to remember is forgotten, so a flood of new names cannot wash out one under attack.
//!
//! Invariant: memory is constant, and no name can be read back from it.

use std::time::{Duration, Instant};

use hmac_sha256::HMAC;

use crate::settings::Settings;

const SETS: usize = 1024;
const WAYS: usize = 8;
/// So many seconds' worth of failures may come at once.
const BURST_SECONDS: u32 = 10;

/// An account in the table: whatever case it was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AccountKey(u64);

/// The counts.
pub(crate) struct Limits {
    secret: [u8; 32],
    start: Instant,
    per_minute: Rate,
    per_hour: Rate,
    in_all: Rate,
    all: u64,
    sets: Box<[[Entry; WAYS]]>,
}

/// `burst` at once, and one more every `step` milliseconds.
#[derive(Clone, Copy)]
struct Rate {
    step: u64,
    burst: u32,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    key: u64,
    minute: u64,
    hour: u64,
}

impl Limits {
    pub(crate) fn new(settings: &Settings, secret: [u8; 32], start: Instant) -> Self {
        Self {
            secret,
            start,
            per_minute: Rate::of(settings.account_failures_per_minute, Duration::from_secs(60)),
            // Half at once and half with time, so that no hour sees more than all.
            per_hour: Rate::of(settings.account_failures_per_hour.div_ceil(2), Duration::from_secs(3600)),
            in_all: Rate::of(settings.failures_per_second.saturating_mul(BURST_SECONDS), Duration::from_secs(BURST_SECONDS.into())),
            all: 0,
            sets: vec![[Entry::default(); WAYS]; SETS].into_boxed_slice(),
        }
    }

    /// The account's place in the table.
    pub(crate) fn key(&self, user: &[u8]) -> AccountKey {
        let hash = HMAC::mac(user.to_ascii_lowercase(), self.secret);
        let (first, _) = hash.split_first_chunk().expect("an HMAC-SHA-256 has more than eight bytes");
        AccountKey(u64::from_le_bytes(*first).max(1))
    }

    /// How many more failures this account may have now.
    pub(crate) fn left_for(&self, account: AccountKey, now: Instant) -> u32 {
        let now = self.clock(now);
        let entry = self.set(account).iter().find(|entry| entry.key == account.0).copied().unwrap_or_default();
        self.per_minute.left(entry.minute, now).min(self.per_hour.left(entry.hour, now))
    }

    /// How many more failures there may be now.
    pub(crate) fn left_in_all(&self, now: Instant) -> u32 {
        self.in_all.left(self.all, self.clock(now))
    }

    /// A password was refused.
    pub(crate) fn failed(&mut self, account: AccountKey, now: Instant) {
        let now = self.clock(now);
        let (per_minute, per_hour) = (self.per_minute, self.per_hour);
        self.all = self.in_all.used(self.all, now);
        let set = self.set_mut(account);
        let known = set.iter().position(|entry| entry.key == account.0);
        let place = known.or_else(|| (0..WAYS).min_by_key(|&at| set.get(at).map(|entry| entry.hour)));
        let Some(entry) = place.and_then(|at| set.get_mut(at)) else { return };
        if entry.key != account.0 {
            *entry = Entry { key: account.0, ..Entry::default() };
        }
        entry.minute = per_minute.used(entry.minute, now);
        entry.hour = per_hour.used(entry.hour, now);
    }

    fn set(&self, account: AccountKey) -> &[Entry; WAYS] {
        &self.sets[Self::place(account)]
    }

    fn set_mut(&mut self, account: AccountKey) -> &mut [Entry; WAYS] {
        &mut self.sets[Self::place(account)]
    }

    /// Always below `SETS`, whatever the key.
    fn place(account: AccountKey) -> usize {
        (account.0 >> 32) as usize % SETS
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

    fn left(self, until: u64, now: u64) -> u32 {
        let used = until.saturating_sub(now).div_ceil(self.step);
        self.burst.saturating_sub(u32::try_from(used).unwrap_or(u32::MAX))
    }

    fn used(self, until: u64, now: u64) -> u64 {
        until.max(now).saturating_add(self.step)
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

    #[test]
    fn five_failures_in_a_minute_and_twenty_in_an_hour_are_all() {
        let (mut limits, mut now) = limits(&[]);
        let alice = limits.key(b"alice");

        for left in (0..5).rev() {
            limits.failed(alice, now);
            assert_eq!(limits.left_for(alice, now), left);
        }
        let mut answered = 5;
        for _ in 0..3600 {
            now += Duration::from_secs(1);
            if limits.left_for(alice, now) > 0 {
                limits.failed(alice, now);
                answered += 1;
            }
        }
        assert!((18..=20).contains(&answered), "{answered} in an hour");
        assert_eq!(limits.left_for(limits.key(b"bob"), now), 5, "others are not touched");
    }

    #[test]
    fn an_account_is_forgiven_with_time() {
        let (mut limits, now) = limits(&[]);
        let alice = limits.key(b"alice");
        (0..5).for_each(|_| limits.failed(alice, now));

        assert_eq!(limits.left_for(alice, now + Duration::from_secs(11)), 0);
        assert_eq!(limits.left_for(alice, now + Duration::from_secs(12)), 1);
        assert_eq!(limits.left_for(alice, now + Duration::from_secs(61)), 5);
        assert_eq!(limits.left_for(alice, now + Duration::from_secs(4000)), 5);
    }

    #[test]
    fn case_makes_no_second_account() {
        let (limits, _) = limits(&[]);

        assert_eq!(limits.key(b"Alice"), limits.key(b"aLICE"));
        assert_ne!(limits.key(b"alice"), limits.key(b"alicf"));
    }

    #[test]
    fn failures_in_all_have_a_rate_and_a_burst() {
        let (mut limits, now) = limits(&[("FAILURES_PER_SECOND", "2")]);
        for n in 0..20 {
            assert!(limits.left_in_all(now) > 0);
            limits.failed(limits.key(&[n]), now);
        }

        assert_eq!(limits.left_in_all(now), 0);
        assert_eq!(limits.left_in_all(now + Duration::from_secs(1)), 2);
    }

    #[test]
    fn a_flood_of_names_neither_grows_the_table_nor_washes_out_the_attacked() {
        let (mut limits, now) = limits(&[]);
        let attacked = limits.key(b"root-of-all-mail");
        (0..5).for_each(|_| limits.failed(attacked, now));

        for n in 0..100_000u32 {
            limits.failed(limits.key(&n.to_le_bytes()), now);
        }

        assert_eq!(limits.left_for(attacked, now), 0);
        assert_eq!(size_of_val(&*limits.sets), SETS * WAYS * 24);
    }
}
