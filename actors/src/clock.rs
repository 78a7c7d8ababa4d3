//! Time as a port: pure code takes times in events, actors take a clock, and tests own theirs.

use std::time::{Duration, Instant};

/// A monotonic clock for deadlines and leases in memory. Never for anything that another machine reads.
pub trait Clock: Send + Sync + 'static {
    /// Time since some fixed start of this process.
    fn now(&self) -> Monotonic;
}

/// A point on one process's monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Monotonic(Duration);

impl Monotonic {
    pub const fn from_millis(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }

    pub const fn as_millis(self) -> u64 {
        self.0.as_millis() as u64
    }

    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(Duration::from_millis(ms)))
    }

    /// So long before; the clock's start when that lies later.
    pub const fn minus(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(time))
    }

    /// Time that passed since `earlier`; zero when `earlier` lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// The machine's own monotonic clock.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Monotonic {
        Monotonic(self.start.elapsed())
    }
}
