//! Stable Diffusion behind [`KeyframeEngine`].

use flowai_actors::spec::{KeyframeSampler, KeyframeSpec};
use flowai_model::config::stable_diffusion::StableDiffusionConfig;
use flowai_svd::keyframe::SamplerKind;
use flowai_svd::{KeyframeRun as Run, KeyframeSpec as SvdSpec, Keyframer, Prompt};

use super::as_written;
use super::slot::Slot;
use crate::encoder::RgbFrame;
use crate::engine::{EngineError, KeyframeEngine, KeyframeRun};
use crate::failure::{FailureCode, JobFailure};

impl KeyframeEngine for Slot<Keyframer> {
    fn start<'a>(
        &'a mut self,
        spec: &KeyframeSpec,
    ) -> Result<Box<dyn KeyframeRun + 'a>, EngineError> {
        let keyframer = self.model()?;
        let prompt = Prompt {
            text: spec.prompt.as_str().to_owned(),
            negative: spec.negative_prompt.as_str().to_owned(),
        };
        let conditioning = keyframer.prepare(&svd_spec(spec, keyframer.config()), &prompt)?;
        let tokens = |cut: usize| u32::try_from(cut).unwrap_or(u32::MAX);
        Ok(Box::new(SvdKeyframe {
            run: keyframer.start(&conditioning)?,
            tokens_cut: conditioning.tokens_cut.map(tokens),
        }))
    }
}

struct SvdKeyframe<'a> {
    run: Run<'a>,
    tokens_cut: [u32; 2],
}

impl KeyframeRun for SvdKeyframe<'_> {
    fn step(&mut self) -> Result<(), EngineError> {
        self.run.step()?;
        Ok(())
    }

    fn decode(&mut self) -> Result<RgbFrame, EngineError> {
        let (width, height) = (self.run.spec().width, self.run.spec().height);
        let rgb = self.run.decode()?.to_rgb8()?;
        let cut = || JobFailure::new(FailureCode::EngineFailed, "engine gave half a picture");
        Ok(RgbFrame::from_raw(width, height, rgb).ok_or_else(cut)?)
    }

    fn tokens_cut(&self) -> [u32; 2] {
        self.tokens_cut
    }
}

fn svd_spec(spec: &KeyframeSpec, model: &StableDiffusionConfig) -> SvdSpec {
    let sampler = match spec.sampler {
        KeyframeSampler::Ddim => SamplerKind::Ddim,
        KeyframeSampler::Euler => SamplerKind::Euler,
    };
    SvdSpec {
        height: spec.height,
        width: spec.width,
        steps: spec.steps,
        sampler,
        timestep_spacing: sampler.spacing(model),
        guidance_scale: as_written(spec.guidance_scale),
        seed: spec.seed,
    }
}
