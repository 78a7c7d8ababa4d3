use serde_json::{Value, json};

use super::super::fields::Fields;
use super::super::{ConfigError, TimestepSpacing};

/// What is written: all classes read these fields alike.
const CLASS: &str = "DDIMScheduler";

/// How the noise grows from one training timestep to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BetaSchedule {
    /// Betas in equal steps.
    Linear,
    /// Square roots of betas in equal steps: all published models.
    ScaledLinear,
}

/// What the UNet was trained to say of noisy latents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prediction {
    /// The noise in them.
    Epsilon,
    /// Velocity, a mix of noise and picture: Stable Diffusion 2.x at 768 pixels.
    Velocity,
}

/// `scheduler/scheduler_config.json`: the noise that the model was trained with.
///
/// The sampler is the job's choice, so the file's class matters as little as in diffusers' `Scheduler.from_config`. Like
/// diffusers' pipeline, whatever `steps_offset` and `clip_sample` say, the first is 1 and nothing is clipped.
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseScheduleConfig {
    pub num_train_timesteps: usize,
    pub beta_start: f64,
    pub beta_end: f64,
    pub beta_schedule: BetaSchedule,
    pub prediction: Prediction,
    /// Whether the last step of DDIM ends at no noise at all, or at that of the first training timestep.
    pub set_alpha_to_one: bool,
    /// Where a job says nothing; `None` leaves it to the sampler.
    pub timestep_spacing: Option<TimestepSpacing>,
}

impl NoiseScheduleConfig {
    pub const FILE: &str = "scheduler/scheduler_config.json";

    /// Reads the content of a `scheduler_config.json`; `file` is how errors name it.
    pub fn from_json(file: &str, json: &Value) -> Result<Self, ConfigError> {
        let fields = Fields::new(file, json)?;
        fields.require_null("trained_betas")?;
        for field in ["sigma_min", "sigma_max"] {
            fields.require_null(field)?;
        }
        for (field, only) in [
            ("interpolation_type", "linear"),
            ("final_sigmas_type", "zero"),
            ("timestep_type", "discrete"),
        ] {
            fields.require_text(field, only, only)?;
        }
        for field in [
            "rescale_betas_zero_snr",
            "thresholding",
            "use_karras_sigmas",
            "use_exponential_sigmas",
            "use_beta_sigmas",
        ] {
            fields.require_flag(field, false, false)?;
        }

        let config = Self {
            num_train_timesteps: fields.size("num_train_timesteps", 1000)?,
            beta_start: fields.positive("beta_start", Some(0.0001))?,
            beta_end: fields.positive("beta_end", Some(0.02))?,
            beta_schedule: match fields.text("beta_schedule")?.unwrap_or("linear") {
                "linear" => BetaSchedule::Linear,
                "scaled_linear" => BetaSchedule::ScaledLinear,
                other => {
                    let reason =
                        format!("only linear and scaled_linear are supported (got {other:?})");
                    return Err(fields.refuse("beta_schedule", reason));
                }
            },
            prediction: match fields.text("prediction_type")?.unwrap_or("epsilon") {
                "epsilon" => Prediction::Epsilon,
                "v_prediction" => Prediction::Velocity,
                other => {
                    let reason =
                        format!("only epsilon and v_prediction are supported (got {other:?})");
                    return Err(fields.refuse("prediction_type", reason));
                }
            },
            set_alpha_to_one: fields.flag("set_alpha_to_one", true)?,
            timestep_spacing: TimestepSpacing::from_fields(&fields)?,
        };
        // A step of a schedule must exist, and noise must never be all there is: both would divide by zero.
        if config.num_train_timesteps < 2 {
            return Err(fields.refuse("num_train_timesteps", "must be at least 2"));
        }
        if config.beta_end >= 1.0 || config.beta_start > config.beta_end {
            let reason = format!(
                "must be under 1 and at least beta_start {} (got {})",
                config.beta_start, config.beta_end
            );
            return Err(fields.refuse("beta_end", reason));
        }
        Ok(config)
    }

    /// The content of the file as diffusers reads it.
    pub fn to_json(&self) -> Value {
        let mut json = json!({
            "_class_name": CLASS,
            "num_train_timesteps": self.num_train_timesteps,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "beta_schedule": match self.beta_schedule {
                BetaSchedule::Linear => "linear",
                BetaSchedule::ScaledLinear => "scaled_linear",
            },
            "prediction_type": match self.prediction {
                Prediction::Epsilon => "epsilon",
                Prediction::Velocity => "v_prediction",
            },
            "set_alpha_to_one": self.set_alpha_to_one,
            "steps_offset": 1,
            "clip_sample": false,
        });
        if let Some(spacing) = self.timestep_spacing {
            json["timestep_spacing"] = json!(spacing.name());
        }
        json
    }
}
