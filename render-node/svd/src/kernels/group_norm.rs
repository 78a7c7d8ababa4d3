#![allow(unsafe_code, reason = "reads and writes the memory of tensors")]

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::isa::{Isa, dispatched};
use super::lanes::{EXP2_MAX, EXP2_MIN, LANES, Lanes, add, exp2, fma, max, min, mul, splat, sub};
use super::parallel::{for_each, map};
use crate::error::Result;

/// Channels of a group's width are multiples of it, so every row of a feature map is a whole number of pairs of vectors.
const CHANNELS: usize = 2 * LANES;

/// Elements that a call works on: a quarter of a megabyte, which stays in a core's cache for the second look.
const BLOCK_ELEMENTS: usize = 64 << 10;

/// So many rows are summed in f32 before they are added to a sum in f64.
const ROWS_OF_A_SUM: usize = 64;

/// Rows are places of a map from left to right: a number that divides no usual width comes through all columns.
const SAMPLE_STEP: usize = 17;

/// What a group norm does beside normalising.
pub(crate) struct Affine<'a> {
    /// (C) each, f32.
    pub(crate) weight: &'a Tensor,
    pub(crate) bias: &'a Tensor,
    pub(crate) eps: f64,
    pub(crate) has_silu: bool,
}

/// Normalises `groups` groups of channels of (N, R, C) with statistics over R and the channels of a group.
///
/// `None` where there is no such kernel: another precision, memory layout, device or instruction set, channels that are no
/// multiple of 32 and of the groups, or other numbers of weights.
pub(crate) fn group_norm(x: &Tensor, groups: usize, affine: &Affine<'_>) -> Result<Option<Tensor>> {
    let (items, rows, channels) = x.size3()?;
    let [items, rows, channels] = [items, rows, channels].map(|n| n.unsigned_abs() as usize);
    let is_plain = |x: &Tensor| -> Result<bool> {
        Ok(x.device() == Device::Cpu && x.f_kind()? == Kind::Float && x.is_contiguous())
    };
    let are_plain = is_plain(x)? && is_plain(affine.weight)? && is_plain(affine.bias)?;
    let fit = [affine.weight, affine.bias].map(Tensor::numel) == [channels; 2]
        && channels.is_multiple_of(CHANNELS)
        && channels.is_multiple_of(groups);
    let Some(isa) = Isa::here().filter(|_| are_plain && fit && rows > 0) else {
        return Ok(None);
    };
    let y = x.f_empty_like()?;
    // SAFETY: contiguous tensors of f32 with so many elements, which outlive the slices; nobody writes to them meanwhile.
    let (x, weight, bias) = unsafe {
        (
            slice(x, items * rows * channels),
            slice(affine.weight, channels),
            slice(affine.bias, channels),
        )
    };
    let norm = Norm {
        x,
        y: Output(y.data_ptr().cast()),
        channels,
        groups,
        weight,
        bias,
        eps: affine.eps,
        has_silu: affine.has_silu,
        isa,
    };
    let block_rows = (BLOCK_ELEMENTS / channels).clamp(1, rows);
    let blocks = rows.div_ceil(block_rows);
    let block = |index: usize| {
        let start = index % blocks * block_rows;
        let first = index / blocks * rows;
        first + start..first + rows.min(start + block_rows)
    };
    if blocks == 1 {
        for_each(items, |item| {
            let factors = norm.factors(&[norm.moments(block(item))]);
            norm.apply(block(item), &factors);
        });
        return Ok(Some(y));
    }
    let moments = map(items * blocks, |index| norm.moments(block(index)));
    let factors: Vec<Factors> = moments
        .chunks(blocks)
        .map(|of_item| norm.factors(of_item))
        .collect();
    for_each(items * blocks, |index| {
        norm.apply(block(index), &factors[index / blocks]);
    });
    Ok(Some(y))
}

/// # Safety
///
/// The tensor is contiguous f32 on the CPU, has `count` elements, outlives the slice, and is not written to.
unsafe fn slice(x: &Tensor, count: usize) -> &[f32] {
    // SAFETY: as the caller's.
    unsafe { std::slice::from_raw_parts(x.data_ptr().cast_const().cast(), count) }
}

#[derive(Clone, Copy)]
struct Output(*mut f32);

// SAFETY: [`Norm::apply`] is called once for each row.
unsafe impl Sync for Output {}

struct Norm<'a> {
    x: &'a [f32],
    y: Output,
    channels: usize,
    groups: usize,
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f64,
    has_silu: bool,
    isa: Isa,
}

/// Of some rows of one item: their number, and by channel the mean and the summed squared distances from it.
struct Moments {
    count: f64,
    means: Vec<f64>,
    squares: Vec<f64>,
}

/// By channel: what its elements are multiplied by, and what is added then.
struct Factors {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Norm<'_> {
    fn part(&self, rows: &Range<usize>) -> &[f32] {
        &self.x[rows.start * self.channels..rows.end * self.channels]
    }

    /// A picture of one colour has channels whose deviation is a thousandth of their mean, so squares of the values
    /// themselves would leave no digit of it. Sums are taken of distances from a value near the channel's mean, and related
    /// to the mean itself by Chan's formula, which also joins blocks and channels.
    fn moments(&self, rows: Range<usize>) -> Moments {
        let part = self.part(&rows);
        let count = rows.len() as f64;
        let (mut means, mut squares) = (Vec::new(), Vec::new());
        for first in (0..self.channels).step_by(CHANNELS) {
            let sums = sums_of(self.isa, part, self.channels, first);
            for channel in 0..CHANNELS {
                let offset = sums.distances[channel] / count;
                means.push(f64::from(sums.near[channel]) + offset);
                squares.push(sums.squares[channel] - sums.distances[channel] * offset);
            }
        }
        Moments {
            count,
            means,
            squares,
        }
    }

    fn factors(&self, blocks: &[Moments]) -> Factors {
        let width = self.channels / self.groups;
        let (mut scale, mut shift) = (Vec::new(), Vec::new());
        for group in 0..self.groups {
            let channels = group * width..(group + 1) * width;
            let sum = |of_channel: &dyn Fn(&Moments, usize) -> f64| -> f64 {
                let of_block = |block| {
                    channels
                        .clone()
                        .map(move |channel| of_channel(block, channel))
                };
                blocks.iter().flat_map(of_block).sum()
            };
            let count = sum(&|block, _| block.count);
            let mean = sum(&|block, channel| block.count * block.means[channel]) / count;
            let squares = sum(&|block, channel| {
                let distance = block.means[channel] - mean;
                block.squares[channel] + block.count * distance * distance
            });
            let rstd = 1.0 / ((squares / count).max(0.0) + self.eps).sqrt();
            for channel in channels {
                let factor = rstd * f64::from(self.weight[channel]);
                scale.push(factor as f32);
                shift.push((f64::from(self.bias[channel]) - mean * factor) as f32);
            }
        }
        Factors { scale, shift }
    }

    fn apply(&self, rows: Range<usize>, factors: &Factors) {
        let part = self.part(&rows);
        // SAFETY: rows of the output, which has the input's shape; each is given out once.
        let to = unsafe {
            let start = self.y.0.add(rows.start * self.channels);
            std::slice::from_raw_parts_mut(start, part.len())
        };
        match self.has_silu {
            true => scale_with_silu(self.isa, part, to, factors),
            false => scale(self.isa, part, to, factors),
        }
    }
}

/// Of some channels over the rows of a block: a value near the mean, and the sums of the distances from it and their squares.
struct Sums {
    near: [f32; CHANNELS],
    distances: [f64; CHANNELS],
    squares: [f64; CHANNELS],
}

dispatched!(sums_of(part: &[f32], channels: usize, first: usize) -> Sums = sum_block);
dispatched!(scale(part: &[f32], to: &mut [f32], factors: &Factors) = scale_block::<false>);
dispatched!(scale_with_silu(part: &[f32], to: &mut [f32], factors: &Factors) = scale_block::<true>);

/// The two vectors of a row that begin at this channel.
#[inline(always)]
fn vectors(row: &[f32], first: usize) -> [Lanes; 2] {
    let (vectors, _) = row[first..first + CHANNELS].as_chunks::<LANES>();
    [vectors[0], vectors[1]]
}

#[inline(always)]
fn sum_block(part: &[f32], channels: usize, first: usize) -> Sums {
    let mut near = [splat(0.0); 2];
    let mut count = 0.0;
    for row in part.chunks_exact(channels).step_by(SAMPLE_STEP) {
        let row = vectors(row, first);
        near = [add(near[0], row[0]), add(near[1], row[1])];
        count += 1.0;
    }
    near = near.map(|sum| sum.map(|x| x / count));
    let mut sums = Sums {
        near: [0.0; CHANNELS],
        distances: [0.0; CHANNELS],
        squares: [0.0; CHANNELS],
    };
    sums.near.copy_from_slice(near.as_flattened());
    for rows in part.chunks(ROWS_OF_A_SUM * channels) {
        let (mut distances, mut squares) = ([splat(0.0); 2], [splat(0.0); 2]);
        for row in rows.chunks_exact(channels) {
            let row = vectors(row, first);
            for i in 0..2 {
                let distance = sub(row[i], near[i]);
                distances[i] = add(distances[i], distance);
                squares[i] = fma(distance, distance, squares[i]);
            }
        }
        let flush = |to: &mut [f64], from: [Lanes; 2]| {
            for (to, from) in to.iter_mut().zip(from.as_flattened()) {
                *to += f64::from(*from);
            }
        };
        flush(&mut sums.distances, distances);
        flush(&mut sums.squares, squares);
    }
    sums
}

#[inline(always)]
fn scale_block<const SILU: bool>(part: &[f32], to: &mut [f32], factors: &Factors) {
    let channels = factors.scale.len();
    let (scale, _) = factors.scale.as_chunks::<LANES>();
    let (shift, _) = factors.shift.as_chunks::<LANES>();
    for (from, to) in part
        .chunks_exact(channels)
        .zip(to.chunks_exact_mut(channels))
    {
        let ((from, _), (to, _)) = (from.as_chunks::<LANES>(), to.as_chunks_mut::<LANES>());
        for (i, to) in to.iter_mut().enumerate() {
            let x = fma(from[i], scale[i], shift[i]);
            *to = if SILU { silu(x) } else { x };
        }
    }
}

/// `x / (1 + e^-x)`.
#[inline(always)]
fn silu(x: Lanes) -> Lanes {
    let exponent = mul(x, splat(-std::f32::consts::LOG2_E));
    let exponent = min(max(exponent, splat(EXP2_MIN)), splat(EXP2_MAX));
    let power = exp2(exponent);
    std::array::from_fn(|i| x[i] / (1.0 + power[i]))
}

#[cfg(test)]
mod tests {
    use flowai_model::synthetic;

    use super::*;

    fn values(name: &str, shape: &[i64]) -> Tensor {
        let count: i64 = shape.iter().product();
        // A column has a fan-in of 1, so its values are not scaled.
        let values = synthetic::tensor(name, &[count as usize, 1], 0);
        Tensor::from_slice(&values).view(shape)
    }

    /// Against the formula in f64, relative to what is left of f32's digits where the mean is far from zero.
    fn check(shape: [i64; 3], mean: f64, has_silu: bool) {
        let [items, rows, channels] = shape;
        let (weight, bias) = (values("weight", &[channels]), values("bias", &[channels]));
        let x = values("x", &shape) + mean;
        let affine = Affine {
            weight: &weight,
            bias: &bias,
            eps: 1e-5,
            has_silu,
        };
        let found = group_norm(&x, 32, &affine).unwrap().unwrap();

        let double = |x: &Tensor| x.to_kind(Kind::Double);
        let groups = double(&x).view([items, rows, 32, channels / 32]);
        let dims = [1, 3].as_slice();
        let groups = &groups - groups.mean_dim(dims, true, Kind::Double);
        let variance = groups.square().mean_dim(dims, true, Kind::Double);
        let normal = (groups / (variance + 1e-5).sqrt()).view(shape);
        let mut expected = normal * double(&weight) + double(&bias);
        if has_silu {
            expected = expected.silu();
        }
        let error = (found - expected).abs().max().double_value(&[]);
        let allowed = 2e-6 + 1e-6 * mean;
        assert!(error < allowed, "{shape:?}, mean {mean}: {error:e}");
    }

    #[test]
    fn it_is_the_formula_for_every_size() {
        for shape in [
            [2, 3, 64],
            [3, 7, 32],
            [2, 700, 64],
            [1, 9000, 96],
            [2, 3000, 320],
            [40, 100, 32],
        ] {
            for has_silu in [false, true] {
                check(shape, 0.0, has_silu);
            }
        }
    }

    #[test]
    fn values_far_from_zero_keep_their_digits() {
        check([2, 5000, 64], 1000.0, false);
    }

    #[test]
    fn threads_change_no_bit() {
        let x = values("x", &[1, 20_000, 64]);
        let (weight, bias) = (values("weight", &[64]), values("bias", &[64]));
        let affine = Affine {
            weight: &weight,
            bias: &bias,
            eps: 1e-5,
            has_silu: true,
        };
        let threads = tch::get_num_threads();
        let results = [1, 2, 3].map(|threads| {
            tch::set_num_threads(threads);
            group_norm(&x, 32, &affine).unwrap().unwrap()
        });
        tch::set_num_threads(threads);
        assert!(results[0].equal(&results[1]) && results[0].equal(&results[2]));
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let (weight, bias) = (values("weight", &[32]), values("bias", &[32]));
        for bad in [f64::NAN, f64::INFINITY] {
            let x = values("x", &[1, 50, 32]);
            let _ = x.get(0).get(20).get(3).fill_(bad);
            let affine = Affine {
                weight: &weight,
                bias: &bias,
                eps: 1e-5,
                has_silu: true,
            };
            let y = group_norm(&x, 32, &affine).unwrap().unwrap();
            assert!(y.isfinite().all().int64_value(&[]) == 0, "{bad}");
        }
    }

    #[test]
    fn other_layouts_are_left_to_libtorch() {
        let (weight, bias) = (values("weight", &[64]), values("bias", &[64]));
        let affine = Affine {
            weight: &weight,
            bias: &bias,
            eps: 1e-5,
            has_silu: false,
        };
        let x = values("x", &[2, 10, 64]);
        for other in [
            x.to_kind(Kind::BFloat16),
            x.transpose(0, 1).contiguous().transpose(0, 1),
        ] {
            assert!(group_norm(&other, 32, &affine).unwrap().is_none());
        }
        let wider = values("wider", &[2, 10, 96]);
        assert!(group_norm(&wider, 32, &affine).unwrap().is_none());
    }
}
