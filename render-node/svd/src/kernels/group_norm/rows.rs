//! What is done to the rows of a block, compiled for each instruction set.

use std::mem::MaybeUninit;

use super::statistics::Factors;
use crate::kernels::isa::{Isa, Set, dispatched};
use crate::kernels::lanes::{
    EXP2_MAX, EXP2_MIN, LANES, Lanes, add, exp2, fma, max, min, mul, splat, sub,
};

/// Channels that are summed together: a row is a whole number of them.
pub(super) const CHANNELS: usize = 2 * LANES;

/// So many rows are summed in f32 before they are added to a sum in f64.
const ROWS_OF_A_SUM: usize = 64;

/// Rows are places of a map from left to right: a number that divides no usual width comes through all columns.
const SAMPLE_STEP: usize = 17;

/// Of some channels over the rows of a block: a value near the mean, and the sums of the distances from it and their squares.
pub(super) struct Sums {
    pub(super) near: [f32; CHANNELS],
    pub(super) distances: [f64; CHANNELS],
    pub(super) squares: [f64; CHANNELS],
}

dispatched!(pub(super) sums_of(part: &[f32], channels: usize, first: usize) -> Sums = sum_block);
dispatched!(scale(part: &[f32], to: &mut [MaybeUninit<f32>], factors: &Factors) = scale_block::<false>);
dispatched!(scale_with_silu(part: &[f32], to: &mut [MaybeUninit<f32>], factors: &Factors) = scale_block::<true>);

/// Normalises rows by the factors of their item.
pub(super) fn write(
    isa: Isa,
    part: &[f32],
    to: &mut [MaybeUninit<f32>],
    factors: &Factors,
    has_silu: bool,
) {
    match has_silu {
        true => scale_with_silu(isa, part, to, factors),
        false => scale(isa, part, to, factors),
    }
}

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
