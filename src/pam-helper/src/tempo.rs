//! When a refusal leaves: no sooner than the check of a password usually takes, whatever it was refused for.
//!
//! PAM answers at once for a name that it does not know or an account that is locked, and after a hash or a question to
//! a server for a password that it looks at. The front end answers on a schedule of its own; this levels what that
//! schedule cannot hide when questions wait in line for longer. No worker waits for it.
//!
//! What is usual is learnt from what took about as long or longer. Quick refusals are those that are to be hidden: many of
//! them do not make it shorter; an accept does, when nothing has taken that long for a while. It is one time for all services, the longest: which of them was
//! asked tells whether a name has an account.
//!
//! Invariant: what is held says nothing new when it leaves; it was counted and logged when it was decided.

use std::time::{Duration, Instant};

/// The weight of a shorter one in the mean; a longer one counts as much as all before it.
const WEIGHT: u32 = 8;
/// A back end that is slower than this gives itself away anyhow.
const LONGEST: Duration = Duration::from_secs(2);
/// When nothing took that long any more for such a time, the back end may have become quicker.
const STALE: Duration = Duration::from_secs(300);

/// How long the check of a password usually takes.
#[derive(Default)]
pub(crate) struct Tempo(Option<Usual>);

struct Usual {
    time: Duration,
    confirmed: Instant,
}

impl Tempo {
    /// A password was accepted, which took so long.
    pub(crate) fn accepted(&mut self, took: Duration, now: Instant) {
        let stale = self.0.as_ref().is_some_and(|usual| now.saturating_duration_since(usual.confirmed) >= STALE);
        if stale {
            self.0 = None;
        }
        self.learn(took, now);
    }

    /// A password was refused, and perhaps not looked at.
    pub(crate) fn refused(&mut self, took: Duration, now: Instant) {
        self.learn(took, now);
    }

    fn learn(&mut self, took: Duration, now: Instant) {
        let took = took.min(LONGEST);
        let time = match &self.0 {
            None => took,
            Some(usual) if took >= usual.time => (usual.time + took) / 2,
            Some(usual) if took >= usual.time / 2 => (usual.time * (WEIGHT - 1) + took) / WEIGHT,
            Some(_) => return,
        };
        self.0 = Some(Usual { time, confirmed: now });
    }

    /// When a refusal may leave whose check began at `began`.
    pub(crate) fn leaves(&self, began: Instant) -> Instant {
        self.0.as_ref().map_or(began, |usual| began + usual.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_leaves_when_a_wrong_password_would_however_many_quick_ones_there_are() {
        let (mut tempo, began) = (Tempo::default(), Instant::now());
        assert_eq!(tempo.leaves(began), began);

        for _ in 0..100 {
            tempo.refused(Duration::from_millis(1), began);
            tempo.refused(Duration::from_millis(80), began);
        }
        (0..1000).for_each(|n| tempo.refused(Duration::from_millis(1), began + STALE * n));

        let hash = tempo.leaves(began) - began;
        assert!((Duration::from_millis(75)..Duration::from_millis(85)).contains(&hash), "{hash:?}");
        tempo.refused(Duration::from_secs(100), began);
        assert!(tempo.leaves(began) - began < LONGEST);
    }

    #[test]
    fn a_back_end_that_has_become_quicker_is_noticed_in_time() {
        let (mut tempo, began) = (Tempo::default(), Instant::now());
        tempo.refused(Duration::from_millis(800), began);

        tempo.accepted(Duration::from_millis(5), began + STALE / 2);
        assert_eq!(tempo.leaves(began) - began, Duration::from_millis(800));
        tempo.accepted(Duration::from_millis(5), began + STALE);

        assert_eq!(tempo.leaves(began) - began, Duration::from_millis(5));
    }
}
