use flowai_model::config::NORM_GROUPS;
use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::params::{Param, Scope};

const GROUPS: i64 = NORM_GROUPS as i64;

/// Elements that a CPU core works on at once: half a megabyte of f32, what its cache holds.
const TILE_ELEMENTS: i64 = 128 << 10;

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

/// What follows a group norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    Nothing,
    Silu,
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
    pub fn each_frame(&self, x: &Tensor, after: After) -> Result<Tensor> {
        let (batch, frames, height, width, channels) = x.size5()?;
        let rows = x.f_view([batch * frames, height * width, channels])?;
        Ok(self.forward(&rows, after)?.f_view(x.size().as_slice())?)
    }

    /// (B, F, H, W, C), all frames of a clip by common statistics.
    pub fn across_frames(&self, x: &Tensor, after: After) -> Result<Tensor> {
        let (batch, frames, height, width, channels) = x.size5()?;
        let rows = x.f_view([batch, frames * height * width, channels])?;
        Ok(self.forward(&rows, after)?.f_view(x.size().as_slice())?)
    }

    /// (N, R, C) with statistics over R and the channels of a group.
    fn forward(&self, x: &Tensor, after: After) -> Result<Tensor> {
        if x.device() == Device::Cpu {
            return self.forward_on_cpu(x, after);
        }
        let mut y = x
            .f_permute([0, 2, 1])?
            .f_group_norm(
                GROUPS,
                Some(&*self.weight),
                Some(&*self.bias),
                self.eps,
                false,
            )?
            .f_permute([0, 2, 1])?
            .f_contiguous()?;
        Ok(match after {
            After::Nothing => y,
            After::Silu => y.f_silu_()?,
        })
    }

    /// The same in two passes over tiles that stay in the cache.
    ///
    /// libtorch's kernel for this layout sums plainly in f32: with the 2 million rows of a full-size chunk, and a mean as
    /// large as the deviation, it is wrong in the third digit. Reductions over the outer dimension are summed in cascades,
    /// and what remains of them is added in f64.
    fn forward_on_cpu(&self, x: &Tensor, after: After) -> Result<Tensor> {
        let (scale, shift) = self.scale_and_shift(x)?;
        let y = x.f_empty_like()?;
        for tile in Tile::all(x)? {
            let (scale, shift) = (tile.items(&scale)?, tile.items(&shift)?);
            let from = tile.of(x)?.f_to_kind(Kind::Float)?;
            let mut to = tile.of(&y)?;
            if y.f_kind()? == Kind::Float {
                let _ = shift.f_addcmul_out(&to, &from, &scale)?;
            } else {
                to.f_copy_(&shift.f_addcmul(&from, &scale)?)?;
            }
            if after == After::Silu {
                let _ = to.f_silu_()?;
            }
        }
        Ok(y)
    }

    /// What every element is multiplied by, and what is added then: (N, 1, C) each, f32.
    fn scale_and_shift(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let (items, rows, channels) = x.size3()?;
        let in_group = channels / GROUPS;
        let (mut sums, mut squares) = (Vec::new(), Vec::new());
        for tile in Tile::all(x)? {
            let part = tile.of(x)?.f_to_kind(Kind::Float)?;
            sums.push(sum_rows(&part)?);
            squares.push(sum_rows(&part.f_square()?)?);
        }
        // Tiles are whole items, or all tiles of an item follow each other.
        let mean = |parts: &[Tensor]| -> Result<Tensor> {
            let parts = Tensor::f_cat(parts, 0)?.f_view([items, -1, GROUPS, in_group])?;
            let sum = parts.f_sum_dim_intlist([1, 3].as_slice(), false, Kind::Double)?;
            Ok(sum.f_div_scalar(rows * in_group)?.f_unsqueeze(-1)?)
        };
        let (mean, square) = (mean(&sums)?, mean(&squares)?);
        let variance = square.f_sub(&mean.f_square()?)?.f_clamp_min_(0.0)?;
        let by_group = |x: &Tensor| x.f_view([1, GROUPS, in_group]);
        let rstd = variance.f_add_scalar(self.eps)?.f_rsqrt_()?;
        let scale = rstd.f_mul(&by_group(&self.weight)?)?;
        let shift = by_group(&self.bias)?.f_sub(&mean.f_mul(&scale)?)?;
        let by_channel = |x: &Tensor| x.f_view([items, 1, channels])?.f_to_kind(Kind::Float);
        Ok((by_channel(&scale)?, by_channel(&shift)?))
    }
}

fn sum_rows(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_sum_dim_intlist([1].as_slice(), false, Kind::Float)?)
}

/// A part of (N, R, C): some whole items, or some rows of one.
#[derive(Debug, Clone, Copy)]
struct Tile {
    item: i64,
    items: i64,
    row: i64,
    rows: i64,
}

impl Tile {
    /// All tiles of `x`, in order of their memory.
    fn all(x: &Tensor) -> Result<Vec<Self>> {
        let (items, rows, channels) = x.size3()?;
        let elements = TILE_ELEMENTS * i64::from(tch::get_num_threads());
        let items_step = (elements / (rows * channels).max(1)).clamp(1, items.max(1));
        let rows_step = (elements / channels.max(1)).clamp(1, rows.max(1));
        let starts = |end: i64, step: i64| (0..end).step_by(step.unsigned_abs() as usize);
        let tiles = starts(items, items_step).flat_map(|item| {
            starts(rows, rows_step).map(move |row| Self {
                item,
                items: items_step.min(items - item),
                row,
                rows: rows_step.min(rows - row),
            })
        });
        Ok(tiles.collect())
    }

    /// Its part of (N, R, C).
    fn of(self, x: &Tensor) -> Result<Tensor> {
        Ok(self.items(x)?.f_narrow(1, self.row, self.rows)?)
    }

    /// Its items of (N, ..).
    fn items(self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_narrow(0, self.item, self.items)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An item may be many tiles, and a tile many items; both must see the statistics of whole items.
    #[test]
    fn tiles_cover_everything_once() {
        for shape in [[5, 7, 32], [3, 5000, 64], [1, 9000, 96], [40, 1000, 32]] {
            let mut seen = Tensor::zeros(shape, (Kind::Int, Device::Cpu));
            for tile in Tile::all(&seen).unwrap() {
                let _ = tile.of(&seen).unwrap().f_add_scalar_(1).unwrap();
            }
            assert!(seen.eq(1).all().int64_value(&[]) == 1, "{shape:?}");
            let _ = seen.zero_();
        }
    }
}
