//! How fast new connections may come from one network and from one site, before anything is spent on them.
//!
//! A handshake costs a signature, so a client that connects again and again takes the processor from those who send mail.
//! Invariant: within a second one network has at most its rate, after a burst of [`BURST`] seconds' worth; the networks of
//! one site together have [`OF_SITE`] times as much. Memory is bounded: beyond [`MOST`] entries newcomers share one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pamrelay_authwire::{network, site};

/// Seconds' worth of connections that may come at once.
const BURST: u32 = 5;
/// How many networks at their rate one site may have.
const OF_SITE: u32 = 4;
/// Networks and sites that are remembered.
const MOST: usize = 32_768;
/// How often expired entries are removed while the table is full.
const PRUNE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Whose {
    Network(IpAddr),
    Site(IpAddr),
    /// All networks and sites that found the table full.
    Newcomers,
}

#[derive(Debug)]
pub(super) struct Arrivals {
    /// The time that one connection uses up.
    each: Duration,
    meters: Mutex<Meters>,
}

#[derive(Debug)]
struct Meters {
    /// When each has its whole burst again. A network or site without an entry has it now.
    full: HashMap<Whose, Instant>,
    pruned: Instant,
}

impl Arrivals {
    pub(super) fn new(per_second: usize) -> Self {
        let each = Duration::from_secs(1) / u32::try_from(per_second).unwrap_or(u32::MAX).max(1);
        Self { each, meters: Mutex::new(Meters { full: HashMap::new(), pruned: Instant::now() }) }
    }

    /// Whether one more connection may come; if so, it is counted.
    pub(super) fn admit(&self, address: IpAddr, now: Instant) -> bool {
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        meters.prune(now);
        let wanted = [(Whose::Network(network(address)), self.each), (Whose::Site(site(address)), self.each / OF_SITE)];
        let mut after = [(Whose::Newcomers, now); 2];
        for ((whose, each), after) in wanted.into_iter().zip(&mut after) {
            let whose = if meters.has_room_for(whose) { whose } else { Whose::Newcomers };
            let until = meters.full.get(&whose).copied().unwrap_or(now).max(now) + each;
            if until.saturating_duration_since(now) > Duration::from_secs(1) * BURST {
                return false;
            }
            *after = (whose, until);
        }
        meters.full.extend(after);
        true
    }
}

impl Meters {
    fn has_room_for(&self, whose: Whose) -> bool {
        self.full.len() < MOST || self.full.contains_key(&whose)
    }

    fn prune(&mut self, now: Instant) {
        if self.full.len() < MOST || now.saturating_duration_since(self.pruned) < PRUNE {
            return;
        }
        self.full.retain(|_, until| *until > now);
        self.pruned = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_flood_from_one_network_gets_its_burst_and_then_its_rate() {
        let arrivals = Arrivals::new(100);
        let begun = Instant::now();
        let admitted = |address: &str, at: Duration| (0..10_000).filter(|_| arrivals.admit(ip(address), begun + at)).count();

        assert_eq!(admitted("2001:db8::1", Duration::ZERO), 500);
        assert_eq!(admitted("2001:db8::2", Duration::from_secs(1)), 100, "the same /64");
        assert_eq!(admitted("192.0.2.1", Duration::from_secs(1)), 500, "somebody else");
    }

    #[test]
    fn many_networks_of_one_site_share_what_the_site_may() {
        let arrivals = Arrivals::new(100);
        let now = Instant::now();

        let admitted = (0..65_536_u32).filter(|number| arrivals.admit(ip(&format!("2001:db8:1:{number:x}::1")), now)).count();

        assert_eq!(admitted, 2000);
        assert!(arrivals.admit(ip("2001:db8:2::1"), now), "another site");
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        let arrivals = Arrivals::new(10);
        let begun = Instant::now();
        for number in 0..100_000_u32 {
            arrivals.admit(IpAddr::V4((number << 8).into()), begun);
        }
        let entries = || arrivals.meters.lock().unwrap().full.len();
        assert!(entries() <= MOST + 2, "{}", entries());

        assert!(arrivals.admit(ip("192.0.2.1"), begun + Duration::from_secs(60)));

        assert_eq!(entries(), 2);
    }

    #[test]
    fn one_connection_a_second_is_the_least() {
        let arrivals = Arrivals::new(0);
        let begun = Instant::now();

        assert_eq!((0..100).filter(|_| arrivals.admit(ip("192.0.2.1"), begun)).count(), 5);
        assert!(arrivals.admit(ip("192.0.2.1"), begun + Duration::from_secs(1)));
    }
}
