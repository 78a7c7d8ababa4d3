#![allow(unsafe_code, reason = "reads and writes the memory of tensors")]

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::isa::{Isa, Set, dispatched};
use super::lanes::{LANES, Lanes, add, fma, splat};
use super::parallel::for_each;

/// Rows that are computed together: each vector of `down` that is read serves all of them.
const ROWS: usize = 4;
/// Vectors of a row that are computed together.
const VECTORS: usize = 2;
/// Elements that a call works on: few enough that threads end at about the same time.
const BLOCK_ELEMENTS: usize = 64 << 10;

/// Sums `base + up @ down` that shall be written over tensors, all at once when all are known: threads then wait for each other
/// once and not after each tensor, where another program on their core would hold them up each time.
///
/// Each element of `base` is read once and each of `out` is written once, whatever the rank. libtorch's product and sum pass
/// over the memory twice.
#[derive(Debug, Default)]
pub(crate) struct Sums(Vec<Sum>);

#[derive(Debug)]
struct Sum {
    out: Tensor,
    base: Tensor,
    up: Tensor,
    down: Tensor,
}

impl Sums {
    /// `out`, `base`: (M, N), which share no memory. `up`: (M, R). `down`: (R, N). None of them may be written to before
    /// [`Sums::write`], nor the memory freed that they may be a view of.
    ///
    /// With R = 0 it is a copy, bit for bit.
    ///
    /// `false` for tensors that are not contiguous f32 on a CPU that multiplies and adds in one instruction: those are left
    /// to libtorch.
    pub(crate) fn add(&mut self, out: &Tensor, base: &Tensor, up: &Tensor, down: &Tensor) -> bool {
        let is_f32 = |x: &Tensor| x.f_kind().is_ok_and(|kind| kind == Kind::Float);
        let is_plain = |x: &Tensor| x.device() == Device::Cpu && is_f32(x) && x.is_contiguous();
        let [out_size, base_size, up_size, down_size] = [out, base, up, down].map(Tensor::size);
        let fits = match (&out_size[..], &up_size[..], &down_size[..]) {
            ([m, n], [up_m, rank], [down_rank, down_n]) => {
                base_size == out_size && (m, n, rank) == (up_m, down_n, down_rank)
            }
            _ => false,
        };
        let is_taken = fits
            && out.numel() > 0
            && Isa::here().has_fma()
            && [out, base, up, down].into_iter().all(is_plain);
        if is_taken {
            let [out, base, up, down] = [out, base, up, down].map(Tensor::shallow_clone);
            self.0.push(Sum {
                out,
                base,
                up,
                down,
            });
        }
        is_taken
    }

    /// Writes them all.
    pub(crate) fn write(self) {
        self.write_with(Isa::here());
    }

    fn write_with(&self, isa: Isa) {
        let jobs: Vec<Job<'_>> = self.0.iter().map(Sum::job).collect();
        let blocks: Vec<(&Job<'_>, Range<usize>)> = jobs.iter().flat_map(Job::blocks).collect();
        for_each(blocks.len(), |index| {
            let (job, rows) = &blocks[index];
            fuse(isa, job, rows.clone());
        });
    }
}

impl Sum {
    fn job(&self) -> Job<'_> {
        let length = |x: &Tensor, dimension: usize| x.size()[dimension].unsigned_abs() as usize;
        Job {
            out: Output(self.out.data_ptr().cast()),
            base: elements(&self.base),
            up: elements(&self.up),
            down: elements(&self.down),
            rows: length(&self.out, 0),
            columns: length(&self.out, 1),
            rank: length(&self.up, 1),
        }
    }
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
    rows: usize,
    columns: usize,
    rank: usize,
}

impl Job<'_> {
    fn blocks(&self) -> impl Iterator<Item = (&Self, Range<usize>)> {
        let rows = BLOCK_ELEMENTS / self.columns;
        let rows = rows.next_multiple_of(ROWS).max(ROWS);
        let starts = (0..self.rows).step_by(rows);
        starts.map(move |start| (self, start..self.rows.min(start + rows)))
    }
}

dispatched!(fuse(job: &Job<'_>, rows: Range<usize>) = fuse_rows);

#[inline(always)]
fn fuse_rows(job: &Job<'_>, rows: Range<usize>) {
    if job.rank == 0 {
        // Adding zero would turn a negative zero into another one.
        let part = rows.start * job.columns..rows.end * job.columns;
        let from = &job.base[part.clone()];
        // SAFETY: as many elements of the output, of rows that no other call writes, and of other memory.
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr(), job.out.0.add(part.start), from.len())
        };
        return;
    }
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

    fn fused(isa: Isa, [base, up, down]: &[Tensor; 3]) -> Tensor {
        let out = base.full_like(f64::NAN);
        let mut sums = Sums::default();
        assert!(sums.add(&out, base, up, down));
        sums.write_with(isa);
        out
    }

    fn with_fma() -> Vec<Isa> {
        let mut all = Isa::all_here();
        all.retain(|isa| isa.has_fma());
        all
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
            for isa in with_fma() {
                let found = fused(isa, &case);
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
        for isa in with_fma() {
            for found in with_threads(|| fused(isa, &case)) {
                assert!(found.equal(&fused(Isa::here(), &case)));
            }
        }
    }

    #[test]
    fn without_a_product_it_is_a_copy_to_the_last_bit() {
        let zeros = Tensor::from_slice(&[0.0_f32, -0.0]).repeat([50, 9]);
        let none = [
            Tensor::zeros([50, 0], (Kind::Float, Device::Cpu)),
            Tensor::zeros([0, 18], (Kind::Float, Device::Cpu)),
        ];
        let [up, down] = none;
        if with_fma().is_empty() {
            return;
        }
        let copy = fused(Isa::here(), &[zeros.shallow_clone(), up, down]);
        assert!(
            copy.view_dtype(Kind::Int)
                .equal(&zeros.view_dtype(Kind::Int))
        );
    }

    #[test]
    fn all_are_written_at_once_and_none_before() {
        let cases: Vec<_> = (1..=40).map(|n| case(3 * n, 50 - n, 1 + n % 5)).collect();
        let outs: Vec<Tensor> = cases.iter().map(|[base, ..]| base.zeros_like()).collect();
        let mut sums = Sums::default();
        for (out, [base, up, down]) in outs.iter().zip(&cases) {
            if !sums.add(out, base, up, down) {
                assert!(with_fma().is_empty());
                return;
            }
        }
        assert!(
            outs.iter()
                .all(|out| f64::try_from(out.abs().max()).unwrap() == 0.0)
        );
        sums.write();
        for (out, case) in outs.iter().zip(&cases) {
            assert!(out.equal(&fused(Isa::here(), case)));
        }
    }

    #[test]
    fn what_does_not_fit_is_left_to_libtorch() {
        let [base, up, down] = case(8, 16, 2);
        let is_taken =
            |out: &Tensor, base: &Tensor, down: &Tensor| Sums::default().add(out, base, &up, down);
        let out = base.zeros_like();
        assert!(!is_taken(&out, &base.to_kind(Kind::BFloat16), &down));
        assert!(!is_taken(&out.to_kind(Kind::Half), &base, &down));
        assert!(!is_taken(&base.zeros_like().t_copy().t_(), &base, &down));
        assert!(!is_taken(&out, &base, &down.narrow(0, 0, 1)));
        assert!(!is_taken(&out.view([8, 4, 4]), &base, &down));
        assert_eq!(is_taken(&out, &base, &down), Isa::here().has_fma());
    }
}
