//! A fixed number of slots, shared out among those who ask for one.
//!
//! Invariant: a holder gets more slots only while it then has no more than its share and no more than were free. So one
//! holder never has more than its share, holders that come later get fewer, and whoever has none finds one as long as any
//! is free.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
pub(crate) struct Shares<K: Eq + Hash> {
    all: usize,
    each: usize,
    taken: Mutex<Taken<K>>,
}

/// A holder without a slot has no entry, so there are never more entries than slots, for each kind of holder.
#[derive(Debug)]
struct Taken<K> {
    total: usize,
    by_holder: HashMap<K, usize>,
}

/// One slot or several that were taken together; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Share<K: Eq + Hash> {
    shares: Arc<Shares<K>>,
    holders: Vec<K>,
    slots: usize,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// `all` slots, of which one holder gets `each` at most.
    pub(crate) fn new(all: usize, each: usize) -> Arc<Self> {
        let taken = Taken { total: 0, by_holder: HashMap::new() };
        Arc::new(Self { all, each: each.max(1), taken: Mutex::new(taken) })
    }

    /// A slot that counts for each of `holders`, unless one of them has its share.
    pub(crate) fn take(self: &Arc<Self>, holders: Vec<K>) -> Option<Share<K>> {
        self.take_together(holders, 1)
    }

    /// The same for several slots, of which there are all or none.
    pub(crate) fn take_together(self: &Arc<Self>, holders: Vec<K>, slots: usize) -> Option<Share<K>> {
        let mut taken = self.taken();
        let free = self.all.saturating_sub(taken.total);
        let most = holders.iter().filter_map(|holder| taken.by_holder.get(holder)).max().copied().unwrap_or(0);
        if most.saturating_add(slots) > self.each.min(free) {
            return None;
        }
        taken.total += slots;
        for holder in &holders {
            *taken.by_holder.entry(holder.clone()).or_default() += slots;
        }
        Some(Share { shares: Arc::clone(self), holders, slots })
    }

    /// Whether more than half of the slots are taken.
    pub(crate) fn are_scarce(&self) -> bool {
        self.taken().total > self.all / 2
    }
}

impl<K: Eq + Hash> Shares<K> {
    fn taken(&self) -> MutexGuard<'_, Taken<K>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        taken.total = taken.total.saturating_sub(self.slots);
        for holder in &self.holders {
            if let Some(held) = taken.by_holder.get_mut(holder) {
                *held = held.saturating_sub(self.slots);
                if *held == 0 {
                    taken.by_holder.remove(holder);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_of<K: Eq + Hash + Clone>(shares: &Arc<Shares<K>>, holders: &[K]) -> Vec<Share<K>> {
        std::iter::from_fn(|| shares.take(holders.to_vec())).collect()
    }

    #[test]
    fn one_holder_gets_its_share_and_the_last_slots_go_to_those_who_have_none() {
        let shares = Shares::new(100, 25);

        let held: Vec<_> = (0..9).map(|holder| all_of(&shares, &[holder])).collect();

        assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [25, 25, 25, 13, 6, 3, 2, 1, 0]);
        assert!(shares.are_scarce());
        drop(held);
        assert!(shares.taken().by_holder.is_empty() && shares.taken().total == 0);
    }

    #[test]
    fn a_slot_counts_for_each_of_its_holders() {
        let shares = Shares::new(100, 2);
        let _first = shares.take(vec!["ann", "office"]).unwrap();
        let _second = shares.take(vec!["ann", "home"]).unwrap();

        assert!(shares.take(vec!["ann", "hotel"]).is_none(), "ann has two");
        let _third = shares.take(vec!["bob", "office"]).unwrap();
        assert!(shares.take(vec!["eve", "office"]).is_none(), "the office has two");
    }

    #[test]
    fn slots_that_are_taken_together_count_as_many() {
        let shares = Shares::new(100, 25);
        let large = shares.take_together(vec!["ann"], 20);

        assert!(large.is_some() && shares.take_together(vec!["ann"], 6).is_none());
        assert!(shares.take_together(vec!["bob"], 26).is_none(), "more than anybody's share");
        assert_eq!(all_of(&shares, &["ann"]).len(), 5);
        drop(large);
        assert!(shares.taken().by_holder.is_empty() && shares.taken().total == 0);
    }

    #[test]
    fn even_the_only_slot_is_used() {
        let shares = Shares::new(1, 0);
        let slot = shares.take(vec![1]);

        assert!(slot.is_some() && shares.take(vec![2]).is_none());
    }
}
