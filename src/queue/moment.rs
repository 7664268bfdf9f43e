//! A point in time by the wall clock, in milliseconds: what the spool can hold across a restart.
//!
//! Invariant: arithmetic saturates. Wall clocks jump, so nothing here says how much time has really passed;
//! `schedule` decides what to make of a difference.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, also before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub i64);

impl Moment {
    pub fn now() -> Self {
        let now = SystemTime::now();
        match now.duration_since(UNIX_EPOCH) {
            Ok(since) => Self(0).plus(since),
            Err(before) => Self(0).minus(before.duration()),
        }
    }

    pub fn plus(self, pause: Duration) -> Self {
        Self(self.0.saturating_add(millis(pause)))
    }

    pub fn minus(self, pause: Duration) -> Self {
        Self(self.0.saturating_sub(millis(pause)))
    }

    /// From `earlier` to here; nothing if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Whole seconds since 1970; 0 before.
    pub fn seconds(self) -> u64 {
        u64::try_from(self.0.div_euclid(1000)).unwrap_or(0)
    }

    /// For people and date fields; at the ends of the calendar for what is beyond it.
    pub fn timestamp(self) -> jiff::Timestamp {
        let end = if self.0 < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        jiff::Timestamp::from_millisecond(self.0).unwrap_or(end)
    }
}

/// RFC 3339, in UTC, to the second.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0}", self.timestamp())
    }
}

pub(crate) fn millis(pause: Duration) -> i64 {
    i64::try_from(pause.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saturates_at_both_ends() {
        assert_eq!(Moment(i64::MAX).plus(Duration::MAX), Moment(i64::MAX));
        assert_eq!(Moment(i64::MIN).minus(Duration::MAX), Moment(i64::MIN));
        assert_eq!(Moment(0).since(Moment(5)), Duration::ZERO);
        assert_eq!(Moment(i64::MAX).since(Moment(i64::MIN)), Duration::from_millis(i64::MAX as u64));
    }

    #[test]
    fn shows_any_moment() {
        assert_eq!(Moment(1_795_176_000_123).to_string(), "2026-11-20T12:00:00Z");
        assert!(Moment(i64::MAX).to_string().starts_with("9999-12-30T"));
        assert!(!Moment(i64::MIN).to_string().is_empty());
    }
}
