//! Samples of what [`trace`] and [`assumed`] describe.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use super::super::trace::{self, LogNormal};
use super::super::{Ms, assumed};
use super::{AdapterIx, ModelIx, Shape};

pub(super) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample(rng)
}

pub(super) fn log_normal(rng: &mut ChaCha8Rng, of: LogNormal) -> f64 {
    (of.mu + of.sigma * normal(rng)).exp()
}

pub(super) fn ms(seconds: f64) -> Ms {
    (seconds.max(0.0) * 1000.0).round() as Ms
}

/// Ranks by given weights.
pub(super) struct Ranks {
    /// Sums of the weights up to each rank.
    sums: Vec<f64>,
}

impl Ranks {
    pub(super) fn new(weights: impl IntoIterator<Item = f64>) -> Self {
        let mut sum = 0.0;
        let sums = weights
            .into_iter()
            .map(|weight| {
                sum += weight;
                sum
            })
            .collect();
        Self { sums }
    }

    pub(super) fn zipf(ranks: u32, exponent: f64) -> Self {
        Self::new((1..=ranks).map(|rank| f64::from(rank).powf(-exponent)))
    }

    pub(super) fn models() -> Self {
        let head: f64 = trace::MODEL_HEAD.iter().sum();
        let first = trace::MODEL_HEAD.len() as u16 + 1;
        let tail: Vec<f64> = (first..=trace::MODELS)
            .map(|rank| f64::from(rank).powf(-trace::MODEL_TAIL_ZIPF))
            .collect();
        let scale = (1.0 - head) / tail.iter().sum::<f64>();
        Self::new(
            trace::MODEL_HEAD
                .into_iter()
                .chain(tail.into_iter().map(|weight| weight * scale)),
        )
    }

    /// From 0.
    pub(super) fn draw(&self, rng: &mut ChaCha8Rng) -> usize {
        let whole = self.sums.last().copied().unwrap_or(0.0);
        let at = rng.random::<f64>() * whole;
        self.sums
            .partition_point(|sum| *sum <= at)
            .min(self.sums.len() - 1)
    }
}

pub(super) fn visit_requests(rng: &mut ChaCha8Rng) -> u32 {
    let requests = log_normal(rng, trace::VISIT_REQUESTS).round() as u32;
    requests.clamp(1, trace::VISIT_REQUESTS_MAX)
}

/// From one request of a visit to the next in the trace, s.
pub(super) fn gap_s(rng: &mut ChaCha8Rng) -> f64 {
    loop {
        let z = normal(rng);
        let sigma = if z < 0.0 {
            trace::GAP_SIGMA_BELOW
        } else {
            trace::GAP_SIGMA_ABOVE
        };
        let gap = trace::GAP_MEDIAN_S * (sigma * z).exp();
        if gap < trace::GAP_MAX_S {
            return gap;
        }
    }
}

/// How many adapters the requests of a visit have.
pub(super) fn adapter_count(rng: &mut ChaCha8Rng) -> usize {
    let at = rng.random::<f64>();
    if at < trace::TWO_ADAPTERS {
        2
    } else if at < trace::TWO_ADAPTERS + trace::ONE_ADAPTER {
        1
    } else {
        0
    }
}

pub(super) fn adapters(
    rng: &mut ChaCha8Rng,
    model: ModelIx,
    count: usize,
    popularity: &Ranks,
) -> Vec<AdapterIx> {
    let mut chosen = Vec::new();
    while chosen.len() < count {
        let rank = popularity.draw(rng) as u16;
        let adapter = AdapterIx { model, rank };
        if !chosen.contains(&adapter) {
            chosen.push(adapter);
        }
    }
    chosen
}

/// The trace's, s.
pub(super) fn run_s(rng: &mut ChaCha8Rng, has_adapter: bool) -> f64 {
    log_normal(
        rng,
        if has_adapter {
            trace::RUN_WITH_ADAPTER
        } else {
            trace::RUN_WITHOUT_ADAPTER
        },
    )
}

pub(super) fn adapter_load_ms(rng: &mut ChaCha8Rng) -> Ms {
    ms(log_normal(rng, trace::ADAPTER_LOAD))
}

pub(super) fn model_load_ms(rng: &mut ChaCha8Rng) -> Ms {
    if rng.random::<f64>() < trace::MODEL_LOAD_NEAR_SHARE {
        return ms(log_normal(rng, trace::MODEL_LOAD_NEAR));
    }
    let (mean, deviation) = trace::MODEL_LOAD_FAR_S;
    ms((mean + deviation * normal(rng)).max(trace::MODEL_LOAD_FAR_MIN_S))
}

/// The clip that is predicted to take about so long, and what is predicted for it, s. Steps are whole.
pub(super) fn shape(predicted_s: f64) -> (Shape, f64) {
    let of = |frames: u32| {
        let per_step = assumed::CLIP_MEAN_S * f64::from(frames)
            / f64::from(assumed::FRAMES)
            / f64::from(assumed::STEPS + assumed::FIXED_STEPS);
        let steps = (predicted_s / per_step).round() as u32;
        let steps = steps
            .saturating_sub(assumed::FIXED_STEPS)
            .clamp(1, assumed::STEPS_MAX);
        let shape = Shape {
            frames,
            width: assumed::WIDTH_PX,
            height: assumed::HEIGHT_PX,
            steps,
        };
        (shape, per_step * f64::from(steps + assumed::FIXED_STEPS))
    };
    let (shape, predicted) = of(assumed::FRAMES);
    if shape.steps < assumed::STEPS_MAX {
        (shape, predicted)
    } else {
        of(2 * assumed::FRAMES)
    }
}
