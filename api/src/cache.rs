//! Answers of the database that are good for a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Answers held at once, several times as many as an instance has users with open streams; over it those that are too old go, and all of
/// them when that is not enough.
const ENTRIES_MAX: usize = 40_000;

/// A bounded cache whose entries expire.
#[derive(Debug)]
pub(crate) struct TtlCache<K, V> {
    ttl: Duration,
    kept: Mutex<Kept<K, V>>,
}

#[derive(Debug)]
struct Kept<K, V> {
    entries: HashMap<K, (Instant, V)>,
    /// Times that something was forgotten.
    forgotten: u64,
}

/// When the database was asked: an answer from before something was forgotten is not remembered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked(u64);

impl<K: Eq + Hash, V: Clone> TtlCache<K, V> {
    pub(crate) fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            kept: Mutex::new(Kept {
                entries: HashMap::new(),
                forgotten: 0,
            }),
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let kept = self.lock();
        let (since, answer) = kept.entries.get(key)?;
        (since.elapsed() < self.ttl).then(|| answer.clone())
    }

    /// Whether there was such an answer, however long ago, that is not forgotten yet.
    pub(crate) fn knew(&self, key: &K, is_such: impl Fn(&V) -> bool) -> bool {
        let kept = self.lock();
        kept.entries
            .get(key)
            .is_some_and(|(_, answer)| is_such(answer))
    }

    pub(crate) fn insert(&self, key: K, answer: V) {
        self.lock().insert(key, answer, self.ttl);
    }

    /// To be called before the database is asked.
    pub(crate) fn asks(&self) -> Asked {
        Asked(self.lock().forgotten)
    }

    /// Remembers what the database answered to a question, unless something was forgotten since.
    pub(crate) fn answered(&self, asked: Asked, key: K, answer: V) {
        let mut kept = self.lock();
        if kept.forgotten == asked.0 {
            kept.insert(key, answer, self.ttl);
        }
    }

    /// There is no such answer any more.
    pub(crate) fn remove(&self, key: &K) {
        self.lock().entries.remove(key);
    }

    /// Forgets what is no longer so.
    pub(crate) fn forget(&self, is_gone: impl Fn(&K, &V) -> bool) {
        let mut kept = self.lock();
        kept.forgotten += 1;
        kept.entries
            .retain(|key, (_, answer)| !is_gone(key, answer));
    }

    fn lock(&self) -> MutexGuard<'_, Kept<K, V>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash, V> Kept<K, V> {
    fn insert(&mut self, key: K, answer: V, ttl: Duration) {
        let entries = &mut self.entries;
        let is_full = |entries: &HashMap<K, _>| entries.len() >= ENTRIES_MAX;
        if is_full(entries) && !entries.contains_key(&key) {
            entries.retain(|_, (since, _)| since.elapsed() < ttl);
            if is_full(entries) {
                entries.clear();
            }
        }
        entries.insert(key, (Instant::now(), answer));
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
        assert!(stale.knew(&"a", |answer| *answer == 1) && !stale.knew(&"b", |_| true));
    }

    #[test]
    fn an_answer_from_before_something_was_forgotten_is_not_remembered() {
        let cache = TtlCache::new(Duration::from_secs(3_600));
        cache.insert("b", 1);
        let asked = cache.asks();
        cache.forget(|key, _| *key == "a");
        cache.answered(asked, "a", 1);
        assert_eq!((cache.get(&"a"), cache.get(&"b")), (None, Some(1)));
        cache.answered(cache.asks(), "a", 2);
        assert_eq!(cache.get(&"a"), Some(2));
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        for ttl in [Duration::ZERO, Duration::from_secs(3_600)] {
            let cache = TtlCache::new(ttl);
            for number in 0..2 * ENTRIES_MAX + 1 {
                cache.insert(number, ());
                assert!(cache.lock().entries.len() <= ENTRIES_MAX);
            }
        }
    }

    #[test]
    fn renewing_one_of_a_full_cache_forgets_nobody() {
        let cache = TtlCache::new(Duration::from_secs(3_600));
        for number in 0..ENTRIES_MAX {
            cache.insert(number, ());
        }
        cache.insert(0, ());
        assert_eq!(cache.lock().entries.len(), ENTRIES_MAX);
    }
}
