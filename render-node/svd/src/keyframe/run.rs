//! A keyframe between its first noise and its last step. The caller owns the loop: to stop is not to step again.

use std::time::Instant;

use tch::{Device, Kind, Tensor};

use super::sampler::KeyframeSampler;
use super::{KeyframeConditioning, KeyframeSpec, Keyframer, Unet2dContext};
use crate::error::{EngineError, Result};
use crate::refusal::refusals;
use crate::run::{Frames, Report, is_finite};
use crate::shim::Inference;

/// Latents on their way. Borrows the engine, so adapters cannot change under it.
#[derive(Debug)]
pub struct KeyframeRun<'a> {
    keyframer: &'a Keyframer,
    spec: KeyframeSpec,
    sampler: KeyframeSampler,
    next_step: usize,
    /// (1, C, h, w)
    latents: Tensor,
    /// With guidance, the half of the negative prompt comes first.
    passes: Vec<Pass>,
}

/// Texts that go through the model together.
#[derive(Debug)]
struct Pass {
    batch: i64,
    context: Unet2dContext,
}

impl<'a> KeyframeRun<'a> {
    pub(super) fn new(
        keyframer: &'a Keyframer,
        sampler: KeyframeSampler,
        latents: Tensor,
        conditioning: &KeyframeConditioning,
    ) -> Result<Self> {
        let negative = conditioning.negative_embeds.iter();
        let texts: Vec<&Tensor> = negative.chain([&conditioning.text_embeds]).collect();
        Ok(Self {
            passes: passes(keyframer, &texts)?,
            keyframer,
            spec: conditioning.spec.clone(),
            sampler,
            next_step: 0,
            latents,
        })
    }

    pub fn spec(&self) -> &KeyframeSpec {
        &self.spec
    }

    /// Steps that are done.
    pub fn steps_done(&self) -> usize {
        self.next_step
    }

    pub fn is_finished(&self) -> bool {
        self.next_step >= self.sampler.steps()
    }

    /// The latents now: (1, C, h, w).
    pub fn latents(&self) -> &Tensor {
        &self.latents
    }

    /// Takes one denoising step.
    ///
    /// Errors: all steps are done; too little memory (the run stays at its step); latents that are not finite.
    pub fn step(&mut self) -> Result<Report> {
        let steps = self.sampler.steps();
        if self.is_finished() {
            return Err(EngineError::Finished { steps });
        }
        let _inference = Inference::enter();
        let started = Instant::now();
        let i = self.next_step;
        self.latents = refusals(|| self.denoise(i))?;
        self.next_step = i + 1;
        Ok(Report {
            step: i + 1,
            steps,
            sigma: self.sampler.sigma(i),
            elapsed: self.keyframer.elapsed(started),
        })
    }

    /// Decodes the finished latents to the one picture of the job.
    ///
    /// Its bytes ([`Frames::to_rgb8`]) are those of the picture that [`crate::Engine::prepare`] takes
    /// ([`crate::Picture::from_rgb`]), or of a PNG of it.
    ///
    /// Errors: a run that is not finished; too little memory; a picture that is not finite.
    pub fn decode(&self) -> Result<Frames> {
        let steps = self.sampler.steps();
        if !self.is_finished() {
            let done = self.next_step;
            return Err(EngineError::Unfinished { done, steps });
        }
        refusals(|| self.decode_picture())
    }

    fn decode_picture(&self) -> Result<Frames> {
        let _inference = Inference::enter();
        let steps = self.sampler.steps();
        let scale = self.keyframer.config().vae.scaling_factor;
        let latents = self.latents.f_div_scalar(scale)?;
        let mut picture = self.keyframer.decoder.forward(&latents)?;
        // Before clamping, which makes white of an infinity, and rounding, which makes some colour of what is no number.
        if !is_finite(&picture)? {
            return Err(EngineError::NotFinite { step: steps });
        }
        // In the model's precision, as in the reference.
        picture = picture
            .f_mul_scalar_(0.5)?
            .f_add_scalar_(0.5)?
            .f_clamp_(0.0, 1.0)?;
        Ok(Frames {
            first: 0,
            data: picture.f_to_kind(Kind::Float)?,
        })
    }

    /// The latents after step `i`.
    fn denoise(&self, i: usize) -> Result<Tensor> {
        let prediction = self.predict(i)?;
        let latents = self.sampler.step(i, &prediction, &self.latents)?;
        match is_finite(&latents)? {
            true => Ok(latents),
            false => Err(EngineError::NotFinite { step: i + 1 }),
        }
    }

    /// The model's guided prediction before step `i`: (1, C, h, w).
    fn predict(&self, i: usize) -> Result<Tensor> {
        let unet = &self.keyframer.unet;
        let noisy = self.sampler.scale_input(i, &self.latents)?;
        let time = unet.time(self.sampler.timestep(i))?;
        let predict = |pass: &Pass| {
            let noisy = noisy.f_expand([pass.batch, -1, -1, -1], false)?;
            unet.forward(&noisy, &time, &pass.context)
        };
        let predictions = self.passes.iter().map(predict);
        let prediction = Tensor::f_cat(&predictions.collect::<Result<Vec<_>>>()?, 0)?;
        if !self.spec.has_guidance() {
            return Ok(prediction);
        }
        let without = prediction.f_narrow(0, 0, 1)?;
        let mut change = prediction.f_narrow(0, 1, 1)?.f_sub(&without)?;
        Ok(change
            .f_mul_scalar_(self.spec.guidance_scale)?
            .f_add_(&without)?)
    }
}

/// Together on a GPU, one after the other on a CPU, as the halves of a clip ([`crate::Run`]).
fn passes(keyframer: &Keyframer, texts: &[&Tensor]) -> Result<Vec<Pass>> {
    let together = match keyframer.device() {
        Device::Cpu => 1,
        _ => texts.len(),
    };
    let pass = |texts: &[&Tensor]| {
        let context = keyframer.unet.context(&Tensor::f_cat(texts, 0)?)?;
        let batch = texts.len() as i64;
        Ok(Pass { batch, context })
    };
    texts.chunks(together).map(pass).collect()
}
