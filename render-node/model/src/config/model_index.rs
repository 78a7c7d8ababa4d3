use std::path::Path;

use serde_json::{Value, json};

use super::ConfigError;
use super::fields::{self, Fields};
use super::stable_diffusion;

const CLASS: &str = "StableVideoDiffusionPipeline";

/// (component, library, classes that the engine implements; the first is what is written).
pub(super) type Components = [(&'static str, &'static str, &'static [&'static str])];

const COMPONENTS: &Components = &[
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
        check_index(&Fields::new(file, json)?, CLASS, COMPONENTS)?;
        Ok(Self)
    }

    /// The content of the file as diffusers reads it.
    pub fn to_json() -> Value {
        index_json(CLASS, COMPONENTS)
    }
}

/// What a folder is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pipeline {
    /// Clips from pictures.
    StableVideoDiffusion,
    /// Pictures from prompts.
    StableDiffusion,
}

impl Pipeline {
    /// As the folder's `model_index.json` says.
    ///
    /// Errors: a file that is missing, too long or not in its format; another pipeline.
    pub fn read(dir: &Path) -> Result<Self, ConfigError> {
        let index = fields::read_json(dir, ModelIndex::FILE)?;
        let fields = Fields::new(ModelIndex::FILE, &index)?;
        match fields.text("_class_name")? {
            Some(CLASS) => Ok(Self::StableVideoDiffusion),
            Some(stable_diffusion::CLASS) => Ok(Self::StableDiffusion),
            other => {
                let [video, keyframe] = [CLASS, stable_diffusion::CLASS];
                let other = other.unwrap_or_default();
                let reason = format!("must be {video:?} or {keyframe:?} (got {other:?})");
                Err(fields.refuse("_class_name", reason))
            }
        }
    }
}

/// Refuses another pipeline than `class`, and components of other classes than these. Further components are ignored.
pub(super) fn check_index(
    fields: &Fields<'_>,
    class: &str,
    components: &Components,
) -> Result<(), ConfigError> {
    fields.require_text("_class_name", class, "")?;
    for (component, _, classes) in components {
        match fields.texts(component)?.as_deref() {
            Some([_library, class]) if classes.contains(class) => {}
            Some(other) => {
                return Err(fields.refuse(
                    component,
                    format!("only {} is supported (got {other:?})", classes.join(" or ")),
                ));
            }
            None => {
                return Err(fields.refuse(component, format!("must be given: {}", classes[0])));
            }
        }
    }
    Ok(())
}

pub(super) fn index_json(class: &str, components: &Components) -> Value {
    let mut index = json!({ "_class_name": class });
    for (component, library, classes) in components {
        index[component] = json!([library, classes[0]]);
    }
    index
}
