//! How many sessions there are, in all, from one network and from one site. Full is answered, never a hang.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pamrelay_authwire::{network, site};

#[derive(Debug)]
pub struct Door {
    most: Most,
    inside: Mutex<Inside>,
    /// Whether more than three quarters of all sessions are there.
    scarce: Arc<AtomicBool>,
}

/// The most sessions at once.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    pub in_all: usize,
    /// From one IPv4 address or IPv6 /64.
    pub per_address: usize,
    /// From one IPv4 /24 or IPv6 /48.
    pub per_site: usize,
}

/// Bounded by the sessions: a network or site without one has no entry.
#[derive(Debug, Default)]
struct Inside {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
    by_site: HashMap<IpAddr, usize>,
}

/// Why a client cannot come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crowded {
    InAll,
    FromThere,
    FromSite,
}

/// A session's place; given back when it is dropped.
#[derive(Debug)]
pub struct Seat {
    door: Arc<Door>,
    address: IpAddr,
}

impl Door {
    pub fn new(most: Most) -> Arc<Self> {
        Arc::new(Self { most, inside: Mutex::default(), scarce: Arc::default() })
    }

    /// Turns true when sessions are scarce, and false again.
    pub fn scarce(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.scarce)
    }

    fn note(&self, total: usize) {
        self.scarce.store(total.saturating_mul(4) > self.most.in_all.saturating_mul(3), Ordering::Relaxed);
    }

    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Seat, Crowded> {
        let (address, site) = (network(address), site(address));
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if inside.total >= self.most.in_all {
            return Err(Crowded::InAll);
        }
        let there = inside.by_address.get(&address).copied().unwrap_or_default();
        if there >= self.most.per_address {
            return Err(Crowded::FromThere);
        }
        let around = inside.by_site.get(&site).copied().unwrap_or_default();
        if around >= self.most.per_site {
            return Err(Crowded::FromSite);
        }
        inside.by_address.insert(address, there + 1);
        inside.by_site.insert(site, around + 1);
        inside.total += 1;
        self.note(inside.total);
        Ok(Seat { door: Arc::clone(self), address })
    }

    pub fn is_empty(&self) -> bool {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner).total == 0
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inside = self.door.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.total = inside.total.saturating_sub(1);
        self.door.note(inside.total);
        leave(&mut inside.by_address, self.address);
        leave(&mut inside.by_site, site(self.address));
    }
}

fn leave(counts: &mut HashMap<IpAddr, usize>, from: IpAddr) {
    if let Some(there) = counts.get_mut(&from) {
        *there = there.saturating_sub(1);
        if *there == 0 {
            counts.remove(&from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(in_all: usize, per_address: usize, per_site: usize) -> Arc<Door> {
        Door::new(Most { in_all, per_address, per_site })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn counts_by_address_and_in_all() {
        let door = door(3, 2, 3);
        let first = door.enter(ip("192.0.2.1")).unwrap();
        let _second = door.enter(ip("::ffff:192.0.2.1")).unwrap();

        assert_eq!(door.enter(ip("192.0.2.1")).err(), Some(Crowded::FromThere));
        let _third = door.enter(ip("192.0.2.2")).unwrap();
        assert_eq!(door.enter(ip("192.0.2.3")).err(), Some(Crowded::InAll));

        drop(first);
        assert!(door.enter(ip("192.0.2.1")).is_ok());
    }

    #[test]
    fn one_ipv6_network_is_one_client() {
        let door = door(10, 1, 10);
        let _seat = door.enter(ip("2001:db8:0:1::1")).unwrap();

        assert_eq!(door.enter(ip("2001:db8:0:1:ffff::2")).err(), Some(Crowded::FromThere));
        assert!(door.enter(ip("2001:db8:0:2::1")).is_ok());
    }

    #[test]
    fn many_networks_of_one_site_leave_room_for_the_others() {
        for (flood, other) in [("2001:db8:1:{}::1", "2001:db8:2::1"), ("192.0.2.{}", "192.0.3.1")] {
            let door = door(12, 2, 4);
            let address = |number: usize| ip(&flood.replace("{}", &number.to_string()));

            let seats: Vec<_> = (0..50).map(|number| door.enter(address(number))).collect();

            assert_eq!(seats.iter().flatten().count(), 4);
            assert_eq!(seats.last().unwrap().as_ref().err(), Some(&Crowded::FromSite));
            assert!(door.enter(ip(other)).is_ok());
            drop(seats);
            assert!(door.enter(address(9)).is_ok());
        }
    }

    #[test]
    fn sessions_are_scarce_above_three_quarters_and_not_below() {
        let (door, address) = (door(100, 100, 100), ip("192.0.2.1"));
        let scarce = door.scarce();

        let mut seats: Vec<_> = (0..75).map(|_| door.enter(address).unwrap()).collect();
        assert!(!scarce.load(Ordering::Relaxed));
        seats.push(door.enter(address).unwrap());
        assert!(scarce.load(Ordering::Relaxed));
        seats.pop();
        assert!(!scarce.load(Ordering::Relaxed));
    }

    #[test]
    fn forgets_addresses_that_left() {
        let door = door(10, 10, 10);

        drop(door.enter(ip("192.0.2.1")).unwrap());

        assert!(door.is_empty());
        let inside = door.inside.lock().unwrap();
        assert!(inside.by_address.is_empty() && inside.by_site.is_empty());
    }
}
