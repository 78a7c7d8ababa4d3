//! Fitted to a published trace: Alibaba GenTD26 (`cluster-trace-v2026-GenAI`), 26,823 requests of 4,247 users to a service of
//! Stable Diffusion with LoRA, 552 hours. The numbers are here, the file is not: its licence is for research and study.
//!
//! Its times were scaled for anonymity, each file by itself: shapes and ratios within a file can be trusted, seconds cannot.

/// Of the logarithm of seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogNormal {
    pub mu: f64,
    pub sigma: f64,
}

impl LogNormal {
    pub fn mean(self) -> f64 {
        (self.mu + self.sigma * self.sigma / 2.0).exp()
    }
}

/// Run times, s, are a mixture: p50 24, p90 50, p99 109, coefficient of variation 0.70 (data: 23, 53, 106, 0.72; no test of fit).
pub const RUN_WITHOUT_ADAPTER: LogNormal = LogNormal {
    mu: 3.074,
    sigma: 0.456,
};
pub const RUN_WITH_ADAPTER: LogNormal = LogNormal {
    mu: 3.810,
    sigma: 0.566,
};
/// Share of requests with one adapter, and with two.
pub const ONE_ADAPTER: f64 = 0.155;
pub const TWO_ADAPTERS: f64 = 0.01;

/// Mean run, s: 28.8 (data: 28.9).
pub fn run_mean_s() -> f64 {
    let with = ONE_ADAPTER + TWO_ADAPTERS;
    (1.0 - with) * RUN_WITHOUT_ADAPTER.mean() + with * RUN_WITH_ADAPTER.mean()
}

/// Requests an hour over their mean, by quantile. Within an hour arrivals are about Poisson (coefficient of variation 1.02).
/// A third of the hours is empty: gaps of the trace.
pub const HOUR_FACTORS: [(f64, f64); 8] = [
    (0.0, 0.0),
    (0.33, 0.0),
    (0.5, 0.19),
    (0.75, 1.05),
    (0.9, 4.0),
    (0.95, 5.1),
    (0.99, 6.9),
    (1.0, 9.0),
];

/// Requests of one visit (one user, gaps under 30 minutes), rounded: p50 2, p75 5, p90 9, p99 33 (data: 2, 5, 9, 35; mean 4.5).
pub const VISIT_REQUESTS: LogNormal = LogNormal {
    mu: 0.70,
    sigma: 1.20,
};
pub const VISIT_REQUESTS_MAX: u32 = 202;

/// From one request of a visit to the next, s: p25 43, p50 73, p75 159. Each half of the logarithm has a deviation of its own.
pub const GAP_MEDIAN_S: f64 = 73.0;
pub const GAP_SIGMA_BELOW: f64 = 0.785;
pub const GAP_SIGMA_ABOVE: f64 = 1.154;
/// A longer gap begins another visit.
pub const GAP_MAX_S: f64 = 1_800.0;

/// Users, and the exponent of Zipf's law over them: the largest has 4.5 % of the requests, the first hundredth 27.7 %, the first
/// tenth 57 %.
pub const USERS: u32 = 4_247;
pub const USER_ZIPF: f64 = 0.79;

/// Base models: the first has 31 % of the requests, the first five 70 %.
pub const MODELS: u16 = 87;
pub const MODEL_HEAD: [f64; 5] = [0.31, 0.15, 0.10, 0.08, 0.06];
/// The others share the rest by Zipf's law: an LRU of 8 would hit 85 % of the requests, one of 16 95 %.
pub const MODEL_TAIL_ZIPF: f64 = 2.0;

/// Loading an adapter, s: p50 4.4, p90 6.2, p99 8.2 (data: 4.378, 6.143, 8.214).
pub const ADAPTER_LOAD: LogNormal = LogNormal {
    mu: 1.4766,
    sigma: 0.267,
};
/// Loading a base model, s, has two humps: p25 3.1, p50 22.7, p90 42, p99 52 (data: 3.144, 22.718, 41.988, 51.856). This is the
/// near one …
pub const MODEL_LOAD_NEAR: LogNormal = LogNormal {
    mu: 1.1026,
    sigma: 0.3,
};
pub const MODEL_LOAD_NEAR_SHARE: f64 = 0.45;
/// … and this the mean and the deviation of the far one, normal.
pub const MODEL_LOAD_FAR_S: (f64, f64) = (34.2, 8.6);
/// No load of the far hump is shorter.
pub const MODEL_LOAD_FAR_MIN_S: f64 = 3.0;
