use serde_json::{Value, json};

use super::super::fields::Fields;
use super::super::{Activation, ConfigError};

const CLASS: &str = "CLIPTextModel";
const MODEL_TYPE: &str = "clip_text_model";

/// The largest CLIP has 32 for texts.
const LAYERS_MAX: usize = 128;

/// `text_encoder/config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct TextEncoderConfig {
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Width of the text embeddings; the UNet's `cross_attention_dim`.
    pub hidden_size: usize,
    pub intermediate_size: usize,
    /// 12 for Stable Diffusion 1.x. Folders of 2.x say 23: the model was trained on the last but one of 24, and the last
    /// is not in the folder.
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Tokens of the longest text, 77.
    pub max_position_embeddings: usize,
    pub hidden_act: Activation,
    pub layer_norm_eps: f64,
}

impl TextEncoderConfig {
    pub const FILE: &str = "text_encoder/config.json";

    /// Reads the content of a `text_encoder/config.json`; `file` is how errors name it.
    pub fn from_json(file: &str, json: &Value) -> Result<Self, ConfigError> {
        let fields = Fields::new(file, json)?;
        fields.require_class("model_type", &[MODEL_TYPE])?;
        if let Some(classes) = fields.texts("architectures")?
            && !classes.contains(&CLASS)
        {
            let reason = format!("must name {CLASS} (got {classes:?})");
            return Err(fields.refuse("architectures", reason));
        }
        // Every published model attends to its padding.
        fields.require_flag("use_attention_mask", false, false)?;

        let config = Self {
            vocab_size: fields.size("vocab_size", 49_408)?,
            hidden_size: fields.size("hidden_size", 512)?,
            intermediate_size: fields.size("intermediate_size", 2048)?,
            num_hidden_layers: fields.size("num_hidden_layers", 12)?,
            num_attention_heads: fields.size("num_attention_heads", 8)?,
            max_position_embeddings: fields.size("max_position_embeddings", 77)?,
            hidden_act: Activation::from_fields(&fields)?,
            layer_norm_eps: fields.positive("layer_norm_eps", Some(1e-5))?,
        };
        fields.require_at_most("num_hidden_layers", &[config.num_hidden_layers], LAYERS_MAX)?;
        if !config
            .hidden_size
            .is_multiple_of(config.num_attention_heads)
        {
            let reason = format!("must divide hidden_size {}", config.hidden_size);
            return Err(fields.refuse("num_attention_heads", reason));
        }
        Ok(config)
    }

    /// The content of the file as transformers reads it.
    pub fn to_json(&self) -> Value {
        json!({
            "architectures": [CLASS],
            "model_type": MODEL_TYPE,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "max_position_embeddings": self.max_position_embeddings,
            "hidden_act": self.hidden_act.name(),
            "layer_norm_eps": self.layer_norm_eps,
        })
    }
}
