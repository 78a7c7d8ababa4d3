//! From noise to latents in a few of the training's timesteps: diffusers' `DDIMScheduler` and `EulerDiscreteScheduler`.

use flowai_model::config::TimestepSpacing;
use flowai_model::config::stable_diffusion::{BetaSchedule, NoiseScheduleConfig, Prediction};
use tch::{Device, Kind, Tensor};

use super::SamplerKind;
use crate::error::Result;
use crate::sampler::{denoised_from_velocity, euler_step, scale_by_sigma};

/// Added to timesteps of the spacing "leading". diffusers' pipeline writes it over whatever a folder says.
const STEPS_OFFSET: usize = 1;

/// The noise levels of a job and how to go from one to the next. Numbers are f32, as in the reference.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyframeSampler {
    prediction: Prediction,
    timesteps: Vec<f32>,
    schedule: Schedule,
}

#[derive(Debug, Clone, PartialEq)]
enum Schedule {
    Ddim(Vec<DdimStep>),
    Euler {
        /// Before each step, then 0.
        sigmas: Vec<f32>,
        init_noise_sigma: f32,
    },
}

/// Share of the picture in the latents' variance: `alphas_cumprod` of the reference.
#[derive(Debug, Clone, Copy, PartialEq)]
struct DdimStep {
    before: f32,
    after: f32,
}

impl KeyframeSampler {
    /// `steps` must be in [`steps_max`].
    pub fn new(
        config: &NoiseScheduleConfig,
        kind: SamplerKind,
        spacing: TimestepSpacing,
        steps: usize,
    ) -> Result<Self> {
        let alphas = alphas_cumprod(config)?;
        let times = timesteps(config.num_train_timesteps, spacing, steps);
        let (timesteps, schedule) = match kind {
            SamplerKind::Ddim => ddim(config, &alphas, &times),
            SamplerKind::Euler => euler(&alphas, spacing, &times),
        };
        Ok(Self {
            prediction: config.prediction,
            timesteps,
            schedule,
        })
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.timesteps.len()
    }

    /// The model's time before step `i`.
    pub fn timestep(&self, i: usize) -> f32 {
        self.timesteps[i]
    }

    /// Noise over picture before step `i`.
    pub fn sigma(&self, i: usize) -> f32 {
        match &self.schedule {
            Schedule::Ddim(steps) => ((1.0 - steps[i].before) / steps[i].before).sqrt(),
            Schedule::Euler { sigmas, .. } => sigmas[i],
        }
    }

    /// What unit noise is multiplied by to become the first latents.
    pub fn init_noise_sigma(&self) -> f32 {
        match &self.schedule {
            Schedule::Ddim(_) => 1.0,
            Schedule::Euler {
                init_noise_sigma, ..
            } => *init_noise_sigma,
        }
    }

    /// The latents as the model reads them before step `i`: any shape, the precision stays.
    pub fn scale_input(&self, i: usize, latents: &Tensor) -> Result<Tensor> {
        match &self.schedule {
            Schedule::Ddim(_) => Ok(latents.shallow_clone()),
            Schedule::Euler { sigmas, .. } => scale_by_sigma(sigmas[i], latents),
        }
    }

    /// The latents after step `i`, in the precision of `prediction`.
    pub fn step(&self, i: usize, prediction: &Tensor, latents: &Tensor) -> Result<Tensor> {
        match &self.schedule {
            Schedule::Ddim(steps) => steps[i].take(self.prediction, prediction, latents),
            Schedule::Euler { sigmas, .. } => {
                let (sigma, next) = (sigmas[i], sigmas[i + 1]);
                let x = latents.f_to_kind(Kind::Float)?;
                let denoised = match self.prediction {
                    Prediction::Velocity => denoised_from_velocity(sigma, prediction, &x)?,
                    // The product stays in the model's precision: the reference's sigma has no dimensions.
                    Prediction::Epsilon => {
                        let noise = prediction.f_mul_scalar(f64::from(sigma))?;
                        x.f_sub(&noise)?
                    }
                };
                let moved = euler_step(sigma, next, &denoised, &x)?;
                Ok(moved.f_to_kind(prediction.f_kind()?)?)
            }
        }
    }
}

impl DdimStep {
    /// Formula 12 of "Denoising Diffusion Implicit Models" (Song, Meng, Ermon 2021) without its random part, in the
    /// precision of the model.
    fn take(self, kind: Prediction, prediction: &Tensor, latents: &Tensor) -> Result<Tensor> {
        let root = |share: f32| f64::from(share.sqrt());
        let (picture, noise) = (root(self.before), root(1.0 - self.before));
        let (denoised, epsilon) = match kind {
            Prediction::Epsilon => {
                let mut denoised = latents.f_sub(&prediction.f_mul_scalar(noise)?)?;
                (denoised.f_div_scalar_(picture)?, prediction.shallow_clone())
            }
            Prediction::Velocity => (
                latents
                    .f_mul_scalar(picture)?
                    .f_sub_(&prediction.f_mul_scalar(noise)?)?,
                prediction
                    .f_mul_scalar(picture)?
                    .f_add_(&latents.f_mul_scalar(noise)?)?,
            ),
        };
        let mut next = denoised.f_mul_scalar(root(self.after))?;
        Ok(next.f_add_(&epsilon.f_mul_scalar(root(1.0 - self.after))?)?)
    }
}

/// The most steps that a schedule has room for: all timesteps must exist.
pub fn steps_max(config: &NoiseScheduleConfig, spacing: TimestepSpacing) -> usize {
    match spacing {
        TimestepSpacing::Leading => config.num_train_timesteps - STEPS_OFFSET,
        TimestepSpacing::Linspace | TimestepSpacing::Trailing => config.num_train_timesteps,
    }
}

/// Timesteps from the noisiest on, by "Common Diffusion Noise Schedules and Sample Steps are Flawed" (Lin et al. 2024),
/// table 2. Not rounded.
///
/// The reference's own "trailing" has, for some numbers of steps, one step more that ends before the first timestep.
fn timesteps(train: usize, spacing: TimestepSpacing, steps: usize) -> Vec<f64> {
    let (last, count) = ((train - 1) as f64, steps as f64);
    let from_end = |i: usize| (steps - 1 - i) as f64;
    let timestep = |i: usize| match spacing {
        TimestepSpacing::Linspace if i == 0 && steps > 1 => last,
        TimestepSpacing::Linspace => from_end(i) * (last / (count - 1.0).max(1.0)),
        TimestepSpacing::Leading => from_end(i) * (train / steps) as f64 + STEPS_OFFSET as f64,
        TimestepSpacing::Trailing => {
            (train as f64 - i as f64 * (train as f64 / count)).round_ties_even() - 1.0
        }
    };
    (0..steps).map(timestep).collect()
}

/// By torch, so that its rounding is the reference's.
fn alphas_cumprod(config: &NoiseScheduleConfig) -> Result<Vec<f32>> {
    let count = config.num_train_timesteps as i64;
    let linspace =
        |start: f64, end: f64| Tensor::f_linspace(start, end, count, (Kind::Float, Device::Cpu));
    let (start, end) = (config.beta_start, config.beta_end);
    let betas = match config.beta_schedule {
        BetaSchedule::Linear => linspace(start, end)?,
        BetaSchedule::ScaledLinear => linspace(start.sqrt(), end.sqrt())?.f_square()?,
    };
    let alphas = betas
        .f_neg()?
        .f_add_scalar(1.0)?
        .f_cumprod(0, Kind::Float)?;
    Ok(Vec::<f32>::try_from(&alphas)?)
}

fn ddim(config: &NoiseScheduleConfig, alphas: &[f32], times: &[f64]) -> (Vec<f32>, Schedule) {
    let last = match config.set_alpha_to_one {
        true => 1.0,
        false => alphas[0],
    };
    let stride = alphas.len() / times.len();
    let times: Vec<usize> = times
        .iter()
        .map(|time| time.round_ties_even() as usize)
        .collect();
    let step = |&time: &usize| DdimStep {
        before: alphas[time],
        after: time.checked_sub(stride).map_or(last, |time| alphas[time]),
    };
    let steps = times.iter().map(step).collect();
    let times = times.iter().map(|&time| time as f32).collect();
    (times, Schedule::Ddim(steps))
}

fn euler(alphas: &[f32], spacing: TimestepSpacing, times: &[f64]) -> (Vec<f32>, Schedule) {
    let sigmas: Vec<f32> = alphas
        .iter()
        .map(|alpha| ((1.0 - alpha) / alpha).sqrt())
        .collect();
    let times: Vec<f32> = times.iter().map(|&time| time as f32).collect();
    let at = |&time: &f32| interpolate(&sigmas, f64::from(time)) as f32;
    let sigmas: Vec<f32> = times.iter().map(at).chain([0.0]).collect();
    let strongest = sigmas.iter().copied().fold(0.0, f32::max);
    let init_noise_sigma = match spacing {
        TimestepSpacing::Leading => (strongest * strongest + 1.0).sqrt(),
        TimestepSpacing::Linspace | TimestepSpacing::Trailing => strongest,
    };
    let schedule = Schedule::Euler {
        sigmas,
        init_noise_sigma,
    };
    (times, schedule)
}

/// The value at a place between two indices, as by numpy's `interp`.
fn interpolate(values: &[f32], at: f64) -> f64 {
    let below = at.floor() as usize;
    let value = |i: usize| f64::from(values[i.min(values.len() - 1)]);
    (value(below + 1) - value(below)) * (at - below as f64) + value(below)
}
