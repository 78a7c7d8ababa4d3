//! Every policy at every load, seed by seed.

mod summary;

use std::sync::Mutex;
use std::thread;

use serde::{Deserialize, Serialize};

use super::measure::Figures;
use super::policy::Choice;
use super::{Setting, SettingError, run};

pub use summary::{Middle, Summary};

/// The loads that are compared.
pub const LOADS: [f64; 4] = [0.6, 0.8, 0.95, 1.2];

/// A farm that was simulated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The policy's name; what is switched off in it follows, as in `flowai-locality`.
    pub policy: String,
    pub load: f64,
    pub seed: u64,
    pub figures: Figures,
}

/// What a comparison writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// RFC 3339.
    pub made_at: String,
    /// What all runs share; load and seed are those of each outcome.
    pub setting: Setting,
    /// Of each policy and load, counted from the setting's.
    pub seeds: u64,
    pub outcomes: Vec<Outcome>,
}

/// One farm to be simulated.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    pub policy: String,
    pub choice: Choice,
    pub setting: Setting,
}

/// Every policy with every load and seed, the rest as in `setting`.
pub fn cases(setting: &Setting, policies: &[Choice], loads: &[f64], seeds: u64) -> Vec<Case> {
    let mut cases = Vec::new();
    for load in loads {
        for seed in setting.seed..setting.seed + seeds {
            cases.extend(policies.iter().map(|choice| Case {
                policy: choice.as_str().to_owned(),
                choice: *choice,
                setting: Setting {
                    load: *load,
                    seed,
                    ..setting.clone()
                },
            }));
        }
    }
    cases
}

/// Runs them on so many threads, in whatever order; outcomes come in the order of the cases.
pub fn run_all(cases: &[Case], threads: usize) -> Result<Vec<Outcome>, SettingError> {
    let todo = Mutex::new(cases.iter().enumerate());
    let done = Mutex::new(Vec::with_capacity(cases.len()));
    let work = || {
        loop {
            let next = todo
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .next();
            let Some((ix, case)) = next else {
                return;
            };
            let figures = run(&case.setting, case.choice);
            let mut done = done.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            done.push((ix, figures));
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(work);
        }
    });
    let mut done = done
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    done.sort_by_key(|(ix, _)| *ix);
    let outcomes = done.into_iter().zip(cases).map(|((_, figures), case)| {
        Ok(Outcome {
            policy: case.policy.clone(),
            load: case.setting.load,
            seed: case.setting.seed,
            figures: figures?,
        })
    });
    outcomes.collect()
}
