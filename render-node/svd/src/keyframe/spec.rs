//! What one keyframe job asks for beside its words.

use flowai_model::config::TimestepSpacing;
use flowai_model::config::stable_diffusion::StableDiffusionConfig;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::sampler::steps_max;
use crate::spec::{FieldValue, Fields, SpecError, in_range};

/// Above it the picture falls apart, and memory and time grow with the square of the area.
const SIDE_MAX: u32 = 2048;

/// A job whose numbers were checked against the model.
///
/// Two jobs with equal specs, prompts, models and adapters give equal pictures on one device class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyframeSpec {
    /// Pixels, a multiple of 8 and of the VAE's factor, up to 2048. Best near the area that the model was trained at.
    pub height: u32,
    /// Pixels, as `height`.
    pub width: u32,
    /// Denoising steps, 1..=1000; at most as many as the model has timesteps, less one with the spacing `leading`.
    pub steps: u32,
    pub sampler: SamplerKind,
    pub timestep_spacing: TimestepSpacing,
    /// How much more than the negative prompt the picture shows of the prompt, 0..=30. Without guidance at 1 or less.
    pub guidance_scale: f64,
    /// Of the first noise. A clip made of the picture has its own.
    pub seed: u64,
}

/// How to go from one noise level to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplerKind {
    /// Without its random part (eta 0).
    Ddim,
    Euler,
}

impl SamplerKind {
    /// The folder's, or what diffusers takes where it says nothing.
    pub fn spacing(self, model: &StableDiffusionConfig) -> TimestepSpacing {
        let own = match self {
            Self::Ddim => TimestepSpacing::Leading,
            Self::Euler => TimestepSpacing::Linspace,
        };
        model.noise_schedule.timestep_spacing.unwrap_or(own)
    }
}

impl FieldValue for SamplerKind {
    const IS: &str = "ddim or euler";
}

impl FieldValue for TimestepSpacing {
    const IS: &str = "linspace, leading or trailing";
}

impl KeyframeSpec {
    /// Whether the model runs twice a step, with the prompt and with the negative one.
    pub fn has_guidance(&self) -> bool {
        self.guidance_scale > 1.0
    }

    /// Reads a job from a JSON object. Absent fields take the pipeline's defaults or the model's own sizes.
    ///
    /// Errors name the field: unknown, of another type, out of range, or not a multiple of what the model needs.
    pub fn from_json(
        json: &Map<String, Value>,
        model: &StableDiffusionConfig,
    ) -> Result<Self, SpecError> {
        let mut fields = Fields::new(json);
        let spec = Self::take(&mut fields, model)?;
        fields.finish()?;
        spec.check(model)?;
        Ok(spec)
    }

    fn take(fields: &mut Fields, model: &StableDiffusionConfig) -> Result<Self, SpecError> {
        let sample = model.unet.sample_size;
        let side = sample.and_then(|size| u32::try_from(size * model.vae_scale_factor()).ok());
        let side = |field: &str, given: Option<u32>| {
            given.or(side).ok_or_else(|| {
                SpecError::new(field, "must be given; the model has no size of its own")
            })
        };
        let sampler = fields.take("sampler")?.unwrap_or(SamplerKind::Ddim);
        let spacing = fields.take("timestep_spacing")?;
        Ok(Self {
            height: side("height", fields.take("height")?)?,
            width: side("width", fields.take("width")?)?,
            steps: fields.take("steps")?.unwrap_or(50),
            sampler,
            timestep_spacing: spacing.unwrap_or(sampler.spacing(model)),
            guidance_scale: fields.take("guidance_scale")?.unwrap_or(7.5),
            seed: fields.take("seed")?.unwrap_or(0),
        })
    }

    /// Whether every number is in range for the model.
    pub fn check(&self, model: &StableDiffusionConfig) -> Result<(), SpecError> {
        let multiple = u32::try_from(model.vae_scale_factor())
            .unwrap_or(u32::MAX)
            .max(8);
        for (field, size) in [("height", self.height), ("width", self.width)] {
            in_range(field, size, multiple, SIDE_MAX)?;
            if !size.is_multiple_of(multiple) {
                let reason = format!("must be a multiple of {multiple} (got {size})");
                return Err(SpecError::new(field, reason));
            }
        }
        let steps = steps_max(&model.noise_schedule, self.timestep_spacing);
        in_range("steps", self.steps as usize, 1, steps.min(1000))?;
        in_range("guidance_scale", self.guidance_scale, 0.0, 30.0)
    }
}

#[cfg(test)]
mod tests {
    use flowai_model::KeyframePreset;
    use serde_json::json;

    use super::*;

    fn read(json: Value) -> Result<KeyframeSpec, SpecError> {
        let fields = json.as_object().cloned().unwrap_or_default();
        KeyframeSpec::from_json(&fields, &KeyframePreset::Tiny.config())
    }

    #[test]
    fn absent_fields_are_the_pipelines_defaults() {
        let spec = read(json!({})).unwrap();
        assert_eq!((spec.height, spec.width), (64, 64));
        assert_eq!((spec.steps, spec.guidance_scale), (50, 7.5));
        assert_eq!(spec.sampler, SamplerKind::Ddim);
        assert_eq!(spec.timestep_spacing, TimestepSpacing::Leading);
        let euler = read(json!({ "sampler": "euler" })).unwrap();
        assert_eq!(euler.timestep_spacing, TimestepSpacing::Linspace);

        let mut model = KeyframePreset::Tiny.config();
        model.noise_schedule.timestep_spacing = Some(TimestepSpacing::Trailing);
        let spec = KeyframeSpec::from_json(&Map::new(), &model).unwrap();
        assert_eq!(spec.timestep_spacing, TimestepSpacing::Trailing);
    }

    #[test]
    fn wrong_fields_are_refused_by_name() {
        let check = |json: Value, field: &str, reason: &str| {
            let error = read(json).unwrap_err();
            assert_eq!(error.field, field);
            assert!(error.reason.contains(reason), "{error}");
        };
        check(json!({"frames": 5}), "frames", "no field");
        check(json!({"height": 60}), "height", "multiple of 8 (got 60)");
        check(json!({"width": 2056}), "width", "8..=2048 (got 2056)");
        check(json!({"steps": 0}), "steps", "1..=999 (got 0)");
        check(json!({"steps": 1000}), "steps", "1..=999 (got 1000)");
        let linspace = json!({"steps": 1001, "timestep_spacing": "linspace"});
        check(linspace, "steps", "1..=1000 (got 1001)");
        check(json!({"sampler": "pndm"}), "sampler", "ddim or euler");
        let spacing = json!({"timestep_spacing": "karras"});
        check(spacing, "timestep_spacing", "linspace, leading or trailing");
        check(json!({"guidance_scale": 31}), "guidance_scale", "0..=30");
        check(json!({"seed": -1}), "seed", "whole number");
    }
}
