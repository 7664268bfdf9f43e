//! The set of keys in use, and those just replaced.
//!
//! Invariant: there is always a current set; a set that failed to load never becomes it. A replaced set goes on
//! signing for a few minutes, because handshakes have begun with its chain.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant, SystemTime},
};

use zeroize::Zeroizing;

use super::{
    notices::Notice,
    signer::Purpose,
    store::{Generation, Identity, Store},
};

/// How long a replaced set signs. Clients ask for the current chain once a minute, and a handshake is short.
pub const GRACE: Duration = Duration::from_secs(300);
/// Replaced sets that are kept, however often the set is replaced.
const KEPT: usize = 8;

#[derive(Debug)]
pub struct Ring(RwLock<Sets>);

#[derive(Debug)]
struct Sets {
    current: Arc<Store>,
    replaced: VecDeque<(Arc<Store>, Instant)>,
}

impl Ring {
    pub fn new(store: Store) -> Arc<Self> {
        Arc::new(Self(RwLock::new(Sets { current: Arc::new(store), replaced: VecDeque::new() })))
    }

    /// Makes a set the current one.
    pub fn replace(&self, store: Store, now: Instant) {
        let mut sets = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut sets.current, Arc::new(store));
        sets.replaced.push_front((before, now));
        sets.forget(now);
    }

    /// Forgets keys whose time is over.
    pub fn forget(&self, now: Instant) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).forget(now);
    }

    /// Names the server certificate in use.
    pub fn generation(&self) -> Generation {
        self.0.read().unwrap_or_else(PoisonError::into_inner).current.server.generation
    }

    /// What is unwise about the set in use, at that time.
    pub fn notices(&self, now: SystemTime) -> Vec<Notice> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).current.notices(now)
    }

    pub(super) fn current(&self, purpose: Purpose) -> Option<Identity> {
        let sets = self.0.read().unwrap_or_else(PoisonError::into_inner);
        identity(&sets.current, purpose).cloned()
    }

    /// The identity of that generation, if it is current or was until a short time ago.
    pub(super) fn find(&self, purpose: Purpose, generation: Generation, now: Instant) -> Option<Identity> {
        let sets = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let recent = sets.replaced.iter().filter(|(_, since)| now.saturating_duration_since(*since) < GRACE);
        std::iter::once(&sets.current)
            .chain(recent.map(|(store, _)| store))
            .filter_map(|store| identity(store, purpose))
            .find(|identity| identity.generation == generation)
            .cloned()
    }

    pub(super) fn secret(&self, name: &str) -> Option<Zeroizing<String>> {
        let sets = self.0.read().unwrap_or_else(PoisonError::into_inner);
        sets.current.secret(name).map(|text| Zeroizing::new(text.to_owned()))
    }
}

impl Sets {
    fn forget(&mut self, now: Instant) {
        self.replaced.retain(|(_, since)| now.saturating_duration_since(*since) < GRACE);
        self.replaced.truncate(KEPT);
    }
}

fn identity(store: &Store, purpose: Purpose) -> Option<&Identity> {
    match purpose {
        Purpose::Server => Some(&store.server),
        Purpose::Client => store.client.as_ref(),
    }
}
