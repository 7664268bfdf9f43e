//! Places in memory for messages being delivered, shared out among the domains they go to.
//!
//! Invariant: a domain gets another place only while it holds fewer than are free. So one slow domain holds half of them at
//! most, two a third each, and a domain that holds none finds one as long as any is free. A message counts for each domain
//! it still has recipients at. Domains are told apart, not the hosts that routes lead to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::message::{Progress, Standing};
use crate::smtp::address::Domain;
use crate::smtp::envelope::Envelope;

#[derive(Debug)]
pub struct Places {
    shared: Mutex<Shared>,
}

#[derive(Debug)]
struct Shared {
    free: usize,
    held: HashMap<String, usize>,
}

/// A place for one message; free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    domains: Vec<String>,
}

impl Places {
    pub fn new(all: usize) -> Arc<Self> {
        Arc::new(Self { shared: Mutex::new(Shared { free: all, held: HashMap::new() }) })
    }

    pub fn free(&self) -> usize {
        self.shared().free
    }

    /// A place for a message to these domains, unless one of them has its share.
    pub fn take(self: &Arc<Self>, domains: Vec<String>) -> Option<Place> {
        let mut shared = self.shared();
        let most = domains.iter().filter_map(|it| shared.held.get(it)).max().copied().unwrap_or(0);
        if most >= shared.free {
            return None;
        }
        shared.free -= 1;
        for domain in &domains {
            *shared.held.entry(domain.clone()).or_default() += 1;
        }
        Some(Place { places: Arc::clone(self), domains })
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut shared = self.places.shared();
        shared.free += 1;
        for domain in &self.domains {
            if let Some(held) = shared.held.get_mut(domain) {
                *held -= 1;
                if *held == 0 {
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
        let slow: Vec<_> = std::iter::from_fn(|| places.take(to(&["a@slow.example", "b@SLOW.example"]))).collect();
        assert_eq!((slow.len(), places.free()), (50, 50));
        assert!(places.take(to(&["a@slow.example", "a@b.example"])).is_none());

        let other: Vec<_> = std::iter::from_fn(|| places.take(to(&["a@b.example"]))).collect();

        assert_eq!(other.len(), 25);
        drop(slow);
        drop(other);
        assert_eq!(places.free(), 100);
        assert!(places.shared().held.is_empty());
    }

    #[test]
    fn even_the_only_place_is_used() {
        let places = Places::new(1);
        let place = places.take(to(&["a@b.example"]));

        assert!(place.is_some() && places.take(to(&["a@c.example"])).is_none());
    }
}
