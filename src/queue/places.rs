//! Room in memory for messages being delivered, shared out among the domains they go to.
//!
//! Room is counted in messages and in octets, because a message may have thousands of recipients.
//! Invariant: a domain gets more only while what it would hold is no more than what is free. So one
//! slow domain holds half of the room at most, two hold a third each, and a domain that holds nothing
//! finds room as long as there is any. A message counts for each domain it still has recipients at.
//! Domains are told apart, not the hosts that routes lead to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::message::{Progress, Standing};
use crate::smtp::address::Domain;
use crate::smtp::envelope::Envelope;

/// Octets that there is room for, for each message that there is room for. More than most messages take.
const OCTETS_EACH: u64 = 64 * 1024;

#[derive(Debug)]
pub struct Places {
    /// No message counts for more octets than this, so that even the largest one fits.
    largest: u64,
    shared: Mutex<Shared>,
}

#[derive(Debug)]
struct Shared {
    free: Load,
    held: HashMap<String, Load>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    messages: usize,
    octets: u64,
}

impl Load {
    fn add(&mut self, octets: u64) {
        self.messages += 1;
        self.octets += octets;
    }

    fn subtract(&mut self, octets: u64) {
        self.messages -= 1;
        self.octets -= octets;
    }
}

/// A place for one message; free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    domains: Vec<String>,
    octets: u64,
}

impl Places {
    /// Room for this many messages, and for 64 KiB for each of them.
    pub fn new(messages: usize) -> Arc<Self> {
        let octets = OCTETS_EACH.saturating_mul(messages as u64);
        let shared = Shared { free: Load { messages, octets }, held: HashMap::new() };
        Arc::new(Self { largest: octets / 4, shared: Mutex::new(shared) })
    }

    /// How many more messages there is room for.
    pub fn free(&self) -> usize {
        self.shared().free.messages
    }

    /// A place for a message to these domains that takes `octets` of memory, unless one of the domains has its share.
    pub fn take(self: &Arc<Self>, domains: Vec<String>, octets: u64) -> Option<Place> {
        let octets = octets.min(self.largest);
        let mut shared = self.shared();
        let free = shared.free;
        if free.messages == 0 || octets > free.octets {
            return None;
        }
        let has_its_share = |held: &Load| held.messages >= free.messages || held.octets + octets > free.octets;
        if domains.iter().filter_map(|it| shared.held.get(it)).any(has_its_share) {
            return None;
        }
        shared.free.subtract(octets);
        for domain in &domains {
            shared.held.entry(domain.clone()).or_default().add(octets);
        }
        Some(Place { places: Arc::clone(self), domains, octets })
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut shared = self.places.shared();
        shared.free.add(self.octets);
        for domain in &self.domains {
            if let Some(held) = shared.held.get_mut(domain) {
                held.subtract(self.octets);
                if held.messages == 0 {
                    shared.held.remove(domain);
                }
            }
        }
    }
}

/// The domains of the recipients that `progress` leaves open, each once; without progress, of all.
pub fn domains(envelope: &Envelope, progress: Option<&Progress>) -> Vec<String> {
    let open = |no: usize| progress.is_none_or(|it| it.standings.get(no).is_none_or(Standing::is_open));
    let open = envelope.recipients().enumerate().filter(|(no, _)| open(*no)).map(|(_, it)| it.mailbox.domain());
    let mut domains: Vec<_> = open.map(name).collect();
    domains.sort_unstable();
    domains.dedup();
    domains
}

fn name(domain: &Domain) -> String {
    domain.to_dns().unwrap_or_else(|| domain.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::conformance::envelope;

    fn to(names: &[&str]) -> Vec<String> {
        domains(&envelope(names), None)
    }

    #[test]
    fn one_domain_gets_half_of_the_places_and_another_still_finds_one() {
        let places = Places::new(100);
        let slow: Vec<_> = std::iter::from_fn(|| places.take(to(&["a@slow.example", "b@SLOW.example"]), 1000)).collect();
        assert_eq!((slow.len(), places.free()), (50, 50));
        assert!(places.take(to(&["a@slow.example", "a@b.example"]), 1000).is_none());

        let other: Vec<_> = std::iter::from_fn(|| places.take(to(&["a@b.example"]), 1000)).collect();

        assert_eq!(other.len(), 25);
        drop(slow);
        drop(other);
        assert_eq!(places.free(), 100);
        assert!(places.shared().held.is_empty());
    }

    #[test]
    fn even_the_only_place_is_used() {
        let places = Places::new(1);
        let place = places.take(to(&["a@b.example"]), 1000);

        assert!(place.is_some() && places.take(to(&["a@c.example"]), 1000).is_none());
    }

    #[test]
    fn octets_run_out_before_messages_do_and_are_shared_like_them() {
        let places = Places::new(64);
        let mebibyte = 1 << 20;

        let heavy: Vec<_> = std::iter::from_fn(|| places.take(to(&["a@heavy.example"]), mebibyte)).collect();
        let light: Vec<_> = std::iter::from_fn(|| places.take(to(&["a@light.example"]), 1000)).collect();

        assert_eq!((heavy.len(), light.len()), (2, 31), "half of four MiB, then half of the messages that are left");
        drop(heavy);
        drop(light);
        assert_eq!(places.shared().free, Load { messages: 64, octets: 4 * mebibyte });
        assert!(places.shared().held.is_empty());
    }

    #[test]
    fn a_message_that_is_larger_than_all_the_room_still_gets_a_place() {
        let places = Places::new(2);

        let place = places.take(to(&["a@b.example"]), u64::MAX);

        assert!(place.is_some());
    }
}
