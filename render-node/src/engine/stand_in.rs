//! An engine without a model, for fault tests: the same way through the node in milliseconds, with frames that are a function
//! of the spec.

mod poison;

use std::path::Path;
use std::thread;
use std::time::Duration;

use flowai_actors::manifest::FusedAdapter;
use flowai_actors::spec::{KeyframeSpec, RenderSpec};
use flowai_model::Sha256Digest;
use flowai_svd::PREVIEW_SIDE_MAX;
use serde::{Deserialize, Serialize};

use super::{
    AdapterFile, EngineError, EngineRun, KeyframeEngine, KeyframeRun, RenderEngine, StageEngine,
};
use crate::encoder::RgbFrame;
use crate::failure::{FailureCode, JobFailure};
use crate::models::LocalModel;
pub use poison::Poison;

/// Renders a drifting gradient, and a still one for a keyframe. Its manifests say `stand-in`, so nobody takes its clips for a model's.
#[derive(Debug, Clone)]
pub struct StandInEngine {
    step: Duration,
    obeys_poison: bool,
}

impl StandInEngine {
    pub const NAME: &str = "stand-in";

    /// `step` is how long one denoising step takes.
    pub fn new(step: Duration) -> Self {
        Self {
            step,
            obeys_poison: false,
        }
    }

    /// Lets seeds that are a [`Poison`]'s do to this process what such a job does.
    #[must_use]
    pub fn with_poison(self) -> Self {
        Self {
            obeys_poison: true,
            ..self
        }
    }
}

impl StageEngine for StandInEngine {
    fn load(&mut self, _: &LocalModel) -> Result<(), EngineError> {
        Ok(())
    }

    fn fuse(&mut self, adapters: &[AdapterFile<'_>]) -> Result<Vec<FusedAdapter>, EngineError> {
        let fused = |adapter: &AdapterFile<'_>| {
            require_unchanged(adapter)?;
            Ok(FusedAdapter {
                sha256: adapter.sha256,
                weight: adapter.weight,
                modules: 0,
                noop_modules: 0,
            })
        };
        adapters.iter().map(fused).collect()
    }
}

impl RenderEngine for StandInEngine {
    fn keyframes(&mut self) -> Option<&mut dyn KeyframeEngine> {
        Some(self)
    }

    fn start<'a>(
        &'a mut self,
        spec: &RenderSpec,
        _: &Path,
    ) -> Result<Box<dyn EngineRun + 'a>, EngineError> {
        let poison = Poison::of_seed(spec.seed).filter(|_| self.obeys_poison);
        Ok(Box::new(StandInRun {
            step: self.step,
            spec: spec.clone(),
            done: 0,
            state: spec.seed,
            poison,
        }))
    }

    fn resume<'a>(
        &'a mut self,
        spec: &RenderSpec,
        checkpoint: &Path,
    ) -> Result<(Box<dyn EngineRun + 'a>, u32), EngineError> {
        let unusable = |reason: String| {
            let detail = format!("checkpoint: {reason}");
            EngineError::from(JobFailure::new(FailureCode::EngineFailed, detail))
        };
        let bytes = std::fs::read(checkpoint).map_err(|error| unusable(error.to_string()))?;
        let kept: StandInCheckpoint =
            serde_json::from_slice(&bytes).map_err(|error| unusable(error.to_string()))?;
        if kept.spec != *spec {
            return Err(unusable("was made with another spec".to_owned()));
        }
        let StandInCheckpoint { spec, done, state } = kept;
        let run = StandInRun {
            step: self.step,
            poison: Poison::of_seed(spec.seed).filter(|_| self.obeys_poison),
            spec,
            done,
            state,
        };
        Ok((Box::new(run), done))
    }
}

impl KeyframeEngine for StandInEngine {
    fn start<'a>(
        &'a mut self,
        spec: &KeyframeSpec,
    ) -> Result<Box<dyn KeyframeRun + 'a>, EngineError> {
        Ok(Box::new(StandInKeyframe {
            step: self.step,
            spec: spec.clone(),
        }))
    }
}

fn require_unchanged(adapter: &AdapterFile<'_>) -> Result<(), EngineError> {
    let reason = match Sha256Digest::of_file(adapter.path) {
        Ok(found) if found.as_bytes() == adapter.sha256.as_bytes() => return Ok(()),
        Ok(found) => format!("its bytes are {found}"),
        Err(error) => error.to_string(),
    };
    Err(EngineError::AdapterRotten {
        sha256: adapter.sha256,
        reason,
    })
}

struct StandInRun {
    step: Duration,
    spec: RenderSpec,
    done: u32,
    /// What the steps made of the seed: a step that is left out or taken twice gives another clip.
    state: u64,
    poison: Option<Poison>,
}

#[derive(Serialize, Deserialize)]
struct StandInCheckpoint {
    spec: RenderSpec,
    done: u32,
    state: u64,
}

impl EngineRun for StandInRun {
    fn step(&mut self) -> Result<(), EngineError> {
        // In the middle of the job: the farm has heard of a step by then.
        if let Some(poison) = self.poison.filter(|_| self.done == 1) {
            poison.act();
        }
        thread::sleep(self.step);
        self.done += 1;
        // Knuth's multiplier for linear congruential generators modulo 2^64.
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005);
        self.state = self.state.wrapping_add(u64::from(self.done));
        Ok(())
    }

    fn checkpoint(&self) -> Result<Option<Vec<u8>>, EngineError> {
        let checkpoint = StandInCheckpoint {
            spec: self.spec.clone(),
            done: self.done,
            state: self.state,
        };
        let bytes = serde_json::to_vec(&checkpoint);
        let bytes = bytes.map_err(|error| JobFailure::new(FailureCode::EngineFailed, error))?;
        Ok(Some(bytes))
    }

    fn preview(&self) -> Result<Option<Vec<RgbFrame>>, EngineError> {
        let small = RenderSpec {
            width: self.spec.width.min(PREVIEW_SIDE_MAX),
            height: self.spec.height.min(PREVIEW_SIDE_MAX),
            ..self.spec.clone()
        };
        let frames = 0..small.frames;
        Ok(Some(frames.map(|i| frame(&small, self.state, i)).collect()))
    }

    fn decode(
        &mut self,
        sink: &mut dyn FnMut(RgbFrame) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        (0..self.spec.frames).try_for_each(|index| sink(frame(&self.spec, self.state, index)))
    }
}

struct StandInKeyframe {
    step: Duration,
    spec: KeyframeSpec,
}

impl KeyframeRun for StandInKeyframe {
    fn step(&mut self) -> Result<(), EngineError> {
        thread::sleep(self.step);
        Ok(())
    }

    /// Colours from the position, from offsets that words and seed give.
    fn decode(&mut self) -> Result<RgbFrame, EngineError> {
        let KeyframeSpec {
            prompt,
            negative_prompt,
            width,
            height,
            seed,
            ..
        } = &self.spec;
        let words = format!("{}\0{}\0{seed}", prompt.as_str(), negative_prompt.as_str());
        let digest = Sha256Digest::of(words.as_bytes());
        let [red, green, blue, ..] = *digest.as_bytes();
        let ramp = |offset: u8, position: u32, length: u32| {
            offset.wrapping_add((position * 256 / length) as u8)
        };
        Ok(RgbFrame::from_fn(*width, *height, |x, y| {
            image::Rgb([
                ramp(red, x, *width),
                ramp(green, y, *height),
                ramp(blue, x + y, width + height),
            ])
        }))
    }

    fn tokens_cut(&self) -> [u32; 2] {
        [0, 0]
    }
}

/// Colours from the position, drifting with the frame, from an offset that the steps made of the seed.
fn frame(spec: &RenderSpec, state: u64, index: u32) -> RgbFrame {
    let offset = (state % 251) as u32;
    RgbFrame::from_fn(spec.width, spec.height, |x, y| {
        let ramp = |position: u32, length: u32| ((position * 256 / length + offset) % 256) as u8;
        image::Rgb([
            ramp(x + 4 * index, spec.width),
            ramp(y, spec.height),
            ramp(x + y, spec.width + spec.height),
        ])
    })
}
