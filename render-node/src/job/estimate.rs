//! How far a job is, and how long it may still take.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use flowai_actors::messages::Phase;
use flowai_actors::spec::RenderSpec;

use super::Standing;

/// How long this machine took to decode, learnt from earlier jobs.
#[derive(Debug, Default)]
pub struct Pace {
    /// Seconds for a frame's pixel; `None` before the first job.
    decode_s_per_pixel: Mutex<Option<f64>>,
}

impl Pace {
    fn decode_s_per_pixel(&self) -> Option<f64> {
        *self
            .decode_s_per_pixel
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, s_per_pixel: f64) {
        *self
            .decode_s_per_pixel
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(s_per_pixel);
    }
}

/// What a job's events amount to.
#[derive(Debug)]
pub(super) struct Estimate {
    pace: std::sync::Arc<Pace>,
    phase: Phase,
    steps: u32,
    frames: u32,
    /// So many frames are decoded together.
    chunk: u32,
    /// Width times height.
    pixels: f64,
    steps_done: u32,
    /// Of all steps but the first, which warms up, unless it is the only one.
    step_times: (u32, Duration),
    decoding_since: Option<Instant>,
    frames_done: u32,
}

impl Estimate {
    pub(super) fn new(spec: &RenderSpec, pace: std::sync::Arc<Pace>) -> Self {
        Self {
            pace,
            phase: Phase::Fetching,
            steps: spec.steps,
            frames: spec.frames,
            chunk: spec.decode_chunk_size.max(1),
            pixels: f64::from(spec.width) * f64::from(spec.height),
            steps_done: 0,
            step_times: (0, Duration::ZERO),
            decoding_since: None,
            frames_done: 0,
        }
    }

    pub(super) fn begin(&mut self, phase: Phase) {
        self.phase = phase;
        if phase == Phase::Decoding {
            self.decoding_since = Some(Instant::now());
        }
    }

    pub(super) fn step(&mut self, done: u32, elapsed: Duration) {
        self.steps_done = done;
        self.step_times = match done {
            // The first one warms up; it stands in only until there is a second.
            1 | 2 => (1, elapsed),
            _ => (self.step_times.0 + 1, self.step_times.1 + elapsed),
        };
    }

    pub(super) fn frame(&mut self, done: u32) {
        self.frames_done = done;
        if let (Some(since), true) = (self.decoding_since, done == self.frames) {
            let pixels = self.pixels * f64::from(self.frames);
            self.pace.learn(since.elapsed().as_secs_f64() / pixels);
        }
    }

    pub(super) fn standing(&self) -> Standing {
        Standing {
            phase: self.phase,
            step: self.steps_done,
            steps: self.steps,
            left_s: self.left_s(),
        }
    }

    /// `None` until a step was timed. Decoding counts as soon as one job has shown what it takes.
    fn left_s(&self) -> Option<f64> {
        let (timed, total) = self.step_times;
        if timed == 0 {
            return None;
        }
        let steps_left = f64::from(self.steps.saturating_sub(self.steps_done));
        let denoising = total.as_secs_f64() / f64::from(timed) * steps_left;
        Some(denoising + self.decoding_left_s())
    }

    /// The first frame of a chunk comes when all of the chunk are decoded.
    fn decoding_left_s(&self) -> f64 {
        let decoded = self
            .frames_done
            .next_multiple_of(self.chunk)
            .min(self.frames);
        let per_frame = match (self.decoding_since, decoded) {
            (Some(since), 1..) => since.elapsed().as_secs_f64() / f64::from(decoded),
            _ => self.pace.decode_s_per_pixel().unwrap_or(0.0) * self.pixels,
        };
        per_frame * f64::from(self.frames - decoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn estimate(pace: &Arc<Pace>) -> Estimate {
        let image = flowai_actors::ids::Sha256::from_bytes([0; 32]);
        let spec = RenderSpec {
            width: 16,
            height: 16,
            steps: 4,
            ..RenderSpec::small("tiny".parse().unwrap(), image)
        };
        Estimate::new(&spec, pace.clone())
    }

    #[test]
    fn the_first_step_counts_only_until_there_is_a_second() {
        let mut estimate = estimate(&Arc::default());
        estimate.begin(Phase::Denoising);
        assert_eq!(estimate.standing().left_s, None);
        estimate.step(1, Duration::from_secs(10));
        assert_eq!(estimate.standing().left_s, Some(30.0));
        estimate.step(2, Duration::from_secs(1));
        assert_eq!(estimate.standing().left_s, Some(2.0));
        estimate.step(3, Duration::from_secs(3));
        assert_eq!(estimate.standing().left_s, Some(2.0));
        estimate.step(4, Duration::from_secs(3));
        assert_eq!(estimate.standing().left_s, Some(0.0));
    }

    #[test]
    fn the_first_frame_of_a_chunk_stands_for_all_of_them() {
        let mut estimate = estimate(&Arc::default());
        (estimate.frames, estimate.chunk) = (14, 7);
        estimate.step(4, Duration::from_secs(1));
        estimate.begin(Phase::Decoding);
        estimate.decoding_since = Instant::now().checked_sub(Duration::from_secs(7));
        for (done, expected) in [(1, 7.0), (7, 7.0), (8, 0.0), (14, 0.0)] {
            estimate.frame(done);
            let left = estimate.standing().left_s.unwrap();
            assert!((left - expected).abs() < 0.5, "{done}: {left}");
        }
    }

    #[test]
    fn decoding_is_foreseen_once_it_was_seen() {
        let pace = Arc::new(Pace::default());
        pace.learn(0.5 / 256.0);
        let mut estimate = estimate(&pace);
        estimate.step(1, Duration::from_secs(1));
        assert_eq!(estimate.standing().left_s, Some(3.0 + 2.0 * 0.5));
    }
}
