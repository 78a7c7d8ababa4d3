use serde_json::{Value, json};

use super::super::ConfigError;
use super::super::fields::Fields;
use super::super::unet::{LAYERS_MAX, LEVELS_MAX};

const CLASS: &str = "UNet2DConditionModel";
const DOWN_PLAIN: &str = "DownBlock2D";
const DOWN_ATTENTION: &str = "CrossAttnDownBlock2D";
const UP_PLAIN: &str = "UpBlock2D";
const UP_ATTENTION: &str = "CrossAttnUpBlock2D";

/// Fields that turn the model into another one when given.
const ONLY_NULL: [&str; 12] = [
    "addition_embed_type",
    "class_embed_type",
    "cross_attention_norm",
    "encoder_hid_dim",
    "encoder_hid_dim_type",
    "num_attention_heads",
    "num_class_embeds",
    "reverse_transformer_layers_per_block",
    "time_cond_proj_dim",
    "time_embedding_act_fn",
    "time_embedding_dim",
    "timestep_post_act",
];
/// (field, the one value, which is also the reference's default)
const ONLY_FLAG: [(&str, bool); 6] = [
    ("center_input_sample", false),
    ("class_embeddings_concat", false),
    ("dual_cross_attention", false),
    ("flip_sin_to_cos", true),
    ("only_cross_attention", false),
    ("resnet_skip_time_act", false),
];
const ONLY_NUMBER: [(&str, f64); 6] = [
    ("conv_in_kernel", 3.0),
    ("conv_out_kernel", 3.0),
    ("downsample_padding", 1.0),
    ("freq_shift", 0.0),
    ("mid_block_scale_factor", 1.0),
    ("resnet_out_scale_factor", 1.0),
];
const ONLY_TEXT: [(&str, &str); 5] = [
    ("act_fn", "silu"),
    ("attention_type", "default"),
    ("mid_block_type", "UNetMidBlock2DCrossAttn"),
    ("resnet_time_scale_shift", "default"),
    ("time_embedding_type", "positional"),
];

/// `unet/config.json` of Stable Diffusion 1.x and 2.x.
#[derive(Debug, Clone, PartialEq)]
pub struct Unet2dConfig {
    /// Channels of the noisy latents.
    pub in_channels: usize,
    pub out_channels: usize,
    /// Latent side the model was trained at, used where a spec gives no size.
    pub sample_size: Option<usize>,
    /// From the finest level (where the latents enter) to the coarsest.
    pub levels: Vec<Unet2dLevel>,
    /// Whether `down_blocks.I` has transformers; index 0 is the finest level.
    pub down_attention: Vec<bool>,
    /// Whether `up_blocks.I` has transformers; index 0 is the coarsest level.
    pub up_attention: Vec<bool>,
    /// Width of the text embeddings that cross-attention reads.
    pub cross_attention_dim: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Of the resnets' norms and the last one; the transformers' own is fixed.
    pub norm_eps: f64,
    /// Whether transformers enter and leave by linear layers (2.x) or by 1x1 convolutions (1.x).
    pub use_linear_projection: bool,
}

/// What one resolution of the UNet looks like, on the way down and up alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unet2dLevel {
    pub channels: usize,
    /// Resnets of the down block; the up block has one more.
    pub layers: usize,
    /// `attention_head_dim` of the file, which despite its name is the number of heads.
    pub heads: usize,
    /// Transformer blocks in one transformer.
    pub transformer_layers: usize,
}

impl Unet2dConfig {
    pub const FILE: &str = "unet/config.json";

    /// Width of the time embedding that every resnet reads.
    pub fn time_embed_dim(&self) -> usize {
        4 * self.levels[0].channels
    }

    /// Whether any block of a level has transformers; the middle block belongs to the coarsest level and has one.
    pub fn has_attention(&self, level: usize) -> bool {
        let coarsest = self.levels.len() - 1;
        level == coarsest || self.down_attention[level] || self.up_attention[coarsest - level]
    }

    /// Reads the content of a `unet/config.json`; `file` is how errors name it.
    ///
    /// `upcast_attention` is not looked at: the reference's default attention does not either.
    pub fn from_json(file: &str, json: &Value) -> Result<Self, ConfigError> {
        let fields = Fields::new(file, json)?;
        fields.require_class("_class_name", &[CLASS])?;
        for field in ONLY_NULL {
            fields.require_null(field)?;
        }
        for (field, only) in ONLY_FLAG {
            fields.require_flag(field, only, only)?;
        }
        for (field, only) in ONLY_NUMBER {
            fields.require_number(field, only)?;
        }
        for (field, only) in ONLY_TEXT {
            fields.require_text(field, only, only)?;
        }

        let channels = fields.sizes("block_out_channels", &[320, 640, 1280, 1280])?;
        let count = channels.len();
        if count > LEVELS_MAX {
            let reason = format!("at most {LEVELS_MAX} levels are supported (got {count})");
            return Err(fields.refuse("block_out_channels", reason));
        }
        let layers = fields.sizes_per_level("layers_per_block", count, &[2])?;
        let heads = fields.sizes_per_level("attention_head_dim", count, &[8])?;
        let transformers = fields.sizes_per_level("transformer_layers_per_block", count, &[1])?;
        fields.require_at_most("layers_per_block", &layers, LAYERS_MAX)?;
        fields.require_at_most("transformer_layers_per_block", &transformers, LAYERS_MAX)?;
        let cross = fields.sizes_per_level("cross_attention_dim", count, &[1280])?;
        if cross.iter().any(|width| *width != cross[0]) {
            let reason = format!("must be one width for all levels (got {cross:?})");
            return Err(fields.refuse("cross_attention_dim", reason));
        }
        let config = Self {
            in_channels: fields.size("in_channels", 4)?,
            out_channels: fields.size("out_channels", 4)?,
            sample_size: fields
                .get("sample_size")
                .map(|_| fields.square("sample_size", 1))
                .transpose()?,
            levels: (0..count)
                .map(|i| Unet2dLevel {
                    channels: channels[i],
                    layers: layers[i],
                    heads: heads[i],
                    transformer_layers: transformers[i],
                })
                .collect(),
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
            cross_attention_dim: cross[0],
            norm_num_groups: fields.size("norm_num_groups", 32)?,
            norm_eps: fields.positive("norm_eps", Some(1e-5))?,
            use_linear_projection: fields.flag("use_linear_projection", false)?,
        };
        config.check_levels(&fields)?;
        Ok(config)
    }

    fn check_levels(&self, fields: &Fields<'_>) -> Result<(), ConfigError> {
        let groups = self.norm_num_groups;
        for (i, level) in self.levels.iter().enumerate() {
            let channels = level.channels;
            if !channels.is_multiple_of(groups) {
                let reason =
                    format!("must be multiples of norm_num_groups {groups} (got {channels})");
                return Err(fields.refuse("block_out_channels", reason));
            }
            if self.has_attention(i) && !channels.is_multiple_of(level.heads) {
                let reason = format!(
                    "is the number of heads and must divide the level's {channels} channels (got {})",
                    level.heads
                );
                return Err(fields.refuse("attention_head_dim", reason));
            }
        }
        if !self.levels[0].channels.is_multiple_of(2) {
            let reason = "must begin with an even number: half of the time embedding are sines";
            return Err(fields.refuse("block_out_channels", reason));
        }
        Ok(())
    }

    /// The content of the file as diffusers reads it.
    pub fn to_json(&self) -> Value {
        let name =
            |has_attention: &bool, plain, attention| if *has_attention { attention } else { plain };
        let per_level =
            |of: fn(&Unet2dLevel) -> usize| self.levels.iter().map(of).collect::<Vec<usize>>();
        // Published files write one number where the levels agree, and parts of diffusers understand nothing else.
        let one_or_each = |of| {
            let sizes = per_level(of);
            match sizes.iter().all(|size| *size == sizes[0]) {
                true => json!(sizes[0]),
                false => json!(sizes),
            }
        };
        json!({
            "_class_name": CLASS,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "sample_size": self.sample_size,
            "block_out_channels": per_level(|level| level.channels),
            "layers_per_block": one_or_each(|level| level.layers),
            "attention_head_dim": one_or_each(|level| level.heads),
            "transformer_layers_per_block": one_or_each(|level| level.transformer_layers),
            "cross_attention_dim": self.cross_attention_dim,
            "norm_num_groups": self.norm_num_groups,
            "norm_eps": self.norm_eps,
            "use_linear_projection": self.use_linear_projection,
            "down_block_types":
                self.down_attention.iter().map(|a| name(a, DOWN_PLAIN, DOWN_ATTENTION)).collect::<Vec<_>>(),
            "up_block_types": self.up_attention.iter().map(|a| name(a, UP_PLAIN, UP_ATTENTION)).collect::<Vec<_>>(),
        })
    }
}
