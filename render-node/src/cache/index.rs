//! Which files the cache has, in order of use: pure, so that eviction can be tested without a disk.

use std::collections::HashMap;

use flowai_actors::ids::Sha256;

#[derive(Debug, Default)]
pub(super) struct Index {
    entries: HashMap<Sha256, Entry>,
    /// Counts uses; the greatest is the newest.
    uses: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    bytes: u64,
    used: u64,
    /// Jobs that read the file now.
    holders: u32,
}

impl Index {
    /// Notes a file that lies in the folder, as the newest.
    pub(super) fn insert(&mut self, sha256: Sha256, bytes: u64) {
        self.uses += 1;
        let used = self.uses;
        let fresh = Entry {
            bytes,
            used,
            holders: 0,
        };
        let entry = self.entries.entry(sha256).or_insert(fresh);
        entry.used = used;
    }

    /// Marks a file as read by a job. `false` when it is not there.
    pub(super) fn hold(&mut self, sha256: Sha256) -> bool {
        self.uses += 1;
        let Some(entry) = self.entries.get_mut(&sha256) else {
            return false;
        };
        entry.used = self.uses;
        entry.holders += 1;
        true
    }

    pub(super) fn release(&mut self, sha256: Sha256) {
        if let Some(entry) = self.entries.get_mut(&sha256) {
            entry.holders = entry.holders.saturating_sub(1);
        }
    }

    pub(super) fn has(&self, sha256: Sha256) -> bool {
        self.entries.contains_key(&sha256)
    }

    /// Takes out one file. `false` when it is not there or held.
    pub(super) fn remove(&mut self, sha256: Sha256) -> bool {
        let is_free = |entry: &Entry| entry.holders == 0;
        self.entries.get(&sha256).is_some_and(is_free) && self.entries.remove(&sha256).is_some()
    }

    /// Takes out what must be deleted to come down to `bytes_max`, oldest first. A file that is held stays.
    pub(super) fn evict(&mut self, bytes_max: u64) -> Vec<Sha256> {
        let mut bytes: u64 = self.entries.values().map(|entry| entry.bytes).sum();
        let mut evicted = Vec::new();
        for sha256 in self.newest().into_iter().rev() {
            if bytes <= bytes_max {
                break;
            }
            let Some(entry) = self.entries.get(&sha256).filter(|entry| entry.holders == 0) else {
                continue;
            };
            bytes -= entry.bytes;
            self.entries.remove(&sha256);
            evicted.push(sha256);
        }
        evicted
    }

    /// All files, newest first.
    pub(super) fn newest(&self) -> Vec<Sha256> {
        let mut files: Vec<_> = self.entries.iter().collect();
        files.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.used));
        files.into_iter().map(|(sha256, _)| *sha256).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(n: u8) -> Sha256 {
        Sha256::from_bytes([n; 32])
    }

    fn filled() -> Index {
        let mut index = Index::default();
        for n in 1..=3 {
            index.insert(file(n), 10);
        }
        index
    }

    #[test]
    fn the_oldest_goes_first() {
        let mut index = filled();
        assert!(index.hold(file(1)));
        index.release(file(1));
        assert_eq!(index.newest(), [file(1), file(3), file(2)]);
        assert_eq!(index.evict(20), [file(2)]);
        assert_eq!(index.evict(20), []);
        assert_eq!(index.evict(0), [file(3), file(1)]);
    }

    #[test]
    fn a_file_in_use_stays() {
        let mut index = filled();
        index.hold(file(1));
        index.hold(file(1));
        index.release(file(1));
        assert_eq!(index.evict(0), [file(2), file(3)]);
        assert!(!index.remove(file(1)));
        index.release(file(1));
        assert_eq!(index.evict(0), [file(1)]);
        assert!(!index.hold(file(1)) && !index.remove(file(1)));
    }
}
