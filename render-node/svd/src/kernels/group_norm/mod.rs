#![allow(unsafe_code, reason = "reads and writes the memory of tensors")]

mod rows;
mod statistics;
#[cfg(test)]
mod tests;

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use self::rows::{CHANNELS, write};
use self::statistics::{Factors, Norm};
use super::isa::Isa;
use super::output::Output;
use super::parallel::{for_each, map};
use crate::error::Result;

/// Elements that a call works on: a quarter of a megabyte, which stays in a core's cache for the second look.
const BLOCK_ELEMENTS: usize = 64 << 10;

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
