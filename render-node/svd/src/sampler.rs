//! Euler steps over Karras sigmas with v-prediction: diffusers' `EulerDiscreteScheduler` as SVD configures it.

use flowai_model::config::{SchedulerConfig, TimestepSpacing};
use tch::{Kind, Tensor};

use crate::error::Result;

/// Curvature of the sigma schedule (Karras et al. 2022, equation 5).
const RHO: f64 = 7.0;

/// The noise levels of a job and how to go from one to the next. Numbers are f32, as in the reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampler {
    sigmas: Vec<f32>,
    init_noise_sigma: f32,
}

impl Sampler {
    /// The schedule of `steps` steps, at least 1.
    pub fn new(config: &SchedulerConfig, steps: usize) -> Self {
        let (low, high) = (
            config.sigma_min.powf(1.0 / RHO),
            config.sigma_max.powf(1.0 / RHO),
        );
        let ramp = |i: usize| i as f64 / steps.saturating_sub(1).max(1) as f64;
        let sigmas = (0..steps).map(|i| (high + ramp(i) * (low - high)).powf(RHO) as f32);
        Self::from_sigmas(config, sigmas.chain([0.0]).collect())
    }

    /// A schedule with its sigmas given, falling and ending in 0: one more than there are steps.
    pub fn from_sigmas(config: &SchedulerConfig, sigmas: Vec<f32>) -> Self {
        let strongest = sigmas.iter().copied().fold(0.0, f32::max);
        let init_noise_sigma = match config.timestep_spacing {
            TimestepSpacing::Leading => (strongest * strongest + 1.0).sqrt(),
            TimestepSpacing::Linspace | TimestepSpacing::Trailing => strongest,
        };
        Self {
            sigmas,
            init_noise_sigma,
        }
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.sigmas.len().saturating_sub(1)
    }

    /// Noise levels before each step, then 0.
    pub fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    /// What unit noise is multiplied by to become the first latents.
    pub fn init_noise_sigma(&self) -> f32 {
        self.init_noise_sigma
    }

    /// The model's continuous time before step `i`.
    pub fn timestep(&self, i: usize) -> f32 {
        0.25 * f64::from(self.sigmas[i]).ln() as f32
    }

    /// The latents as the model reads them before step `i`: any shape, the precision stays.
    pub fn scale_input(&self, i: usize, latents: &Tensor) -> Result<Tensor> {
        scale_by_sigma(self.sigmas[i], latents)
    }

    /// The latents after step `i`, in the precision of `prediction`.
    pub fn step(&self, i: usize, prediction: &Tensor, latents: &Tensor) -> Result<Tensor> {
        let (sigma, next) = (self.sigmas[i], self.sigmas[i + 1]);
        let x = latents.f_to_kind(Kind::Float)?;
        let denoised = denoised_from_velocity(sigma, prediction, &x)?;
        let moved = euler_step(sigma, next, &denoised, &x)?;
        Ok(moved.f_to_kind(prediction.f_kind()?)?)
    }
}

/// Latents with so much noise as a model reads them: of unit variance, in their own precision.
pub(crate) fn scale_by_sigma(sigma: f32, latents: &Tensor) -> Result<Tensor> {
    let scale = (sigma * sigma + 1.0).sqrt();
    Ok(latents.f_div_scalar(f64::from(scale))?)
}

/// What a v-prediction says is below the noise of `x`, which is f32.
///
/// The product of prediction and coefficient stays in the model's precision, everything after is f32: the reference's
/// coefficient is a tensor without dimensions, which does not promote.
pub(crate) fn denoised_from_velocity(
    sigma: f32,
    prediction: &Tensor,
    x: &Tensor,
) -> Result<Tensor> {
    let square = sigma * sigma + 1.0;
    Ok(prediction
        .f_mul_scalar(f64::from(-sigma / square.sqrt()))?
        .f_to_kind(Kind::Float)?
        .f_add_(&x.f_div_scalar(f64::from(square))?)?)
}

/// From noise level `sigma` to `next` along the line from `x` to what is below its noise. All f32.
pub(crate) fn euler_step(sigma: f32, next: f32, denoised: &Tensor, x: &Tensor) -> Result<Tensor> {
    let slope = x.f_sub(denoised)?.f_div_scalar_(f64::from(sigma))?;
    Ok(slope.f_mul_scalar(f64::from(next - sigma))?.f_add_(x)?)
}

#[cfg(test)]
#[allow(
    clippy::excessive_precision,
    reason = "goldens as the reference prints them"
)]
mod tests {
    use super::*;

    const SVD: SchedulerConfig = SchedulerConfig {
        sigma_min: 0.002,
        sigma_max: 700.0,
        timestep_spacing: TimestepSpacing::Leading,
    };

    fn assert_close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            let error = (found - expected).abs();
            assert!(error <= 1e-6 * expected.abs(), "{found} is not {expected}");
        }
    }

    fn timesteps(sampler: &Sampler) -> Vec<f32> {
        (0..sampler.steps()).map(|i| sampler.timestep(i)).collect()
    }

    /// Goldens of diffusers 0.42.1.
    #[test]
    fn sigmas_and_timesteps_equal_the_reference() {
        let full = Sampler::new(&SVD, 25);
        #[rustfmt::skip]
        assert_close(full.sigmas(), &[
            700.0, 545.729_25, 421.569_12, 322.453_67, 244.023_07, 182.547_13, 134.854_45, 98.267_136, 70.540_84,
            49.809_79, 34.536_74, 23.467_512, 15.589_968, 10.097_13, 6.354_265_7, 3.869_697_3, 2.269_116_4,
            1.273_177_3, 0.678_146, 0.339_378_15, 0.157_404_65, 0.066_399_075, 0.024_802_58, 0.007_882_495, 0.002, 0.0,
        ]);
        let times = timesteps(&full);
        #[rustfmt::skip]
        assert_close(&times[..6], &[1.637_770_1, 1.575_530_8, 1.510_996, 1.443_989_9, 1.374_315_7, 1.301_752_1]);
        assert_close(&times[22..], &[-0.924_201_9, -1.210_777_6, -1.553_652_1]);
        assert_close(&[full.init_noise_sigma()], &[700.000_7]);

        let three = Sampler::new(&SVD, 3);
        assert_close(three.sigmas(), &[700.0, 15.589_968, 0.002, 0.0]);
        assert_close(
            &timesteps(&three),
            &[1.637_770_1, 0.686_656_9, -1.553_652_1],
        );
        assert_close(Sampler::new(&SVD, 2).sigmas(), &[700.0, 0.002, 0.0]);
        assert_close(Sampler::new(&SVD, 1).sigmas(), &[700.0, 0.0]);
    }

    #[test]
    fn first_noise_is_as_strong_as_the_spacing_says() {
        for (timestep_spacing, expected) in [
            (TimestepSpacing::Leading, 700.000_7),
            (TimestepSpacing::Linspace, 700.0),
            (TimestepSpacing::Trailing, 700.0),
        ] {
            let config = SchedulerConfig {
                timestep_spacing,
                ..SVD
            };
            assert_close(&[Sampler::new(&config, 4).init_noise_sigma()], &[expected]);
        }
    }

    #[test]
    fn last_step_arrives_at_the_models_guess() {
        // With v = 0 the guess is x / (sigma^2 + 1), and the last sigma is 0.
        let sampler = Sampler::from_sigmas(&SVD, vec![2.0, 0.0]);
        let x = Tensor::from_slice(&[5.0_f32, -10.0]);
        let out = sampler.step(0, &x.zeros_like(), &x).unwrap();
        assert_close(&Vec::try_from(&out).unwrap(), &[1.0, -2.0]);
    }
}
