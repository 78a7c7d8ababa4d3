//! Answers of the database that are believed for a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Answers remembered at once; over it the memory starts anew.
const REMEMBERED_MAX: usize = 10_000;

#[derive(Debug)]
pub(crate) struct Memory<K, V> {
    believed: Duration,
    answers: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K: Eq + Hash, V: Clone> Memory<K, V> {
    /// Believes each answer for so long.
    pub(crate) fn new(believed: Duration) -> Self {
        Self {
            believed,
            answers: Mutex::default(),
        }
    }

    pub(crate) fn recall(&self, key: &K) -> Option<V> {
        let answers = self.lock();
        let (since, answer) = answers.get(key)?;
        (since.elapsed() < self.believed).then(|| answer.clone())
    }

    pub(crate) fn remember(&self, key: K, answer: V) {
        let mut answers = self.lock();
        if answers.len() >= REMEMBERED_MAX {
            answers.retain(|_, (since, _)| since.elapsed() < self.believed);
        }
        if answers.len() >= REMEMBERED_MAX {
            answers.clear();
        }
        answers.insert(key, (Instant::now(), answer));
    }

    pub(crate) fn forget(&self, key: &K) {
        self.lock().remove(key);
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, (Instant, V)>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
