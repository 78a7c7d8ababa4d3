use tch::{Kind, Tensor};

use super::Linear;
use crate::error::Result;
use crate::params::Scope;

/// Positions (N) to (N, width): cosines, then sines, of falling frequencies. Computed and returned in f32.
///
/// diffusers' `Timesteps` with `flip_sin_to_cos` and no frequency shift.
pub fn sinusoid(positions: &Tensor, width: i64) -> Result<Tensor> {
    let half = width / 2;
    let frequencies = Tensor::f_arange(half, (Kind::Float, positions.device()))?
        .f_mul_scalar(-(10_000_f64.ln()))?
        .f_div_scalar(half)?
        .f_exp()?;
    let angles = positions
        .f_to_kind(Kind::Float)?
        .f_unsqueeze(1)?
        .f_mul(&frequencies.f_unsqueeze(0)?)?;
    Ok(Tensor::f_cat(&[angles.f_cos()?, angles.f_sin()?], 1)?)
}

/// Two linear layers with a SiLU between them.
#[derive(Debug)]
pub struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedding {
    pub fn load(scope: &Scope<'_>) -> Result<Self> {
        Ok(Self {
            linear_1: Linear::load(&scope.at("linear_1"))?,
            linear_2: Linear::load(&scope.at("linear_2"))?,
        })
    }

    /// (N, in) to (N, out).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let hidden = self.linear_1.forward(x)?.f_silu_()?;
        self.linear_2.forward(&hidden)
    }
}
