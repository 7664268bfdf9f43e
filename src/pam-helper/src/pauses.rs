//! Pauses between wrong passwords where no back end locks accounts: the first tries are free, then each failure doubles the
//! wait.
//!
//! ```text
//! failure          1 … free-1   free   +1    +2    +3   …   ten in the window
//! wait after it        0        10 s   20 s  40 s  80 s …   5 min at most, or until the oldest leaves the window
//! ```
//!
//! Invariant: somebody who mistypes waits seconds; somebody who guesses for hours gets no more than [`Pauses`] says.

use std::time::Duration;

use crate::window::{MOST_FAILURES, Recent, Window};

/// After the last free try.
const FIRST: u64 = 10;
/// However many failures there were.
const LONGEST: u64 = 300;

/// The pauses of one kind of asker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pauses {
    /// Failures before the first pause.
    pub(crate) free: usize,
    /// How long a failure counts.
    pub(crate) length: Duration,
    pub(crate) after_ten: AfterTen,
}

/// What follows once as many failures count as can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterTen {
    /// The longest pause.
    Pause,
    /// No more before the oldest leaves the window.
    Window,
}

impl Pauses {
    /// Seconds until the next try is let through.
    pub(crate) fn wait(&self, recent: &Recent, second: u32) -> u64 {
        let failures = self.failures(recent, second);
        let Some(beyond) = failures.checked_sub(self.free) else { return 0 };
        if failures >= MOST_FAILURES && self.after_ten == AfterTen::Window {
            return recent.frees_one_of(MOST_FAILURES, self.window(), second);
        }
        let pause = (FIRST << beyond.min(10)).min(LONGEST).min(self.length.as_secs());
        (u64::from(recent.latest()) + pause).saturating_sub(second.into())
    }

    /// How many more may fail at once now.
    pub(crate) fn left(&self, recent: &Recent, second: u32) -> usize {
        match self.wait(recent, second) {
            0 => self.free.saturating_sub(self.failures(recent, second)).max(1),
            _ => 0,
        }
    }

    pub(crate) fn failures(&self, recent: &Recent, second: u32) -> usize {
        recent.within(self.window(), second)
    }

    fn window(&self) -> Window {
        Window { most: MOST_FAILURES, length: self.length }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF_AN_HOUR: Duration = Duration::from_secs(1800);

    fn pauses(after_ten: AfterTen) -> Pauses {
        Pauses { free: 3, length: HALF_AN_HOUR, after_ten }
    }

    /// The seconds at which somebody fails who tries again as soon as possible.
    fn failures(pauses: Pauses, until: u32) -> Vec<u32> {
        let (mut recent, mut times) = (Recent::default(), Vec::new());
        for second in 0..until {
            while pauses.left(&recent, second) > 0 {
                recent = recent.with(second);
                times.push(second);
            }
        }
        times
    }

    #[test]
    fn the_first_pauses_are_seconds_and_the_last_are_minutes() {
        let times = failures(pauses(AfterTen::Pause), 3600);
        let waits: Vec<u32> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();

        assert_eq!(waits[..9], [0, 0, 11, 21, 41, 81, 161, 301, 301]);
    }

    #[test]
    fn a_day_of_guessing_is_bounded() {
        let day = 86_400;
        let of_one = failures(pauses(AfterTen::Window), day);
        let together = failures(pauses(AfterTen::Pause), day);

        assert!(of_one.windows(11).all(|some| some[10] - some[0] > 1800), "more than ten in a window");
        assert!(of_one.len() <= 490, "{}", of_one.len());
        assert!(together.len() <= 470, "{}", together.len());
    }

    #[test]
    fn the_wait_ends_when_it_says_so_and_what_left_the_window_is_forgiven() {
        for after_ten in [AfterTen::Pause, AfterTen::Window] {
            let pauses = pauses(after_ten);
            for count in 0..12u32 {
                let recent = (0..count).fold(Recent::default(), |recent, n| recent.with(n));
                let wait = pauses.wait(&recent, 20) as u32;

                assert_eq!(pauses.left(&recent, 20) > 0, wait == 0, "{count}");
                assert!(pauses.left(&recent, 20 + wait) > 0, "{count}: {wait}");
                assert_eq!(pauses.left(&recent, 2000), 3, "{count}");
            }
        }
    }
}
