//! How long a run that was told to stop may keep the engine: a pure judgement from the boundaries that it came to.

use flowai_actors::clock::Monotonic;
use flowai_actors::limits::{
    ENGINE_LEAVE_GRACE_MS, ENGINE_LEAVE_MS_MAX, ENGINE_LEAVE_MS_MIN, ENGINE_LEAVE_STEPS,
};
use flowai_actors::messages::{AttemptRef, Phase};

use crate::event::RunId;

/// The boundaries that a run has come to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    last: Monotonic,
    phase: Phase,
    steps_done: u32,
    /// `None` until a step of the stage was seen whole.
    longest_ms: Option<u64>,
    /// Since the last boundary.
    was_paused: bool,
}

impl Pace {
    pub(crate) fn new(now: Monotonic) -> Self {
        Self {
            last: now,
            phase: Phase::Fetching,
            steps_done: 0,
            longest_ms: None,
            was_paused: false,
        }
    }

    /// The run came to a boundary. Only from one step to the next is a stretch: of a checkpoint with which it goes on nothing was
    /// worked here, and the steps of a keyframe are shorter than those of its clip.
    pub(crate) fn boundary(&mut self, now: Monotonic, phase: Phase, steps_done: u32) {
        if steps_done < self.steps_done {
            self.longest_ms = None;
        } else if !self.was_paused
            && is_of_steps(phase)
            && (phase, steps_done) == (self.phase, self.steps_done + 1)
        {
            let stretch_ms = now.since(self.last).as_millis() as u64;
            self.longest_ms = Some(self.longest_ms.unwrap_or(0).max(stretch_ms));
        }
        (self.last, self.phase, self.steps_done) = (now, phase, steps_done);
        self.was_paused = false;
    }

    /// The run goes on after a pause. What it comes to next says nothing of how long a step takes: it may have waited at a boundary for a
    /// part of the pause, or have worked all the while.
    pub(crate) fn resumed(&mut self, now: Monotonic) {
        self.last = now;
        self.was_paused = true;
    }

    /// By when a run that is told to stop now has left the engine, if the engine is alive.
    fn leaves_by(&self, now: Monotonic) -> Monotonic {
        let patience_ms = self.longest_ms.map_or(ENGINE_LEAVE_MS_MAX, |longest_ms| {
            let steps_ms = longest_ms.saturating_mul(ENGINE_LEAVE_STEPS);
            steps_ms.clamp(ENGINE_LEAVE_MS_MIN, ENGINE_LEAVE_MS_MAX)
        });
        let since_boundary = self.last.plus_ms(patience_ms);
        since_boundary.max(now.plus_ms(ENGINE_LEAVE_GRACE_MS))
    }
}

/// Whether each step done is a step worked: what a checkpoint brings is told before they begin.
const fn is_of_steps(phase: Phase) -> bool {
    matches!(phase, Phase::Keyframe | Phase::Denoising)
}

/// A run that was told to stop and has not said that it is out of the engine. While there is one, the engine is taken.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub(crate) run: RunId,
    pub(crate) at: AttemptRef,
    /// `None` when it was waited for in vain.
    pub(crate) by: Option<Monotonic>,
}

impl Leaving {
    pub(crate) fn new(now: Monotonic, run: RunId, at: AttemptRef, pace: &Pace) -> Self {
        Self {
            run,
            at,
            by: Some(pace.leaves_by(now)),
        }
    }

    /// `true` once, when the time is over.
    pub(crate) fn is_overdue(&mut self, now: Monotonic) -> bool {
        self.by.take_if(|by| *by <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Boundaries as (ms, steps done), the time of the stop, and by when the run must have left.
    fn check(boundaries: &[(u64, u32)], stopped_ms: u64, expected_ms: u64) {
        let mut pace = Pace::new(Monotonic::default());
        for (ms, steps_done) in boundaries {
            let at = Monotonic::from_millis(*ms);
            pace.boundary(at, Phase::Denoising, *steps_done);
        }
        let by = pace.leaves_by(Monotonic::from_millis(stopped_ms));
        assert_eq!(by.as_millis(), expected_ms, "{boundaries:?}");
    }

    #[test]
    fn the_longest_step_sets_the_bound_between_a_floor_and_a_cap() {
        check(&[(5_000, 0)], 6_000, 5_000 + ENGINE_LEAVE_MS_MAX);
        check(
            &[(5_000, 0), (5_100, 1)],
            6_000,
            5_100 + ENGINE_LEAVE_MS_MIN,
        );
        let steps = [(0, 0), (100_000, 1), (190_000, 2)];
        check(&steps, 200_000, 190_000 + 3 * 100_000);
        check(
            &[(0, 0), (500_000, 1)],
            500_000,
            500_000 + ENGINE_LEAVE_MS_MAX,
        );
        // The engine was silent for longer than that already: what is left is the time to wake up.
        check(
            &[(0, 0), (1_000, 1)],
            600_000,
            600_000 + ENGINE_LEAVE_GRACE_MS,
        );
    }

    #[test]
    fn the_steps_of_a_keyframe_are_no_measure_for_those_of_its_clip() {
        let boundaries = [(0, 0), (1_000, 1), (2_000, 2), (3_000, 0)];
        check(&boundaries, 3_000, 3_000 + ENGINE_LEAVE_MS_MAX);
    }

    #[test]
    fn a_checkpoint_that_was_read_in_a_moment_is_no_measure_for_a_step() {
        let boundaries = [(0, 0), (1_000, 10), (1_010, 10)];
        check(&boundaries, 6_000, 1_010 + ENGINE_LEAVE_MS_MAX);
        let mut pace = Pace::new(Monotonic::default());
        for phase in [Phase::Preparing, Phase::Preparing, Phase::Denoising] {
            pace.boundary(
                Monotonic::from_millis(1),
                phase,
                u32::from(pace.phase != Phase::Fetching),
            );
        }
        let by = pace.leaves_by(Monotonic::from_millis(2));
        assert_eq!(by.as_millis(), 1 + ENGINE_LEAVE_MS_MAX);
        let with_a_step = [(0, 0), (1_000, 10), (1_010, 10), (101_010, 11)];
        check(&with_a_step, 102_000, 101_010 + 3 * 100_000);
    }

    #[test]
    fn a_step_with_a_pause_in_it_is_no_measure() {
        let at = Monotonic::from_millis;
        let mut pace = Pace::new(Monotonic::default());
        pace.boundary(at(0), Phase::Denoising, 0);
        pace.resumed(at(98_000));
        pace.boundary(at(120_000), Phase::Denoising, 1);
        let by = pace.leaves_by(at(130_000));
        assert_eq!(by.as_millis(), 120_000 + ENGINE_LEAVE_MS_MAX);
        pace.boundary(at(121_000), Phase::Denoising, 2);
        pace.resumed(at(400_000));
        pace.boundary(at(401_000), Phase::Denoising, 3);
        let by = pace.leaves_by(at(401_000));
        assert_eq!(by.as_millis(), 401_000 + ENGINE_LEAVE_MS_MIN);
    }
}
