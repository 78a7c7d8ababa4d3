//! Percentiles of seconds.

use serde::Serialize;

/// Nearest rank. None of nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) count: usize,
    pub(crate) p50_s: f64,
    pub(crate) p99_s: f64,
    pub(crate) max_s: f64,
}

impl Summary {
    pub(crate) fn of(mut seconds: Vec<f64>) -> Option<Self> {
        seconds.sort_by(f64::total_cmp);
        let max_s = *seconds.last()?;
        let rank = |share: f64| {
            let rank = (share * seconds.len() as f64).ceil() as usize;
            seconds[rank.clamp(1, seconds.len()) - 1]
        };
        Some(Self {
            count: seconds.len(),
            p50_s: rank(0.50),
            p99_s: rank(0.99),
            max_s,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        assert_eq!(Summary::of(Vec::new()), None);
        let all = Summary::of((1..=200).map(f64::from).collect()).unwrap();
        assert_eq!((all.p50_s, all.p99_s, all.max_s), (100.0, 198.0, 200.0));
    }
}
