use flowai_model::config::NORM_GROUPS;
use tch::Tensor;

use super::{After, GroupNorm, Linear};
use crate::error::Result;
use crate::kernels;
use crate::params::Scope;

/// CUDA kernels put (sequences x heads) into a grid dimension that ends here.
const SEQUENCES_MAX: i64 = 65_535;

/// Scaled dot product attention of (N, L, heads, d) queries with as many keys and values, to (N, L, heads * d).
///
/// Inputs may be strided as long as the last dimension is contiguous; the result is contiguous.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    if let Some(out) = kernels::attend(q, k, v)? {
        return Ok(out);
    }
    let (sequences, tokens, heads, width) = q.size4()?;
    let mut parts = Vec::new();
    let mut start = 0;
    while start < sequences {
        let count = (sequences - start).min(SEQUENCES_MAX);
        let part = |x: &Tensor| x.f_narrow(0, start, count)?.f_transpose(1, 2);
        let out = Tensor::f_scaled_dot_product_attention::<Tensor>(
            &part(q)?,
            &part(k)?,
            &part(v)?,
            None,
            0.0,
            false,
            None,
            false,
        )?;
        let out = out.f_transpose(1, 2)?;
        parts.push(out.f_reshape([count, tokens, heads * width])?);
        start += count;
    }
    match parts.len() {
        1 => Ok(parts.swap_remove(0)),
        _ => Ok(Tensor::f_cat(&parts, 0)?),
    }
}

/// Attention of tokens to each other, without a bias on queries, keys and values.
#[derive(Debug)]
pub struct SelfAttention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: i64,
}

impl SelfAttention {
    pub fn load(scope: &Scope<'_>, heads: usize) -> Result<Self> {
        Ok(Self {
            to_q: Linear::load_without_bias(&scope.at("to_q"))?,
            to_k: Linear::load_without_bias(&scope.at("to_k"))?,
            to_v: Linear::load_without_bias(&scope.at("to_v"))?,
            to_out: Linear::load(&scope.at("to_out.0"))?,
            heads: heads as i64,
        })
    }

    /// (B, F, H, W, C) to the same; places of one frame attend to each other.
    pub fn over_places(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, frames, height, width, channels) = x.size5()?;
        let shape = [
            batch * frames,
            height * width,
            self.heads,
            channels / self.heads,
        ];
        let out = attend(
            &self.to_q.forward(x)?.f_view(shape)?,
            &self.to_k.forward(x)?.f_view(shape)?,
            &self.to_v.forward(x)?.f_view(shape)?,
        )?;
        self.to_out.forward(&out.f_view(x.size().as_slice())?)
    }

    /// (B, F, H, W, C) to the same; frames of one place attend to each other.
    pub fn over_frames(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, frames, height, width, channels) = x.size5()?;
        let places = height * width;
        let shape = [batch, frames, places, self.heads, channels / self.heads];
        let q = self.to_q.forward(x)?.f_view(shape)?;
        let k = self.to_k.forward(x)?.f_view(shape)?;
        let v = self.to_v.forward(x)?.f_view(shape)?;
        let mut clips = Vec::new();
        for clip in 0..batch {
            let by_place = |x: &Tensor| x.f_select(0, clip)?.f_transpose(0, 1);
            let out = attend(&by_place(&q)?, &by_place(&k)?, &by_place(&v)?)?;
            clips.push(out.f_transpose(0, 1)?);
        }
        let out = Tensor::f_stack(&clips, 0)?;
        self.to_out.forward(&out.f_view(x.size().as_slice())?)
    }
}

/// The VAE's attention: one head over the places of a frame, with its own group norm, biases and residual.
#[derive(Debug)]
pub struct AttentionBlock {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl AttentionBlock {
    pub fn load(scope: &Scope<'_>) -> Result<Self> {
        Self::load_grouped(scope, NORM_GROUPS)
    }

    /// The same with another number of groups.
    pub fn load_grouped(scope: &Scope<'_>, groups: usize) -> Result<Self> {
        Ok(Self {
            group_norm: GroupNorm::load_grouped(&scope.at("group_norm"), groups, 1e-6)?,
            to_q: Linear::load(&scope.at("to_q"))?,
            to_k: Linear::load(&scope.at("to_k"))?,
            to_v: Linear::load(&scope.at("to_v"))?,
            to_out: Linear::load(&scope.at("to_out.0"))?,
        })
    }

    /// (B, F, H, W, C) to the same.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, frames, height, width, channels) = x.size5()?;
        let shape = [batch * frames, height * width, 1, channels];
        let tokens = self.group_norm.each_frame(x, After::Nothing)?;
        let out = attend(
            &self.to_q.forward(&tokens)?.f_view(shape)?,
            &self.to_k.forward(&tokens)?.f_view(shape)?,
            &self.to_v.forward(&tokens)?.f_view(shape)?,
        )?;
        let mut out = self.to_out.forward(&out.f_view(x.size().as_slice())?)?;
        Ok(out.f_add_(x)?)
    }
}
