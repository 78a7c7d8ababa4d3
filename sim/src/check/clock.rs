//! One process's monotonic clock: it began at some time of its own and runs a little too fast or too slow.

use flowai_actors::clock::Monotonic;

/// Parts in a million that a clock may run too fast or too slow.
pub(super) const DRIFT_PPM_MAX: i64 = 50_000;

#[derive(Debug, Clone, Copy)]
pub(super) struct ProcessClock {
    offset_ms: u64,
    /// A million runs right.
    rate_ppm: u64,
}

impl ProcessClock {
    pub(super) fn new(offset_ms: u64, drift_ppm: i64) -> Self {
        Self {
            offset_ms,
            rate_ppm: 1_000_000_u64.saturating_add_signed(drift_ppm),
        }
    }

    /// What it shows at a time of the world.
    pub(super) fn shows(&self, world_ms: u64) -> Monotonic {
        Monotonic::from_millis(self.offset_ms + world_ms * self.rate_ppm / 1_000_000)
    }

    /// The first time of the world at which it shows this.
    pub(super) fn world_at(&self, shown: Monotonic) -> u64 {
        let run = shown.as_millis().saturating_sub(self.offset_ms);
        (run * 1_000_000).div_ceil(self.rate_ppm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_is_waited_for_is_shown_when_it_has_come_and_not_before() {
        for drift_ppm in [-DRIFT_PPM_MAX, -1, 0, 7, DRIFT_PPM_MAX] {
            let clock = ProcessClock::new(12_345, drift_ppm);
            for shown in (12_345..2_000_000).step_by(997) {
                let shown = Monotonic::from_millis(shown);
                let world = clock.world_at(shown);
                assert!(clock.shows(world) >= shown);
                assert!(world == 0 || clock.shows(world - 1) < shown);
            }
        }
    }
}
