//! How many sessions there are, in all and from one address. Full is answered, never a hang.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pamrelay_authwire::network;

#[derive(Debug)]
pub struct Door {
    sessions: usize,
    per_address: usize,
    inside: Mutex<Inside>,
    crowd: Mutex<Crowd>,
}

/// Those turned away since it was last said.
#[derive(Debug, Default)]
struct Crowd {
    said: Option<Instant>,
    turned_away: u64,
}

/// Bounded by `sessions`: an address without a session has no entry.
#[derive(Debug, Default)]
struct Inside {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Why a client cannot come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crowded {
    InAll,
    FromThere,
}

/// A session's place; given back when it is dropped.
#[derive(Debug)]
pub struct Seat {
    door: Arc<Door>,
    address: IpAddr,
}

impl Door {
    pub fn new(sessions: usize, per_address: usize) -> Arc<Self> {
        Arc::new(Self { sessions, per_address, inside: Mutex::default(), crowd: Mutex::default() })
    }

    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Seat, Crowded> {
        let address = network(address);
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if inside.total >= self.sessions {
            return Err(Crowded::InAll);
        }
        let there = inside.by_address.get(&address).copied().unwrap_or_default();
        if there >= self.per_address {
            return Err(Crowded::FromThere);
        }
        inside.by_address.insert(address, there + 1);
        inside.total += 1;
        Ok(Seat { door: Arc::clone(self), address })
    }

    /// Counts one turned away; gives their number once a second, for the log.
    pub fn turned_away(&self) -> Option<u64> {
        let mut crowd = self.crowd.lock().unwrap_or_else(PoisonError::into_inner);
        crowd.turned_away += 1;
        if crowd.said.is_some_and(|said| said.elapsed() < Duration::from_secs(1)) {
            return None;
        }
        crowd.said = Some(Instant::now());
        Some(std::mem::take(&mut crowd.turned_away))
    }

    pub fn is_empty(&self) -> bool {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner).total == 0
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inside = self.door.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.total = inside.total.saturating_sub(1);
        if let Some(there) = inside.by_address.get_mut(&self.address) {
            *there = there.saturating_sub(1);
            if *there == 0 {
                inside.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn counts_by_address_and_in_all() {
        let door = Door::new(3, 2);
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
        let door = Door::new(10, 1);
        let _seat = door.enter(ip("2001:db8:0:1::1")).unwrap();

        assert_eq!(door.enter(ip("2001:db8:0:1:ffff::2")).err(), Some(Crowded::FromThere));
        assert!(door.enter(ip("2001:db8:0:2::1")).is_ok());
    }

    #[test]
    fn forgets_addresses_that_left() {
        let door = Door::new(10, 10);

        drop(door.enter(ip("192.0.2.1")).unwrap());

        assert!(door.is_empty());
        assert!(door.inside.lock().unwrap().by_address.is_empty());
    }
}
