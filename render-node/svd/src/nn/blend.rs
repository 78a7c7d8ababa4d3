use tch::Tensor;

use crate::error::Result;
use crate::params::Scope;

/// How much of a block's output comes from its spatial half and how much from its temporal half.
///
/// diffusers' `AlphaBlender` for clips. No adapter changes its factor, so it is read once.
#[derive(Debug)]
pub struct Blend {
    spatial: f64,
    /// `1 - spatial`, as a tensor without dimensions.
    temporal: Tensor,
}

impl Blend {
    /// The spatial share is the sigmoid of the factor: the UNet.
    pub fn load(scope: &Scope<'_>) -> Result<Self> {
        let alpha = scope.get("mix_factor")?.f_sigmoid()?;
        Ok(Self {
            spatial: alpha.f_double_value(&[0])?,
            temporal: alpha.f_neg()?.f_add_scalar(1.0)?.f_squeeze()?,
        })
    }

    /// The temporal share is the sigmoid of the factor: the VAE decoder.
    pub fn load_switched(scope: &Scope<'_>) -> Result<Self> {
        let alpha = scope.get("mix_factor")?.f_sigmoid()?;
        Ok(Self {
            spatial: 1.0 - alpha.f_double_value(&[0])?,
            temporal: alpha.f_squeeze()?,
        })
    }

    /// `spatial * x + temporal * y`, written over `y`.
    pub fn mix(&self, x: &Tensor, mut y: Tensor) -> Result<Tensor> {
        Ok(y.f_lerp_(x, self.spatial)?)
    }

    /// `spatial * x + temporal * (x + change)`, written over `x`: one pass.
    pub fn mix_change(&self, x: &mut Tensor, change: &Tensor) -> Result<()> {
        let _ = x.f_addcmul_(change, &self.temporal)?;
        Ok(())
    }
}
