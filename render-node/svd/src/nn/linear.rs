use tch::Tensor;

use crate::error::Result;
use crate::params::{Param, Scope};

/// `x W^T + b` over the last dimension.
#[derive(Debug)]
pub struct Linear {
    weight: Param,
    bias: Option<Param>,
}

impl Linear {
    pub fn load(scope: &Scope<'_>) -> Result<Self> {
        Ok(Self {
            weight: scope.get("weight")?,
            bias: Some(scope.get("bias")?),
        })
    }

    pub fn load_without_bias(scope: &Scope<'_>) -> Result<Self> {
        Ok(Self {
            weight: scope.get("weight")?,
            bias: None,
        })
    }

    /// The module's `to_q`, `to_k` and `to_v` as one layer, whose outputs follow one another.
    pub fn load_stacked(scope: &Scope<'_>) -> Result<Self> {
        Ok(Self {
            weight: scope.get_stacked("weight")?,
            bias: Some(scope.get_stacked("bias")?),
        })
    }

    pub fn load_stacked_without_bias(scope: &Scope<'_>) -> Result<Self> {
        Ok(Self {
            weight: scope.get_stacked("weight")?,
            bias: None,
        })
    }

    /// (.., in) to (.., out).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut shape = x.size();
        let width = shape.pop().unwrap_or(1);
        // As a matrix: libtorch adds the bias inside the product only for few numbers of dimensions.
        let y = x
            .f_reshape([-1, width])?
            .f_linear(&self.weight, self.bias.as_deref())?;
        shape.push(-1);
        Ok(y.f_view(shape.as_slice())?)
    }

    /// `y + x W^T + b`, written over `y`: of (N, in) and (N, out).
    pub fn add_to(&self, mut y: Tensor, x: &Tensor) -> Result<()> {
        let mut y = y.f_addmm_(x, &self.weight.f_transpose(0, 1)?)?;
        if let Some(bias) = &self.bias {
            let _ = y.f_add_(bias)?;
        }
        Ok(())
    }
}
