#![allow(unsafe_code, reason = "reads and writes the memory of tensors")]

use std::mem::MaybeUninit;

use tch::{Device, Kind, Tensor};

use super::isa::{Isa, Set, dispatched};
use super::lanes::{LANES, Lanes, fma, max, min, mul, splat};
use super::output::Output;
use super::parallel::for_each;
use crate::error::Result;

/// Elements of the result that a call makes: with what it reads, an eighth of a megabyte.
const BLOCK_ELEMENTS: usize = 12 << 10;

/// `h * gelu(g)` of (R, 2W) rows whose first half is `h` and whose second half is `g`, to (R, W); GELU is the exact one.
///
/// `None` where libtorch does it: not f32 on the CPU, not contiguous, W not a whole number of vectors, or a processor without
/// fused products.
pub(crate) fn geglu(x: &Tensor) -> Result<Option<Tensor>> {
    geglu_with(Isa::here(), x)
}

fn geglu_with(isa: Isa, x: &Tensor) -> Result<Option<Tensor>> {
    let (rows, both) = x.size2()?;
    let is_ours = x.device() == Device::Cpu && x.f_kind()? == Kind::Float && x.is_contiguous();
    if !is_ours || !isa.has_fma() || both % (2 * LANES as i64) != 0 {
        return Ok(None);
    }
    let y = Tensor::f_empty([rows, both / 2], (Kind::Float, Device::Cpu))?;
    let [rows, both] = [rows, both].map(|n| n.unsigned_abs() as usize);
    if rows * both == 0 {
        return Ok(Some(y));
    }
    // SAFETY: memory of so many elements, which the tensor keeps; nobody writes to it meanwhile.
    let from: &[f32] =
        unsafe { std::slice::from_raw_parts(x.data_ptr().cast_const().cast(), rows * both) };
    let to = Output(y.data_ptr().cast());
    let width = both / 2;
    let block_rows = (BLOCK_ELEMENTS / width).clamp(1, rows);
    for_each(rows.div_ceil(block_rows), |block| {
        let first = block * block_rows;
        let count = block_rows.min(rows - first);
        // SAFETY: rows of the result, which has as many as `x`; each is given out once.
        let to = unsafe { to.part(first * width, count * width) };
        gate(isa, &from[first * both..(first + count) * both], to, width);
    });
    Ok(Some(y))
}

dispatched!(gate(from: &[f32], to: &mut [MaybeUninit<f32>], width: usize) = gate_rows);

#[inline(always)]
fn gate_rows(from: &[f32], to: &mut [MaybeUninit<f32>], width: usize) {
    for (from, to) in from.chunks_exact(2 * width).zip(to.chunks_exact_mut(width)) {
        let (value, gate) = from.split_at(width);
        let ((value, _), (gate, _)) = (value.as_chunks::<LANES>(), gate.as_chunks::<LANES>());
        let (to, _) = to.as_chunks_mut::<LANES>();
        for (i, to) in to.iter_mut().enumerate() {
            *to = mul(value[i], gelu(gate[i])).map(MaybeUninit::new);
        }
    }
}

/// `x / 2 * (1 + erf(x / sqrt 2))`, within 2.5e-7 of |x|.
#[inline(always)]
fn gelu(x: Lanes) -> Lanes {
    let half = mul(x, splat(0.5));
    fma(
        half,
        erf(mul(x, splat(std::f32::consts::FRAC_1_SQRT_2))),
        half,
    )
}

/// From here on [`erf`] is 1.
const ERF_MAX: f32 = 4.0;

/// Within 4e-7; a number even for what is none.
///
/// `x P(x^2) / Q(x^2)`, fitted to the least greatest error on 0..3.92, which is 1.9e-8 before rounding, with the exact slope at 0.
#[inline(always)]
fn erf(x: Lanes) -> Lanes {
    const NUMERATOR: [f32; 6] = [
        2.049_374_2e-6,
        2.845_910_8e-4,
        3.759_676_8e-3,
        5.273_270_6e-2,
        1.902_854e-1,
        std::f32::consts::FRAC_2_SQRT_PI,
    ];
    const DENOMINATOR: [f32; 6] = [
        3.806_815_2e-5,
        1.160_735_6e-3,
        1.495_857_6e-2,
        1.140_584_95e-1,
        5.019_691_6e-1,
        1.0,
    ];
    let x = min(max(x, splat(-ERF_MAX)), splat(ERF_MAX));
    let square = mul(x, x);
    let at_square = |coefficients: &[f32; 6]| {
        let mut sum = splat(coefficients[0]);
        for coefficient in &coefficients[1..] {
            sum = fma(sum, square, splat(*coefficient));
        }
        sum
    };
    let (p, q) = (mul(x, at_square(&NUMERATOR)), at_square(&DENOMINATOR));
    let erf = std::array::from_fn(|i| p[i] / q[i]);
    min(max(erf, splat(-1.0)), splat(1.0))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{values, with_threads};
    use super::*;

    fn with_fma() -> impl Iterator<Item = Isa> {
        Isa::all_here().into_iter().filter(|isa| isa.has_fma())
    }

    fn reference(x: &Tensor) -> Tensor {
        let width = x.size()[1] / 2;
        let x = x.to_kind(Kind::Double);
        x.narrow(1, 0, width) * x.narrow(1, width, width).gelu("none")
    }

    #[test]
    fn gates_are_gelu_of_the_second_half() {
        for (rows, both) in [(1, 32), (7, 256), (1000, 512), (3, 10_240), (40_000, 64)] {
            let x = values("x", &[rows, both]) * 3.0;
            for isa in with_fma() {
                let found = geglu_with(isa, &x).unwrap().unwrap();
                let size = (x.narrow(1, 0, both / 2) * x.narrow(1, both / 2, both / 2)).abs();
                let error = ((found - reference(&x)).abs() / (size + 1e-30))
                    .max()
                    .double_value(&[]);
                assert!(error < 4e-7, "{rows}x{both} {isa:?}: {error:e}");
            }
        }
    }

    #[test]
    fn gelu_is_within_what_is_said_from_tail_to_tail() {
        let steps = 400_000;
        for step in 0..steps / LANES {
            let x: Lanes = std::array::from_fn(|lane| {
                ((step * LANES + lane) as f32 / steps as f32 - 0.5) * 40.0
            });
            let exact = Tensor::from_slice(&x).to_kind(Kind::Double).gelu("none");
            let exact = Vec::<f64>::try_from(exact).unwrap();
            for ((x, found), exact) in x.into_iter().zip(gelu(x)).zip(exact) {
                let error = (f64::from(found) - exact).abs();
                assert!(error <= 2.5e-7 * f64::from(x.abs()), "{x}: {error:e}");
            }
        }
    }

    #[test]
    fn far_gates_are_open_or_shut_without_a_rest() {
        let x: Lanes = std::array::from_fn(|i| if i % 2 == 0 { 1e30 } else { -1e30 });
        let found = gelu(x);
        for (x, found) in x.into_iter().zip(found) {
            assert_eq!(found, x.max(0.0));
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for broken in [f32::NAN, f32::NEG_INFINITY] {
            let x = Tensor::from_slice(&[broken; 32]).view([1, 32]);
            for isa in with_fma() {
                let found = geglu_with(isa, &x).unwrap().unwrap();
                assert!(found.isfinite().logical_not().all().int64_value(&[]) != 0);
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads_or_instruction_set() {
        let x = values("x", &[3000, 96]);
        let [one, two, three] = with_threads(|| geglu(&x).unwrap().unwrap());
        assert!(one == two && two == three);
        for isa in with_fma() {
            assert_eq!(geglu_with(isa, &x).unwrap().unwrap(), one, "{isa:?}");
        }
    }

    #[test]
    fn what_is_not_for_the_kernel_is_left_to_libtorch() {
        let x = values("x", &[4, 64]);
        assert!(geglu(&x.to_kind(Kind::BFloat16)).unwrap().is_none());
        assert!(geglu(&x.narrow(1, 0, 32)).unwrap().is_none());
        assert!(geglu(&x.narrow(1, 0, 40).contiguous()).unwrap().is_none());
        assert_eq!(geglu(&x.narrow(0, 0, 0)).unwrap().unwrap().size(), [0, 32]);
    }
}
