use serde_json::{Value, json};

use super::ConfigError;
use super::fields::Fields;

const CLASS: &str = "CLIPVisionModelWithProjection";
const MODEL_TYPE: &str = "clip_vision_model";

/// The largest CLIP has 48.
const LAYERS_MAX: usize = 128;

/// The activation of the encoder's MLPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`: what CLIP was first trained with, and what transformers assumes when the field is absent.
    QuickGelu,
    /// Exact, by the error function.
    Gelu,
}

impl Activation {
    /// Reads the field `hidden_act`.
    pub(super) fn from_fields(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        match fields.text("hidden_act")?.unwrap_or("quick_gelu") {
            "quick_gelu" => Ok(Self::QuickGelu),
            "gelu" => Ok(Self::Gelu),
            other => {
                let reason =
                    format!("only \"gelu\" and \"quick_gelu\" are supported (got {other:?})");
                Err(fields.refuse("hidden_act", reason))
            }
        }
    }

    /// As transformers writes it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::QuickGelu => "quick_gelu",
            Self::Gelu => "gelu",
        }
    }
}

/// `image_encoder/config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageEncoderConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    /// Width of the image embedding; the UNet's `cross_attention_dim`.
    pub projection_dim: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_channels: usize,
    /// Side of the square picture, pixels.
    pub image_size: usize,
    /// Side of a square patch, pixels.
    pub patch_size: usize,
    pub hidden_act: Activation,
    pub layer_norm_eps: f64,
}

impl ImageEncoderConfig {
    pub const FILE: &str = "image_encoder/config.json";

    /// Patches of a picture plus the class token: 257 for ViT-H/14.
    pub fn tokens(&self) -> usize {
        (self.image_size / self.patch_size).pow(2) + 1
    }

    /// Reads the content of an `image_encoder/config.json`; `file` is how errors name it.
    pub fn from_json(file: &str, json: &Value) -> Result<Self, ConfigError> {
        let fields = Fields::new(file, json)?;
        fields.require_class("model_type", &[MODEL_TYPE])?;
        if let Some(classes) = fields.texts("architectures")?
            && !classes.contains(&CLASS)
        {
            return Err(fields.refuse(
                "architectures",
                format!("must name {CLASS} (got {classes:?})"),
            ));
        }

        let config = Self {
            hidden_size: fields.size("hidden_size", 768)?,
            intermediate_size: fields.size("intermediate_size", 3072)?,
            projection_dim: fields.size("projection_dim", 512)?,
            num_hidden_layers: fields.size("num_hidden_layers", 12)?,
            num_attention_heads: fields.size("num_attention_heads", 12)?,
            num_channels: fields.size("num_channels", 3)?,
            image_size: fields.square("image_size", 224)?,
            patch_size: fields.square("patch_size", 32)?,
            hidden_act: Activation::from_fields(&fields)?,
            layer_norm_eps: fields.positive("layer_norm_eps", Some(1e-5))?,
        };

        fields.require_at_most("num_hidden_layers", &[config.num_hidden_layers], LAYERS_MAX)?;
        if config.num_channels != 3 {
            return Err(fields.refuse(
                "num_channels",
                format!("only 3 is supported (got {})", config.num_channels),
            ));
        }
        if !config
            .hidden_size
            .is_multiple_of(config.num_attention_heads)
        {
            let reason = format!("must divide hidden_size {}", config.hidden_size);
            return Err(fields.refuse("num_attention_heads", reason));
        }
        if config.patch_size > config.image_size {
            return Err(fields.refuse(
                "patch_size",
                format!("must fit into image_size {}", config.image_size),
            ));
        }
        Ok(config)
    }

    /// The content of the file as transformers reads it.
    pub fn to_json(&self) -> Value {
        json!({
            "architectures": [CLASS],
            "model_type": MODEL_TYPE,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "projection_dim": self.projection_dim,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_channels": self.num_channels,
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "hidden_act": self.hidden_act.name(),
            "layer_norm_eps": self.layer_norm_eps,
        })
    }
}
