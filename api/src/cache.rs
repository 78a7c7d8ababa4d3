//! Answers of the database that are good for a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Answers held at once; over it those that are too old go, and all of them when that is not enough.
const ENTRIES_MAX: usize = 10_000;

/// A bounded cache whose entries expire.
#[derive(Debug)]
pub(crate) struct TtlCache<K, V> {
    ttl: Duration,
    entries: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K: Eq + Hash, V: Clone> TtlCache<K, V> {
    pub(crate) fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            entries: Mutex::default(),
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let entries = self.lock();
        let (since, answer) = entries.get(key)?;
        (since.elapsed() < self.ttl).then(|| answer.clone())
    }

    pub(crate) fn insert(&self, key: K, answer: V) {
        let mut entries = self.lock();
        if entries.len() >= ENTRIES_MAX {
            entries.retain(|_, (since, _)| since.elapsed() < self.ttl);
        }
        if entries.len() >= ENTRIES_MAX {
            entries.clear();
        }
        entries.insert(key, (Instant::now(), answer));
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, (Instant, V)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_old_is_asked_for_again() {
        let fresh = TtlCache::new(Duration::from_secs(3_600));
        fresh.insert("a", 1);
        assert_eq!((fresh.get(&"a"), fresh.get(&"b")), (Some(1), None));
        let stale = TtlCache::new(Duration::ZERO);
        stale.insert("a", 1);
        assert_eq!(stale.get(&"a"), None);
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        for ttl in [Duration::ZERO, Duration::from_secs(3_600)] {
            let cache = TtlCache::new(ttl);
            for number in 0..2 * ENTRIES_MAX + 1 {
                cache.insert(number, ());
                assert!(cache.lock().len() <= ENTRIES_MAX);
            }
        }
    }
}
