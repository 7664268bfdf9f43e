//! When a refusal leaves: no sooner than a wrong password usually takes, whatever it was refused for.
//!
//! PAM answers at once for a name that it does not know or an account that is locked, and after a hash or a question to
//! a server for a wrong password. The front end answers on a schedule of its own; this levels what that schedule cannot
//! hide when questions wait in line for longer. No worker waits for it.
//! Invariant: what is held says nothing new when it leaves; it was counted and logged when it was decided.

use std::time::{Duration, Instant};

/// The weight of the latest one in the mean.
const WEIGHT: u32 = 8;
/// A back end that is slower than this gives itself away anyhow.
const LONGEST: Duration = Duration::from_secs(2);

/// How long each service usually takes over a wrong password.
#[derive(Default)]
pub(crate) struct Tempo(Vec<(String, Duration)>);

impl Tempo {
    /// A wrong password took so long.
    pub(crate) fn learn(&mut self, service: &str, took: Duration) {
        let took = took.min(LONGEST);
        match self.0.iter_mut().find(|(known, _)| known == service) {
            Some((_, usual)) => *usual = (*usual * (WEIGHT - 1) + took) / WEIGHT,
            None => self.0.push((service.to_owned(), took)),
        }
    }

    /// When a refusal may leave whose check began at `began`.
    pub(crate) fn leaves(&self, service: &str, began: Instant) -> Instant {
        self.0.iter().find(|(known, _)| known == service).map_or(began, |(_, usual)| began + *usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_leaves_when_a_wrong_password_would() {
        let (mut tempo, began) = (Tempo::default(), Instant::now());
        assert_eq!(tempo.leaves("smtp", began), began);

        for _ in 0..100 {
            tempo.learn("smtp", Duration::from_millis(80));
            tempo.learn("smtp-guests", Duration::from_millis(5));
        }
        tempo.learn("smtp", Duration::from_secs(100));

        let hash = tempo.leaves("smtp", began) - began;
        assert!((Duration::from_millis(80)..Duration::from_millis(400)).contains(&hash), "{hash:?}");
        assert_eq!(tempo.leaves("smtp-guests", began) - began, Duration::from_millis(5));
    }
}
