//! What a cache holds, in order of use: pure, so that eviction can be tested without files or tensors.

use std::collections::HashMap;
use std::hash::Hash;

/// Values by key, each with its size. Over its bound the value that was not used for the longest goes; one that is held
/// never goes.
#[derive(Debug)]
pub struct Lru<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Counts uses; the greatest is the newest.
    uses: u64,
    usage: LruUsage,
}

/// How full a cache is, and how it was used since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LruUsage {
    /// Of all values together. Over `bytes_max` only while more than that is held.
    pub bytes: u64,
    pub bytes_max: u64,
    /// Times that a wanted value was there.
    pub hits: u64,
    /// Times that it had to be brought.
    pub misses: u64,
    /// Values that went for lack of room.
    pub evictions: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    bytes: u64,
    used: u64,
    /// Who needs the value now.
    holders: u32,
}

impl<K: Copy + Eq + Hash, V> Lru<K, V> {
    pub fn new(bytes_max: u64) -> Self {
        Self {
            entries: HashMap::new(),
            uses: 0,
            usage: LruUsage {
                bytes_max,
                ..LruUsage::default()
            },
        }
    }

    /// Another bound, for the next [`Lru::evict`].
    pub fn limit(&mut self, bytes_max: u64) {
        self.usage.bytes_max = bytes_max;
    }

    pub fn usage(&self) -> LruUsage {
        self.usage
    }

    /// Notes a value that was here before anyone wanted it, as the newest. One that is there already stays.
    pub fn insert(&mut self, key: K, value: V, bytes: u64) {
        self.uses += 1;
        let used = self.uses;
        let total = &mut self.usage.bytes;
        let entry = self.entries.entry(key).or_insert_with(|| {
            *total += bytes;
            Entry {
                value,
                bytes,
                used,
                holders: 0,
            }
        });
        entry.used = used;
    }

    /// Notes a value that was wanted and had to be brought, and holds it: a miss.
    pub fn insert_held(&mut self, key: K, value: V, bytes: u64) {
        self.insert(key, value, bytes);
        self.usage.misses += 1;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.holders += 1;
        }
    }

    /// Holds a value until [`Lru::release`]: a hit. `None` when it is not there.
    pub fn hold(&mut self, key: &K) -> Option<&V> {
        self.uses += 1;
        let entry = self.entries.get_mut(key)?;
        entry.used = self.uses;
        entry.holders += 1;
        self.usage.hits += 1;
        Some(&entry.value)
    }

    /// Undoes one [`Lru::hold`] or [`Lru::insert_held`].
    pub fn release(&mut self, key: &K) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.holders = entry.holders.saturating_sub(1);
        }
    }

    /// Looks at a value without using it.
    pub fn peek(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// Takes out one value. `None` when it is not there or held.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.get(key).filter(|entry| entry.holders == 0)?;
        let entry = self.entries.remove(key)?;
        self.usage.bytes -= entry.bytes;
        Some(entry.value)
    }

    /// Takes out what must go to come down to the bound, oldest first.
    pub fn evict(&mut self) -> Vec<K> {
        self.evict_to(self.usage.bytes_max)
    }

    /// Takes out so many bytes, or all that may go, oldest first.
    pub fn free(&mut self, bytes: u64) -> Vec<K> {
        self.evict_to(self.usage.bytes.saturating_sub(bytes))
    }

    fn evict_to(&mut self, bytes_max: u64) -> Vec<K> {
        let mut evicted = Vec::new();
        if self.usage.bytes <= bytes_max {
            return evicted;
        }
        for key in self.newest().into_iter().rev() {
            if self.usage.bytes <= bytes_max {
                break;
            }
            if self.remove(&key).is_some() {
                self.usage.evictions += 1;
                evicted.push(key);
            }
        }
        evicted
    }

    /// All keys, newest first.
    pub fn newest(&self) -> Vec<K> {
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.used));
        entries.into_iter().map(|(key, _)| *key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(bytes_max: u64) -> Lru<u8, ()> {
        let mut lru = Lru::new(bytes_max);
        for key in 1..=3 {
            lru.insert(key, (), 10);
        }
        lru
    }

    #[test]
    fn the_oldest_goes_first() {
        let mut lru = filled(20);
        assert!(lru.hold(&1).is_some());
        lru.release(&1);
        assert_eq!(lru.newest(), [1, 3, 2]);
        assert_eq!(lru.evict(), [2]);
        assert!(lru.evict().is_empty());
        assert_eq!((lru.usage().bytes, lru.usage().evictions), (20, 1));
    }

    #[test]
    fn a_value_in_use_stays() {
        let mut lru = filled(0);
        lru.hold(&1);
        lru.hold(&1);
        lru.release(&1);
        assert_eq!(lru.evict(), [2, 3]);
        assert!(lru.remove(&1).is_none());
        lru.release(&1);
        assert_eq!(lru.evict(), [1]);
        assert!(lru.hold(&1).is_none() && lru.remove(&1).is_none());
    }

    #[test]
    fn room_is_made_of_what_nobody_holds() {
        let mut lru = filled(100);
        lru.hold(&1);
        assert_eq!(lru.free(1), [2]);
        assert_eq!(lru.free(1_000), [3]);
        assert!(lru.free(1).is_empty());
        assert_eq!(lru.newest(), [1]);
    }

    #[test]
    fn hits_and_misses_are_what_was_there_and_what_was_brought() {
        let mut lru = filled(100);
        assert!(lru.hold(&4).is_none());
        lru.insert_held(4, (), 7);
        lru.hold(&4);
        let usage = lru.usage();
        assert_eq!((usage.hits, usage.misses, usage.bytes), (1, 1, 37));
    }

    /// Ten thousand random calls against a plain list of what must hold after each.
    #[test]
    fn any_order_of_calls_keeps_bytes_bounds_and_holds() {
        const BYTES_MAX: u64 = 100;
        let mut lru = Lru::new(BYTES_MAX);
        let mut held: HashMap<u8, u32> = HashMap::new();
        let mut sizes: HashMap<u8, u64> = HashMap::new();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..10_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let (key, size) = ((random >> 8) as u8 % 40, 1 + (random >> 16) % 30);
            match random % 4 {
                0 => {
                    if lru.hold(&key).is_some() {
                        *held.entry(key).or_default() += 1;
                    } else {
                        lru.insert_held(key, (), size);
                        *held.entry(key).or_default() += 1;
                        sizes.insert(key, size);
                    }
                }
                1 | 2 => {
                    if let Some(count) = held.get_mut(&key).filter(|count| **count > 0) {
                        lru.release(&key);
                        *count -= 1;
                    }
                }
                _ => {
                    let evicted = lru.evict();
                    sizes.retain(|key, _| !evicted.contains(key));
                    let is_held = |key: &u8| held.get(key).is_some_and(|count| *count > 0);
                    assert!(!evicted.iter().any(is_held), "{round}: a held value went");
                    let all_held = sizes.keys().all(is_held);
                    assert!(lru.usage().bytes <= BYTES_MAX || all_held, "{round}");
                }
            }
            assert_eq!(lru.usage().bytes, sizes.values().sum::<u64>(), "{round}");
            assert_eq!(lru.newest().len(), sizes.len(), "{round}");
        }
        assert!(lru.usage().evictions > 100 && lru.usage().hits > 100);
    }
}
