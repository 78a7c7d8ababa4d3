use flowai_model::config::NORM_GROUPS;
use tch::Tensor;

use crate::error::Result;
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

/// Normalises 32 groups of channels.
#[derive(Debug)]
pub struct GroupNorm {
    weight: Param,
    bias: Param,
    eps: f64,
}

impl GroupNorm {
    pub fn load(scope: &Scope<'_>, eps: f64) -> Result<Self> {
        Ok(Self {
            weight: scope.get("weight")?,
            bias: scope.get("bias")?,
            eps,
        })
    }

    /// (B, F, H, W, C), every frame by its own statistics.
    pub fn each_frame(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, frames, height, width, channels) = x.size5()?;
        self.normalise(x, [batch * frames, height, width, channels])
    }

    /// (B, F, H, W, C), all frames of a clip by common statistics.
    pub fn across_frames(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, frames, height, width, channels) = x.size5()?;
        self.normalise(x, [batch, frames, height * width, channels])
    }

    fn normalise(&self, x: &Tensor, view: [i64; 4]) -> Result<Tensor> {
        let y = x
            .f_view(view)?
            .f_permute([0, 3, 1, 2])?
            .f_group_norm(
                NORM_GROUPS as i64,
                Some(&*self.weight),
                Some(&*self.bias),
                self.eps,
                false,
            )?
            .f_permute([0, 2, 3, 1])?
            .f_contiguous()?;
        Ok(y.f_view(x.size().as_slice())?)
    }
}
