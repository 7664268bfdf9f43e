//! Which addresses did not work lately: so that not every message waits for the same time-out, and not every attempt tries the same few.
//!
//! What keeps an address from being tried is short on purpose: a refused connection counts for a second, a time-out for twenty, a
//! refused login for sixty, so that an administrator who repaired the host and says `retry` is soon obeyed. When an address last failed is remembered for
//! longer, and only decides about the order. Nothing here outlives the process.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::client::trouble::{Kind, Trouble};

/// For what was found out at once.
const BRIEFLY: Duration = Duration::from_secs(1);
/// For what cost a time-out.
const FOR_LONG: Duration = Duration::from_secs(20);
/// For a refused login: with mail coming in all the time, one attempt each second would lock the account.
const REFUSED_LOGIN: Duration = Duration::from_secs(60);
/// How long an address that broke a connection under a message comes after the others.
const SHAKY: Duration = Duration::from_secs(3600);
/// Addresses remembered; above it those that may be tried again are forgotten, then any half.
const ROOM: usize = 10_000;

#[derive(Default)]
pub(crate) struct Outages(Mutex<HashMap<SocketAddr, Outage>>);

struct Outage {
    failed: Instant,
    /// Not tried before this.
    until: Option<(Instant, Trouble)>,
    /// When a connection last broke under a message.
    broke: Option<Instant>,
}

impl Outages {
    /// No connection could be made.
    pub(crate) fn note(&self, address: SocketAddr, trouble: &Trouble, now: Instant) {
        let pause = match trouble.kind {
            Kind::Slow => FOR_LONG,
            Kind::Login => REFUSED_LOGIN,
            Kind::Quick | Kind::Handshake | Kind::TooOld | Kind::NoTls | Kind::Channel | Kind::Lost | Kind::NoMail => BRIEFLY,
        };
        let mut known = self.known(now);
        let broke = known.get(&address).and_then(|outage| outage.broke);
        known.insert(address, Outage { failed: now, until: Some((now + pause, trouble.clone())), broke });
    }

    /// A new connection broke under a message.
    pub(crate) fn note_broken(&self, address: SocketAddr, now: Instant) {
        self.known(now).insert(address, Outage { failed: now, until: None, broke: Some(now) });
    }

    /// A connection was made.
    pub(crate) fn reached(&self, address: SocketAddr) {
        let mut known = self.lock();
        if known.get(&address).is_some_and(|outage| outage.broke.is_none()) {
            known.remove(&address);
        }
    }

    /// A message was answered.
    pub(crate) fn forget(&self, address: SocketAddr) {
        self.lock().remove(&address);
    }

    /// Why the address is not worth trying now.
    pub(crate) fn at(&self, address: SocketAddr, now: Instant) -> Option<Trouble> {
        let known = self.lock();
        known.get(&address)?.until.as_ref().filter(|(until, _)| *until > now).map(|(_, trouble)| trouble.clone())
    }

    /// Whether others are to be tried before this one.
    pub(crate) fn is_shaky(&self, address: SocketAddr, now: Instant) -> bool {
        let broke = self.lock().get(&address).and_then(|outage| outage.broke);
        broke.is_some_and(|broke| now.saturating_duration_since(broke) < SHAKY)
    }

    /// When it last failed, as far as that is remembered.
    pub(crate) fn last_failure(&self, address: SocketAddr) -> Option<Instant> {
        self.lock().get(&address).map(|outage| outage.failed)
    }

    /// With room for one more.
    fn known(&self, now: Instant) -> MutexGuard<'_, HashMap<SocketAddr, Outage>> {
        let mut known = self.lock();
        if known.len() >= ROOM {
            known.retain(|_, outage| outage.until.as_ref().is_some_and(|(until, _)| *until > now));
        }
        if known.len() >= ROOM {
            let mut keep = false;
            known.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
        known
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Outage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[test]
    fn a_refused_login_is_not_tried_again_for_every_message() {
        let outages = Outages::default();
        let now = Instant::now();
        let host: SocketAddr = "127.0.0.1:1".parse().unwrap();

        outages.note(host, &Trouble::lost(None).of_kind(Kind::Login), now);

        assert!(outages.at(host, now + REFUSED_LOGIN / 2).is_some());
        assert!(outages.at(host, now + REFUSED_LOGIN).is_none());
    }

    #[test]
    fn an_address_that_broke_a_connection_stays_behind_until_it_answers_a_message() {
        let outages = Outages::default();
        let now = Instant::now();
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();

        outages.note_broken(address, now);
        outages.reached(address);

        assert!(outages.at(address, now).is_none(), "it may be tried");
        assert!(outages.is_shaky(address, now) && !outages.is_shaky(address, now + SHAKY));
        assert_eq!(outages.last_failure(address), Some(now));
        outages.forget(address);
        assert!(!outages.is_shaky(address, now));
    }

    #[test]
    fn never_remembers_more_than_its_room() {
        let outages = Outages::default();
        let now = Instant::now();

        for number in 0..3 * ROOM {
            let address = SocketAddr::from((std::net::Ipv4Addr::from(number as u32), 25));
            outages.note(address, &Trouble::silent("x", FOR_LONG), now);
        }

        assert!(outages.lock().len() <= ROOM);
    }
}
