use super::*;
use crate::kernels::testing::{values, with_threads};

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
    let y = normal * double(values("weight", &[channels])) + double(values("bias", &[channels]));
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
