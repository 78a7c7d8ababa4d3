use serde_json::{Value, json};

use super::ConfigError;
use super::fields::Fields;
use super::unet::{LAYERS_MAX, LEVELS_MAX, NORM_GROUPS};

const CLASS: &str = "AutoencoderKLTemporalDecoder";
const DOWN_BLOCK: &str = "DownEncoderBlock2D";

/// `vae/config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct VaeConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    pub latent_channels: usize,
    /// From the finest level (pixels) to the coarsest (latents).
    pub block_out_channels: Vec<usize>,
    /// Resnets of an encoder block; a decoder block has one more, and the decoder's middle has this many.
    pub layers_per_block: usize,
    pub sample_size: usize,
    /// Latents are divided by this before decoding. Encoded image latents are not multiplied by it.
    pub scaling_factor: f64,
    /// Whether an fp16 VAE encodes in fp32.
    pub force_upcast: bool,
}

impl VaeConfig {
    pub const FILE: &str = "vae/config.json";

    /// Reads the content of a `vae/config.json`; `file` is how errors name it.
    pub fn from_json(file: &str, json: &Value) -> Result<Self, ConfigError> {
        let fields = Fields::new(file, json)?;
        fields.require_class("_class_name", &[CLASS])?;

        let block_out_channels = fields.sizes("block_out_channels", &[64])?;
        let levels = block_out_channels.len();
        if levels > LEVELS_MAX {
            let reason = format!("at most {LEVELS_MAX} levels are supported");
            return Err(fields.refuse("block_out_channels", reason));
        }
        let layers_per_block = fields.size("layers_per_block", 1)?;
        fields.require_at_most("layers_per_block", &[layers_per_block], LAYERS_MAX)?;
        if let Some(odd) = block_out_channels
            .iter()
            .find(|channels| !channels.is_multiple_of(NORM_GROUPS))
        {
            let reason = format!("must be multiples of {NORM_GROUPS} (got {odd})");
            return Err(fields.refuse("block_out_channels", reason));
        }
        require_blocks(&fields, "down_block_types", DOWN_BLOCK, levels)?;

        Ok(Self {
            in_channels: rgb(&fields, "in_channels")?,
            out_channels: rgb(&fields, "out_channels")?,
            latent_channels: fields.size("latent_channels", 4)?,
            block_out_channels,
            layers_per_block,
            sample_size: fields.square("sample_size", 32)?,
            scaling_factor: fields.positive("scaling_factor", Some(0.18215))?,
            force_upcast: fields.flag("force_upcast", true)?,
        })
    }

    /// The content of the file as diffusers reads it.
    pub fn to_json(&self) -> Value {
        json!({
            "_class_name": CLASS,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "latent_channels": self.latent_channels,
            "block_out_channels": self.block_out_channels,
            "down_block_types": vec![DOWN_BLOCK; self.block_out_channels.len()],
            "layers_per_block": self.layers_per_block,
            "sample_size": self.sample_size,
            "scaling_factor": self.scaling_factor,
            "force_upcast": self.force_upcast,
        })
    }
}

/// Refuses blocks of another class, and another number of them than there are levels. One is the reference's default.
pub(super) fn require_blocks(
    fields: &Fields<'_>,
    field: &str,
    class: &str,
    levels: usize,
) -> Result<(), ConfigError> {
    let blocks = fields.texts(field)?.unwrap_or_else(|| vec![class]);
    if let Some(other) = blocks.iter().find(|name| **name != class) {
        return Err(fields.refuse(field, format!("only {class} is supported (got {other:?})")));
    }
    if blocks.len() != levels {
        let reason = format!("must name one block for each of the {levels} levels");
        return Err(fields.refuse(field, reason));
    }
    Ok(())
}

/// A picture and a frame have three channels.
pub(super) fn rgb(fields: &Fields<'_>, field: &str) -> Result<usize, ConfigError> {
    match fields.size(field, 3)? {
        3 => Ok(3),
        channels => Err(fields.refuse(field, format!("only 3 is supported (got {channels})"))),
    }
}
