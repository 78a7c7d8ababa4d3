#![allow(unsafe_code, reason = "reads and writes the memory of tensors")]

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::isa::{Isa, Set, dispatched};
use super::lanes::{LANES, Lanes, add, fma, splat};
use super::parallel::for_each;
use crate::error::Result;

/// Rows that are computed together: each vector of `down` that is read serves all of them.
const ROWS: usize = 4;
/// Vectors of a row that are computed together.
const VECTORS: usize = 2;
/// Elements that a call works on: few enough that threads end at about the same time.
const BLOCK_ELEMENTS: usize = 64 << 10;

/// Writes `base + up @ down` over `out`: each element of `base` is read once and each of `out` is written once, whatever the
/// rank. libtorch's product and sum pass over the memory twice, and its threads wait for each other after each.
///
/// `out`, `base`: (M, N). `up`: (M, R). `down`: (R, N). `out` and `base` share no memory. `false`, and nothing is written, where
/// they are not contiguous f32 on a CPU that multiplies and adds in one instruction.
pub(crate) fn add_product(out: &Tensor, base: &Tensor, up: &Tensor, down: &Tensor) -> Result<bool> {
    add_product_with(Isa::here(), out, base, up, down)
}

fn add_product_with(
    isa: Isa,
    out: &Tensor,
    base: &Tensor,
    up: &Tensor,
    down: &Tensor,
) -> Result<bool> {
    let fits = |x: &Tensor| {
        x.device() == Device::Cpu && x.f_kind().is_ok_and(|k| k == Kind::Float) && x.is_contiguous()
    };
    if !isa.has_fma() || ![out, base, up, down].into_iter().all(fits) {
        return Ok(false);
    }
    let ((rows, columns), (_, rank)) = (out.size2()?, up.size2()?);
    let sizes_fit = base.size() == [rows, columns]
        && up.size() == [rows, rank]
        && down.size() == [rank, columns];
    if !sizes_fit || out.numel() == 0 {
        return Ok(false);
    }
    let job = Job {
        out: Output(out.data_ptr().cast()),
        base: elements(base),
        up: elements(up),
        down: elements(down),
        columns: columns.unsigned_abs() as usize,
        rank: rank.unsigned_abs() as usize,
    };
    let rows = rows.unsigned_abs() as usize;
    let block = (BLOCK_ELEMENTS / job.columns)
        .next_multiple_of(ROWS)
        .max(ROWS);
    for_each(rows.div_ceil(block), |index| {
        let start = index * block;
        fuse(isa, &job, start..rows.min(start + block));
    });
    Ok(true)
}

/// Of a tensor that is contiguous f32 on the CPU and not written to meanwhile.
fn elements(x: &Tensor) -> &[f32] {
    if x.numel() == 0 {
        return &[];
    }
    // SAFETY: memory of so many elements, which the tensor keeps; parameters and factors are written by this thread alone.
    unsafe { std::slice::from_raw_parts(x.data_ptr().cast_const().cast(), x.numel()) }
}

#[derive(Clone, Copy)]
struct Output(*mut f32);

// SAFETY: [`fuse`] is called once for each row.
unsafe impl Sync for Output {}

struct Job<'a> {
    out: Output,
    base: &'a [f32],
    up: &'a [f32],
    down: &'a [f32],
    columns: usize,
    rank: usize,
}

dispatched!(fuse(job: &Job<'_>, rows: Range<usize>) = fuse_rows);

#[inline(always)]
fn fuse_rows(job: &Job<'_>, rows: Range<usize>) {
    let mut row = rows.start;
    while row + ROWS <= rows.end {
        together::<ROWS>(job, row);
        row += ROWS;
    }
    while row < rows.end {
        together::<1>(job, row);
        row += 1;
    }
}

#[inline(always)]
fn together<const N: usize>(job: &Job<'_>, first: usize) {
    let Job { columns, rank, .. } = *job;
    let tiles = columns / (VECTORS * LANES);
    for tile in 0..tiles {
        let column = tile * VECTORS * LANES;
        let mut sums = [[splat(0.0); VECTORS]; N];
        for k in 0..rank {
            let mut downs = [splat(0.0); VECTORS];
            for (vector, down) in downs.iter_mut().enumerate() {
                *down = load(job.down, k * columns + column + vector * LANES);
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let up = splat(job.up[(first + row) * rank + k]);
                for vector in 0..VECTORS {
                    sums[vector] = fma(up, downs[vector], sums[vector]);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (vector, sum) in sums.iter().enumerate() {
                let at = (first + row) * columns + column + vector * LANES;
                store(job.out, at, add(load(job.base, at), *sum));
            }
        }
    }
    for row in first..first + N {
        for column in tiles * VECTORS * LANES..columns {
            let mut sum = 0.0_f32;
            for k in 0..rank {
                sum = job.up[row * rank + k].mul_add(job.down[k * columns + column], sum);
            }
            let at = row * columns + column;
            // SAFETY: an element of the output, of a row that no other call writes.
            unsafe { *job.out.0.add(at) = job.base[at] + sum };
        }
    }
}

#[inline(always)]
fn load(from: &[f32], at: usize) -> Lanes {
    let mut lanes = splat(0.0);
    lanes.copy_from_slice(&from[at..at + LANES]);
    lanes
}

#[inline(always)]
fn store(to: Output, at: usize, lanes: Lanes) {
    // SAFETY: elements of a row that no other call writes; arrays of f32 are as aligned as f32.
    unsafe { to.0.add(at).cast::<Lanes>().write(lanes) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{values, with_threads};

    fn case(rows: i64, columns: i64, rank: i64) -> [Tensor; 3] {
        let name = |part: &str| format!("{part}.{rows}.{columns}.{rank}");
        [
            values(&name("base"), &[rows, columns]),
            values(&name("up"), &[rows, rank]),
            values(&name("down"), &[rank, columns]),
        ]
    }

    fn fused(isa: Isa, [base, up, down]: &[Tensor; 3]) -> Option<Tensor> {
        let out = base.full_like(f64::NAN);
        let is_written = add_product_with(isa, &out, base, up, down).unwrap();
        is_written.then_some(out)
    }

    #[test]
    fn each_element_is_the_base_plus_the_product() {
        for (rows, columns, rank) in [
            (1, 1, 1),
            (3, 31, 2),
            (4, 32, 16),
            (5, 33, 1),
            (64, 72, 7),
            (320, 1024, 16),
            (257, 640, 300),
        ] {
            let case = case(rows, columns, rank);
            let [base, up, down] = case.each_ref().map(|x| x.to_kind(Kind::Double));
            let expected = base + up.matmul(&down);
            for isa in Isa::all_here() {
                let Some(found) = fused(isa, &case) else {
                    assert!(!isa.has_fma());
                    continue;
                };
                let error = (found.to_kind(Kind::Double) - &expected).abs().max();
                let error = f64::try_from(error).unwrap();
                let bound = 1e-6 * (rank as f64) + 1e-6;
                assert!(error < bound, "{rows} {columns} {rank} {isa:?}: {error}");
            }
        }
    }

    #[test]
    fn bits_depend_on_neither_threads_nor_instruction_set() {
        let case = case(300, 200, 17);
        for isa in Isa::all_here().into_iter().filter(|isa| isa.has_fma()) {
            for found in with_threads(|| fused(isa, &case)) {
                assert!(found.unwrap().equal(&fused(Isa::here(), &case).unwrap()));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_left_to_libtorch() {
        let isa = Isa::here();
        let [base, up, down] = case(8, 16, 2);
        let is_written = |out: &Tensor, base: &Tensor, down: &Tensor| {
            add_product_with(isa, out, base, &up, down).unwrap()
        };
        let out = base.zeros_like();
        assert!(!is_written(&out, &base.to_kind(Kind::BFloat16), &down));
        assert!(!is_written(&out.to_kind(Kind::Half), &base, &down));
        assert!(!is_written(&base.zeros_like().t_copy().t_(), &base, &down));
        assert!(!is_written(&out, &base, &down.narrow(0, 0, 1)));
        assert_eq!(f64::try_from(out.abs().max()).unwrap(), 0.0);
        assert_eq!(is_written(&out, &base, &down), isa.has_fma());
    }
}
