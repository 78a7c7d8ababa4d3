use flowai_model::config::NORM_GROUPS;
use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::kernels::{self, Affine};
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
    /// large as the deviation, it is wrong in the third digit. Here reductions over the outer dimension are summed in
    /// cascades, and what remains of them is added in f64.
    fn forward_on_cpu(&self, x: &Tensor, after: After) -> Result<Tensor> {
        let affine = Affine {
            weight: &self.weight,
            bias: &self.bias,
            eps: self.eps,
            has_silu: after == After::Silu,
        };
        if let Some(y) = kernels::group_norm(x, NORM_GROUPS, &affine)? {
            return Ok(y);
        }
        // First, while the allocator has a gap of this size: the small tensors of the statistics would break it up.
        let y = x.f_empty_like()?;
        let (scale, shift) = self.scale_and_shift(x)?;
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
        let (items, _, channels) = x.size3()?;
        let in_group = channels / GROUPS;
        let (mean, variance) = Moments::of(x)?.by_group()?;
        let by_group = |x: &Tensor| x.f_view([1, GROUPS, in_group]);
        let rstd = variance.f_add_scalar(self.eps)?.f_rsqrt_()?;
        let scale = rstd.f_mul(&by_group(&self.weight)?)?;
        let shift = by_group(&self.bias)?.f_sub(&mean.f_mul(&scale)?)?;
        let by_channel = |x: &Tensor| x.f_view([items, 1, channels])?.f_to_kind(Kind::Float);
        Ok((by_channel(&scale)?, by_channel(&shift)?))
    }
}

/// Count, mean and summed squared distance from that mean of every channel in every tile, f64. By item and tile: (N, T, 1)
/// and twice (N, T, C).
struct Moments {
    counts: Tensor,
    means: Tensor,
    squares: Tensor,
}

impl Moments {
    /// Of (N, R, C).
    ///
    /// A picture of one colour has channels whose deviation is a thousandth of their mean, so squares of the values
    /// themselves would leave no digit of it. Sums are taken of distances from a value near the channel's mean, and related
    /// to the mean itself by Chan's formula, which also joins tiles and channels.
    fn of(x: &Tensor) -> Result<Self> {
        let (items, _, channels) = x.size3()?;
        let tiles = Tile::all(x)?;
        let (mut near_means, mut sums, mut squares) = (Vec::new(), Vec::new(), Vec::new());
        for tile in &tiles {
            let part = tile.of(x)?.f_to_kind(Kind::Float)?;
            let near_mean = mean_of_some_rows(&part)?;
            let mut distances = part.f_sub(&near_mean)?;
            sums.push(sum_rows(&distances)?);
            squares.push(sum_rows(&distances.f_square_()?)?);
            near_means.push(near_mean.f_squeeze_dim(1)?);
        }
        // Tiles are whole items, or all tiles of an item follow each other.
        let by_item = |parts: &[Tensor]| -> Result<Tensor> {
            let parts = Tensor::f_cat(parts, 0)?.f_view([items, -1, channels])?;
            Ok(parts.f_to_kind(Kind::Double)?)
        };
        let counts: Vec<f64> = tiles
            .iter()
            .flat_map(|tile| (0..tile.items).map(|_| tile.rows as f64))
            .collect();
        let counts = Tensor::f_from_slice(&counts)?.f_view([items, -1, 1])?;
        let sums = by_item(&sums)?;
        let offsets = sums.f_div(&counts)?;
        Ok(Self {
            means: by_item(&near_means)?.f_add_(&offsets)?,
            squares: by_item(&squares)?.f_sub_(&sums.f_mul(&offsets)?)?,
            counts,
        })
    }

    /// Mean and variance of every group: (N, G, 1) each.
    fn by_group(&self) -> Result<(Tensor, Tensor)> {
        let (items, tiles, channels) = self.means.size3()?;
        let shape = [items, tiles, GROUPS, channels / GROUPS];
        let counts = self.counts.f_unsqueeze(-1)?;
        let (means, squares) = (self.means.f_view(shape)?, self.squares.f_view(shape)?);
        let sum = |x: &Tensor| x.f_sum_dim_intlist([1, 3].as_slice(), true, Kind::Double);
        let count = sum(&counts.f_expand(shape, false)?)?;
        let mean = sum(&means.f_mul(&counts)?)?.f_div_(&count)?;
        let mut between = means.f_sub(&mean)?.f_square_()?.f_mul_(&counts)?;
        let variance = sum(&between.f_add_(&squares)?)?.f_div_(&count)?;
        let by_group = |x: Tensor| x.f_view([items, GROUPS, 1]);
        Ok((by_group(mean)?, by_group(variance)?.f_clamp_min_(0.0)?))
    }
}

/// (N, R, C) to (N, 1, C), well within a deviation of the mean of all rows, for a fraction of its cost.
fn mean_of_some_rows(x: &Tensor) -> Result<Tensor> {
    /// Rows are places of a map from left to right: a number that divides no usual width comes through all columns.
    const STEP: i64 = 17;
    let rows = x.f_slice(1, None, None, STEP)?;
    Ok(rows.f_mean_dim([1].as_slice(), true, Kind::Float)?)
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
    use flowai_model::synthetic;

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

    #[test]
    fn some_rows_see_all_columns() {
        let values: Vec<f32> = (0..64 * 48).map(|place| (place % 16) as f32).collect();
        let x = Tensor::from_slice(&values).view([1, -1, 1]);
        let some = mean_of_some_rows(&x).unwrap().double_value(&[0, 0, 0]);
        let (mean, deviation) = (7.5, 4.6);
        assert!((some - mean).abs() < deviation / 2.0, "{some}");
    }

    /// Of values whose mean is a thousand deviations away from zero, over one tile and many of them, some short.
    #[test]
    fn moments_far_from_zero_are_exact() {
        for shape in [[3, 700, 64], [1, 9000, 96], [40, 1000, 32]] {
            let [items, rows, channels] = shape;
            // A column has a fan-in of 1, so its values are not scaled.
            let values = synthetic::tensor("x", &[shape.iter().product::<i64>() as usize, 1], 0);
            let x = Tensor::from_slice(&values).view(shape) * 1e-3 + 1.0;
            let (mean, variance) = Moments::of(&x).unwrap().by_group().unwrap();

            let groups = x.to_kind(Kind::Double);
            let groups = groups.view([items, rows, GROUPS, channels / GROUPS]);
            let mean_expected = groups.mean_dim([1, 3].as_slice(), true, Kind::Double);
            let distances = (groups - &mean_expected).square();
            let variance_expected = distances.mean_dim([1, 3].as_slice(), true, Kind::Double);
            let error = |found: &Tensor, expected: &Tensor| {
                let expected = expected.view([items, GROUPS, 1]);
                let relative = (found - &expected) / expected;
                relative.abs().max().double_value(&[])
            };
            let errors = (
                error(&mean, &mean_expected),
                error(&variance, &variance_expected),
            );
            assert!(errors.0 < 1e-9 && errors.1 < 1e-6, "{shape:?}: {errors:?}");
        }
    }
}
