use tch::Tensor;

use super::Linear;
use crate::error::Result;
use crate::params::Scope;

/// GEGLU: four times as wide inside, gated by an exact GELU.
#[derive(Debug)]
pub struct FeedForward {
    proj: Linear,
    out: Linear,
}

impl FeedForward {
    pub fn load(scope: &Scope<'_>) -> Result<Self> {
        Ok(Self {
            proj: Linear::load(&scope.at("net.0.proj"))?,
            out: Linear::load(&scope.at("net.2"))?,
        })
    }

    /// (.., C) to (.., C).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.out.forward(&self.gated(x)?)
    }

    /// (.., C) to (.., 4C).
    fn gated(&self, x: &Tensor) -> Result<Tensor> {
        let both = self.proj.forward(x)?;
        let width = both.size().last().copied().unwrap_or(0) / 2;
        let mut gated = both.f_narrow(-1, width, width)?.f_gelu("none")?;
        Ok(gated.f_mul_(&both.f_narrow(-1, 0, width)?)?)
    }
}
