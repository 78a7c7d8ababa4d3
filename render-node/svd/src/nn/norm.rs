use flowai_model::config::NORM_GROUPS;
use tch::{Device, Tensor};

use crate::error::Result;
use crate::kernels::{self, Affine};
use crate::params::{Param, Scope};

/// Normalises the last dimension.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Param,
    bias: Param,
    eps: f64,
}

impl LayerNorm {
    pub fn load(scope: &Scope<'_>, eps: f64) -> Result<Self> {
        Ok(Self {
            weight: scope.get("weight")?,
            bias: scope.get("bias")?,
            eps,
        })
    }

    /// (.., C) to (.., C).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let width = self.weight.size();
        Ok(x.f_layer_norm(
            width.as_slice(),
            Some(&*self.weight),
            Some(&*self.bias),
            self.eps,
            false,
        )?)
    }
}

/// What follows a group norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    Nothing,
    Silu,
}

/// Normalises groups of channels.
#[derive(Debug)]
pub struct GroupNorm {
    groups: usize,
    weight: Param,
    bias: Param,
    eps: f64,
}

impl GroupNorm {
    /// 32 groups: every norm of Stable Video Diffusion.
    pub fn load(scope: &Scope<'_>, eps: f64) -> Result<Self> {
        Self::load_grouped(scope, NORM_GROUPS, eps)
    }

    pub fn load_grouped(scope: &Scope<'_>, groups: usize, eps: f64) -> Result<Self> {
        Ok(Self {
            groups,
            weight: scope.get("weight")?,
            bias: scope.get("bias")?,
            eps,
        })
    }

    /// (B, F, H, W, C), every frame by its own statistics.
    pub fn each_frame(&self, x: &Tensor, after: After) -> Result<Tensor> {
        let (batch, frames, height, width, channels) = x.size5()?;
        let rows = x.f_view([batch * frames, height * width, channels])?;
        Ok(self.forward(&rows, after)?.f_view(x.size().as_slice())?)
    }

    /// (B, F, H, W, C), all frames of a clip by common statistics.
    pub fn across_frames(&self, x: &Tensor, after: After) -> Result<Tensor> {
        let (batch, frames, height, width, channels) = x.size5()?;
        let rows = x.f_view([batch, frames * height * width, channels])?;
        Ok(self.forward(&rows, after)?.f_view(x.size().as_slice())?)
    }

    /// [`GroupNorm::across_frames`] of one clip (F, P, C), f32 on the CPU, for parts of it.
    pub(super) fn parts_across_frames(
        &self,
        x: &Tensor,
        after: After,
    ) -> Result<kernels::Normaliser> {
        kernels::Normaliser::of(x, &self.affine(after))
    }

    fn affine(&self, after: After) -> Affine<'_> {
        Affine {
            groups: self.groups,
            weight: &self.weight,
            bias: &self.bias,
            eps: self.eps,
            has_silu: after == After::Silu,
        }
    }

    /// (N, R, C) with statistics over R and the channels of a group.
    fn forward(&self, x: &Tensor, after: After) -> Result<Tensor> {
        if x.device() == Device::Cpu
            && let Some(y) = kernels::group_norm(x, &self.affine(after))?
        {
            return Ok(y.f_to_kind(x.f_kind()?)?);
        }
        let mut y = x
            .f_permute([0, 2, 1])?
            .f_group_norm(
                self.groups as i64,
                Some(&*self.weight),
                Some(&*self.bias),
                self.eps,
                false,
            )?
            .f_permute([0, 2, 1])?
            .f_contiguous()?;
        Ok(match after {
            After::Nothing => y,
            After::Silu => y.f_silu_()?,
        })
    }
}
