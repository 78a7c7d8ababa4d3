use serde_json::{Value, json};

use super::ConfigError;
use super::fields::Fields;

/// The names that transformers has given its CLIP processor over time; all mean the same arithmetic here.
const CLASSES: [&str; 4] = [
    "CLIPImageProcessor",
    "CLIPFeatureExtractor",
    "CLIPImageProcessorFast",
    "CLIPImageProcessorPil",
];

/// `feature_extractor/preprocessor_config.json`.
///
/// The pipeline resizes by itself and asks the processor only to normalise, so nothing else of the file matters.
#[derive(Debug, Clone, PartialEq)]
pub struct PreprocessorConfig {
    /// Red, green, blue; subtracted from a picture in 0..1.
    pub image_mean: [f64; 3],
    /// Red, green, blue; divides after the mean was subtracted.
    pub image_std: [f64; 3],
}

impl PreprocessorConfig {
    pub const FILE: &str = "feature_extractor/preprocessor_config.json";

    /// CLIP's own statistics, which transformers takes when the fields are absent.
    pub const CLIP: Self = Self {
        image_mean: [0.48145466, 0.4578275, 0.40821073],
        image_std: [0.26862954, 0.26130258, 0.27577711],
    };

    /// Reads the content of a `preprocessor_config.json`; `file` is how errors name it.
    pub fn from_json(file: &str, json: &Value) -> Result<Self, ConfigError> {
        let fields = Fields::new(file, json)?;
        fields.require_class("image_processor_type", &CLASSES)?;
        fields.require_class("feature_extractor_type", &CLASSES)?;
        let config = Self {
            image_mean: fields.rgb("image_mean", Self::CLIP.image_mean)?,
            image_std: fields.rgb("image_std", Self::CLIP.image_std)?,
        };
        if config.image_std.iter().any(|std| *std <= 0.0) {
            return Err(fields.refuse("image_std", "must be over 0"));
        }
        Ok(config)
    }

    /// The content of the file as transformers reads it, for pictures of `image_size` pixels a side.
    pub fn to_json(&self, image_size: usize) -> Value {
        json!({
            "image_processor_type": CLASSES[0],
            "image_mean": self.image_mean,
            "image_std": self.image_std,
            "do_convert_rgb": true,
            "do_resize": true,
            "size": { "shortest_edge": image_size },
            "resample": 3,
            "do_center_crop": true,
            "crop_size": { "height": image_size, "width": image_size },
            "do_rescale": true,
            "rescale_factor": 1.0 / 255.0,
            "do_normalize": true,
        })
    }
}
