//! Permits: a bounded number per key.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Up to `max` permits for each `K`. A key without permits takes no memory.
pub struct Permits<K> {
    max: NonZeroU32,
    taken: Mutex<HashMap<K, u32>>,
}

impl<K: Clone + Eq + Hash> Permits<K> {
    pub fn new(max: NonZeroU32) -> Arc<Self> {
        Arc::new(Self {
            max,
            taken: Mutex::default(),
        })
    }

    pub fn max(&self) -> NonZeroU32 {
        self.max
    }

    /// One more permit for `of`; `None` if it has `max` already.
    pub fn take(self: &Arc<Self>, of: K) -> Option<Permit<K>> {
        let mut taken = self.taken();
        let count = taken.entry(of.clone()).or_default();
        if *count >= self.max.get() {
            return None;
        }
        *count += 1;
        Some(Permit {
            taken: Some((Arc::clone(self), of)),
            _with: None,
        })
    }
}

impl<K> Permits<K> {
    fn taken(&self) -> MutexGuard<'_, HashMap<K, u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One permit. Dropping it gives it back.
pub struct Permit<K: Clone + Eq + Hash> {
    taken: Option<(Arc<Permits<K>>, K)>,
    _with: Option<Box<Self>>,
}

impl<K: Clone + Eq + Hash> Permit<K> {
    /// A permit that is not counted.
    pub fn unlimited() -> Self {
        Self {
            taken: None,
            _with: None,
        }
    }

    /// This permit, which is given back together with `other`.
    pub fn and(mut self, other: Self) -> Self {
        if other.taken.is_some() {
            self._with = Some(Box::new(other));
        }
        self
    }
}

impl<K: Clone + Eq + Hash> Drop for Permit<K> {
    fn drop(&mut self) {
        let Some((permits, of)) = self.taken.take() else {
            return;
        };
        if let Entry::Occupied(mut entry) = permits.taken().entry(of) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_permits_and_dropped_ones_are_free_again() {
        let permits = Permits::new(NonZeroU32::new(2).expect("not 0"));
        let first = permits.take("a").expect("a permit");
        let _second = permits.take("a").expect("a permit");
        assert!(permits.take("a").is_none());
        let other = permits.take("b").expect("a permit of its own");
        drop(first);
        let _third = permits.take("a").expect("a permit given back");
        assert!(permits.take("a").is_none());
        drop(other);
        assert_eq!(
            permits.taken().len(),
            1,
            "a key without permits takes no memory"
        );
    }
}
