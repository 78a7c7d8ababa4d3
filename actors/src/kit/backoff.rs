//! Waiting between tries.

use std::time::Duration;

use rand::Rng;

/// Exponential backoff with full jitter: each wait is uniform in zero to the present ceiling, which doubles from
/// `first` to `most`. Full jitter spreads a thousand nodes that lost the same leader over the whole window.
/// Source: Brooker, "Exponential backoff and jitter", AWS Architecture Blog, 2015.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// Starts at a ceiling of `first` and never waits longer than `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        let first = first.min(most);
        Self {
            first,
            most,
            ceiling: first,
        }
    }

    /// The next wait.
    pub fn next_wait(&mut self, random: &mut impl Rng) -> Duration {
        let wait = self.ceiling.mul_f64(random.random::<f64>());
        self.ceiling = (self.ceiling * 2).min(self.most);
        wait
    }

    /// Call it after a success: the next failure starts small again.
    pub fn reset(&mut self) {
        self.ceiling = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::StdRng};

    #[test]
    fn waits_stay_under_a_ceiling_that_doubles_to_the_most() {
        let (first, most) = (Duration::from_millis(100), Duration::from_secs(5));
        for seed in 0..100 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut backoff = Backoff::new(first, most);
            for ceiling_ms in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
                assert!(backoff.next_wait(&mut random) <= Duration::from_millis(ceiling_ms));
            }
            backoff.reset();
            assert!(backoff.next_wait(&mut random) <= first);
        }
    }

    #[test]
    fn waits_use_the_whole_window() {
        let mut random = StdRng::seed_from_u64(7);
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(1));
        let waits: Vec<_> = (0..1000)
            .map(|_| backoff.next_wait(&mut random).as_millis())
            .collect();
        assert!(waits.iter().any(|ms| *ms < 50) && waits.iter().any(|ms| *ms > 950));
    }
}
