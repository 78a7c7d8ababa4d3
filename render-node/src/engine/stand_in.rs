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

use super::{
    AdapterFile, EngineError, EngineRun, KeyframeEngine, KeyframeRun, RenderEngine, StageEngine,
};
use crate::encoder::RgbFrame;
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
            steps_done: 0,
            poison,
        }))
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
    steps_done: u32,
    poison: Option<Poison>,
}

impl EngineRun for StandInRun {
    fn step(&mut self) -> Result<(), EngineError> {
        // In the middle of the job: the farm has heard of a step by then.
        if let Some(poison) = self.poison.filter(|_| self.steps_done == 1) {
            poison.act();
        }
        thread::sleep(self.step);
        self.steps_done += 1;
        Ok(())
    }

    fn preview(&self) -> Result<Option<Vec<RgbFrame>>, EngineError> {
        let small = RenderSpec {
            width: self.spec.width.min(PREVIEW_SIDE_MAX),
            height: self.spec.height.min(PREVIEW_SIDE_MAX),
            ..self.spec.clone()
        };
        Ok(Some((0..small.frames).map(|i| frame(&small, i)).collect()))
    }

    fn decode(
        &mut self,
        sink: &mut dyn FnMut(RgbFrame) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        (0..self.spec.frames).try_for_each(|index| sink(frame(&self.spec, index)))
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

/// Colours from the position, drifting with the frame, from an offset that the seed gives.
fn frame(spec: &RenderSpec, index: u32) -> RgbFrame {
    let offset = (spec.seed % 251) as u32;
    RgbFrame::from_fn(spec.width, spec.height, |x, y| {
        let ramp = |position: u32, length: u32| ((position * 256 / length + offset) % 256) as u8;
        image::Rgb([
            ramp(x + 4 * index, spec.width),
            ramp(y, spec.height),
            ramp(x + y, spec.width + spec.height),
        ])
    })
}
