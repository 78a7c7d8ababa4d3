//! What is said of repeated measurements.

use std::fmt;

use serde::Serialize;

/// The middle one and the range of some figures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// `None` of no figures. Of an even number of them, the median is the mean of the middle two.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let half = sorted.len() / 2;
        let upper = *sorted.get(half)?;
        let lower = match sorted.len() % 2 {
            0 => sorted[half - 1],
            _ => upper,
        };
        Some(Self {
            median: (lower + upper) / 2.0,
            min: *sorted.first()?,
            max: *sorted.last()?,
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, min, max } = self;
        write!(f, "{median:.3} ({min:.3} to {max:.3})")
    }
}

/// How the slow ones of many figures were.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Percentiles {
    /// By nearest rank. `None` of no figures.
    pub(crate) fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            let rank = (figures.len() * percent).div_ceil(100);
            figures.get(rank.checked_sub(1)?).copied()
        };
        Some(Self {
            p50: at(50)?,
            p95: at(95)?,
            p99: at(99)?,
            max: at(100)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ranges() {
        let check = |figures: &[f64], expected: Option<(f64, f64, f64)>| {
            let found = Summary::of(figures.iter().copied());
            assert_eq!(found.map(|s| (s.median, s.min, s.max)), expected);
        };
        check(&[], None);
        check(&[2.0], Some((2.0, 2.0, 2.0)));
        check(&[3.0, 1.0], Some((2.0, 1.0, 3.0)));
        check(&[9.0, 1.0, 2.0], Some((2.0, 1.0, 9.0)));
        check(&[4.0, 3.0, 2.0, 1.0], Some((2.5, 1.0, 4.0)));
    }

    #[test]
    fn percentiles_by_nearest_rank() {
        assert_eq!(Percentiles::of(Vec::new()), None);
        let found = Percentiles::of((1..=200).rev().map(f64::from).collect()).unwrap();
        let Percentiles { p50, p95, p99, max } = found;
        assert_eq!([p50, p95, p99, max], [100.0, 190.0, 198.0, 200.0]);
        let found = Percentiles::of(vec![3.0]).unwrap();
        assert_eq!([found.p50, found.max], [3.0, 3.0]);
    }
}
