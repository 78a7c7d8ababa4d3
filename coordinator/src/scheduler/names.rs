//! Short numbers for what has long names.

use std::collections::HashMap;

/// Names are few, and stay.
#[derive(Debug, Clone)]
pub(super) struct Names<K> {
    all: Vec<K>,
    by_name: HashMap<K, u32>,
}

impl<K> Default for Names<K> {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            by_name: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + std::hash::Hash> Names<K> {
    pub(super) fn of(&mut self, name: &K) -> u32 {
        if let Some(ix) = self.by_name.get(name) {
            return *ix;
        }
        let ix = self.all.len() as u32;
        self.all.push(name.clone());
        self.by_name.insert(name.clone(), ix);
        ix
    }

    pub(super) fn get(&self, ix: u32) -> Option<&K> {
        self.all.get(ix as usize)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ModelIx(pub(super) u32);

impl ModelIx {
    pub(super) const FIRST: Self = Self(0);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClassIx(pub(super) u32);
