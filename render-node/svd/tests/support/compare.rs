//! How far two tensors are apart. Every comparison prints its figures, so that drift shows before it fails.

use tch::{Kind, Tensor};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Difference {
    pub(crate) max_abs: f64,
    pub(crate) mean_abs: f64,
    /// Norm of the difference over the norm of what was expected.
    pub(crate) relative_l2: f64,
}

/// Panics when shapes differ or a number is not finite.
pub(crate) fn difference(name: &str, found: &Tensor, expected: &Tensor) -> Difference {
    assert_eq!(found.size(), expected.size(), "{name}: shape");
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    let change = &found - &expected;
    let difference = Difference {
        max_abs: change.abs().max().double_value(&[]),
        mean_abs: change.abs().mean(Kind::Double).double_value(&[]),
        relative_l2: change.norm().double_value(&[]) / expected.norm().double_value(&[]),
    };
    println!(
        "{name}: max {:.2e}, mean {:.2e}, relative L2 {:.2e}; values up to {:.3}",
        difference.max_abs,
        difference.mean_abs,
        difference.relative_l2,
        expected.abs().max().double_value(&[]),
    );
    assert!(difference.relative_l2.is_finite(), "{name}: not finite");
    difference
}

/// Every element within `tolerance`.
pub(crate) fn assert_close(name: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    let Difference { max_abs, .. } = difference(name, found, expected);
    assert!(
        max_abs <= tolerance,
        "{name}: {max_abs:.2e} apart, {tolerance:.0e} allowed"
    );
}

/// Every element within `tolerance` of the largest expected value.
pub(crate) fn assert_close_relative(name: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    let largest = expected.abs().max().double_value(&[]);
    assert_close(name, found, expected, tolerance * largest);
}
