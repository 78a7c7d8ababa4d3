//! A job between its first noise and its last step. The caller owns the loop: to stop is not to step again.

use std::time::{Duration, Instant};

use flowai_model::config::VaeConfig;
use tch::{Device, Kind, Tensor};

use crate::checkpoint::Checkpoint;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::refusal::refusals;
use crate::sampler::Sampler;
use crate::shim::Inference;
use crate::spec::Spec;
use crate::unet::{UnetContext, UnetTimes};

/// Latents on their way. Borrows the engine, so adapters cannot change under it.
#[derive(Debug)]
pub struct Run<'a> {
    engine: &'a Engine,
    spec: Spec,
    sampler: Sampler,
    next_step: usize,
    /// (1, F, L, h, w)
    latents: Tensor,
    /// The latents before the last step of this process.
    before: Option<Tensor>,
    /// (1, L, h, w)
    image_latents: Tensor,
    /// (1, D)
    image_embeds: Tensor,
    /// With guidance, the half without the picture comes first.
    passes: Vec<Pass>,
    times: UnetTimes,
    /// (1, F, 1, 1, 1); `None` when the model runs only with the picture.
    guidance: Option<Tensor>,
}

/// What the model reads beside the noise, for clips that go through it together.
#[derive(Debug)]
struct Pass {
    /// (B, F, L, h, w)
    image_channels: Tensor,
    context: UnetContext,
}

/// What a step did.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// Steps that are done now, 1..=steps.
    pub step: usize,
    pub steps: usize,
    /// Noise level before the step.
    pub sigma: f32,
    pub elapsed: Duration,
}

/// Frames of one chunk: (n, 3, H, W) f32 in 0..1, on the engine's device.
#[derive(Debug)]
pub struct Frames {
    /// Index of the first one in the clip.
    pub first: usize,
    pub(crate) data: Tensor,
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        engine: &'a Engine,
        spec: Spec,
        sampler: Sampler,
        latents: Tensor,
        (image_latents, image_embeds): (&Tensor, &Tensor),
        next_step: usize,
    ) -> Result<Self> {
        let halves = match spec.has_guidance() {
            true => vec![
                (image_latents.f_zeros_like()?, image_embeds.f_zeros_like()?),
                (image_latents.shallow_clone(), image_embeds.shallow_clone()),
            ],
            false => vec![(image_latents.shallow_clone(), image_embeds.shallow_clone())],
        };
        Ok(Self {
            passes: passes(engine, &halves, i64::from(spec.frames))?,
            times: times(engine, &sampler, &spec)?,
            guidance: spec
                .has_guidance()
                .then(|| guidance(&spec, engine))
                .transpose()?,
            engine,
            spec,
            sampler,
            next_step,
            latents,
            before: None,
            image_latents: image_latents.shallow_clone(),
            image_embeds: image_embeds.shallow_clone(),
        })
    }

    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Steps that are done.
    pub fn steps_done(&self) -> usize {
        self.next_step
    }

    pub fn is_finished(&self) -> bool {
        self.next_step >= self.sampler.steps()
    }

    /// The latents now: (1, F, L, h, w).
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
        let latents = refusals(|| self.denoise(i))?;
        self.before = Some(std::mem::replace(&mut self.latents, latents));
        self.next_step = i + 1;
        Ok(Report {
            step: i + 1,
            steps,
            sigma: self.sampler.sigmas()[i],
            elapsed: self.engine.elapsed(started),
        })
    }

    /// The state at this step boundary. Hashes the model when nobody has yet.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        let engine = self.engine;
        let header = engine.checkpoint_header(&self.spec, self.next_step, &self.sampler)?;
        Ok(Checkpoint {
            header,
            latents: self.latents.shallow_clone(),
            image_latents: self.image_latents.shallow_clone(),
            image_embeds: self.image_embeds.shallow_clone(),
        })
    }

    /// Decodes the finished latents, `decode_chunk_size` frames at a time, and hands over each chunk as it is ready.
    ///
    /// Errors: a run that is not finished; too little memory (a smaller chunk is another picture, so the caller decides);
    /// frames that are not finite; whatever `sink` returns, which ends the decoding.
    pub fn decode<E>(
        &self,
        mut sink: impl FnMut(Frames) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E>
    where
        E: From<EngineError>,
    {
        let steps = self.sampler.steps();
        if !self.is_finished() {
            let done = self.next_step;
            return Err(EngineError::Unfinished { done, steps }.into());
        }
        let frames = self.spec.frames as usize;
        let chunk = (self.spec.decode_chunk_size as usize).max(1);
        for first in (0..frames).step_by(chunk) {
            let count = chunk.min(frames - first);
            let data = refusals(|| self.decode_chunk(first, count))?;
            sink(Frames { first, data })?;
        }
        Ok(())
    }

    fn decode_chunk(&self, first: usize, count: usize) -> Result<Tensor> {
        let _inference = Inference::enter();
        let latents = self
            .latents
            .f_squeeze_dim(0)?
            .f_narrow(0, first as i64, count as i64)?;
        // A multiplication, as in the reference: it rounds differently from a division in fp16.
        let latents = latents.f_mul_scalar(1.0 / self.engine.config().vae.scaling_factor)?;
        let frames = self.engine.vae_decoder.forward(&latents)?;
        // Before clamping, which makes white of an infinity, and rounding, which makes some colour of what is no number.
        if !is_finite(&frames)? {
            let step = self.sampler.steps();
            return Err(EngineError::NotFinite { step });
        }
        let mut frames = frames.f_to_kind(Kind::Float)?;
        Ok(frames
            .f_mul_scalar_(0.5)?
            .f_add_scalar_(0.5)?
            .f_clamp_(0.0, 1.0)?)
    }

    pub(crate) fn vae(&self) -> &VaeConfig {
        &self.engine.config().vae
    }

    /// The last step's guess of the latents without noise, f32: the sampler moved along the line that leads there.
    pub(crate) fn denoised(&self) -> Result<Option<Tensor>> {
        let (Some(before), Some(last)) = (&self.before, self.next_step.checked_sub(1)) else {
            return Ok(None);
        };
        let (sigma, next) = (self.sampler.sigmas()[last], self.sampler.sigmas()[last + 1]);
        let before = before.f_to_kind(Kind::Float)?;
        let moved = self.latents.f_to_kind(Kind::Float)?.f_sub(&before)?;
        let whole_way = f64::from(sigma / (sigma - next));
        Ok(Some(moved.f_mul_scalar(whole_way)?.f_add_(&before)?))
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

    /// The model's guided prediction before step `i`: (1, F, L, h, w).
    fn predict(&self, i: usize) -> Result<Tensor> {
        let unet = &self.engine.unet;
        let noisy = self.sampler.scale_input(i, &self.latents)?;
        let predict = |pass: &Pass| {
            let batch = pass.image_channels.size()[0];
            let noisy = noisy.f_expand([batch, -1, -1, -1, -1], false)?;
            let sample = Tensor::f_cat(&[&noisy, &pass.image_channels], 2)?;
            unet.forward(&sample, &self.times, i, &pass.context)
        };
        let predictions = self
            .passes
            .iter()
            .map(predict)
            .collect::<Result<Vec<_>>>()?;
        let prediction = Tensor::f_cat(&predictions, 0)?;
        match &self.guidance {
            None => Ok(prediction),
            Some(scale) => {
                let without = prediction.f_narrow(0, 0, 1)?;
                let mut change = prediction.f_narrow(0, 1, 1)?.f_sub(&without)?;
                Ok(change.f_mul_(scale)?.f_add_(&without)?)
            }
        }
    }
}

impl Frames {
    /// Number of frames.
    pub fn count(&self) -> usize {
        self.data.size()[0].unsigned_abs() as usize
    }

    /// (n, 3, H, W)
    pub fn tensor(&self) -> &Tensor {
        &self.data
    }

    /// The values before any rounding, frame by frame, (3, H, W) each.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let data = self.data.f_to_device(Device::Cpu)?.f_contiguous()?;
        let mut values = vec![0.0; data.numel()];
        data.f_copy_data(&mut values, data.numel())?;
        Ok(values)
    }

    /// Bytes, red green blue, frame by frame and row by row, rounded half to even.
    pub fn to_rgb8(&self) -> Result<Vec<u8>> {
        // On the device: a quarter of the bytes travel.
        let data = refusals(|| Ok(self.data.f_mul_scalar(255.0)?))?;
        let data = data.f_round()?.f_to_kind(Kind::Uint8)?;
        let data = data
            .f_permute([0, 2, 3, 1])?
            .f_contiguous()?
            .f_to_device(Device::Cpu)?;
        let mut bytes = vec![0; data.numel()];
        data.f_copy_data_u8(&mut bytes, data.numel())?;
        Ok(bytes)
    }
}

/// On a GPU both halves of guidance go through the model as one batch, which fills it better. On a CPU they go one after
/// the other: a batch is no faster there, needs twice the memory and falls out of the caches.
fn passes(engine: &Engine, halves: &[(Tensor, Tensor)], frames: i64) -> Result<Vec<Pass>> {
    let together = match engine.device() {
        Device::Cpu => 1,
        _ => halves.len(),
    };
    let pass = |halves: &[(Tensor, Tensor)]| {
        let (latents, embeds): (Vec<_>, Vec<_>) = halves.iter().map(|(l, e)| (l, e)).unzip();
        let image_channels = Tensor::f_cat(&latents, 0)?.f_unsqueeze(1)?;
        Ok(Pass {
            image_channels: image_channels.f_expand([-1, frames, -1, -1, -1], false)?,
            context: engine.unet.context(&Tensor::f_cat(&embeds, 0)?, frames)?,
        })
    };
    halves.chunks(together).map(pass).collect()
}

pub(crate) fn is_finite(x: &Tensor) -> Result<bool> {
    Ok(x.f_isfinite()?.f_all()?.f_int64_value(&[])? != 0)
}

fn times(engine: &Engine, sampler: &Sampler, spec: &Spec) -> Result<UnetTimes> {
    let timesteps: Vec<f32> = (0..sampler.steps()).map(|i| sampler.timestep(i)).collect();
    engine
        .unet
        .times(&timesteps, &added_time_ids(spec, engine)?)
}

/// What the model is told beside the picture, in its own precision: (1, 3).
fn added_time_ids(spec: &Spec, engine: &Engine) -> Result<Tensor> {
    let ids = [
        f64::from(spec.fps) - 1.0,
        f64::from(spec.motion_bucket_id),
        spec.noise_aug_strength,
    ];
    let ids = Tensor::f_from_slice(&ids)?.f_to_kind(engine.kind())?;
    Ok(ids.f_to_device(engine.device())?.f_unsqueeze(0)?)
}

/// Guidance rises from the first frame to the last: (1, F, 1, 1, 1).
fn guidance(spec: &Spec, engine: &Engine) -> Result<Tensor> {
    let frames = i64::from(spec.frames);
    let (min, max) = (spec.min_guidance_scale, spec.max_guidance_scale);
    let scale = Tensor::f_linspace(min, max, frames, (Kind::Float, Device::Cpu))?;
    let scale = scale
        .f_to_kind(engine.kind())?
        .f_to_device(engine.device())?;
    Ok(scale.f_view([1, frames, 1, 1, 1])?)
}
