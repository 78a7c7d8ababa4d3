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
    std::array::from_fn(|i| {
        let exponent = rounded[i].to_bits() << 23;
        f32::from_bits(power[i].to_bits().wrapping_add(exponent))
    })
}

/// Below it the exponent would wrap around.
pub(super) const EXP2_MIN: f32 = -125.0;

/// Above it too.
pub(super) const EXP2_MAX: f32 = 126.0;
