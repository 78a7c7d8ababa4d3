use tch::Tensor;

use crate::error::Result;
use crate::params::{Param, Scope};

/// A convolution of every frame.
#[derive(Debug)]
pub struct Conv2d {
    weight: Param,
    bias: Param,
    stride: i64,
    padding: i64,
}

impl Conv2d {
    /// Square kernels, whose size the weights give.
    pub fn load(scope: &Scope<'_>, stride: i64, padding: i64) -> Result<Self> {
        Ok(Self {
            weight: scope.get("weight")?,
            bias: scope.get("bias")?,
            stride,
            padding,
        })
    }

    /// (B, F, H, W, I) to (B, F, H', W', O).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, Some(&self.bias))
    }

    /// The same with another bias (O), or none.
    pub fn forward_with(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (batch, frames, height, width, channels) = x.size5()?;
        let y = x
            .f_view([batch * frames, height, width, channels])?
            .f_permute([0, 3, 1, 2])?
            .f_conv2d(
                &self.weight,
                bias,
                [self.stride, self.stride],
                [self.padding, self.padding],
                [1, 1],
                1,
            )?
            .f_permute([0, 2, 3, 1])?
            .f_contiguous()?;
        let (_, height, width, channels) = y.size4()?;
        Ok(y.f_view([batch, frames, height, width, channels])?)
    }

    /// (O).
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }
}

/// A convolution over three neighbouring frames, the frames before the first and after the last being zero.
///
/// The reference's Conv3d with a (3, 1, 1) kernel, computed as a Conv2d over (frames, places).
#[derive(Debug)]
pub struct TemporalConv {
    weight: Param,
    bias: Param,
}

impl TemporalConv {
    pub fn load(scope: &Scope<'_>) -> Result<Self> {
        Ok(Self {
            weight: scope.get("weight")?,
            bias: scope.get("bias")?,
        })
    }

    /// (B, F, H, W, I) to (B, F, H, W, O).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, Some(&self.bias))
    }

    /// The same with another bias (O), or none.
    pub fn forward_with(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (batch, frames, height, width, channels) = x.size5()?;
        let y = x
            .f_view([batch, frames, height * width, channels])?
            .f_permute([0, 3, 1, 2])?
            .f_conv2d(&self.weight, bias, [1, 1], [1, 0], [1, 1], 1)?
            .f_permute([0, 2, 3, 1])?
            .f_contiguous()?;
        Ok(y.f_view([batch, frames, height, width, -1])?)
    }

    /// (O).
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }
}

/// Repeats pixels until every frame of (B, F, H, W, C) is `height` x `width`.
pub fn upsample_nearest(x: &Tensor, height: i64, width: i64) -> Result<Tensor> {
    let (batch, frames, h, w, channels) = x.size5()?;
    let y = x
        .f_view([batch * frames, h, w, channels])?
        .f_permute([0, 3, 1, 2])?
        .f_upsample_nearest2d([height, width], None, None)?
        .f_permute([0, 2, 3, 1])?
        .f_contiguous()?;
    Ok(y.f_view([batch, frames, height, width, channels])?)
}
