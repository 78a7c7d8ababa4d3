use tch::{Kind, Tensor};

use super::TransformerContext;
use crate::error::Result;
use crate::nn::{
    After, Blend, FeedForward, GroupNorm, LayerNorm, Linear, SelfAttention, TimestepEmbedding,
    sinusoid,
};
use crate::params::Scope;

const LAYER_NORM_EPS: f64 = 1e-5;

/// Cross-attention to one key, which is a linear map of it: `to_out(to_v(key))`. Queries do not matter.
#[derive(Debug)]
struct CrossAttention {
    to_v: Linear,
    to_out: Linear,
}

impl CrossAttention {
    fn load(scope: &Scope<'_>) -> Result<Self> {
        Ok(Self {
            to_v: Linear::load_without_bias(&scope.at("to_v"))?,
            to_out: Linear::load(&scope.at("to_out.0"))?,
        })
    }

    /// (B, D) to (B, 1, 1, 1, C).
    fn constant(&self, image_embeds: &Tensor) -> Result<Tensor> {
        let constant = self.to_out.forward(&self.to_v.forward(image_embeds)?)?;
        let (batch, channels) = constant.size2()?;
        Ok(constant.f_view([batch, 1, 1, 1, channels])?)
    }
}

/// Places of a frame attend to each other: diffusers' `BasicTransformerBlock`.
#[derive(Debug)]
pub struct TransformerBlock {
    norm1: LayerNorm,
    attn1: SelfAttention,
    attn2: CrossAttention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl TransformerBlock {
    pub fn load(scope: &Scope<'_>, heads: usize) -> Result<Self> {
        Ok(Self {
            norm1: LayerNorm::load(&scope.at("norm1"), LAYER_NORM_EPS)?,
            attn1: SelfAttention::load(&scope.at("attn1"), heads)?,
            attn2: CrossAttention::load(&scope.at("attn2"))?,
            norm3: LayerNorm::load(&scope.at("norm3"), LAYER_NORM_EPS)?,
            ff: FeedForward::load(&scope.at("ff"))?,
        })
    }

    /// What cross-attention adds everywhere: (B, D) to (B, 1, 1, 1, C).
    pub fn constant(&self, image_embeds: &Tensor) -> Result<Tensor> {
        self.attn2.constant(image_embeds)
    }

    /// (B, F, H, W, C) to the same, written over `x`; `constant` of [`TransformerBlock::constant`].
    pub fn forward(&self, mut x: Tensor, constant: &Tensor) -> Result<Tensor> {
        let _ = x.f_add_(&self.attn1.over_places(&self.norm1.forward(&x)?)?)?;
        let _ = x.f_add_(constant)?;
        self.ff.add_to(x, &self.norm3)
    }
}

/// Frames of a place attend to each other: diffusers' `TemporalBasicTransformerBlock`.
#[derive(Debug)]
pub struct TemporalTransformerBlock {
    norm_in: LayerNorm,
    ff_in: FeedForward,
    norm1: LayerNorm,
    attn1: SelfAttention,
    attn2: CrossAttention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl TemporalTransformerBlock {
    pub fn load(scope: &Scope<'_>, heads: usize) -> Result<Self> {
        Ok(Self {
            norm_in: LayerNorm::load(&scope.at("norm_in"), LAYER_NORM_EPS)?,
            ff_in: FeedForward::load(&scope.at("ff_in"))?,
            norm1: LayerNorm::load(&scope.at("norm1"), LAYER_NORM_EPS)?,
            attn1: SelfAttention::load(&scope.at("attn1"), heads)?,
            attn2: CrossAttention::load(&scope.at("attn2"))?,
            norm3: LayerNorm::load(&scope.at("norm3"), LAYER_NORM_EPS)?,
            ff: FeedForward::load(&scope.at("ff"))?,
        })
    }

    /// What cross-attention adds everywhere: (B, D) to (B, 1, 1, 1, C).
    pub fn constant(&self, image_embeds: &Tensor) -> Result<Tensor> {
        self.attn2.constant(image_embeds)
    }

    /// (B, F, H, W, C) to the same, written over `x`; `constant` of [`TemporalTransformerBlock::constant`].
    pub fn forward(&self, mut x: Tensor, constant: &Tensor) -> Result<Tensor> {
        x = self.ff_in.add_to(x, &self.norm_in)?;
        let _ = x.f_add_(&self.attn1.over_frames(&self.norm1.forward(&x)?)?)?;
        let _ = x.f_add_(constant)?;
        self.ff.add_to(x, &self.norm3)
    }
}

/// Pairs of spatial and temporal blocks: diffusers' `TransformerSpatioTemporalModel`.
#[derive(Debug)]
pub struct TransformerSpatioTemporal {
    norm: GroupNorm,
    proj_in: Linear,
    transformer_blocks: Vec<TransformerBlock>,
    temporal_transformer_blocks: Vec<TemporalTransformerBlock>,
    time_pos_embed: TimestepEmbedding,
    time_mixer: Blend,
    proj_out: Linear,
    channels: i64,
}

impl TransformerSpatioTemporal {
    pub fn load(scope: &Scope<'_>, channels: usize, heads: usize, layers: usize) -> Result<Self> {
        let spatial =
            |i| TransformerBlock::load(&scope.at(format_args!("transformer_blocks.{i}")), heads);
        let temporal = |i| {
            let scope = scope.at(format_args!("temporal_transformer_blocks.{i}"));
            TemporalTransformerBlock::load(&scope, heads)
        };
        Ok(Self {
            norm: GroupNorm::load(&scope.at("norm"), 1e-6)?,
            proj_in: Linear::load(&scope.at("proj_in"))?,
            transformer_blocks: (0..layers).map(spatial).collect::<Result<_>>()?,
            temporal_transformer_blocks: (0..layers).map(temporal).collect::<Result<_>>()?,
            time_pos_embed: TimestepEmbedding::load(&scope.at("time_pos_embed"))?,
            time_mixer: Blend::load(&scope.at("time_mixer"))?,
            proj_out: Linear::load(&scope.at("proj_out"))?,
            channels: channels as i64,
        })
    }

    /// The transformer's constants for image embeddings (B, D) and a number of frames.
    pub fn context(&self, image_embeds: &Tensor, frames: i64) -> Result<TransformerContext> {
        let options = (Kind::Int64, image_embeds.device());
        let positions = sinusoid(&Tensor::f_arange(frames, options)?, self.channels)?;
        let positions = positions.f_to_kind(image_embeds.kind())?;
        let frame_positions = self.time_pos_embed.forward(&positions)?;
        let spatial = self.transformer_blocks.iter();
        let temporal = self.temporal_transformer_blocks.iter();
        Ok(TransformerContext {
            spatial: spatial
                .map(|block| block.constant(image_embeds))
                .collect::<Result<_>>()?,
            temporal: temporal
                .map(|block| block.constant(image_embeds))
                .collect::<Result<_>>()?,
            frame_positions: frame_positions.f_view([1, frames, 1, 1, self.channels])?,
        })
    }

    /// (B, F, H, W, C) to the same, residual included.
    pub fn forward(&self, x: &Tensor, context: &TransformerContext) -> Result<Tensor> {
        let mut hidden = self
            .proj_in
            .forward(&self.norm.each_frame(x, After::Nothing)?)?;
        let spatial = self.transformer_blocks.iter().zip(&context.spatial);
        let temporal = self.temporal_transformer_blocks.iter();
        let temporal = temporal.zip(&context.temporal);
        for ((spatial, spatial_constant), (temporal, temporal_constant)) in spatial.zip(temporal) {
            hidden = spatial.forward(hidden, spatial_constant)?;
            let mixed = hidden.f_add(&context.frame_positions)?;
            let mixed = temporal.forward(mixed, temporal_constant)?;
            hidden = self.time_mixer.mix(&hidden, mixed)?;
        }
        Ok(self.proj_out.forward(&hidden)?.f_add_(x)?)
    }
}
