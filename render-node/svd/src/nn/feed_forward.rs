use tch::{Device, Tensor};

use super::{LayerNorm, Linear};
use crate::error::Result;
use crate::kernels;
use crate::params::Scope;

/// Numbers of the eightfold width that there are at once on a CPU, unless that are fewer than [`TOKENS_MIN`] tokens.
const WIDE_ELEMENTS_MAX: i64 = 2 << 20;

/// A product of fewer rows reads its weights so often that they are what it waits for.
const TOKENS_MIN: i64 = 1024;

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

    /// `x + ff(norm(x))` of contiguous (.., C), written over `x`.
    pub fn add_to(&self, x: Tensor, norm: &LayerNorm) -> Result<Tensor> {
        let width = x.size().last().copied().unwrap_or(0);
        let tokens = x.f_view([-1, width])?;
        let count = tokens.size()[0];
        let part = match x.device() {
            Device::Cpu => (WIDE_ELEMENTS_MAX / (8 * width.max(1))).max(TOKENS_MIN),
            _ => count.max(1),
        };
        for start in (0..count).step_by(part as usize) {
            let tokens = tokens.f_narrow(0, start, part.min(count - start))?;
            let gated = gate(&self.proj.forward(&norm.forward(&tokens)?)?)?;
            self.out.add_to(tokens, &gated)?;
        }
        Ok(x)
    }
}

/// (R, 2W) to (R, W).
fn gate(both: &Tensor) -> Result<Tensor> {
    if let Some(gated) = kernels::geglu(both)? {
        return Ok(gated);
    }
    let width = both.size()[1] / 2;
    let mut gated = both.f_narrow(1, width, width)?.f_gelu("none")?;
    Ok(gated.f_mul_(&both.f_narrow(1, 0, width)?)?)
}
