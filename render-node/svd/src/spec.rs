//! What one job asks for: every number that decides what the clip looks like.

use flowai_model::config::ModelConfig;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::device::Dtype;

/// A job whose numbers were checked against the model.
///
/// Two jobs with equal specs, pictures, models and adapters give equal clips on one device class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// Pixels, a multiple of 8 and of the VAE's factor.
    pub height: u32,
    /// Pixels, a multiple of 8 and of the VAE's factor.
    pub width: u32,
    /// Length of the clip, 1..=128.
    pub frames: u32,
    /// Denoising steps, 1..=1000.
    pub steps: u32,
    /// Frames a second that the model is told, 1..=60. It sees `fps - 1`.
    pub fps: u32,
    /// How much motion the model is told, 0..=1023; it was trained with up to 255.
    pub motion_bucket_id: u32,
    /// Strength of the noise added to the conditioning picture, 0..=10.
    pub noise_aug_strength: f64,
    /// Guidance of the first frame, 0..=30.
    pub min_guidance_scale: f64,
    /// Guidance of the last frame, 0..=30. Without guidance at all when it is 1 or less.
    pub max_guidance_scale: f64,
    /// Frames that are decoded together, 1..=128. It changes the picture: frames of a chunk see each other.
    pub decode_chunk_size: u32,
    pub seed: u64,
}

/// A spec that cannot be honoured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("spec: {field} {reason}")]
pub struct SpecError {
    pub field: String,
    pub reason: String,
}

impl SpecError {
    pub(crate) fn new(field: &str, reason: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            reason: reason.into(),
        }
    }
}

impl Spec {
    /// Whether the model runs twice a step, with and without the picture.
    pub fn has_guidance(&self) -> bool {
        self.max_guidance_scale > 1.0
    }

    /// Reads a job from a JSON object. Absent fields take the pipeline's defaults or the model's own sizes.
    ///
    /// Errors name the field: unknown, of another type, out of range, or not a multiple of what the model needs.
    pub fn from_json(json: &Map<String, Value>, model: &ModelConfig) -> Result<Self, SpecError> {
        let mut fields = Fields::new(json);
        let spec = Self::take(&mut fields, model)?;
        fields.finish()?;
        spec.check(model)?;
        Ok(spec)
    }

    fn take(fields: &mut Fields, model: &ModelConfig) -> Result<Self, SpecError> {
        let sample = model.unet.sample_size;
        let side = sample.and_then(|size| u32::try_from(size * model.vae_scale_factor()).ok());
        let side = |field: &str, given: Option<u32>| {
            given.or(side).ok_or_else(|| {
                SpecError::new(field, "must be given; the model has no size of its own")
            })
        };
        let frames = fields.take("frames")?;
        let frames = frames.unwrap_or(u32::try_from(model.unet.num_frames).unwrap_or(u32::MAX));
        Ok(Self {
            height: side("height", fields.take("height")?)?,
            width: side("width", fields.take("width")?)?,
            frames,
            steps: fields.take("steps")?.unwrap_or(25),
            fps: fields.take("fps")?.unwrap_or(7),
            motion_bucket_id: fields.take("motion_bucket_id")?.unwrap_or(127),
            noise_aug_strength: fields.take("noise_aug_strength")?.unwrap_or(0.02),
            min_guidance_scale: fields.take("min_guidance_scale")?.unwrap_or(1.0),
            max_guidance_scale: fields.take("max_guidance_scale")?.unwrap_or(3.0),
            decode_chunk_size: fields.take("decode_chunk_size")?.unwrap_or(frames),
            seed: fields.take("seed")?.unwrap_or(0),
        })
    }

    /// Whether every number is in range for the model.
    pub fn check(&self, model: &ModelConfig) -> Result<(), SpecError> {
        let multiple = u32::try_from(model.vae_scale_factor())
            .unwrap_or(u32::MAX)
            .max(8);
        for (field, size) in [("height", self.height), ("width", self.width)] {
            in_range(field, size, multiple, 4096)?;
            if !size.is_multiple_of(multiple) {
                let reason = format!("must be a multiple of {multiple} (got {size})");
                return Err(SpecError::new(field, reason));
            }
        }
        in_range("frames", self.frames, 1, 128)?;
        in_range("steps", self.steps, 1, 1000)?;
        in_range("fps", self.fps, 1, 60)?;
        in_range("motion_bucket_id", self.motion_bucket_id, 0, 1023)?;
        in_range("noise_aug_strength", self.noise_aug_strength, 0.0, 10.0)?;
        in_range("min_guidance_scale", self.min_guidance_scale, 0.0, 30.0)?;
        in_range("max_guidance_scale", self.max_guidance_scale, 0.0, 30.0)?;
        in_range("decode_chunk_size", self.decode_chunk_size, 1, 128)
    }

    /// Names of the fields in which two specs differ.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let object = |spec: &Self| match serde_json::to_value(spec) {
            Ok(Value::Object(fields)) => fields,
            _ => Map::new(),
        };
        let (ours, theirs) = (object(self), object(other));
        ours.into_iter()
            .filter(|(name, value)| theirs.get(name) != Some(value))
            .map(|(name, _)| name)
            .collect()
    }
}

pub(crate) fn in_range<T>(field: &str, value: T, min: T, max: T) -> Result<(), SpecError>
where
    T: PartialOrd + std::fmt::Display,
{
    if value >= min && value <= max {
        return Ok(());
    }
    let reason = format!("must be {min}..={max} (got {value})");
    Err(SpecError::new(field, reason))
}

/// The fields of a JSON object, taken one by one so that errors can name them.
#[derive(Debug)]
pub struct Fields {
    left: Map<String, Value>,
}

impl Fields {
    pub fn new(json: &Map<String, Value>) -> Self {
        Self { left: json.clone() }
    }

    /// The value of a field, or `None` when it is absent or null.
    ///
    /// Errors: a value of another type.
    pub fn take<T: FieldValue>(&mut self, field: &str) -> Result<Option<T>, SpecError> {
        let Some(value) = self.left.remove(field).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        match T::deserialize(&value) {
            Ok(value) => Ok(Some(value)),
            Err(_) => {
                let reason = format!("must be {} (got {})", T::IS, shown(&value));
                Err(SpecError::new(field, reason))
            }
        }
    }

    /// The fields nobody took yet.
    pub fn rest(self) -> Map<String, Value> {
        self.left
    }

    /// Errors: a field that nobody took.
    pub fn finish(self) -> Result<(), SpecError> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(field) => Err(SpecError::new(field, "is no field of a spec")),
        }
    }
}

/// What a field of a spec can hold, and how to say that in an error.
pub trait FieldValue: DeserializeOwned {
    const IS: &str;
}

impl FieldValue for u32 {
    const IS: &str = "a whole number from 0 to 4294967295";
}

impl FieldValue for u64 {
    const IS: &str = "a whole number from 0 to 18446744073709551615";
}

impl FieldValue for usize {
    const IS: &str = "a whole number, 0 or more";
}

impl FieldValue for f64 {
    const IS: &str = "a number";
}

impl FieldValue for String {
    const IS: &str = "text";
}

impl FieldValue for Dtype {
    const IS: &str = "fp32, bf16 or fp16";
}

/// A value of another type in an error's text, which stays short whatever the value.
fn shown(value: &Value) -> String {
    const LENGTH_MAX: usize = 40;
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => format!("{:?}", text.chars().take(LENGTH_MAX).collect::<String>()),
        plain => plain.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use flowai_model::Preset;
    use serde_json::json;

    use super::*;

    fn read(json: Value) -> Result<Spec, SpecError> {
        let fields = json.as_object().cloned().unwrap_or_default();
        Spec::from_json(&fields, &Preset::Tiny.config())
    }

    #[test]
    fn absent_fields_are_the_pipelines_defaults() {
        let spec = read(json!({})).unwrap();
        assert_eq!((spec.height, spec.width), (64, 64));
        assert_eq!(
            (spec.frames, spec.decode_chunk_size, spec.steps),
            (25, 25, 25)
        );
        assert_eq!((spec.fps, spec.motion_bucket_id), (7, 127));
        assert_eq!(spec.noise_aug_strength, 0.02);
        assert_eq!(
            (spec.min_guidance_scale, spec.max_guidance_scale),
            (1.0, 3.0)
        );
    }

    #[test]
    fn wrong_fields_are_refused_by_name() {
        let check = |json: Value, field: &str, reason: &str| {
            let error = read(json).unwrap_err();
            assert_eq!(error.field, field);
            assert!(error.reason.contains(reason), "{error}");
        };
        check(json!({"hight": 64}), "hight", "no field");
        check(json!({"height": "64"}), "height", "(got \"64\")");
        check(json!({"height": [64]}), "height", "(got a list)");
        check(json!({"height": 60}), "height", "multiple of 8 (got 60)");
        check(json!({"width": 8192}), "width", "8..=4096 (got 8192)");
        check(json!({"frames": 0}), "frames", "1..=128 (got 0)");
        check(json!({"frames": -1}), "frames", "whole number from 0 to");
        check(json!({"steps": 1001}), "steps", "1..=1000");
        check(json!({"fps": 61}), "fps", "1..=60");
        check(
            json!({"motion_bucket_id": 1024}),
            "motion_bucket_id",
            "0..=1023",
        );
        check(
            json!({"noise_aug_strength": -0.1}),
            "noise_aug_strength",
            "0..=10",
        );
        check(
            json!({"max_guidance_scale": 31}),
            "max_guidance_scale",
            "0..=30",
        );
        check(
            json!({"decode_chunk_size": 0}),
            "decode_chunk_size",
            "1..=128",
        );
        check(json!({"seed": 1.5}), "seed", "(got 1.5)");
    }

    #[test]
    fn differences_are_named() {
        let spec = read(json!({})).unwrap();
        let other = Spec {
            seed: 9,
            decode_chunk_size: 2,
            ..spec.clone()
        };
        assert_eq!(spec.differences(&other), ["decode_chunk_size", "seed"]);
        assert!(spec.differences(&spec).is_empty());
    }
}
