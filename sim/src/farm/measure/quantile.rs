//! Quantiles by nearest rank.

use super::Wait;

/// Of sorted figures; 0 of none.
pub(super) fn of(sorted: &[f64], quantile: f64) -> f64 {
    let rank = (sorted.len() as f64 * quantile).ceil() as usize;
    let at = rank.saturating_sub(1).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(0.0)
}

impl Wait {
    pub(super) fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        Self {
            jobs: seconds.len() as u32,
            mean_s: seconds.iter().sum::<f64>() / seconds.len().max(1) as f64,
            p50_s: of(&seconds, 0.5),
            p90_s: of(&seconds, 0.9),
            p99_s: of(&seconds, 0.99),
            max_s: of(&seconds, 1.0),
            quantiles_s: (0..=100)
                .map(|percent| of(&seconds, f64::from(percent) / 100.0))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn quantiles_by_nearest_rank() {
        let figures: Vec<f64> = (1..=200).map(f64::from).collect();
        for (quantile, expected) in [
            (0.0, 1.0),
            (0.5, 100.0),
            (0.9, 180.0),
            (0.99, 198.0),
            (1.0, 200.0),
        ] {
            assert_eq!(super::of(&figures, quantile), expected, "{quantile}");
        }
        assert_eq!(super::of(&[], 0.5), 0.0);
    }
}
