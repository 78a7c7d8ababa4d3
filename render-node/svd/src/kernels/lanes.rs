//! Vectors of f32 as arrays: loops over them become vector instructions of whatever set the caller is compiled for.

/// One AVX-512 register, or two of AVX2.
pub(super) const LANES: usize = 16;

pub(super) type Lanes = [f32; LANES];

#[inline(always)]
pub(super) fn splat(x: f32) -> Lanes {
    [x; LANES]
}

#[inline(always)]
pub(super) fn add(a: Lanes, b: Lanes) -> Lanes {
    std::array::from_fn(|i| a[i] + b[i])
}

#[inline(always)]
pub(super) fn sub(a: Lanes, b: Lanes) -> Lanes {
    std::array::from_fn(|i| a[i] - b[i])
}

#[inline(always)]
pub(super) fn mul(a: Lanes, b: Lanes) -> Lanes {
    std::array::from_fn(|i| a[i] * b[i])
}

/// `a * b + c`, rounded once.
#[inline(always)]
pub(super) fn fma(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
    std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
}

/// The larger of each pair; `b` where one is no number.
#[inline(always)]
pub(super) fn max(a: Lanes, b: Lanes) -> Lanes {
    std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
}

/// The smaller of each pair; `b` where one is no number.
#[inline(always)]
pub(super) fn min(a: Lanes, b: Lanes) -> Lanes {
    std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
}

/// `2^x` within 2.2e-7 of itself, for x in [`EXP2_MIN`]..=[`EXP2_MAX`].
///
/// The nearest integer goes into the exponent; a polynomial of degree 5, the best one on -0.5..0.5, does the rest.
#[inline(always)]
pub(super) fn exp2(x: Lanes) -> Lanes {
    /// Adding it leaves the nearest integer in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const ONE: u32 = 1.0_f32.to_bits();
    const POLYNOMIAL: [f32; 6] = [
        1.327_647_2e-3,
        9.675_541e-3,
        5.550_713e-2,
        2.402_212e-1,
        6.931_469_4e-1,
        1.000_000_1,
    ];
    let rounded = add(x, splat(ROUND));
    let rest = sub(x, sub(rounded, splat(ROUND)));
    let mut power = splat(POLYNOMIAL[0]);
    for coefficient in &POLYNOMIAL[1..] {
        power = fma(power, rest, splat(*coefficient));
    }
    // A product, and not a sum of bits: what is no number must stay none.
    mul(
        power,
        rounded.map(|x| f32::from_bits((x.to_bits() << 23).wrapping_add(ONE))),
    )
}

/// Below it the result is no normal number.
pub(super) const EXP2_MIN: f32 = -126.0;

/// Above it the result is infinite.
pub(super) const EXP2_MAX: f32 = 127.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_are_within_what_is_said_over_their_whole_range() {
        let steps = 4_000_000;
        for step in 0..=steps / LANES {
            let x: Lanes = std::array::from_fn(|lane| {
                let part = ((step * LANES + lane) as f32 / steps as f32).min(1.0);
                EXP2_MIN + part * (EXP2_MAX - EXP2_MIN)
            });
            for (x, found) in x.into_iter().zip(exp2(x)) {
                let error = f64::from(found) / f64::from(x).exp2() - 1.0;
                assert!(error.abs() < 2.2e-7, "{x}: {error:e}");
            }
        }
    }
}
