#![allow(unsafe_code, reason = "reads and writes the memory of tensors")]

use tch::{Device, Kind, Tensor};

use super::isa::{Isa, dispatched};
use super::lanes::{EXP2_MIN, LANES, Lanes, add, exp2, fma, max, splat, sub};
use super::parallel::for_each;
use crate::error::Result;

/// Scores that a call computes at least, so that fetching the next one costs nothing beside it.
const SCORES_OF_A_CALL: usize = 64 << 10;

/// Weights of `2^-40` to `2^40` can be summed without an overflow, and without losing digits below the smallest f32.
const EXPONENT_MAX: f32 = 40.0;

/// Vectors of queries that are worked on together, so that one waits less for another's results.
const VECTORS: usize = 2;

/// Scaled dot product attention of (N, L, heads, d) queries with as many keys and values, to (N, L, heads * d), for heads so
/// narrow that products of matrices spend most of their time on other things than arithmetic: d is 4, 8 or 16.
///
/// `None` where there is no such kernel: another width, other numbers of keys, another precision, memory layout, device or
/// instruction set.
pub(crate) fn attend(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Option<Tensor>> {
    let (sequences, tokens, heads, width) = q.size4()?;
    let (Some(kernel), Some(isa)) = (kernel(width), Isa::here()) else {
        return Ok(None);
    };
    if k.size() != q.size() || v.size() != q.size() {
        return Ok(None);
    }
    let (Some(q), Some(k), Some(v)) = (Source::of(q)?, Source::of(k)?, Source::of(v)?) else {
        return Ok(None);
    };
    let out = Tensor::f_empty(
        [sequences, tokens, heads * width],
        (Kind::Float, Device::Cpu),
    )?;
    let [sequences, tokens, heads] = [sequences, tokens, heads].map(|n| n.unsigned_abs() as usize);
    let job = Job {
        q,
        k,
        v,
        out: out.data_ptr().cast(),
        tokens,
        heads,
    };
    let count = sequences * heads;
    let step = SCORES_OF_A_CALL.div_ceil((tokens * tokens).max(1));
    for_each(count.div_ceil(step), |call| {
        let mut pairs = Vec::new();
        for index in call * step..count.min((call + 1) * step) {
            kernel(isa, &job, index / heads, index % heads, &mut pairs);
        }
    });
    Ok(Some(out))
}

/// Elements of a tensor (N, L, heads, d) whose heads follow each other in memory.
#[derive(Clone, Copy)]
struct Source {
    start: *const f32,
    /// Elements from one sequence to the next, and from one token to the next.
    strides: [usize; 2],
}

impl Source {
    fn of(x: &Tensor) -> Result<Option<Self>> {
        let (_, _, _, width) = x.size4()?;
        let strides = x.stride();
        let fits = x.device() == Device::Cpu && x.f_kind()? == Kind::Float;
        Ok(match strides[..] {
            [sequence, token, head, 1] if fits && head == width => Some(Self {
                start: x.data_ptr().cast_const().cast(),
                strides: [sequence, token].map(|stride| stride.unsigned_abs() as usize),
            }),
            _ => None,
        })
    }

    /// The `D` elements of a token's head.
    ///
    /// # Safety
    ///
    /// The tensor lives and has such a token and head.
    #[inline(always)]
    unsafe fn read<const D: usize>(self, sequence: usize, token: usize, head: usize) -> [f32; D] {
        let at = sequence * self.strides[0] + token * self.strides[1] + head * D;
        // SAFETY: inside the tensor, says the caller; arrays of f32 are as aligned as f32.
        unsafe { self.start.add(at).cast::<[f32; D]>().read() }
    }
}

/// Only [`attend`] makes one: of tensors that outlive it, with so many tokens and heads.
struct Job {
    q: Source,
    k: Source,
    v: Source,
    /// (N, L, heads * d), contiguous.
    out: *mut f32,
    tokens: usize,
    heads: usize,
}

// SAFETY: all threads read the sources; each place of `out` is written by one call.
unsafe impl Sync for Job {}

/// Works on one head of one sequence. The last argument is memory that calls hand on to each other.
type Kernel = fn(Isa, &Job, usize, usize, &mut Vec<f32>);

fn kernel(width: i64) -> Option<Kernel> {
    match width {
        4 => Some(of_width_4),
        8 => Some(of_width_8),
        16 => Some(of_width_16),
        _ => None,
    }
}

dispatched!(of_width_4(job: &Job, sequence: usize, head: usize, pairs: &mut Vec<f32>) = attend_head::<4>);
dispatched!(of_width_8(job: &Job, sequence: usize, head: usize, pairs: &mut Vec<f32>) = attend_head::<8>);
dispatched!(of_width_16(job: &Job, sequence: usize, head: usize, pairs: &mut Vec<f32>) = attend_head::<16>);

/// Each lane is a query, which meets every key in turn.
#[inline(always)]
fn attend_head<const D: usize>(job: &Job, sequence: usize, head: usize, pairs: &mut Vec<f32>) {
    // Scores are powers of two from here on.
    let scale = std::f32::consts::LOG2_E / (D as f32).sqrt();
    let mut longest = 0.0_f32;
    pairs.clear();
    for token in 0..job.tokens {
        // SAFETY: a `Job` has this sequence and head.
        let (key, value) = unsafe {
            let key: [f32; D] = job.k.read(sequence, token, head);
            let value: [f32; D] = job.v.read(sequence, token, head);
            (key, value)
        };
        let square: f32 = key.iter().map(|x| x * x).sum();
        longest = f32::max(longest, square);
        pairs.extend_from_slice(&key);
        pairs.extend_from_slice(&value);
    }
    let (pairs, _) = pairs.as_chunks::<D>();
    for first in (0..job.tokens).step_by(VECTORS * LANES) {
        let token = |lane: usize| (first + lane).min(job.tokens - 1);
        let mut queries = [[[0.0; LANES]; D]; VECTORS];
        for lane in 0..VECTORS * LANES {
            // SAFETY: a `Job` has this sequence and head.
            let query: [f32; D] = unsafe { job.q.read(sequence, token(lane), head) };
            for (i, x) in query.into_iter().enumerate() {
                queries[lane / LANES][i][lane % LANES] = x * scale;
            }
        }
        let averages = averages(&queries, pairs, longest.sqrt());
        for lane in 0..(job.tokens - first).min(VECTORS * LANES) {
            let at = (sequence * job.tokens + first + lane) * job.heads * D + head * D;
            for (i, average) in averages[lane / LANES].iter().enumerate() {
                // SAFETY: a place of this head, which no other call writes.
                unsafe { *job.out.add(at + i) = average[lane % LANES] };
            }
        }
    }
}

/// The values weighted by `2^(query . key)`, by the sum of these weights. `pairs`: keys and values in turn; `longest`: the
/// length of the longest key.
///
/// A query's length times that of the longest key bounds its exponents. Where that is not much, as mostly, no pass over the
/// keys is needed to find their maximum first.
#[inline(always)]
fn averages<const D: usize>(
    queries: &[[Lanes; D]; VECTORS],
    pairs: &[[f32; D]],
    longest: f32,
) -> [[Lanes; D]; VECTORS] {
    // Loops, since closures handed to iterators may be compiled without the instruction set.
    let mut bound = splat(0.0);
    for query in queries {
        let mut square = splat(0.0);
        for x in query {
            square = fma(*x, *x, square);
        }
        bound = max(square, bound);
    }
    let mut are_small = true;
    for bound in bound {
        are_small &= bound.sqrt() * longest <= EXPONENT_MAX;
    }
    if are_small {
        return weigh::<D, false>(queries, pairs, &[splat(0.0); VECTORS]);
    }
    let mut largest = [splat(f32::NEG_INFINITY); VECTORS];
    for key in pairs.iter().step_by(2) {
        for (largest, query) in largest.iter_mut().zip(queries) {
            *largest = max(score(query, key), *largest);
        }
    }
    weigh::<D, true>(queries, pairs, &largest)
}

#[inline(always)]
fn score<const D: usize>(query: &[Lanes; D], key: &[f32; D]) -> Lanes {
    let mut score = splat(0.0);
    for i in 0..D {
        score = fma(query[i], splat(key[i]), score);
    }
    score
}

/// Where `SHIFTS`, `largest` is taken from a query's exponents, and those far below it are cut off.
#[inline(always)]
fn weigh<const D: usize, const SHIFTS: bool>(
    queries: &[[Lanes; D]; VECTORS],
    pairs: &[[f32; D]],
    largest: &[Lanes; VECTORS],
) -> [[Lanes; D]; VECTORS] {
    let mut sums = [splat(0.0); VECTORS];
    let mut totals = [[splat(0.0); D]; VECTORS];
    for pair in pairs.chunks_exact(2) {
        let (key, value) = (&pair[0], &pair[1]);
        for vector in 0..VECTORS {
            let mut exponent = score(&queries[vector], key);
            if SHIFTS {
                exponent = max(splat(EXP2_MIN), sub(exponent, largest[vector]));
            }
            let weight = exp2(exponent);
            sums[vector] = add(sums[vector], weight);
            for i in 0..D {
                totals[vector][i] = fma(weight, splat(value[i]), totals[vector][i]);
            }
        }
    }
    std::array::from_fn(|vector| {
        totals[vector].map(|total| std::array::from_fn(|i| total[i] / sums[vector][i]))
    })
}

#[cfg(test)]
mod tests {
    use flowai_model::synthetic;

    use super::*;

    fn values(name: &str, shape: &[i64], scale: f64) -> Tensor {
        let count: i64 = shape.iter().product();
        let values = synthetic::tensor(name, &[count as usize, 1], 0);
        Tensor::from_slice(&values).view(shape) * scale
    }

    /// Against the formula in f64. A weight is as far off as its score, relative to one, so larger scores may err more.
    fn check(q: &Tensor, k: &Tensor, v: &Tensor) {
        let (_, _, _, width) = q.size4().unwrap();
        let [q_, k_, v_] = [q, k, v].map(|x| x.to_kind(Kind::Double).transpose(1, 2));
        let scores = q_.matmul(&k_.transpose(2, 3)) / (width as f64).sqrt();
        let expected = scores.softmax(-1, Kind::Double).matmul(&v_).transpose(1, 2);
        let found = attend(q, k, v)
            .unwrap()
            .unwrap()
            .view_as(&expected.contiguous());
        let largest = |x: &Tensor| x.abs().max().double_value(&[]);
        let allowed = 1e-6 + f64::from(f32::EPSILON) / 2.0 * largest(&scores);
        let error = largest(&(found - expected));
        assert!(
            error < allowed,
            "{:?}: {error:e}, allowed {allowed:e}",
            q.size()
        );
    }

    #[test]
    fn it_is_the_formula_for_every_length_and_width() {
        for width in [4, 8, 16] {
            for tokens in [1, 8, 15, 31, 32, 33, 200] {
                let shape = [3, tokens, 5, width];
                let [q, k, v] = ["q", "k", "v"].map(|name| values(name, &shape, 1.0));
                check(&q, &k, &v);
            }
        }
    }

    /// As they come out of one product for queries, keys and values, and as frames of a place lie in a clip.
    #[test]
    fn tokens_may_lie_apart() {
        let qkv = values("qkv", &[2, 33, 3, 2, 8], 1.0);
        let [q, k, v] = [0, 1, 2].map(|part| qkv.select(2, part));
        check(&q, &k, &v);
        let [q, k, v] = [q, k, v].map(|x| x.transpose(0, 1));
        check(&q, &k, &v);
    }

    #[test]
    fn sharp_attention_is_as_exact_as_its_scores() {
        for scale in [4.0, 30.0, 300.0] {
            let shape = [1, 65, 2, 4];
            let [q, k] = ["q", "k"].map(|name| values(name, &shape, scale));
            check(&q, &k, &values("v", &shape, 1.0));
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for bad in [f64::NAN, f64::INFINITY] {
            for part in 0..3 {
                let shape = [1, 40, 1, 4];
                let parts = ["q", "k", "v"].map(|name| values(name, &shape, 1.0));
                let _ = parts[part].get(0).get(7).get(0).get(2).fill_(bad);
                let [q, k, v] = &parts;
                let out = attend(q, k, v).unwrap().unwrap();
                let is_finite = out.isfinite().all().int64_value(&[]) != 0;
                assert!(!is_finite, "{bad} in {part}");
            }
        }
    }

    #[test]
    fn other_layouts_are_left_to_libtorch() {
        let shape = [1, 4, 2, 8];
        let x = values("x", &shape, 1.0);
        let check = |other: &Tensor| assert!(attend(other, other, other).unwrap().is_none());
        check(&x.to_kind(Kind::BFloat16));
        check(&x.transpose(2, 3).contiguous().transpose(2, 3));
        check(&values("y", &[1, 4, 2, 12], 1.0));
        let fewer = x.narrow(1, 0, 3);
        assert!(attend(&x, &fewer, &fewer).unwrap().is_none());
    }
}
