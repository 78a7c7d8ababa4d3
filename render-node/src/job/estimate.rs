//! How far a job is, and how long it may still take.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flowai_actors::messages::Phase;
use flowai_actors::spec::RenderSpec;

use super::Standing;

/// How long this machine took for clips, learnt from earlier jobs.
#[derive(Debug, Default)]
pub struct Pace(Mutex<Learnt>);

/// Seconds for a frame's pixel; `None` before the first job.
#[derive(Debug, Default, Clone, Copy)]
struct Learnt {
    step_s_per_pixel: Option<f64>,
    decode_s_per_pixel: Option<f64>,
}

impl Pace {
    fn learnt(&self) -> Learnt {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Learnt> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a job's events amount to.
#[derive(Debug)]
pub(super) struct Estimate {
    pace: Arc<Pace>,
    phase: Phase,
    /// Of none, where the picture is given.
    keyframe: Steps,
    clip: Steps,
    frames: u32,
    /// So many frames are decoded together.
    chunk: u32,
    /// Width times height.
    pixels: f64,
    decoding_since: Option<Instant>,
    frames_done: u32,
}

/// The denoising steps of a stage.
#[derive(Debug)]
struct Steps {
    count: u32,
    done: u32,
    /// Of this run.
    seen: u32,
    /// Of all that were seen but the first, which warms up, unless it is the only one.
    timed: (u32, Duration),
}

impl Steps {
    fn new(count: u32) -> Self {
        Self {
            count,
            done: 0,
            seen: 0,
            timed: (0, Duration::ZERO),
        }
    }

    /// A run begins with so many steps behind it.
    fn begin(&mut self, done: u32) {
        (self.done, self.seen) = (done, 0);
    }

    fn step(&mut self, done: u32, elapsed: Duration) {
        self.done = done;
        self.seen += 1;
        self.timed = match self.seen {
            // The first one warms up; it stands in only until there is a second.
            1 | 2 => (1, elapsed),
            _ => (self.timed.0 + 1, self.timed.1 + elapsed),
        };
    }

    fn left(&self) -> u32 {
        self.count.saturating_sub(self.done)
    }

    /// `None` until one was timed.
    fn step_s(&self) -> Option<f64> {
        let (timed, total) = self.timed;
        (timed > 0).then(|| total.as_secs_f64() / f64::from(timed))
    }

    /// With `known_s` for a step until one was timed.
    fn left_s(&self, known_s: Option<f64>) -> Option<f64> {
        let step_s = self.step_s().or(known_s)?;
        Some(step_s * f64::from(self.left()))
    }
}

impl Estimate {
    pub(super) fn new(spec: &RenderSpec, pace: Arc<Pace>) -> Self {
        Self {
            pace,
            phase: Phase::Fetching,
            keyframe: Steps::new(spec.keyframe().map_or(0, |keyframe| keyframe.steps)),
            clip: Steps::new(spec.steps),
            frames: spec.frames,
            chunk: spec.decode_chunk_size.max(1),
            pixels: f64::from(spec.width) * f64::from(spec.height),
            decoding_since: None,
            frames_done: 0,
        }
    }

    pub(super) fn begin(&mut self, phase: Phase) {
        self.phase = phase;
        if phase == Phase::Preparing {
            // Of a run that is begun once more nothing is done.
            self.clip.begin(0);
            (self.frames_done, self.decoding_since) = (0, None);
        }
        if phase == Phase::Decoding {
            self.decoding_since = Some(Instant::now());
        }
    }

    /// The clip goes on with so many steps done.
    pub(super) fn resume(&mut self, done: u32) {
        self.clip.begin(done);
    }

    pub(super) fn step(&mut self, done: u32, elapsed: Duration) {
        if self.phase == Phase::Keyframe {
            self.keyframe.step(done, elapsed);
            return;
        }
        self.clip.step(done, elapsed);
        if let (0, Some(step_s)) = (self.clip.left(), self.clip.step_s()) {
            self.pace.lock().step_s_per_pixel = Some(step_s / self.clip_pixels());
        }
    }

    pub(super) fn frame(&mut self, done: u32) {
        self.frames_done = done;
        if let (Some(since), true) = (self.decoding_since, done == self.frames) {
            let s_per_pixel = since.elapsed().as_secs_f64() / self.clip_pixels();
            self.pace.lock().decode_s_per_pixel = Some(s_per_pixel);
        }
    }

    pub(super) fn standing(&self) -> Standing {
        let steps = match self.phase {
            Phase::Keyframe => &self.keyframe,
            Phase::Fetching
            | Phase::Preparing
            | Phase::Denoising
            | Phase::Decoding
            | Phase::Uploading => &self.clip,
        };
        Standing {
            phase: self.phase,
            step: steps.done,
            steps: steps.count,
            left_s: self.left_s(),
        }
    }

    fn clip_pixels(&self) -> f64 {
        self.pixels * f64::from(self.frames)
    }

    /// `None` until a step of each stage that is still to come was timed: of the keyframe in this job, of the clip here or in an
    /// earlier one. Decoding counts as soon as one job has shown what it takes.
    fn left_s(&self) -> Option<f64> {
        let learnt = self.pace.learnt();
        let known_s = learnt.step_s_per_pixel.map(|s| s * self.clip_pixels());
        let keyframe = match self.keyframe.left() {
            0 => 0.0,
            _ => self.keyframe.left_s(None)?,
        };
        let clip = self.clip.left_s(known_s)?;
        Some(keyframe + clip + self.decoding_left_s(learnt.decode_s_per_pixel))
    }

    /// The first frame of a chunk comes when all of the chunk are decoded.
    fn decoding_left_s(&self, known_s_per_pixel: Option<f64>) -> f64 {
        let decoded = self
            .frames_done
            .next_multiple_of(self.chunk)
            .min(self.frames);
        let per_frame = match (self.decoding_since, decoded) {
            (Some(since), 1..) => since.elapsed().as_secs_f64() / f64::from(decoded),
            _ => known_s_per_pixel.unwrap_or(0.0) * self.pixels,
        };
        per_frame * f64::from(self.frames - decoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_run_that_goes_on_has_done_what_was_done_before() {
        let mut estimate = estimate(&Arc::default());
        estimate.begin(Phase::Preparing);
        estimate.resume(2);
        assert_eq!(estimate.standing().step, 2);
        // Its first step warms up as any other's.
        estimate.step(3, Duration::from_secs(10));
        assert_eq!(estimate.standing().left_s, Some(10.0));
        estimate.step(4, Duration::from_secs(1));
        assert_eq!(estimate.clip.step_s(), Some(1.0));

        estimate.begin(Phase::Preparing);
        estimate.resume(4);
        estimate.begin(Phase::Decoding);
        assert_eq!(estimate.standing().step, 4);
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
        pace.lock().decode_s_per_pixel = Some(0.5 / 256.0);
        let mut estimate = estimate(&pace);
        estimate.step(1, Duration::from_secs(1));
        assert_eq!(estimate.standing().left_s, Some(3.0 + 2.0 * 0.5));
    }

    #[test]
    fn the_steps_of_a_keyframe_are_its_own_and_the_clip_is_foreseen_once_one_was_seen() {
        let pace = Arc::default();
        let with_keyframe = || Estimate {
            keyframe: Steps::new(3),
            ..estimate(&pace)
        };
        let mut first = with_keyframe();
        first.begin(Phase::Keyframe);
        assert_eq!(first.standing().steps, 3);
        first.step(1, Duration::from_secs(1));
        assert_eq!(first.standing().step, 1);
        assert_eq!(first.standing().left_s, None);
        first.step(2, Duration::from_secs(1));
        first.step(3, Duration::from_secs(1));
        first.begin(Phase::Denoising);
        assert_eq!((first.standing().step, first.standing().steps), (0, 4));
        for done in 1..=4 {
            first.step(done, Duration::from_secs(10));
        }
        assert_eq!(first.standing().left_s, Some(0.0));

        let mut second = with_keyframe();
        assert_eq!(second.standing().left_s, None);
        second.begin(Phase::Keyframe);
        second.step(1, Duration::from_secs(1));
        assert_eq!(second.standing().left_s, Some(2.0 + 40.0));
    }
}
