use flowai_model::config::NORM_GROUPS;
use tch::Tensor;

use super::{After, GroupNorm, Linear};
use crate::error::Result;
use crate::kernels;
use crate::params::Scope;

/// CUDA kernels put sequences into a grid dimension that ends here.
const SEQUENCES_MAX: i64 = 65_535;

/// Scaled dot product attention of (N, L, heads, d) queries with as many keys and values, to (N, L, heads * d).
///
/// Inputs may be strided as long as the last dimension is contiguous. So may the result be.
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

/// Queries, keys and values of the same tokens, by one product.
#[derive(Debug)]
struct Projections {
    stacked: Linear,
    heads: i64,
}

impl Projections {
    /// (.., C) to (.., 3, heads, C / heads).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut shape = x.size();
        let channels = shape.pop().unwrap_or(0);
        shape.extend([3, self.heads, channels / self.heads]);
        Ok(self.stacked.forward(x)?.f_view(shape.as_slice())?)
    }
}

/// Of (N, L, 3, heads, d) as [`Projections`] make them, to (N, L, heads * d).
fn attend_to_each_other(projections: &Tensor) -> Result<Tensor> {
    let part = |i| projections.f_select(2, i);
    attend(&part(0)?, &part(1)?, &part(2)?)
}

/// Attention of tokens to each other, without a bias on queries, keys and values.
#[derive(Debug)]
pub struct SelfAttention {
    projections: Projections,
    to_out: Linear,
}

impl SelfAttention {
    pub fn load(scope: &Scope<'_>, heads: usize) -> Result<Self> {
        Ok(Self {
            projections: Projections {
                stacked: Linear::load_stacked_without_bias(scope)?,
                heads: heads as i64,
            },
            to_out: Linear::load(&scope.at("to_out.0"))?,
        })
    }

    /// (B, F, H, W, C) to the same; places of one frame attend to each other.
    pub fn over_places(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, frames, height, width, channels) = x.size5()?;
        let tokens = x.f_view([batch * frames, height * width, channels])?;
        let out = attend_to_each_other(&self.projections.forward(&tokens)?)?;
        self.to_out.forward(&out.f_reshape(x.size().as_slice())?)
    }

    /// (B, F, H, W, C) to the same; frames of one place attend to each other.
    pub fn over_frames(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, frames, height, width, channels) = x.size5()?;
        let tokens = x.f_view([batch, frames, height * width, channels])?;
        let projections = self.projections.forward(&tokens)?;
        let mut clips = Vec::new();
        for clip in 0..batch {
            let by_place = projections.f_select(0, clip)?.f_transpose(0, 1)?;
            clips.push(attend_to_each_other(&by_place)?.f_transpose(0, 1)?);
        }
        let out = match clips.as_slice() {
            [clip] => clip.f_contiguous()?,
            clips => Tensor::f_stack(clips, 0)?,
        };
        self.to_out.forward(&out.f_view(x.size().as_slice())?)
    }
}

/// The VAE's attention: one head over the places of a frame, with its own group norm, biases and residual.
#[derive(Debug)]
pub struct AttentionBlock {
    group_norm: GroupNorm,
    projections: Projections,
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
            projections: Projections {
                stacked: Linear::load_stacked(scope)?,
                heads: 1,
            },
            to_out: Linear::load(&scope.at("to_out.0"))?,
        })
    }

    /// (B, F, H, W, C) to the same.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, frames, height, width, channels) = x.size5()?;
        let tokens = self.group_norm.each_frame(x, After::Nothing)?.f_view([
            batch * frames,
            height * width,
            channels,
        ])?;
        let out = attend_to_each_other(&self.projections.forward(&tokens)?)?;
        let mut out = self.to_out.forward(&out.f_reshape(x.size().as_slice())?)?;
        Ok(out.f_add_(x)?)
    }
}
