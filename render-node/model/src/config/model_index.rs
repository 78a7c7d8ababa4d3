use serde_json::{Value, json};

use super::ConfigError;
use super::fields::Fields;

const CLASS: &str = "StableVideoDiffusionPipeline";

/// (component, library, classes that the engine implements; the first is what is written).
const COMPONENTS: [(&str, &str, &[&str]); 5] = [
    ("unet", "diffusers", &["UNetSpatioTemporalConditionModel"]),
    ("vae", "diffusers", &["AutoencoderKLTemporalDecoder"]),
    ("scheduler", "diffusers", &["EulerDiscreteScheduler"]),
    (
        "image_encoder",
        "transformers",
        &["CLIPVisionModelWithProjection"],
    ),
    (
        "feature_extractor",
        "transformers",
        &[
            "CLIPImageProcessor",
            "CLIPFeatureExtractor",
            "CLIPImageProcessorFast",
            "CLIPImageProcessorPil",
        ],
    ),
];

/// `model_index.json`: which classes a folder is made of. Only the one set that the engine implements is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelIndex;

impl ModelIndex {
    pub const FILE: &str = "model_index.json";

    /// Checks the content of a `model_index.json`; `file` is how errors name it.
    pub fn from_json(file: &str, json: &Value) -> Result<Self, ConfigError> {
        let fields = Fields::new(file, json)?;
        fields.require_text("_class_name", CLASS, "")?;
        for (component, _, classes) in COMPONENTS {
            match fields.texts(component)?.as_deref() {
                Some([_library, class]) if classes.contains(class) => {}
                Some(other) => {
                    return Err(fields.refuse(
                        component,
                        format!("only {} is supported (got {other:?})", classes[0]),
                    ));
                }
                None => {
                    return Err(fields.refuse(component, format!("must be given: {}", classes[0])));
                }
            }
        }
        Ok(Self)
    }

    /// The content of the file as diffusers reads it.
    pub fn to_json() -> Value {
        let mut index = json!({ "_class_name": CLASS });
        for (component, library, classes) in COMPONENTS {
            index[component] = json!([library, classes[0]]);
        }
        index
    }
}
