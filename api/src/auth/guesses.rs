//! API keys that nobody has, counted by who shows them: each costs a look into the database, and none is remembered.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{ApiError, RateState};

/// From one network within the window: programs with an old key, not a list of keys.
const GUESSES_MAX: u32 = 60;
const WINDOW: Duration = Duration::from_secs(60);
/// Networks counted at once; over it the counts start anew.
const NETWORKS_MAX: usize = 10_000;

/// By this instance alone: what it bounds is this instance's questions.
#[derive(Debug, Default)]
pub(super) struct Guesses {
    counts: Mutex<HashMap<IpAddr, Count>>,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    since: Instant,
    guesses: u32,
}

impl Guesses {
    /// To be asked before the database is.
    ///
    /// # Errors
    /// `RateLimited`.
    pub(super) fn admit(&self, network: IpAddr) -> Result<(), ApiError> {
        let count = self.lock().get(&network).copied();
        let left = count.filter(|count| count.guesses >= GUESSES_MAX);
        let left = left.and_then(|count| WINDOW.checked_sub(count.since.elapsed()));
        match left {
            None => Ok(()),
            Some(reset) => Err(ApiError::RateLimited(RateState {
                name: "guesses",
                requests_max: GUESSES_MAX,
                window: WINDOW,
                remaining: 0,
                reset,
            })),
        }
    }

    /// A key was shown that nobody has.
    pub(super) fn count(&self, network: IpAddr) {
        let mut counts = self.lock();
        if counts.len() >= NETWORKS_MAX {
            counts.retain(|_, count| count.since.elapsed() < WINDOW);
        }
        if counts.len() >= NETWORKS_MAX {
            counts.clear();
        }
        let anew = Count {
            since: Instant::now(),
            guesses: 0,
        };
        let count = counts.entry(network).or_insert(anew);
        if count.since.elapsed() >= WINDOW {
            *count = anew;
        }
        count.guesses += 1;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Count>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_guesses_keys_is_refused_and_nobody_else_is() {
        let guesses = Guesses::default();
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        for _ in 0..GUESSES_MAX {
            guesses.admit(one).unwrap();
            guesses.count(one);
        }
        assert!(matches!(guesses.admit(one), Err(ApiError::RateLimited(_))));
        guesses.admit(other).unwrap();
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        let guesses = Guesses::default();
        for number in 0..2 * NETWORKS_MAX as u32 {
            guesses.count(IpAddr::V4(number.into()));
            assert!(guesses.lock().len() <= NETWORKS_MAX);
        }
    }
}
