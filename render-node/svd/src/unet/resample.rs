use tch::Tensor;

use crate::error::Result;
use crate::nn::{Conv2d, upsample_nearest};
use crate::params::Scope;

/// Halves height and width, rounding up.
#[derive(Debug)]
pub struct Downsample {
    conv: Conv2d,
}

impl Downsample {
    pub fn load(scope: &Scope<'_>) -> Result<Self> {
        let conv = Conv2d::load(&scope.at("conv"), 2, 1)?;
        Ok(Self { conv })
    }

    /// (B, F, H, W, C) to (B, F, ceil(H/2), ceil(W/2), C).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.conv.forward(x)
    }
}

/// Repeats pixels to a given size, then smooths.
#[derive(Debug)]
pub struct Upsample {
    conv: Conv2d,
}

impl Upsample {
    pub fn load(scope: &Scope<'_>) -> Result<Self> {
        let conv = Conv2d::load(&scope.at("conv"), 1, 1)?;
        Ok(Self { conv })
    }

    /// (B, F, H, W, C) to (B, F, height, width, C).
    pub fn forward(&self, x: &Tensor, height: i64, width: i64) -> Result<Tensor> {
        self.conv.forward(&upsample_nearest(x, height, width)?)
    }
}
