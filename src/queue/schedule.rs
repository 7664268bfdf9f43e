//! When a message is tried again, and when it is given up: pure arithmetic.
//!
//! Pauses double from the first (5 minutes) to the longest (4 hours), each with up to a tenth taken off or put on, so
//! that messages that failed together do not come back together. A message is given up after 5 days.
//!
//! Invariant: no jump of the wall clock gives a message up or leaves it waiting for ever. What counts as waited is
//! each pause as it really was but never more than it was meant to be; the wall clock alone gives nothing up before
//! half of the time was waited in this way, and what lies further ahead than `horizon` is due now.
//!
//! The clocks run during an attempt too: what it took counts as waited and is taken off the next pause, and an attempt that
//! hangs is over when the next one would be due, or when the message is given up.

use std::time::Duration;

use super::message::Timing;
use super::moment::Moment;

/// The administrator's wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub first_retry: Duration,
    pub longest_retry: Duration,
    pub give_up: Duration,
    /// When a sender is first told that a message is late; once.
    pub warn_after: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        let hour = Duration::from_secs(3600);
        Self { first_retry: Duration::from_secs(300), longest_retry: 4 * hour, give_up: 5 * 24 * hour, warn_after: 4 * hour }
    }
}

/// Every attempt may take as long, also the last one, and one whose next would be due sooner.
const LEAST_ATTEMPT: Duration = Duration::from_secs(3600);
/// Octets in a second at which a message still goes through in time.
const SLOWEST: u64 = 32 * 1024;
/// A message that is converted to 7 bits on its way can become as many times longer.
const GROWTH: u64 = 3;

impl Timing {
    /// The same with the duration of the attempt added to the pause before it, for `Schedule::next`. An attempt by hand is not
    /// counted, so that it does not lengthen the next pause.
    pub fn after_attempt(self, took: Duration) -> Self {
        let attempts = if self.is_by_hand() { self.attempts.saturating_sub(1) } else { self.attempts };
        Self { due: self.due.max(self.last).plus(took), attempts, ..self }
    }

    /// Whether the store ended the pause early: `retry` and `release` leave nothing of it.
    fn is_by_hand(&self) -> bool {
        self.attempts > 0 && self.due <= self.last
    }
}

/// What follows an attempt that did not settle everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Retry(Timing),
    GiveUp,
}

impl Schedule {
    /// After an attempt that ended `now`. `dice` is any random number.
    pub fn next(&self, timing: &Timing, now: Moment, dice: u16) -> Next {
        let waited = self.waited(timing, now);
        if self.is_over(timing, waited, now) {
            return Next::GiveUp;
        }
        let attempts = timing.attempts.saturating_add(1);
        let pause = self.pause(attempts, dice);
        // The last attempt comes when the time is over, not up to four hours later.
        let left = self.give_up.saturating_sub(waited).max(self.first_retry.min(pause));
        let due = now.plus(pause.min(left));
        Next::Retry(Timing { arrived: timing.arrived, last: now, due, waited, attempts })
    }

    /// The time waited when an attempt ends `now`: the pause before it counts as it was, within what it was to be.
    pub fn waited(&self, timing: &Timing, now: Moment) -> Duration {
        let meant = timing.due.since(timing.last).min(self.horizon());
        timing.waited.saturating_add(now.since(timing.last).min(meant))
    }

    /// How long the attempt may last that begins `now`, for a message of `size` octets.
    pub fn attempt_limit(&self, timing: &Timing, now: Moment, size: u64) -> Duration {
        let left = self.give_up.saturating_sub(self.waited(timing, now));
        let pause = self.pause(timing.attempts.saturating_add(1), u16::MAX / 2);
        let most = pause.max(LEAST_ATTEMPT);
        left.clamp(LEAST_ATTEMPT.min(self.give_up).min(most), most) + Duration::from_secs(size.saturating_mul(GROWTH) / SLOWEST)
    }

    /// The next attempt after one that took so long: its pause began with that, but is not shorter than the first.
    pub fn sooner(&self, timing: Timing, took: Duration) -> Timing {
        let pause = timing.due.since(timing.last);
        let left = pause.saturating_sub(took).max(self.first_retry.min(pause));
        Timing { due: timing.last.plus(left), ..timing }
    }

    fn is_over(&self, timing: &Timing, waited: Duration, now: Moment) -> bool {
        let by_the_wall = now.since(timing.arrived) >= self.give_up;
        waited >= self.give_up || (by_the_wall && waited >= self.give_up / 2)
    }

    /// The pause after so many attempts.
    fn pause(&self, attempts: u32, dice: u16) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        let pause = self.first_retry.saturating_mul(1 << doublings).min(self.longest_retry.max(self.first_retry));
        // 90 % to 110 %.
        pause.mul_f64(0.9 + 0.2 * f64::from(dice) / f64::from(u16::MAX))
    }

    /// Longer than any pause.
    pub fn horizon(&self) -> Duration {
        self.longest_retry.max(self.first_retry).saturating_mul(5) / 4
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Moment = Moment(1_800_000_000_000);
    const MIDDLE: u16 = u16::MAX / 2;

    /// Lives a message's life by an honest clock; gives the time of each attempt since the arrival.
    fn life(schedule: &Schedule, dice: u16) -> Vec<Duration> {
        let (mut timing, mut attempts) = (Timing::fresh(START), vec![Duration::ZERO]);
        let mut now = START;
        while let Next::Retry(next) = schedule.next(&timing, now, dice) {
            now = next.due;
            timing = next;
            attempts.push(now.since(START));
        }
        attempts
    }

    #[test]
    fn pauses_double_from_five_minutes_to_four_hours() {
        let attempts = life(&Schedule::default(), MIDDLE);

        let pauses: Vec<_> = attempts.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() / 60.0).map(f64::round).collect();
        assert_eq!(pauses[..8], [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 240.0, 240.0]);
    }

    #[test]
    fn the_last_attempt_comes_after_five_days() {
        for dice in [0, MIDDLE, u16::MAX] {
            let last = *life(&Schedule::default(), dice).last().unwrap();

            let days = last.as_secs_f64() / 86_400.0;
            assert!((5.0..5.01).contains(&days), "{days}");
        }
    }

    #[test]
    fn messages_that_failed_together_come_back_apart() {
        let at = |dice| match Schedule::default().next(&Timing::fresh(START), START, dice) {
            Next::Retry(timing) => timing.due.since(START),
            Next::GiveUp => Duration::ZERO,
        };

        assert_eq!((at(0).as_secs(), at(u16::MAX).as_secs()), (270, 330));
    }

    #[test]
    fn a_clock_ten_years_ahead_gives_nothing_up() {
        let schedule = Schedule::default();
        let ten_years = Duration::from_secs(10 * 365 * 86_400);
        let Next::Retry(timing) = schedule.next(&Timing::fresh(START), START, MIDDLE) else { panic!("it is fresh") };

        let mut now = timing.due.plus(ten_years);
        let mut timing = timing;
        let mut attempts = 0;
        while let Next::Retry(next) = schedule.next(&timing, now, MIDDLE) {
            (now, timing, attempts) = (next.due, next, attempts + 1);
        }

        assert!(attempts > 15, "only {attempts} more attempts");
    }

    #[test]
    fn a_clock_ten_years_back_neither_stalls_nor_keeps_for_ever() {
        let schedule = Schedule::default();
        let mut now = START.minus(Duration::from_secs(10 * 365 * 86_400));
        let mut timing = Timing { due: START.plus(Duration::from_secs(300)), last: START, ..Timing::fresh(START) };

        let mut attempts = 0;
        while let Next::Retry(next) = schedule.next(&timing, now, MIDDLE) {
            assert!(next.due.since(now) <= schedule.horizon());
            (now, timing, attempts) = (next.due, next, attempts + 1);
        }

        assert!((30..60).contains(&attempts), "{attempts} attempts");
    }

    #[test]
    fn retries_by_hand_do_not_shorten_the_time() {
        let schedule = Schedule::default();
        let (mut timing, mut now) = (Timing::fresh(START), START);
        for _ in 0..200 {
            let Next::Retry(next) = schedule.next(&timing, now, MIDDLE) else { panic!("given up after {:?}", now.since(START)) };
            now = now.plus(Duration::from_secs(60));
            timing = Timing { due: now, ..next }; // `retry` a minute later
        }
    }

    #[test]
    fn a_machine_that_was_off_for_a_week_still_tries_for_half_of_the_time() {
        let schedule = Schedule::default();
        let Next::Retry(mut timing) = schedule.next(&Timing::fresh(START), START, MIDDLE) else { panic!("it is fresh") };
        let mut now = START.plus(Duration::from_secs(7 * 86_400));
        let back = now;
        while let Next::Retry(next) = schedule.next(&timing, now, MIDDLE) {
            (now, timing) = (next.due, next);
        }

        let days = now.since(back).as_secs_f64() / 86_400.0;
        assert!((2.4..2.7).contains(&days), "{days}");
    }

    #[test]
    fn the_time_of_an_attempt_counts_as_waited_and_is_taken_off_the_next_pause() {
        let schedule = Schedule::default();
        let (hour, five_minutes) = (Duration::from_secs(3600), Duration::from_secs(300));
        let timing = Timing { attempts: 5, due: START.plus(five_minutes), ..Timing::fresh(START) };
        let now = START.plus(hour);

        let Next::Retry(next) = schedule.next(&timing.after_attempt(hour), now, MIDDLE) else { panic!("an hour is not five days") };
        assert_eq!(next.waited, hour);
        let pause = next.due.since(now);
        assert!(pause > 2 * hour, "{pause:?}");
        assert_eq!(schedule.sooner(next, hour).due.since(now), pause - hour);
        assert!(schedule.sooner(next, 10 * hour).due.since(now) == five_minutes, "but not at once");

        let given_up = schedule.next(&Timing::fresh(START).after_attempt(5 * 24 * hour), START.plus(5 * 24 * hour), MIDDLE);
        assert!(matches!(given_up, Next::Retry(_)), "what is longer than any pause is not believed of the wall clock");
        assert_eq!(schedule.next(&Timing { waited: 5 * 24 * hour - hour, ..timing }.after_attempt(hour), now, MIDDLE), Next::GiveUp);
    }

    #[test]
    fn an_attempt_by_hand_does_not_lengthen_the_pause_after_it() {
        let schedule = Schedule::default();
        let pause = |attempts| {
            let by_hand = Timing { attempts, ..Timing::fresh(START) }.after_attempt(Duration::from_secs(1));
            let Next::Retry(next) = schedule.next(&by_hand, START, MIDDLE) else { panic!("it is fresh") };
            (next.attempts, next.due.since(START).as_secs_f64().round())
        };

        assert_eq!(pause(1), (1, 300.0), "the pause after the first attempt, once more");
        assert_eq!(pause(3), (3, 1200.0));
        assert_eq!(pause(0), (1, 300.0), "a fresh message is due at once by itself");
    }

    #[test]
    fn an_attempt_that_hangs_is_over_when_the_next_is_due_or_the_message_is_given_up() {
        let hour = Duration::from_secs(3600);
        let usual = Schedule::default();
        let limit = |schedule: &Schedule, attempts, waited, size| {
            schedule.attempt_limit(&Timing { attempts, waited, ..Timing::fresh(START) }, START, size)
        };
        assert_eq!(limit(&usual, 0, Duration::ZERO, 0), hour);
        assert!(limit(&usual, 9, Duration::ZERO, 0) > 3 * hour);
        assert_eq!(limit(&usual, 9, 5 * 24 * hour, 0), hour, "the last one has its time too");
        assert!(limit(&usual, 0, Duration::ZERO, 2 << 30) > 18 * hour, "a large message takes longer");
        let as_it_goes_out = 3 * (1 << 20) / SLOWEST;
        assert_eq!(limit(&usual, 0, Duration::ZERO, 1 << 20), hour + Duration::from_secs(as_it_goes_out), "and more if it is converted");

        let brief = Schedule {
            first_retry: Duration::from_secs(1),
            longest_retry: Duration::from_secs(2),
            give_up: Duration::from_secs(10),
            ..usual
        };
        assert_eq!(limit(&brief, 0, Duration::ZERO, 0), Duration::from_secs(10));
        assert_eq!(limit(&brief, 3, Duration::from_secs(9), 0), Duration::from_secs(10));
    }

    proptest! {
        #[test]
        fn never_panics_and_never_pauses_beyond_the_horizon(arrived: i64, last: i64, due: i64, waited in 0..u64::MAX, attempts: u32, now: i64, dice: u16) {
            let timing = Timing { arrived: Moment(arrived), last: Moment(last), due: Moment(due), waited: Duration::from_millis(waited), attempts };
            let schedule = Schedule::default();

            if let Next::Retry(next) = schedule.next(&timing, Moment(now), dice) {
                prop_assert!(next.due.since(Moment(now)) <= schedule.horizon());
                prop_assert!(next.due >= Moment(now));
            }
        }
    }
}
