//! Layers shared by the components. Names of fields and parameters are those of the reference.
//!
//! Feature maps are one tensor of shape (B, F, H, W, C), contiguous: batch, frames, height, width, channels. A picture has
//! F = 1. In this layout tokens, channels-last convolutions over space and convolutions over time are all views.

mod attention;
mod blend;
mod conv;
mod cross_attention;
mod embedding;
mod feed_forward;
mod frames;
mod linear;
mod norm;
mod resnet;

pub use attention::{AttentionBlock, SelfAttention, attend};
pub use blend::Blend;
pub use conv::{Conv2d, TemporalConv, upsample_nearest};
pub use cross_attention::{CrossAttention, CrossContext, attend_to_earlier};
pub use embedding::{TimestepEmbedding, sinusoid};
pub use feed_forward::FeedForward;
pub use frames::each_frame_alone;
pub use linear::Linear;
pub use norm::{After, GroupNorm, LayerNorm};
pub use resnet::{
    ResnetBlock2D, ResnetEps, SpatioTemporalResBlock, TemporalResnetBlock, TimeBiases,
};

use tch::Tensor;

use crate::error::Result;

/// (B, F, C, H, W) as the reference lays clips out, to feature maps (B, F, H, W, C).
pub fn to_maps(clip: &Tensor) -> Result<Tensor> {
    Ok(clip.f_permute([0, 1, 3, 4, 2])?.f_contiguous()?)
}

/// Feature maps (B, F, H, W, C) to the reference's (B, F, C, H, W).
pub fn from_maps(maps: &Tensor) -> Result<Tensor> {
    Ok(maps.f_permute([0, 1, 4, 2, 3])?.f_contiguous()?)
}
