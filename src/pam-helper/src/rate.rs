//! A count that is one number: the time at which it would be used up to nothing again (GCRA).
//!
//! Invariant: it lets through at most `burst` at once and one more every `step` milliseconds.

use std::time::Duration;

/// `burst` at once, and one more every `step` milliseconds.
#[derive(Clone, Copy)]
pub(crate) struct Rate {
    step: u64,
    burst: u32,
}

/// How much is used up, for people to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UsedUp {
    pub(crate) failures: u32,
    /// Until the next try is let through.
    pub(crate) wait: Duration,
}

impl Rate {
    pub(crate) fn of(count: u32, period: Duration) -> Self {
        let step = u64::try_from(period.as_millis()).unwrap_or(u64::MAX) / u64::from(count.max(1));
        Self { step: step.max(1), burst: count }
    }

    pub(crate) fn with_half_at_once(self) -> Self {
        Self { burst: self.burst.div_ceil(2), ..self }
    }

    /// What each of so many gets.
    pub(crate) fn shared_by(self, count: u32) -> Self {
        Self { step: self.step.saturating_mul(count.into()), burst: (self.burst / count).max(1) }
    }

    pub(crate) fn at_most(self, other: Self) -> Self {
        Self { step: self.step.max(other.step), burst: self.burst.min(other.burst) }
    }

    pub(crate) fn left(self, until: u64, now: u64) -> u32 {
        self.burst.saturating_sub(self.used_now(until, now))
    }

    fn used_now(self, until: u64, now: u64) -> u32 {
        u32::try_from(until.saturating_sub(now).div_ceil(self.step)).unwrap_or(u32::MAX)
    }

    pub(crate) fn used_up(self, until: u64, now: u64) -> Option<UsedUp> {
        let failures = self.used_now(until, now);
        let free = until.saturating_sub(self.step.saturating_mul(self.burst.saturating_sub(1).into()));
        (failures >= self.burst).then(|| UsedUp { failures, wait: Duration::from_millis(free.saturating_sub(now)) })
    }

    /// One more. Those who pass a limit cannot push its end further away than it can be.
    pub(crate) fn used(self, until: u64, now: u64) -> u64 {
        until.max(now).saturating_add(self.step).min(now.saturating_add(self.step.saturating_mul(self.burst.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_a_burst_through_and_then_its_rate() {
        let rate = Rate::of(10, Duration::from_secs(1));
        let (mut until, mut through) = (0, 0);

        for now in 0..10_000 {
            if rate.left(until, now) > 0 {
                until = rate.used(until, now);
                through += 1;
            }
        }

        assert!((108..=111).contains(&through), "{through} in ten seconds");
        assert_eq!(rate.used_up(until, 10_000 + 1000), None);
    }

    #[test]
    fn tells_when_the_next_is_free() {
        let rate = Rate::of(2, Duration::from_secs(60));
        let until = rate.used(rate.used(0, 0), 0);

        let used = rate.used_up(until, 10_000).unwrap();

        assert_eq!((used.failures, used.wait), (2, Duration::from_secs(20)));
    }
}
