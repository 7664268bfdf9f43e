//! Which addresses did not work a moment ago, so that not every message waits for the same time-out.
//!
//! Short on purpose: a refused connection is remembered for a second, a time-out for twenty, so that an administrator who
//! mended the host and says `retry` is soon obeyed. Nothing here outlives the
//! process.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::client::trouble::{Kind, Trouble};

/// For what was found out at once.
const BRIEFLY: Duration = Duration::from_secs(1);
/// For what cost a time-out.
const FOR_LONG: Duration = Duration::from_secs(20);
/// Above this many the old ones are swept out.
const SWEEP: usize = 1000;

#[derive(Default)]
pub(crate) struct Outages(Mutex<HashMap<SocketAddr, (Instant, Trouble)>>);

impl Outages {
    pub(crate) fn note(&self, address: SocketAddr, trouble: &Trouble, now: Instant) {
        let pause = match trouble.kind {
            Kind::Slow => FOR_LONG,
            Kind::Quick | Kind::Handshake | Kind::TooOld | Kind::Lost => BRIEFLY,
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= SWEEP {
            known.retain(|_, (until, _)| *until > now);
        }
        known.insert(address, (now + pause, trouble.clone()));
    }

    pub(crate) fn forget(&self, address: SocketAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
    }

    /// Why the address is not worth trying now.
    pub(crate) fn at(&self, address: SocketAddr, now: Instant) -> Option<Trouble> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&address).filter(|(until, _)| *until > now).map(|(_, trouble)| trouble.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_a_timeout_longer_than_a_refusal_and_neither_for_ever() {
        let outages = Outages::default();
        let now = Instant::now();
        let quick: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let slow: SocketAddr = "127.0.0.1:2".parse().unwrap();

        outages.note(quick, &Trouble::lost(None), now);
        outages.note(slow, &Trouble::silent("x", FOR_LONG), now);

        assert!(outages.at(quick, now).is_some());
        assert!(outages.at(quick, now + BRIEFLY).is_none());
        assert!(outages.at(slow, now + BRIEFLY).is_some());
        assert!(outages.at(slow, now + FOR_LONG).is_none());
        outages.forget(slow);
        assert!(outages.at(slow, now).is_none());
    }
}
