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
}
