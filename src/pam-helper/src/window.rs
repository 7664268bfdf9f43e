//! The failures of one account within a window of time, exactly: a back end counts them like that too.
//!
//! Invariant: of the failures that were let through, fewer than the back end's limit lie in any stretch of time as
//! long as its window.

use std::time::Duration;

/// The most failures that can be told apart.
pub(crate) const MOST_FAILURES: usize = 10;

/// So many failures in so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// `usize::MAX` is no limit.
    pub(crate) most: usize,
    pub(crate) length: Duration,
}

/// The latest failures: seconds on the clock of the limits, plus one; the newest first, then noughts.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Recent([u32; MOST_FAILURES]);

impl Window {
    /// No failures at all is no limit.
    pub(crate) fn new(most: u32, length: Duration) -> Self {
        Self { most: if most == 0 { usize::MAX } else { most as usize }, length }
    }

    /// Stricter if need be, so that `failures` in `window` cannot come together. One try there must be; no limit at all
    /// was somebody's wish, and stays.
    pub(crate) fn below(self, failures: u32, window: Duration) -> Self {
        if self.most == usize::MAX {
            return self;
        }
        let failures = failures as usize;
        let stretches = window.as_secs().div_ceil(self.length.as_secs().max(1)).max(1);
        if self.most.saturating_mul(usize::try_from(stretches).unwrap_or(usize::MAX)) < failures {
            return self;
        }
        Self { most: self.most.min(failures.saturating_sub(1)).max(1), length: self.length.max(window) }
    }

    /// What strangers may use up: all but a quarter, and at least one is kept for the owner where there are two.
    pub(crate) fn of_strangers(self) -> usize {
        self.most.saturating_sub((self.most / 4).max(1)).max(1)
    }

    /// Whether tries are to be kept for passwords that are not known to be wrong.
    pub(crate) fn spares(self, used: usize) -> bool {
        used.saturating_mul(2) >= self.of_strangers()
    }
}

impl Recent {
    /// How many count at this second.
    pub(crate) fn within(&self, window: Window, second: u32) -> usize {
        self.0.iter().take_while(|time| **time > 0 && counts(**time, window, second)).count()
    }

    /// With one more failure.
    pub(crate) fn with(mut self, second: u32) -> Self {
        self.0.rotate_right(1);
        self.0[0] = second.saturating_add(1);
        self
    }

    /// The more count and the later they are, the longer they are remembered.
    pub(crate) fn worth(&self, window: Window, second: u32) -> (usize, u32) {
        (self.within(window, second), self.0[0])
    }

    /// The second of the latest failure, plus one.
    pub(crate) fn latest(&self) -> u32 {
        self.0[0]
    }

    /// Seconds until fewer than `most` failures count.
    pub(crate) fn frees_one_of(&self, most: usize, window: Window, second: u32) -> u64 {
        let last = most.checked_sub(1).and_then(|at| self.0.get(at)).copied().unwrap_or_default();
        (u64::from(last) + window.length.as_secs() + 1).saturating_sub(second.into())
    }
}

/// A failure counts for a second longer than the window, because it may have come late in its second.
fn counts(time: u32, window: Window, second: u32) -> bool {
    u64::from(second.saturating_sub(time.saturating_sub(1))) <= window.length.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(100);

    #[test]
    fn never_more_than_the_most_lie_in_any_window() {
        for most in [1u32, 2, 4, 10] {
            let window = Window::new(most, LENGTH);
            let (mut recent, mut times) = (Recent::default(), Vec::new());

            for second in 0..1000 {
                if recent.within(window, second) < window.most {
                    recent = recent.with(second);
                    times.push(second);
                }
            }

            assert!(times.windows(most as usize + 1).all(|some| some[most as usize] - some[0] > 100), "{most}: {times:?}");
            assert!(times.len() as u32 >= 9 * most, "{most}: {times:?}");
        }
    }

    #[test]
    fn strangers_leave_something_to_the_owner() {
        let of_strangers = |most| Window::new(most, LENGTH).of_strangers();

        assert_eq!([1, 2, 3, 4, 9, 10].map(of_strangers), [1, 1, 2, 3, 7, 8]);
        assert!(of_strangers(0) > 1_000_000, "no limit");
        assert!(!Window::new(0, LENGTH).spares(100_000));
    }

    #[test]
    fn a_window_stays_below_every_lock_out() {
        let hour = Duration::from_secs(3600);
        for most in [1u32, 2, 4, 10] {
            for failures in [1u32, 2, 3, 5, 50] {
                for window in [Duration::from_secs(10), LENGTH, hour] {
                    let below = Window::new(most, LENGTH).below(failures, window);

                    let together = below.most.saturating_mul(window.as_secs().div_ceil(below.length.as_secs()) as usize);
                    assert!(together < (failures as usize).max(2), "{most} {failures} {window:?} {below:?}");
                    assert!(below.most <= most as usize);
                    assert!(below.length >= LENGTH);
                }
            }
        }
        assert_eq!(Window::new(0, LENGTH).below(3, hour), Window::new(0, LENGTH));
    }

    #[test]
    fn many_failures_are_worth_more_than_a_later_single_one_as_long_as_they_count() {
        let window = Window::new(4, LENGTH);
        let attacked = (0..3).fold(Recent::default(), |recent, _| recent.with(10));

        assert!(attacked.worth(window, 100) > Recent::default().with(100).worth(window, 100));
        assert!(attacked.worth(window, 200) < Recent::default().with(150).worth(window, 200));
    }

    #[test]
    fn tells_when_the_next_try_is_free() {
        let window = Window::new(2, LENGTH);
        let recent = Recent::default().with(10).with(40);

        let wait = recent.frees_one_of(2, window, 50);

        assert_eq!(recent.within(window, 50), 2);
        assert_eq!(recent.within(window, 50 + wait as u32), 1, "{wait}");
    }
}
