//! When a refusal leaves: no sooner than the check of a password usually takes, whatever it was refused for.
//!
//! PAM answers at once for a name that it does not know or an account that is locked, and after a hash or a question to
//! a server for a password that it looks at. The front end answers on a schedule of its own; this levels what that
//! schedule cannot hide when questions wait in line for longer. No worker waits for it.
//!
//! What is usual is learnt from accepts, and from refusals that took about as long: the quick ones are those that are to be
//! hidden, and many of them must not make it shorter.
//! Invariant: what is held says nothing new when it leaves; it was counted and logged when it was decided.

use std::time::{Duration, Instant};

/// The weight of the latest one in the mean.
const WEIGHT: u32 = 8;
/// A back end that is slower than this gives itself away anyhow.
const LONGEST: Duration = Duration::from_secs(2);
/// When nothing took that long any more for such a time, the back end has become quicker.
const STALE: Duration = Duration::from_secs(300);

/// How long each service usually takes over a password.
#[derive(Default)]
pub(crate) struct Tempo(Vec<Usual>);

struct Usual {
    service: String,
    time: Duration,
    confirmed: Instant,
}

impl Tempo {
    /// A password was looked at, or maybe not, and that took so long.
    pub(crate) fn learn(&mut self, service: &str, took: Duration, now: Instant) {
        let took = took.min(LONGEST);
        match self.0.iter_mut().find(|usual| usual.service == service) {
            Some(usual) if took >= usual.time / 2 => {
                usual.time = (usual.time * (WEIGHT - 1) + took) / WEIGHT;
                usual.confirmed = now;
            }
            Some(usual) if now.saturating_duration_since(usual.confirmed) >= STALE => {
                usual.time = took;
                usual.confirmed = now;
            }
            Some(_) => {}
            None => self.0.push(Usual { service: service.to_owned(), time: took, confirmed: now }),
        }
    }

    /// When a refusal may leave whose check began at `began`.
    pub(crate) fn leaves(&self, service: &str, began: Instant) -> Instant {
        self.0.iter().find(|usual| usual.service == service).map_or(began, |usual| began + usual.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_leaves_when_a_wrong_password_would_however_many_quick_ones_there_are() {
        let (mut tempo, began) = (Tempo::default(), Instant::now());
        assert_eq!(tempo.leaves("smtp", began), began);

        for _ in 0..100 {
            tempo.learn("smtp", Duration::from_millis(1), began);
            tempo.learn("smtp", Duration::from_millis(80), began);
            tempo.learn("smtp-guests", Duration::from_millis(5), began);
        }
        (0..1000).for_each(|_| tempo.learn("smtp", Duration::from_millis(1), began));
        tempo.learn("smtp", Duration::from_secs(100), began);

        let hash = tempo.leaves("smtp", began) - began;
        assert!((Duration::from_millis(80)..Duration::from_millis(400)).contains(&hash), "{hash:?}");
        assert_eq!(tempo.leaves("smtp-guests", began) - began, Duration::from_millis(5));
    }

    #[test]
    fn a_back_end_that_has_become_quicker_is_noticed_in_time() {
        let (mut tempo, began) = (Tempo::default(), Instant::now());
        tempo.learn("smtp", Duration::from_millis(800), began);

        tempo.learn("smtp", Duration::from_millis(5), began + STALE / 2);
        assert_eq!(tempo.leaves("smtp", began) - began, Duration::from_millis(800));
        tempo.learn("smtp", Duration::from_millis(5), began + STALE);

        assert_eq!(tempo.leaves("smtp", began) - began, Duration::from_millis(5));
    }
}
