//! How often something may be restarted before its trouble is somebody else's.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::limits::{RESTART_FIRST_MS, RESTART_WINDOW_MS, RESTARTS_MAX};

/// What to do about one more crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start it again after this wait.
    RestartAfter(Duration),
    /// It crashes too often: hand the failure up.
    Escalate,
}

/// Restart intensity: at most `most` restarts within `window`, with a wait that doubles from `first_wait`.
/// Pure: the caller brings the time.
#[derive(Debug, Clone)]
pub struct RestartBudget {
    most: usize,
    window: Duration,
    first_wait: Duration,
    crashes: VecDeque<Instant>,
}

impl RestartBudget {
    /// Allows `most` restarts within any `window`.
    pub fn new(most: usize, window: Duration, first_wait: Duration) -> Self {
        Self {
            most,
            window,
            first_wait,
            crashes: VecDeque::with_capacity(most + 1),
        }
    }

    /// Records a crash at `now`.
    pub fn crashed(&mut self, now: Instant) -> Verdict {
        self.crashes
            .retain(|crash| now.saturating_duration_since(*crash) < self.window);
        if self.crashes.len() >= self.most {
            return Verdict::Escalate;
        }
        let doublings = self.crashes.len().min(16) as u32;
        self.crashes.push_back(now);
        Verdict::RestartAfter(self.first_wait * 2u32.pow(doublings))
    }
}

impl Default for RestartBudget {
    /// 5 restarts in 60 s, waiting 50 ms to 800 ms: a crash loop is known within two seconds.
    fn default() -> Self {
        Self::new(
            RESTARTS_MAX,
            Duration::from_millis(RESTART_WINDOW_MS),
            Duration::from_millis(RESTART_FIRST_MS),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixth_crash_in_a_minute_escalates() {
        let mut budget = RestartBudget::default();
        let start = Instant::now();
        let waits_ms =
            (0..5).map(
                |second| match budget.crashed(start + Duration::from_secs(second)) {
                    Verdict::RestartAfter(wait) => wait.as_millis(),
                    Verdict::Escalate => panic!("crash {second} escalated"),
                },
            );
        assert_eq!(waits_ms.collect::<Vec<_>>(), [50, 100, 200, 400, 800]);
        assert_eq!(
            budget.crashed(start + Duration::from_secs(59)),
            Verdict::Escalate
        );
    }

    #[test]
    fn old_crashes_are_forgiven() {
        let mut budget = RestartBudget::default();
        let start = Instant::now();
        for crash in 0..100 {
            let verdict = budget.crashed(start + Duration::from_secs(crash * 13));
            assert!(
                matches!(verdict, Verdict::RestartAfter(_)),
                "crash {crash} escalated"
            );
        }
    }
}
