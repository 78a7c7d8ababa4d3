//! What many seeds say together.

use std::fmt;

use serde::Serialize;

use super::super::measure::Figures;
use super::{Outcome, Report};

/// The middle one and the range of a figure over the seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Middle {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Middle {
    /// `None` of no figures. Of an even number of them, the median is the mean of the middle two.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (lower, upper) = (
            sorted.get(sorted.len().checked_sub(1)? / 2)?,
            sorted.get(sorted.len() / 2)?,
        );
        Some(Self {
            median: (lower + upper) / 2.0,
            min: *sorted.first()?,
            max: *sorted.last()?,
        })
    }
}

impl fmt::Display for Middle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = match self.max.abs() {
            0.0..10.0 => 2,
            10.0..100.0 => 1,
            _ => 0,
        };
        let Self { median, min, max } = self;
        write!(f, "{median:.digits$} ({min:.digits$} to {max:.digits$})")
    }
}

/// A policy at a load, over all seeds. A figure that no seed has is left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    pub policy: String,
    pub load: f64,
    pub figures: Vec<(&'static str, Middle)>,
}

/// What is summed up, by its name with its unit.
type Figure = (&'static str, fn(&Figures) -> Option<f64>);

const FIGURES: [Figure; 25] = [
    ("free wait p50, s", |f| Some(f.wait.get("free")?.p50_s)),
    ("free p90, s", |f| Some(f.wait.get("free")?.p90_s)),
    ("free p99, s", |f| Some(f.wait.get("free")?.p99_s)),
    ("pro wait p50, s", |f| Some(f.wait.get("pro")?.p50_s)),
    ("pro p90, s", |f| Some(f.wait.get("pro")?.p90_s)),
    ("pro p99, s", |f| Some(f.wait.get("pro")?.p99_s)),
    ("studio wait p50, s", |f| Some(f.wait.get("studio")?.p50_s)),
    ("studio p90, s", |f| Some(f.wait.get("studio")?.p90_s)),
    ("studio p99, s", |f| Some(f.wait.get("studio")?.p99_s)),
    ("batch wait p50, s", |f| Some(f.wait.get("batch")?.p50_s)),
    ("cold model starts, %", |f| {
        percent(f.loads.cold_models, f.loads.starts)
    }),
    ("cold adapters, %", |f| {
        percent(f.loads.cold_adapters, f.loads.adapters)
    }),
    ("loading, GPU-h", |f| Some(f.loads.gpu_hours)),
    ("fairness gap, mean clips", |f| Some(f.fairness.gap_jobs)),
    ("fairness gap, longest clips", |f| {
        Some(f.fairness.gap_longest_jobs)
    }),
    ("eligible gap, mean clips", |f| {
        Some(f.fairness.eligible_gap_jobs)
    }),
    ("eligible gap, longest clips", |f| {
        Some(f.fairness.eligible_gap_longest_jobs)
    }),
    ("eligible gap p99, mean clips", |f| {
        Some(f.fairness.eligible_gap_p99_jobs)
    }),
    ("longest free turn, s", |f| {
        Some(f.bounds.get("free")?.turn_max_s)
    }),
    ("paid p99, s", |f| Some(f.wait.get("paid")?.p99_s)),
    ("starved past bound, %", |f| {
        let (starved, jobs) = f
            .bounds
            .values()
            .fold((0, 0), |sum, b| (sum.0 + b.starved, sum.1 + b.jobs));
        percent(starved, jobs)
    }),
    ("past start bound, %", |f| {
        let (missed, jobs) = f
            .bounds
            .values()
            .fold((0, 0), |sum, b| (sum.0 + b.missed, sum.1 + b.jobs));
        percent(missed, jobs)
    }),
    ("stops", |f| Some(f64::from(f.preemption.stops))),
    ("work lost to stops, GPU-h", |f| {
        Some(f.preemption.lost_s / 3_600.0)
    }),
    ("within the promise, %", |f| {
        f.promises.and_then(|p| percent(p.kept, p.jobs))
    }),
];

fn percent(part: u32, whole: u32) -> Option<f64> {
    (whole > 0).then(|| 100.0 * f64::from(part) / f64::from(whole))
}

impl Report {
    /// In the order of the outcomes.
    pub fn summaries(&self) -> Vec<Summary> {
        let mut groups: Vec<(&str, f64)> = Vec::new();
        for outcome in &self.outcomes {
            let group = (outcome.policy.as_str(), outcome.load);
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        groups
            .into_iter()
            .map(|(policy, load)| self.summary(policy, load))
            .collect()
    }

    fn summary(&self, policy: &str, load: f64) -> Summary {
        let middle = |(name, figure): &Figure| Some((*name, self.middle(policy, load, figure)?));
        Summary {
            policy: policy.to_owned(),
            load,
            figures: FIGURES.iter().filter_map(middle).collect(),
        }
    }

    /// One figure of a policy at a load, over the seeds.
    pub fn middle(
        &self,
        policy: &str,
        load: f64,
        figure: impl Fn(&Figures) -> Option<f64>,
    ) -> Option<Middle> {
        let is_of = |outcome: &&Outcome| outcome.policy == policy && outcome.load == load;
        let outcomes = self.outcomes.iter().filter(is_of);
        Middle::of(outcomes.filter_map(|outcome| figure(&outcome.figures)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Setting;
    use super::super::super::policy::Choice;
    use super::super::{Report, cases, run_all};
    use super::*;

    #[test]
    fn middles_and_ranges() {
        let check = |figures: &[f64], expected: Option<&str>| {
            let found = Middle::of(figures.iter().copied()).map(|middle| middle.to_string());
            assert_eq!(found.as_deref(), expected);
        };
        check(&[], None);
        check(&[2.0], Some("2.00 (2.00 to 2.00)"));
        check(&[30.0, 10.0, 11.0], Some("11.0 (10.0 to 30.0)"));
        check(&[400.0, 100.0, 200.0, 300.0], Some("250 (100 to 400)"));
    }

    #[test]
    fn threads_change_nothing_and_every_policy_load_and_seed_is_there() {
        let setting = Setting {
            hours: 1,
            nodes: 4,
            ..Setting::default()
        };
        let cases = cases(&setting, &Choice::ALL, &[0.5, 0.9], 2);
        let outcomes = run_all(&cases, 3).unwrap();
        assert_eq!(outcomes, run_all(&cases, 1).unwrap());
        assert_eq!(outcomes.len(), 16);
        let report = Report {
            made_at: String::new(),
            setting,
            seeds: 2,
            outcomes,
        };
        let text = serde_json::to_string(&report).unwrap();
        // Floats lose their last bit on the way.
        let told = |report: &Report| {
            let figures = report
                .summaries()
                .into_iter()
                .flat_map(|summary| summary.figures);
            figures
                .map(|(name, middle)| format!("{name} {middle}"))
                .collect::<Vec<_>>()
        };
        let read = serde_json::from_str::<Report>(&text).unwrap();
        assert_eq!(told(&read), told(&report));
        let summaries = report.summaries();
        assert_eq!(summaries.len(), 8);
        let cold = report
            .middle("fifo", 0.9, |figures| {
                Some(f64::from(figures.loads.cold_models))
            })
            .unwrap();
        assert!(cold.min > 0.0 && cold.min <= cold.median && cold.median <= cold.max);
    }
}
