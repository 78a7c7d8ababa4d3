use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ConfigError;
use super::fields::Fields;

const CLASS: &str = "EulerDiscreteScheduler";

/// Where the timesteps lie. With Karras sigmas it decides only how strong the first noise is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    Linspace,
    Leading,
    Trailing,
}

impl TimestepSpacing {
    const ALL: [Self; 3] = [Self::Linspace, Self::Leading, Self::Trailing];

    /// Reads the field `timestep_spacing`; `None` when it is absent.
    pub(super) fn from_fields(fields: &Fields<'_>) -> Result<Option<Self>, ConfigError> {
        let Some(name) = fields.text("timestep_spacing")? else {
            return Ok(None);
        };
        let spacing = Self::ALL.into_iter().find(|spacing| spacing.name() == name);
        spacing.map(Some).ok_or_else(|| {
            let reason =
                format!("only linspace, leading and trailing are supported (got {name:?})");
            fields.refuse("timestep_spacing", reason)
        })
    }

    /// As diffusers writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linspace => "linspace",
            Self::Leading => "leading",
            Self::Trailing => "trailing",
        }
    }
}

/// `scheduler/scheduler_config.json`: Euler steps over Karras sigmas, v-prediction, continuous time.
///
/// The betas of the file are not kept: with `sigma_min`, `sigma_max` and Karras sigmas given they change nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerConfig {
    pub sigma_min: f64,
    pub sigma_max: f64,
    pub timestep_spacing: TimestepSpacing,
}

impl SchedulerConfig {
    pub const FILE: &str = "scheduler/scheduler_config.json";

    /// Reads the content of a `scheduler_config.json`; `file` is how errors name it.
    pub fn from_json(file: &str, json: &Value) -> Result<Self, ConfigError> {
        let fields = Fields::new(file, json)?;
        fields.require_class("_class_name", &[CLASS])?;
        fields.require_text("prediction_type", "v_prediction", "epsilon")?;
        fields.require_text("timestep_type", "continuous", "discrete")?;
        fields.require_text("interpolation_type", "linear", "linear")?;
        fields.require_text("final_sigmas_type", "zero", "zero")?;
        fields.require_flag("use_karras_sigmas", true, false)?;
        fields.require_flag("use_exponential_sigmas", false, false)?;
        fields.require_flag("use_beta_sigmas", false, false)?;
        fields.require_flag("rescale_betas_zero_snr", false, false)?;

        let config = Self {
            sigma_min: fields.positive("sigma_min", None)?,
            sigma_max: fields.positive("sigma_max", None)?,
            timestep_spacing: TimestepSpacing::from_fields(&fields)?
                .unwrap_or(TimestepSpacing::Linspace),
        };
        if config.sigma_min >= config.sigma_max {
            return Err(fields.refuse(
                "sigma_min",
                format!("must be under sigma_max {}", config.sigma_max),
            ));
        }
        Ok(config)
    }

    /// The content of the file as diffusers reads it, with SVD's betas.
    pub fn to_json(&self) -> Value {
        json!({
            "_class_name": CLASS,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "trained_betas": null,
            "num_train_timesteps": 1000,
            "interpolation_type": "linear",
            "prediction_type": "v_prediction",
            "sigma_min": self.sigma_min,
            "sigma_max": self.sigma_max,
            "steps_offset": 1,
            "timestep_spacing": self.timestep_spacing.name(),
            "timestep_type": "continuous",
            "use_karras_sigmas": true,
        })
    }
}
