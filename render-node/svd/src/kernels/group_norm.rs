#![allow(unsafe_code, reason = "reads and writes the memory of tensors")]

use std::mem::MaybeUninit;
use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::isa::{Isa, Set, dispatched};
use super::lanes::{EXP2_MAX, EXP2_MIN, LANES, Lanes, add, exp2, fma, max, min, mul, splat, sub};
use super::output::Output;
use super::parallel::{for_each, map};
use crate::error::Result;

/// Channels that are summed together: a row is a whole number of them.
const CHANNELS: usize = 2 * LANES;

/// Elements that a call works on: a quarter of a megabyte, which stays in a core's cache for the second look.
const BLOCK_ELEMENTS: usize = 64 << 10;

/// So many rows are summed in f32 before they are added to a sum in f64.
const ROWS_OF_A_SUM: usize = 64;

/// Rows are places of a map from left to right: a number that divides no usual width comes through all columns.
const SAMPLE_STEP: usize = 17;

/// What a group norm does beside normalising.
pub(crate) struct Affine<'a> {
    pub(crate) groups: usize,
    /// (C) each.
    pub(crate) weight: &'a Tensor,
    pub(crate) bias: &'a Tensor,
    pub(crate) eps: f64,
    pub(crate) has_silu: bool,
}

/// Normalises groups of channels of (N, R, C) on the CPU, with statistics over R and the channels of a group. Computed and
/// returned in f32. `None` for rows that are no whole number of [`CHANNELS`], as no published model has them.
///
/// libtorch's kernel for this layout sums plainly in f32: with the 2 million rows of a full-size chunk, and a mean as large as
/// the deviation, it is wrong in the third digit.
///
/// Errors: channels that make no such groups, too little memory.
pub(crate) fn group_norm(x: &Tensor, affine: &Affine<'_>) -> Result<Option<Tensor>> {
    match x.size3()? {
        (_, _, channels) if channels % CHANNELS as i64 != 0 => Ok(None),
        _ => group_norm_with(Isa::here(), x, affine).map(Some),
    }
}

fn group_norm_with(isa: Isa, x: &Tensor, affine: &Affine<'_>) -> Result<Tensor> {
    let x = plain(x)?;
    let (items, rows, channels) = x.size3()?;
    let y = x.f_empty_like()?;
    if x.numel() == 0 {
        return Ok(y);
    }
    let (weight, bias) = parameters(&x, affine)?;
    let [items, rows, channels] = [items, rows, channels].map(|n| n.unsigned_abs() as usize);
    let norm = Norm::new(isa, &x, [&weight, &bias], affine, channels);
    let output = Output(y.data_ptr().cast());
    let has_silu = affine.has_silu;
    let apply = |rows: Range<usize>, factors: &Factors| {
        // SAFETY: rows of the output, which has the input's shape; each is given out once.
        let to = unsafe { output.part(rows.start * channels, rows.len() * channels) };
        write(isa, norm.part(&rows), to, factors, has_silu);
    };
    let blocks = Blocks::of(rows, channels);
    let block = |index: usize| blocks.rows(index / blocks.count * rows, index % blocks.count);
    if blocks.count == 1 {
        for_each(items, |item| {
            let factors = norm.factors(&[norm.moments(block(item))]);
            apply(block(item), &factors);
        });
        return Ok(y);
    }
    let moments = map(items * blocks.count, |index| norm.moments(block(index)));
    let factors: Vec<Factors> = moments
        .chunks(blocks.count)
        .map(|of_item| norm.factors(of_item))
        .collect();
    for_each(items * blocks.count, |index| {
        apply(block(index), &factors[index / blocks.count]);
    });
    Ok(y)
}

/// A group norm with its statistics taken, to be applied to one part of its input after the other.
pub(crate) struct Normaliser {
    factors: Factors,
    has_silu: bool,
    isa: Isa,
}

impl Normaliser {
    /// Takes the statistics of all of (.., C), contiguous f32 on the CPU and not empty, C a whole number of [`CHANNELS`].
    ///
    /// Errors: as [`group_norm`].
    pub(crate) fn of(x: &Tensor, affine: &Affine<'_>) -> Result<Self> {
        let isa = Isa::here();
        let channels = x.size().last().copied().unwrap_or(0);
        let x = x.f_view([1, -1, channels])?;
        let (weight, bias) = parameters(&x, affine)?;
        let [rows, channels] = [x.size()[1], channels].map(|n| n.unsigned_abs() as usize);
        let norm = Norm::new(isa, &x, [&weight, &bias], affine, channels);
        let blocks = Blocks::of(rows, channels);
        let moments = map(blocks.count, |index| norm.moments(blocks.rows(0, index)));
        Ok(Self {
            factors: norm.factors(&moments),
            has_silu: affine.has_silu,
            isa,
        })
    }

    /// Some places of all frames, (F, P, C) whose places follow each other in memory, to the same, contiguous.
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let y = Tensor::f_empty(x.size().as_slice(), (Kind::Float, Device::Cpu))?;
        let (frames, places, channels) = x.size3()?;
        let of_frame = x.stride()[0];
        let [frames, places, channels, of_frame] =
            [frames, places, channels, of_frame].map(|n| n.unsigned_abs() as usize);
        let (from, to) = (
            Input(x.data_ptr().cast_const().cast()),
            Output(y.data_ptr().cast()),
        );
        let blocks = Blocks::of(places, channels);
        for_each(frames * blocks.count, |index| {
            let (frame, rows) = (index / blocks.count, blocks.rows(0, index % blocks.count));
            let (start, count) = (rows.start * channels, rows.len() * channels);
            // SAFETY: rows of the two tensors; those of the output are given out once.
            let (part, to) = unsafe {
                (
                    from.part(frame * of_frame + start, count),
                    to.part(frame * places * channels + start, count),
                )
            };
            write(self.isa, part, to, &self.factors, self.has_silu);
        });
        Ok(y)
    }
}

/// Contiguous f32 on the CPU.
fn plain(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_to_device(Device::Cpu)?
        .f_to_kind(Kind::Float)?
        .f_contiguous()?)
}

/// Weight and bias for (N, R, C).
fn parameters(x: &Tensor, affine: &Affine<'_>) -> Result<(Tensor, Tensor)> {
    let (items, rows, channels) = x.size3()?;
    // Whatever does not fit is refused by libtorch, which says why.
    let _ = x.f_view([items, rows, affine.groups as i64, -1])?;
    let of_channels = |x: &Tensor| plain(&x.f_view([channels])?);
    Ok((of_channels(affine.weight)?, of_channels(affine.bias)?))
}

/// How the rows of an item are shared among calls.
struct Blocks {
    rows: usize,
    rows_of_block: usize,
    count: usize,
}

impl Blocks {
    /// Of at least one row.
    fn of(rows: usize, channels: usize) -> Self {
        let rows_of_block = (BLOCK_ELEMENTS / channels).clamp(1, rows);
        Self {
            rows,
            rows_of_block,
            count: rows.div_ceil(rows_of_block),
        }
    }

    /// Of an item that begins at row `first`.
    fn rows(&self, first: usize, index: usize) -> Range<usize> {
        let start = index * self.rows_of_block;
        first + start..first + self.rows.min(start + self.rows_of_block)
    }
}

fn write(isa: Isa, part: &[f32], to: &mut [MaybeUninit<f32>], factors: &Factors, has_silu: bool) {
    match has_silu {
        true => scale_with_silu(isa, part, to, factors),
        false => scale(isa, part, to, factors),
    }
}

/// Of a tensor that is contiguous f32 on the CPU, not empty, and not written to.
fn elements(x: &Tensor) -> &[f32] {
    // SAFETY: memory of so many elements, which the tensor keeps; nobody has written to it since it was made.
    unsafe { std::slice::from_raw_parts(x.data_ptr().cast_const().cast(), x.numel()) }
}

#[derive(Clone, Copy)]
struct Input(*const f32);

// SAFETY: only read.
unsafe impl Sync for Input {}

impl Input {
    /// # Safety
    /// The elements lie in a tensor that lives, and nobody writes to them.
    unsafe fn part<'a>(self, start: usize, count: usize) -> &'a [f32] {
        // SAFETY: as the caller promises.
        unsafe { std::slice::from_raw_parts(self.0.add(start), count) }
    }
}

struct Norm<'a> {
    x: &'a [f32],
    channels: usize,
    groups: usize,
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f64,
    isa: Isa,
}

/// Of some rows of one item: their number, and by channel the mean and the summed squared distances from it.
struct Moments {
    count: f64,
    means: Vec<f64>,
    squares: Vec<f64>,
}

/// By channel: what is taken from its elements, what they are multiplied by then, and what is added.
///
/// A mean may be a thousand deviations: only what is left without it has the digits to be multiplied.
struct Factors {
    center: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl<'a> Norm<'a> {
    /// Of tensors as [`plain`] and [`parameters`] make them.
    fn new(
        isa: Isa,
        x: &'a Tensor,
        [weight, bias]: [&'a Tensor; 2],
        affine: &Affine<'_>,
        channels: usize,
    ) -> Self {
        Self {
            x: elements(x),
            channels,
            groups: affine.groups,
            weight: elements(weight),
            bias: elements(bias),
            eps: affine.eps,
            isa,
        }
    }

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
        let (mut center, mut scale, mut shift) = (Vec::new(), Vec::new(), Vec::new());
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
            let rstd = match squares.is_finite() {
                true => 1.0 / ((squares / count).max(0.0) + self.eps).sqrt(),
                // Values so large that f32 cannot square them would all become the bias.
                false => f64::NAN,
            };
            let rounded = mean as f32;
            for channel in channels {
                let factor = rstd * f64::from(self.weight[channel]);
                let rest = (mean - f64::from(rounded)) * factor;
                center.push(rounded);
                scale.push(factor as f32);
                shift.push((f64::from(self.bias[channel]) - rest) as f32);
            }
        }
        Factors {
            center,
            scale,
            shift,
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
dispatched!(scale(part: &[f32], to: &mut [MaybeUninit<f32>], factors: &Factors) = scale_block::<false>);
dispatched!(scale_with_silu(part: &[f32], to: &mut [MaybeUninit<f32>], factors: &Factors) = scale_block::<true>);

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
fn scale_block<const SILU: bool>(part: &[f32], to: &mut [MaybeUninit<f32>], factors: &Factors) {
    let channels = factors.scale.len();
    let (center, _) = factors.center.as_chunks::<LANES>();
    let (scale, _) = factors.scale.as_chunks::<LANES>();
    let (shift, _) = factors.shift.as_chunks::<LANES>();
    for (from, to) in part
        .chunks_exact(channels)
        .zip(to.chunks_exact_mut(channels))
    {
        let ((from, _), (to, _)) = (from.as_chunks::<LANES>(), to.as_chunks_mut::<LANES>());
        for (i, to) in to.iter_mut().enumerate() {
            let x = fma(sub(from[i], center[i]), scale[i], shift[i]);
            *to = if SILU { silu(x) } else { x }.map(MaybeUninit::new);
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
    use super::super::testing::{values, with_threads};
    use super::*;

    fn found(x: &Tensor, has_silu: bool) -> Tensor {
        found_in(32, x, has_silu)
    }

    /// Of every instruction set, which must give the same bits.
    fn found_in(groups: usize, x: &Tensor, has_silu: bool) -> Tensor {
        let channels = x.size()[2];
        let affine = Affine {
            groups,
            weight: &values("weight", &[channels]),
            bias: &values("bias", &[channels]),
            eps: 1e-5,
            has_silu,
        };
        let all = Isa::all_here().into_iter();
        let found = all.map(|isa| (isa, group_norm_with(isa, x, &affine).unwrap()));
        let same = found.reduce(|(first, x), (isa, y)| {
            let is_same = x.isnan().equal(&y.isnan())
                && x.nan_to_num(0.0, None, None)
                    .equal(&y.nan_to_num(0.0, None, None));
            assert!(is_same, "{first:?} and {isa:?}");
            (isa, y)
        });
        same.unwrap().1
    }

    fn formula(x: &Tensor, has_silu: bool) -> Tensor {
        formula_in(32, x, has_silu)
    }

    /// In f64.
    fn formula_in(count: i64, x: &Tensor, has_silu: bool) -> Tensor {
        let (items, rows, channels) = x.size3().unwrap();
        let double = |x: Tensor| x.to_kind(Kind::Double);
        let groups = double(x.shallow_clone()).view([items, rows, count, channels / count]);
        let over = [1, 3].as_slice();
        let groups = &groups - groups.mean_dim(over, true, Kind::Double);
        let variance = groups.square().mean_dim(over, true, Kind::Double);
        let normal = (groups / (variance + 1e-5).sqrt()).view_as(x);
        let y =
            normal * double(values("weight", &[channels])) + double(values("bias", &[channels]));
        match has_silu {
            true => y.silu(),
            false => y,
        }
    }

    fn check(shape: [i64; 3], mean: f64, has_silu: bool) {
        let x = values("x", &shape) + mean;
        let difference = found(&x, has_silu) - formula(&x, has_silu);
        let error = difference.abs().max().double_value(&[]);
        assert!(error < 2e-6, "{shape:?}, mean {mean}: {error:e}");
    }

    #[test]
    fn it_is_the_formula_for_every_size() {
        for shape in [
            [1, 1, 32],
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
    fn any_number_of_groups_is_the_formula() {
        for (groups, channels) in [(1, 32), (2, 64), (3, 96), (8, 32), (16, 96), (96, 96)] {
            let x = values("x", &[2, 700, channels]);
            let difference = found_in(groups, &x, true) - formula_in(groups as i64, &x, true);
            let error = difference.abs().max().double_value(&[]);
            assert!(error < 2e-6, "{groups} of {channels}: {error:e}");
        }
    }

    #[test]
    fn values_far_from_zero_keep_their_digits() {
        check([2, 5000, 64], 1000.0, false);
    }

    /// A sample that comes through one column of a map alone may lie far from the mean of all.
    #[test]
    fn rows_may_differ_from_column_to_column() {
        let columns = Tensor::arange(16, (Kind::Float, Device::Cpu)).view([1, 1, 16, 1]);
        let x = values("x", &[1, 48, 16, 32]) + columns * 100.0;
        let x = x.view([1, -1, 32]);
        let error = (found(&x, false) - formula(&x, false)).abs().max();
        assert!(error.double_value(&[]) < 2e-6, "{error:?}");
    }

    #[test]
    fn parts_are_normalised_as_the_whole() {
        let x = values("x", &[5, 3000, 64]);
        let (weight, bias) = (values("weight", &[64]), values("bias", &[64]));
        for has_silu in [false, true] {
            let affine = Affine {
                groups: 32,
                weight: &weight,
                bias: &bias,
                eps: 1e-5,
                has_silu,
            };
            let whole = group_norm(&x.view([1, -1, 64]), &affine)
                .unwrap()
                .unwrap()
                .view_as(&x);
            let normaliser = Normaliser::of(&x, &affine).unwrap();
            for (start, count) in [(0, 3000), (0, 1), (2999, 1), (700, 1500)] {
                let part = normaliser.apply(&x.narrow(1, start, count)).unwrap();
                assert!(
                    part.equal(&whole.narrow(1, start, count)),
                    "{start} {count}"
                );
            }
        }
    }

    #[test]
    fn threads_change_no_bit() {
        let x = values("x", &[1, 20_000, 64]);
        let [one, two, three] = with_threads(|| found(&x, true));
        assert!(one.equal(&two) && one.equal(&three));
    }

    #[test]
    fn half_precision_is_computed_in_single() {
        let x = values("x", &[2, 100, 64]).to_kind(Kind::BFloat16);
        assert!(found(&x, true).equal(&found(&x.to_kind(Kind::Float), true)));
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let all_ones = Tensor::from_slice(&[-1_i32]).view_dtype(Kind::Float);
        for bad in [f32::NAN.into(), f32::INFINITY.into(), all_ones] {
            let x = values("x", &[1, 50, 64]);
            x.get(0).get(20).narrow(0, 3, 1).copy_(&bad);
            let found = found(&x, true).isfinite();
            assert!(found.equal(&formula(&x, true).isfinite()), "{bad:?}");
        }
    }

    #[test]
    fn what_overflows_is_no_number() {
        let found = found(&(values("x", &[1, 50, 32]) * 1e25), false);
        assert!(found.isnan().all().int64_value(&[]) != 0);
    }

    #[test]
    fn nothing_stays_nothing() {
        for shape in [[0, 4, 32], [2, 0, 32]] {
            let x = Tensor::zeros(shape, (Kind::Float, Device::Cpu));
            assert_eq!(found(&x, true).size(), shape);
        }
    }

    #[test]
    fn channels_that_make_no_groups_are_refused() {
        let (x, weight) = (values("x", &[1, 4, 64]), values("weight", &[64]));
        let norm = |groups: usize, weight: &Tensor| {
            let affine = Affine {
                groups,
                weight,
                bias: weight,
                eps: 1e-5,
                has_silu: false,
            };
            group_norm(&x, &affine)
        };
        assert!(norm(32, &weight).is_ok());
        assert!(norm(48, &weight).is_err());
        let longer = values("weight", &[96]);
        assert!(norm(32, &longer).is_err(), "weights of other channels");
    }

    #[test]
    fn rows_of_other_lengths_are_left_to_libtorch() {
        let (x, weight) = (values("x", &[1, 4, 8]), values("weight", &[8]));
        let affine = Affine {
            groups: 2,
            weight: &weight,
            bias: &weight,
            eps: 1e-5,
            has_silu: false,
        };
        assert!(group_norm(&x, &affine).unwrap().is_none());
    }
}
