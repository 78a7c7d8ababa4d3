use serde_json::{Value, json};

use super::super::ConfigError;
use super::super::fields::Fields;
use super::super::unet::{LAYERS_MAX, LEVELS_MAX};
use super::super::vae::{require_blocks, rgb};

const CLASS: &str = "AutoencoderKL";
const DOWN_BLOCK: &str = "DownEncoderBlock2D";
const UP_BLOCK: &str = "UpDecoderBlock2D";

/// `vae/config.json` of Stable Diffusion.
#[derive(Debug, Clone, PartialEq)]
pub struct AutoencoderConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    pub latent_channels: usize,
    /// From the finest level (pixels) to the coarsest (latents).
    pub block_out_channels: Vec<usize>,
    /// Resnets of an encoder block; a decoder block has one more.
    pub layers_per_block: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    pub sample_size: usize,
    /// Latents are divided by this before decoding.
    pub scaling_factor: f64,
}

impl AutoencoderConfig {
    pub const FILE: &str = "vae/config.json";

    /// Reads the content of a `vae/config.json`; `file` is how errors name it.
    pub fn from_json(file: &str, json: &Value) -> Result<Self, ConfigError> {
        let fields = Fields::new(file, json)?;
        fields.require_class("_class_name", &[CLASS])?;
        fields.require_text("act_fn", "silu", "silu")?;
        for field in ["shift_factor", "latents_mean", "latents_std"] {
            fields.require_null(field)?;
        }
        for field in [
            "use_quant_conv",
            "use_post_quant_conv",
            "mid_block_add_attention",
        ] {
            fields.require_flag(field, true, true)?;
        }

        let block_out_channels = fields.sizes("block_out_channels", &[64])?;
        let levels = block_out_channels.len();
        if levels > LEVELS_MAX {
            let reason = format!("at most {LEVELS_MAX} levels are supported");
            return Err(fields.refuse("block_out_channels", reason));
        }
        let groups = fields.size("norm_num_groups", 32)?;
        if let Some(odd) = block_out_channels
            .iter()
            .find(|channels| !channels.is_multiple_of(groups))
        {
            let reason = format!("must be multiples of norm_num_groups {groups} (got {odd})");
            return Err(fields.refuse("block_out_channels", reason));
        }
        let layers_per_block = fields.size("layers_per_block", 1)?;
        fields.require_at_most("layers_per_block", &[layers_per_block], LAYERS_MAX)?;
        require_blocks(&fields, "down_block_types", DOWN_BLOCK, levels)?;
        require_blocks(&fields, "up_block_types", UP_BLOCK, levels)?;

        Ok(Self {
            in_channels: rgb(&fields, "in_channels")?,
            out_channels: rgb(&fields, "out_channels")?,
            latent_channels: fields.size("latent_channels", 4)?,
            block_out_channels,
            layers_per_block,
            norm_num_groups: groups,
            sample_size: fields.square("sample_size", 32)?,
            scaling_factor: fields.positive("scaling_factor", Some(0.18215))?,
        })
    }

    /// The content of the file as diffusers reads it.
    pub fn to_json(&self) -> Value {
        let levels = self.block_out_channels.len();
        json!({
            "_class_name": CLASS,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "latent_channels": self.latent_channels,
            "block_out_channels": self.block_out_channels,
            "down_block_types": vec![DOWN_BLOCK; levels],
            "up_block_types": vec![UP_BLOCK; levels],
            "layers_per_block": self.layers_per_block,
            "norm_num_groups": self.norm_num_groups,
            "sample_size": self.sample_size,
            "scaling_factor": self.scaling_factor,
        })
    }
}
