use serde_json::{Value, json};

use super::ConfigError;
use super::fields::Fields;

const CLASS: &str = "UNetSpatioTemporalConditionModel";
const DOWN_PLAIN: &str = "DownBlockSpatioTemporal";
const DOWN_ATTENTION: &str = "CrossAttnDownBlockSpatioTemporal";
const UP_PLAIN: &str = "UpBlockSpatioTemporal";
const UP_ATTENTION: &str = "CrossAttnUpBlockSpatioTemporal";

/// Groups of every group norm in UNet and VAE; fixed in the reference.
pub const NORM_GROUPS: usize = 32;

/// Bounds of what is listed of a model before its files are opened; published ones have 4, 2 and 1.
pub(super) const LEVELS_MAX: usize = 8;
pub(super) const LAYERS_MAX: usize = 16;
const TRANSFORMER_LAYERS_MAX: usize = 16;

/// `unet/config.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnetConfig {
    /// Noise latents and image latents together: 8 for SVD.
    pub in_channels: usize,
    pub out_channels: usize,
    /// Latent side the model was trained at, used where a spec gives no size.
    pub sample_size: Option<usize>,
    /// Frames the model was trained for: 14, or 25 for XT.
    pub num_frames: usize,
    /// Sinusoid width of each of the three added time ids.
    pub addition_time_embed_dim: usize,
    /// Three times `addition_time_embed_dim`.
    pub projection_class_embeddings_input_dim: usize,
    /// From the finest level (where the latents enter) to the coarsest.
    pub levels: Vec<UnetLevel>,
    /// Whether `down_blocks.I` has transformers; index 0 is the finest level.
    pub down_attention: Vec<bool>,
    /// Whether `up_blocks.I` has transformers; index 0 is the coarsest level.
    pub up_attention: Vec<bool>,
}

/// What one resolution of the UNet looks like, on the way down and up alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnetLevel {
    pub channels: usize,
    /// Resnets of the down block; the up block has one more.
    pub layers: usize,
    pub heads: usize,
    /// Width of the image embedding that cross-attention reads.
    pub cross_attention_dim: usize,
    /// Transformer blocks (spatial and temporal, each) in one transformer.
    pub transformer_layers: usize,
}

impl UnetConfig {
    pub const FILE: &str = "unet/config.json";

    /// Width of the time embedding that every resnet reads.
    pub fn time_embed_dim(&self) -> usize {
        4 * self.levels[0].channels
    }

    /// Reads the content of a `unet/config.json`; `file` is how errors name it.
    pub fn from_json(file: &str, json: &Value) -> Result<Self, ConfigError> {
        let fields = Fields::new(file, json)?;
        fields.require_class("_class_name", &[CLASS])?;

        let channels = fields.sizes("block_out_channels", &[320, 640, 1280, 1280])?;
        let count = channels.len();
        if count > LEVELS_MAX {
            let reason = format!("must be at most {LEVELS_MAX} levels (got {count})");
            return Err(fields.refuse("block_out_channels", reason));
        }
        let layers = fields.sizes_per_level("layers_per_block", count, &[2])?;
        let heads = fields.sizes_per_level("num_attention_heads", count, &[5, 10, 20, 20])?;
        let cross = fields.sizes_per_level("cross_attention_dim", count, &[1024])?;
        let transformers = fields.sizes_per_level("transformer_layers_per_block", count, &[1])?;
        fields.require_at_most("layers_per_block", &layers, LAYERS_MAX)?;
        fields.require_at_most(
            "transformer_layers_per_block",
            &transformers,
            TRANSFORMER_LAYERS_MAX,
        )?;
        let levels: Vec<UnetLevel> = (0..count)
            .map(|i| UnetLevel {
                channels: channels[i],
                layers: layers[i],
                heads: heads[i],
                cross_attention_dim: cross[i],
                transformer_layers: transformers[i],
            })
            .collect();
        for level in &levels {
            if level.channels % NORM_GROUPS != 0 {
                let reason = format!(
                    "must be multiples of {NORM_GROUPS} (got {})",
                    level.channels
                );
                return Err(fields.refuse("block_out_channels", reason));
            }
            if level.channels % level.heads != 0 {
                let reason = format!(
                    "must divide the level's {} channels (got {})",
                    level.channels, level.heads
                );
                return Err(fields.refuse("num_attention_heads", reason));
            }
        }

        let addition_time_embed_dim = fields.size("addition_time_embed_dim", 256)?;
        if !addition_time_embed_dim.is_multiple_of(2) {
            return Err(fields.refuse(
                "addition_time_embed_dim",
                "must be even: half sines, half cosines",
            ));
        }
        let projection = fields.size("projection_class_embeddings_input_dim", 768)?;
        if projection != 3 * addition_time_embed_dim {
            let reason = format!(
                "must be 3 x addition_time_embed_dim {addition_time_embed_dim} (got {projection})"
            );
            return Err(fields.refuse("projection_class_embeddings_input_dim", reason));
        }

        Ok(Self {
            in_channels: fields.size("in_channels", 8)?,
            out_channels: fields.size("out_channels", 4)?,
            sample_size: fields
                .get("sample_size")
                .map(|_| fields.square("sample_size", 1))
                .transpose()?,
            num_frames: fields.size("num_frames", 25)?,
            addition_time_embed_dim,
            projection_class_embeddings_input_dim: projection,
            levels,
            down_attention: fields.attention(
                "down_block_types",
                count,
                DOWN_PLAIN,
                DOWN_ATTENTION,
                |i| i < 3,
            )?,
            up_attention: fields.attention(
                "up_block_types",
                count,
                UP_PLAIN,
                UP_ATTENTION,
                |i| i > 0,
            )?,
        })
    }

    /// The content of the file as diffusers reads it.
    pub fn to_json(&self) -> Value {
        let name =
            |has_attention: &bool, plain, attention| if *has_attention { attention } else { plain };
        let per_level =
            |of: fn(&UnetLevel) -> usize| self.levels.iter().map(of).collect::<Vec<usize>>();
        json!({
            "_class_name": CLASS,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "sample_size": self.sample_size,
            "num_frames": self.num_frames,
            "addition_time_embed_dim": self.addition_time_embed_dim,
            "projection_class_embeddings_input_dim": self.projection_class_embeddings_input_dim,
            "block_out_channels": per_level(|level| level.channels),
            "layers_per_block": per_level(|level| level.layers),
            "num_attention_heads": per_level(|level| level.heads),
            "cross_attention_dim": per_level(|level| level.cross_attention_dim),
            "transformer_layers_per_block": per_level(|level| level.transformer_layers),
            "down_block_types":
                self.down_attention.iter().map(|a| name(a, DOWN_PLAIN, DOWN_ATTENTION)).collect::<Vec<_>>(),
            "up_block_types": self.up_attention.iter().map(|a| name(a, UP_PLAIN, UP_ATTENTION)).collect::<Vec<_>>(),
        })
    }
}
