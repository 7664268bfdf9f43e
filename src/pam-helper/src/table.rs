//! A table of fixed size that remembers what matters most.
//!
//! A key belongs to one set of a few places; when all are taken, what is worth least there is forgotten. Keys
//! are keyed hashes, so nobody can choose which set a name falls into.
//!
//! Invariant: its memory is taken once and never grows.

const WAYS: usize = 8;

/// A keyed hash; what it was made of cannot be read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(u64);

impl Key {
    /// From the beginning of a hash. Zero is the key of an empty place.
    pub(crate) fn from_hash(hash: &[u8; 32]) -> Self {
        let (first, _) = hash.split_first_chunk().expect("32 bytes are more than eight");
        Self(u64::from_le_bytes(*first).max(1))
    }

    /// From what [`Table::iter`] gave.
    pub(crate) fn from_number(number: u64) -> Self {
        Self(number.max(1))
    }

    /// The same, in the set of another key.
    pub(crate) fn beside(self, other: Self) -> Self {
        Self(other.0 >> 32 << 32 | self.0 & u64::from(u32::MAX) | 1)
    }

    /// Always below `sets`, whatever the key.
    fn set(self, sets: usize) -> usize {
        (self.0 >> 32) as usize % sets
    }
}

/// The default of a value is nothing at all.
pub(crate) struct Table<V, const SETS: usize = 1024> {
    sets: Box<[[(u64, V); WAYS]]>,
}

impl<V: Copy + Default + PartialEq, const SETS: usize> Table<V, SETS> {
    pub(crate) fn new() -> Self {
        Self { sets: vec![[(0, V::default()); WAYS]; SETS].into_boxed_slice() }
    }

    pub(crate) fn get(&self, key: Key) -> Option<V> {
        self.sets[key.set(SETS)].iter().find(|place| place.0 == key.0).map(|place| place.1)
    }

    /// The value under this key becomes what `change` makes of it (of the default, if there was none). The greater the
    /// worth of a value, the longer it stays.
    pub(crate) fn update<W: Ord>(&mut self, key: Key, worth: impl Fn(V) -> W, change: impl FnOnce(V) -> V) {
        let set = &mut self.sets[key.set(SETS)];
        let known = set.iter().position(|place| place.0 == key.0);
        let at = known.or_else(|| (0..WAYS).min_by_key(|&at| set.get(at).map(|place| worth(place.1))));
        if let Some(place) = at.and_then(|at| set.get_mut(at)) {
            let old = if place.0 == key.0 { place.1 } else { V::default() };
            *place = (key.0, change(old));
        }
    }

    /// Whether there was anything to forget.
    pub(crate) fn forget(&mut self, key: Key) -> bool {
        let place = self.sets[key.set(SETS)].iter_mut().find(|place| place.0 == key.0 && place.1 != V::default());
        place.map(|place| *place = (0, V::default())).is_some()
    }

    /// Everything in it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, V)> {
        self.sets.iter().flatten().copied().filter(|place| place.1 != V::default())
    }

    /// All that is beside this key.
    pub(crate) fn forget_beside(&mut self, key: Key) -> bool {
        let set = &mut self.sets[key.set(SETS)];
        let beside = set.iter_mut().filter(|place| place.0 >> 32 == key.0 >> 32 && place.1 != V::default());
        beside.map(|place| *place = (0, V::default())).count() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_more_outlives_a_flood_and_the_table_does_not_grow() {
        let mut table: Table<u64> = Table::new();
        table.update(Key(7), |value| value, |_| 1000u64);

        for n in 0..100_000u64 {
            table.update(Key(n << 32 | 8), |value| value, |value| value + 1);
        }

        assert_eq!(table.get(Key(7)), Some(1000));
        assert_eq!(table.get(Key(99_999 << 32 | 8)), Some(1));
        assert_eq!(size_of_val(&*table.sets), 1024 * WAYS * 16);
    }

    #[test]
    fn what_is_forgotten_is_gone_and_nothing_else() {
        let mut table: Table<u64> = Table::new();
        table.update(Key(7), |value| value, |_| 1u64);
        table.update(Key(8), |value| value, |_| 2u64);

        assert!(table.forget(Key(7)));
        assert!(!table.forget(Key(7)));
        assert_eq!((table.get(Key(7)), table.get(Key(8))), (None, Some(2)));
    }

    #[test]
    fn keys_beside_one_push_out_nobody_from_another_set() {
        let mut table: Table<u64> = Table::new();
        table.update(Key(7 << 32 | 9), |value| value, |_| 1u64);

        (0..100_000u64).for_each(|n| table.update(Key(n << 32 | n).beside(Key(8 << 32)), |value| value, |_| n + 2));

        assert_eq!(table.get(Key(7 << 32 | 9)), Some(1));
    }

    #[test]
    fn what_was_never_put_in_is_not_there() {
        assert_eq!(Table::<u64>::new().get(Key::from_hash(&[0; 32])), None);
    }
}
