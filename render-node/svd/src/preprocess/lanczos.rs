//! Pillow's resampling of eight-bit pictures: two passes of fixed-point convolution, rounded to eight bits in between.
//!
//! Written from the description of the filter, because equality in every bit is the point: `fast_image_resize` 6.1 follows
//! Pillow-SIMD, whose shorter coefficients change a fifth to two fifths of all values by a level (measured).

use std::f64::consts::PI;
use std::ops::Range;

/// Lobes of the Lanczos window, in source pixels when the picture is not made smaller.
const LOBES: f64 = 3.0;
/// Bits after the point: what 32 leave for sums of eight-bit values with two bits of headroom for overshoot.
const FRACTION_BITS: u32 = 32 - 8 - 2;
const CHANNELS: usize = 3;

/// Stretches row-major RGB of size `from` (width, height) to size `to`. A side that stays as it is is not filtered.
pub(super) fn resize(rgb: &[u8], from: (usize, usize), to: (usize, usize)) -> Vec<u8> {
    if columns_first(from, to) {
        let down = resize_columns(rgb, from.0, from.1, to.1);
        resize_rows(&down, from.0, to.0)
    } else {
        let across = resize_rows(rgb, from.0, to.0);
        resize_columns(&across, to.0, from.1, to.1)
    }
}

/// Which pass runs first shows in the rounding. Pillow saves work since version 13 when the height shrinks by over twice
/// as many pixels as the width (found by comparing with it); versions before always took the rows first.
fn columns_first(from: (usize, usize), to: (usize, usize)) -> bool {
    to.1 < from.1 && from.1 - to.1 > 2 * from.0.saturating_sub(to.0)
}

fn resize_rows(rgb: &[u8], from: usize, to: usize) -> Vec<u8> {
    if from == to {
        return rgb.to_vec();
    }
    let taps = taps(from, to);
    let rows = rgb.chunks_exact(from * CHANNELS);
    rows.flat_map(|row| {
        taps.iter().flat_map(move |tap| {
            let pixels = &row[tap.sources.start * CHANNELS..tap.sources.end * CHANNELS];
            let mut sums = [HALF; CHANNELS];
            for (pixel, weight) in pixels.chunks_exact(CHANNELS).zip(&tap.weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            sums.map(to_byte)
        })
    })
    .collect()
}

fn resize_columns(rgb: &[u8], width: usize, from: usize, to: usize) -> Vec<u8> {
    if from == to {
        return rgb.to_vec();
    }
    let stride = width * CHANNELS;
    let mut resized = Vec::with_capacity(stride * to);
    let mut sums = vec![0; stride];
    for tap in taps(from, to) {
        sums.fill(HALF);
        let rows = &rgb[tap.sources.start * stride..tap.sources.end * stride];
        for (row, weight) in rows.chunks_exact(stride).zip(&tap.weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        resized.extend(sums.iter().map(|&sum| to_byte(sum)));
    }
    resized
}

/// Sums start here, so that cutting the fraction off rounds.
const HALF: i32 = 1 << (FRACTION_BITS - 1);

fn to_byte(sum: i32) -> u8 {
    (sum >> FRACTION_BITS).clamp(0, 255) as u8
}

/// Which pixels make one pixel of the result, and how much of each.
struct Tap {
    sources: Range<usize>,
    /// Fixed point; they sum to about 1.
    weights: Vec<i32>,
}

fn taps(from: usize, to: usize) -> Vec<Tap> {
    let scale = from as f64 / to as f64;
    // A smaller picture needs a wider filter: it must not see frequencies that the result cannot hold.
    let stretch = scale.max(1.0);
    let support = LOBES * stretch;
    let tap = |i: usize| {
        let center = (i as f64 + 0.5) * scale;
        let start = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(from);
        let inverse = 1.0 / stretch;
        let weight = |source: usize| lanczos((source as f64 - center + 0.5) * inverse);
        let weights: Vec<f64> = (start..end).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        Tap {
            sources: start..end,
            weights: weights.iter().map(|weight| fixed(weight / sum)).collect(),
        }
    };
    (0..to).map(tap).collect()
}

/// Rounded half away from zero.
fn fixed(weight: f64) -> i32 {
    (weight * f64::from(1_u32 << FRACTION_BITS)).round() as i32
}

fn lanczos(x: f64) -> f64 {
    if (-LOBES..LOBES).contains(&x) {
        sinc(x) * sinc(x / LOBES)
    } else {
        0.0
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        1.0
    } else {
        let x = PI * x;
        x.sin() / x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_picture_stays_flat() {
        let flat = |width: usize, height: usize| vec![201; width * height * CHANNELS];
        for to in [(5, 31), (64, 64), (7, 11), (1, 1)] {
            assert_eq!(
                resize(&flat(7, 11), (7, 11), to),
                flat(to.0, to.1),
                "{to:?}"
            );
        }
    }

    #[test]
    fn sides_are_not_swapped() {
        // Left half black, right half white, one row: made taller only.
        let row = [[0; 6], [255; 6]].concat();
        let tall = resize(&row, (4, 1), (4, 3));
        assert_eq!(tall, row.repeat(3));
    }
}
