//! Means and deviations, in f64.

#![allow(unsafe_code, reason = "reads the memory of tensors")]

use std::ops::Range;

use tch::Tensor;

use super::Affine;
use super::rows::{CHANNELS, sums_of};
use crate::kernels::isa::Isa;

/// Of a tensor that is contiguous f32 on the CPU, not empty, and not written to.
fn elements(x: &Tensor) -> &[f32] {
    // SAFETY: memory of so many elements, which the tensor keeps; nobody has written to it since it was made.
    unsafe { std::slice::from_raw_parts(x.data_ptr().cast_const().cast(), x.numel()) }
}

/// What is normalised, and by which weights.
pub(super) struct Norm<'a> {
    x: &'a [f32],
    channels: usize,
    groups: usize,
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f64,
    isa: Isa,
}

/// Of some rows of one item: their number, and by channel the mean and the summed squared distances from it.
pub(super) struct Moments {
    count: f64,
    means: Vec<f64>,
    squares: Vec<f64>,
}

/// By channel: what is taken from its elements, what they are multiplied by then, and what is added.
///
/// A mean may be a thousand deviations: only what is left without it has the digits to be multiplied.
pub(super) struct Factors {
    pub(super) center: Vec<f32>,
    pub(super) scale: Vec<f32>,
    pub(super) shift: Vec<f32>,
}

impl<'a> Norm<'a> {
    /// Of tensors that are contiguous f32 on the CPU and not empty.
    pub(super) fn new(
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

    pub(super) fn part(&self, rows: &Range<usize>) -> &[f32] {
        &self.x[rows.start * self.channels..rows.end * self.channels]
    }

    /// A picture of one colour has channels whose deviation is a thousandth of their mean, so squares of the values
    /// themselves would leave no digit of it. Sums are taken of distances from a value near the channel's mean, and related
    /// to the mean itself by Chan's formula, which also joins blocks and channels.
    pub(super) fn moments(&self, rows: Range<usize>) -> Moments {
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

    pub(super) fn factors(&self, blocks: &[Moments]) -> Factors {
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
