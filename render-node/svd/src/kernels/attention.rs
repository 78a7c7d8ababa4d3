#![allow(unsafe_code, reason = "reads and writes the memory of tensors")]

use tch::{Device, Kind, Tensor};

use super::isa::{Isa, Set, dispatched};
use super::lanes::{EXP2_MIN, LANES, Lanes, add, exp2, fma, max, splat, sub};
use super::parallel::for_each;
use crate::error::Result;

/// Scores that a call computes at least, so that fetching the next one costs nothing beside it.
const SCORES_OF_A_CALL: usize = 64 << 10;

/// Weights of `2^-40` to `2^40` are summed far from f32's largest and smallest numbers.
const EXPONENT_MAX: f32 = 40.0;

/// So many keys are summed before their sum is added to the others: thousands of equal weights, one after the other, would
/// lose two digits.
const KEYS_OF_A_SUM: usize = 64;

/// Vectors of queries that are worked on together, so that one waits less for another's results.
const VECTORS: usize = 2;

/// Scaled dot product attention of (N, L, heads, d) queries with as many keys and values, to (N, L, heads * d), for heads so
/// narrow that products of matrices spend most of their time on other things than arithmetic: d is 4, 8 or 16.
///
/// In memory the result has sequences and tokens in the order of the queries: what was transposed to come here can be
/// transposed back without a copy.
///
/// `None` where there is no such kernel: another width, other numbers of keys, another precision, memory layout or device, or
/// a processor that is slow with it.
pub(crate) fn attend(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Option<Tensor>> {
    let isa = Isa::here();
    match isa.has_fma() {
        true => attend_with(isa, q, k, v),
        false => Ok(None),
    }
}

fn attend_with(isa: Isa, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Option<Tensor>> {
    let (sequences, tokens, heads, width) = q.size4()?;
    if k.size() != q.size() || v.size() != q.size() {
        return Ok(None);
    }
    let source = |x| Source::of(x, width);
    let (Some(kernel), Some(q), Some(k), Some(v)) =
        (kernel(width), source(q)?, source(k)?, source(v)?)
    else {
        return Ok(None);
    };
    let out = empty_in_order_of(&q, sequences, tokens, heads * width)?;
    let [sequences, tokens, heads] = [sequences, tokens, heads].map(|n| n.unsigned_abs() as usize);
    let job = Job {
        q,
        k,
        v,
        out: out.data_ptr().cast(),
        out_strides: strides(&out),
        tokens,
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

/// (N, L, C), as closely packed as the queries allow.
fn empty_in_order_of(q: &Source, sequences: i64, tokens: i64, channels: i64) -> Result<Tensor> {
    let options = (Kind::Float, Device::Cpu);
    let [sequence, token] = q.strides;
    Ok(match sequence < token {
        true => Tensor::f_empty([tokens, sequences, channels], options)?.f_transpose(0, 1)?,
        false => Tensor::f_empty([sequences, tokens, channels], options)?,
    })
}

/// Elements from one sequence to the next, and from one token to the next, of a tensor that begins with these dimensions.
fn strides(x: &Tensor) -> [usize; 2] {
    let strides = x.stride();
    [strides[0], strides[1]].map(|stride| stride.unsigned_abs() as usize)
}

/// Elements of a tensor (N, L, heads, d) whose heads follow each other in memory.
#[derive(Clone, Copy)]
struct Source {
    start: *const f32,
    /// Elements from one sequence to the next, and from one token to the next.
    strides: [usize; 2],
}

impl Source {
    fn of(x: &Tensor, width: i64) -> Result<Option<Self>> {
        let strides = x.stride();
        let fits = x.device() == Device::Cpu && x.f_kind()? == Kind::Float;
        Ok(match strides[..] {
            [_, _, head, 1] if fits && head == width => Some(Self {
                start: x.data_ptr().cast_const().cast(),
                strides: self::strides(x),
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
    /// (N, L, heads * d), the last dimension closely packed.
    out: *mut f32,
    out_strides: [usize; 2],
    tokens: usize,
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
            let [of_sequence, of_token] = job.out_strides;
            let at = sequence * of_sequence + (first + lane) * of_token + head * D;
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
    // A maximum drops what is no number; its weights are none, whichever way they are computed.
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

#[inline(always)]
fn weigh<const D: usize, const SHIFTS: bool>(
    queries: &[[Lanes; D]; VECTORS],
    pairs: &[[f32; D]],
    largest: &[Lanes; VECTORS],
) -> [[Lanes; D]; VECTORS] {
    let mut sums = [splat(0.0); VECTORS];
    let mut totals = [[splat(0.0); D]; VECTORS];
    for pairs in pairs.chunks(2 * KEYS_OF_A_SUM) {
        let (some_sums, some_totals) = weigh_some::<D, SHIFTS>(queries, pairs, largest);
        for vector in 0..VECTORS {
            sums[vector] = add(sums[vector], some_sums[vector]);
            for i in 0..D {
                totals[vector][i] = add(totals[vector][i], some_totals[vector][i]);
            }
        }
    }
    std::array::from_fn(|vector| {
        totals[vector].map(|total| std::array::from_fn(|i| total[i] / sums[vector][i]))
    })
}

/// The sum of the weights, and of the values by their weights. Where `SHIFTS`, `largest` is taken from a query's exponents, and those far below it are cut off.
#[inline(always)]
fn weigh_some<const D: usize, const SHIFTS: bool>(
    queries: &[[Lanes; D]; VECTORS],
    pairs: &[[f32; D]],
    largest: &[Lanes; VECTORS],
) -> ([Lanes; VECTORS], [[Lanes; D]; VECTORS]) {
    let mut sums = [splat(0.0); VECTORS];
    let mut totals = [[splat(0.0); D]; VECTORS];
    for pair in pairs.chunks_exact(2) {
        let (key, value) = (&pair[0], &pair[1]);
        for vector in 0..VECTORS {
            let mut exponent = score(&queries[vector], key);
            if SHIFTS {
                // In this order: what is no number is kept.
                exponent = max(splat(EXP2_MIN), sub(exponent, largest[vector]));
            }
            let weight = exp2(exponent);
            sums[vector] = add(sums[vector], weight);
            for i in 0..D {
                totals[vector][i] = fma(weight, splat(value[i]), totals[vector][i]);
            }
        }
    }
    (sums, totals)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{values, with_threads};
    use super::*;

    /// In f64.
    fn formula(q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
        let [_, v] = [q, v].map(|x| x.to_kind(Kind::Double).transpose(1, 2));
        let weights = scores(q, k).softmax(-1, Kind::Double);
        weights.matmul(&v).transpose(1, 2).flatten(2, 3)
    }

    fn scores(q: &Tensor, k: &Tensor) -> Tensor {
        let (_, _, _, width) = q.size4().unwrap();
        let [q, k] = [q, k].map(|x| x.to_kind(Kind::Double).transpose(1, 2));
        q.matmul(&k.transpose(2, 3)) / (width as f64).sqrt()
    }

    /// Every instruction set, which must give the same bits.
    fn found(q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
        let all = Isa::all_here();
        let found = all.into_iter().map(|isa| {
            let out = attend_with(isa, q, k, v).unwrap().unwrap();
            (isa, out)
        });
        let same = found.reduce(|(first, x), (isa, y)| {
            let (x_, y_) = (x.nan_to_num(0.5, 1e9, -1e9), y.nan_to_num(0.5, 1e9, -1e9));
            assert!(x_.equal(&y_), "{first:?} and {isa:?}");
            (isa, y)
        });
        same.unwrap().1
    }

    /// A weight is as far off as its score, relative to one, so larger scores may err more.
    fn check(q: &Tensor, k: &Tensor, v: &Tensor) {
        let largest = |x: &Tensor| x.abs().max().double_value(&[]);
        let allowed = 2e-6 + f64::from(f32::EPSILON) / 2.0 * largest(&scores(q, k));
        let error = largest(&(found(q, k, v) - formula(q, k, v)));
        let size = q.size();
        assert!(error < allowed, "{size:?}: {error:e}, allowed {allowed:e}");
    }

    #[test]
    fn it_is_the_formula_for_every_length_and_width() {
        for width in [4, 8, 16] {
            for tokens in [1, 8, 15, 31, 32, 33, 200] {
                let shape = [3, tokens, 5, width];
                let [q, k, v] = ["q", "k", "v"].map(|name| values(name, &shape));
                check(&q, &k, &v);
            }
        }
    }

    /// As they come out of one product for queries, keys and values, and as frames of a place lie in a clip.
    #[test]
    fn tokens_may_lie_apart() {
        let qkv = values("qkv", &[2, 33, 3, 2, 8]);
        let [q, k, v] = [0, 1, 2].map(|part| qkv.select(2, part));
        check(&q, &k, &v);
        let [q, k, v] = [q, k, v].map(|x| x.transpose(0, 1));
        check(&q, &k, &v);
        let back = found(&q, &k, &v).transpose(0, 1);
        assert!(back.is_contiguous(), "{:?}", back.stride());
    }

    #[test]
    fn sharp_attention_is_as_exact_as_its_scores() {
        for scale in [4.0, 30.0, 300.0] {
            let shape = [1, 65, 2, 4];
            let [q, k] = ["q", "k"].map(|name| values(name, &shape) * scale);
            check(&q, &k, &values("v", &shape));
        }
    }

    /// So many as a frame of full size has.
    #[test]
    fn thousands_of_equal_keys_are_averaged_exactly() {
        let shape = [1, 9216, 1, 4];
        let q = values("q", &[1, 1, 1, 4]).expand(shape, false);
        check(&q, &q, &(values("v", &shape) * 0.01 + 1.0));
    }

    #[test]
    fn threads_change_no_bit() {
        let shape = [3, 300, 4, 8];
        let [q, k, v] = ["q", "k", "v"].map(|name| values(name, &shape));
        let [one, two, three] = with_threads(|| attend(&q, &k, &v).unwrap().unwrap());
        assert!(one.equal(&two) && one.equal(&three));
    }

    /// Bits of a number that is none say more than that; those of all ones come out of memory that nobody wrote.
    #[test]
    fn what_is_no_number_stays_none() {
        let all_ones = Tensor::from_slice(&[-1_i32]).view_dtype(Kind::Float);
        for bad in [f32::NAN.into(), f32::INFINITY.into(), all_ones] {
            for part in 0..3 {
                let shape = [1, 40, 1, 4];
                let parts = ["q", "k", "v"].map(|name| values(name, &shape));
                let token = parts[part].get(0).get(7).get(0);
                token.narrow(0, 2, 1).copy_(&bad);
                let [q, k, v] = &parts;
                let (found, expected) = (found(q, k, v), formula(q, k, v));
                let are_numbers = (found.isfinite(), expected.isfinite());
                assert!(are_numbers.0.equal(&are_numbers.1), "{bad:?} in {part}");
            }
        }
    }

    #[test]
    fn other_layouts_are_left_to_libtorch() {
        let shape = [1, 4, 2, 8];
        let x = values("x", &shape);
        let check = |other: &Tensor| assert!(attend(other, other, other).unwrap().is_none());
        check(&x.to_kind(Kind::BFloat16));
        check(&x.transpose(2, 3).contiguous().transpose(2, 3));
        check(&values("y", &[1, 4, 2, 12]));
        let fewer = x.narrow(1, 0, 3);
        assert!(attend(&x, &fewer, &fewer).unwrap().is_none());
    }
}
