//! The arithmetic of fusing: from the pristine weight and the factors to what the model computes with.

use flowai_model::adapter::MagnitudeAxis;
use tch::{Device, Kind, Tensor};

use super::LoraError;
use super::factors::Factors;
use super::set::Part;
use crate::error::Result;
use crate::kernels::Sums;
use crate::params::Pristine;

/// What a CPU computes of a change at a time where the kernel of our own does not fit: small enough to be added to the weight
/// before it leaves the second-level cache, so that a switch reads each pristine weight once and writes each fused one once.
const PIECE_BYTES: i64 = 1 << 20;

/// The changes of one module, with their numbers.
pub(super) struct Change<'a> {
    pub(super) module: &'a str,
    pub(super) parts: &'a [Part<'a>],
    pub(super) pristine: Pristine,
}

impl Change<'_> {
    /// Errors: the pristine weight has another shape than the adapters change.
    pub(super) fn check(&self) -> std::result::Result<(), LoraError> {
        let shape = self.pristine.shape();
        let fits = |part: &Part<'_>| {
            let changes = part.delta().weight_shape();
            changes.iter().map(|&n| n as i64).eq(shape.iter().copied())
        };
        match self.parts.iter().all(fits) {
            true => Ok(()),
            false => Err(LoraError::NoSuchModule {
                module: self.module.to_owned(),
            }),
        }
    }

    /// Whether the fused weight is finite for certain, and its sum can be written as it is computed.
    ///
    /// A change of less than half a step at the end of the precision's range rounds back into the range, whatever is
    /// changed.
    pub(super) fn is_plain(&self) -> bool {
        let half_step = match self.pristine.precision().kind {
            Kind::Half => 2f64.powi(4),
            Kind::BFloat16 => 2f64.powi(119),
            _ => 2f64.powi(103),
        };
        let change = |part: &Part<'_>| part.weight.abs() * part.delta().change_max;
        let change_max: f64 = self.parts.iter().map(change).sum();
        // Half of it, for the rounding of the sum itself.
        let is_dora = |part: &Part<'_>| part.delta().magnitude.is_some();
        change_max < half_step / 2.0 && !self.parts.iter().any(is_dora)
    }

    /// Writes the fused weight over `value`, piece by piece, or leaves that to `sums`, which must be written while this lives.
    pub(super) fn write(
        &self,
        factors: &[&Factors],
        value: &mut Tensor,
        sums: &mut Sums,
    ) -> Result<()> {
        let (up, down) = product(self.parts, factors)?;
        let (out, columns) = (up.size2()?.0, down.size2()?.1);
        let is_at_once =
            self.pristine.precision().device != Device::Cpu || self.pristine.is_f32_matrix();
        let piece = if is_at_once {
            out
        } else {
            (PIECE_BYTES / (4 * columns)).max(1)
        };
        let mut start = 0;
        while start < out {
            let rows = piece.min(out - start);
            let up = up.f_narrow(0, start, rows)?;
            let target = value.f_narrow(0, start, rows)?;
            let pristine = self.pristine.rows(start, rows)?;
            start += rows;
            // What is converted piece by piece would be kept until all is summed.
            if is_at_once && sums.add(&target, &pristine, &up, &down) {
                continue;
            }
            let change = up.f_mm(&down)?.f_view(target.size().as_slice())?;
            let _ = change.f_add_out(&target, &pristine)?;
        }
        Ok(())
    }

    /// The fused weight in the model's precision.
    ///
    /// Errors: it is not finite.
    pub(super) fn compute(&self, factors: &[&Factors]) -> Result<Tensor> {
        let pristine = self.pristine.whole()?;
        let kind = pristine.f_kind()?;
        let shape = pristine.size();
        // A copy even where the weight is f32 already: the pristine one may lie in a mapped file.
        let pristine = pristine.f_to_dtype(Kind::Float, false, true)?;
        let matrix = pristine.f_flatten(1, -1)?;

        let is_dora = |part: &Part<'_>| part.delta().magnitude.is_some();
        let (plain, plain_factors): (Vec<_>, Vec<_>) = self
            .parts
            .iter()
            .zip(factors.iter().copied())
            .filter(|(part, _)| !is_dora(part))
            .unzip();
        let mut sum = matrix.f_add_scalar(0.0)?;
        if !plain.is_empty() {
            let (up, down) = product(&plain, &plain_factors)?;
            sum = sum.f_add_(&up.f_mm(&down)?)?;
        }
        for (part, factors) in self.parts.iter().zip(factors) {
            let Some((magnitude, axis)) = factors.magnitude()? else {
                continue;
            };
            let up = factors.up(part.delta().scale)?;
            let changed = up.f_mm(&factors.down()?)?.f_add_(&matrix)?;
            let changed = changed.f_view(shape.as_slice())?;
            let mut change = to_length(changed, &magnitude, axis)?.f_flatten(1, -1)?;
            let mut change = change.f_sub_(&matrix)?;
            sum = sum.f_add_(&change.f_mul_scalar_(part.weight)?)?;
        }
        let fused = sum.f_to_kind(kind)?.f_view(shape.as_slice())?;
        if fused.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
            return Err(LoraError::OutOfRange {
                module: self.module.to_owned(),
                kind,
            }
            .into());
        }
        Ok(fused)
    }
}

/// All changes as one product `up @ down` in f32: their ranks beside each other, in order of the hashes.
fn product(parts: &[Part<'_>], factors: &[&Factors]) -> Result<(Tensor, Tensor)> {
    let mut ups = Vec::new();
    let mut downs = Vec::new();
    for (part, factors) in parts.iter().zip(factors) {
        ups.push(factors.up(part.weight * part.delta().scale)?);
        downs.push(factors.down()?);
    }
    Ok(match ups.len() {
        1 => (ups.swap_remove(0), downs.swap_remove(0)),
        _ => (Tensor::f_cat(&ups, 1)?, Tensor::f_cat(&downs, 0)?),
    })
}

/// `magnitude * x / |x|`, the norm over all dimensions but the magnitude's.
fn to_length(mut x: Tensor, magnitude: &Tensor, axis: MagnitudeAxis) -> Result<Tensor> {
    let axis = match axis {
        MagnitudeAxis::Output => 0,
        MagnitudeAxis::Input => 1,
    };
    let dimensions = x.dim() as i64;
    let others: Vec<i64> = (0..dimensions).filter(|&d| d != axis).collect();
    let norm = x
        .f_square()?
        .f_sum_dim_intlist(others, true, Kind::Float)?
        .f_sqrt()?;
    let factor = magnitude.f_view(norm.size().as_slice())?.f_div(&norm)?;
    Ok(x.f_mul_(&factor)?)
}
