use std::collections::{BTreeMap, HashMap};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::super::{Demand, Fleet, Flow, Setting, assumed, trace};
use super::draw::{self, Ranks};
use super::*;

/// That the quantiles of many samples lie within a tolerance of those of the trace.
fn check(
    name: &str,
    expected: &[(f64, f64)],
    tolerance: f64,
    draw: impl Fn(&mut ChaCha8Rng) -> f64,
) {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut samples: Vec<f64> = (0..200_000).map(|_| draw(&mut rng)).collect();
    samples.sort_by(f64::total_cmp);
    for (quantile, value) in expected {
        let found = samples[((samples.len() as f64 * quantile) as usize).min(samples.len() - 1)];
        assert!(
            (found / value - 1.0).abs() <= tolerance,
            "{name}: quantile {quantile} is {found}, the trace's {value}"
        );
    }
}

#[test]
fn samples_have_the_quantiles_of_the_trace() {
    check(
        "run",
        &[(0.5, 23.0), (0.9, 53.0), (0.99, 106.0)],
        0.08,
        |rng| {
            let has_adapter = draw::adapter_count(rng) > 0;
            draw::run_s(rng, has_adapter)
        },
    );
    check(
        "visit",
        &[
            (0.5, 2.0),
            (0.75, 5.0),
            (0.9, 9.0),
            (0.99, 35.0),
            (1.0, 202.0),
        ],
        0.1,
        |rng| f64::from(draw::visit_requests(rng)),
    );
    check(
        "gap",
        &[(0.25, 43.0), (0.5, 73.0), (0.75, 159.0)],
        0.08,
        draw::gap_s,
    );
    check(
        "adapter load",
        &[(0.5, 4_378.0), (0.9, 6_143.0), (0.99, 8_214.0)],
        0.03,
        |rng| draw::adapter_load_ms(rng) as f64,
    );
    let model_load = [
        (0.25, 3_144.0),
        (0.5, 22_718.0),
        (0.9, 41_988.0),
        (0.99, 51_856.0),
    ];
    check("model load", &model_load, 0.05, |rng| {
        draw::model_load_ms(rng) as f64
    });
}

#[test]
fn the_mean_visit_has_as_many_requests_as_in_the_trace() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let visits = 200_000;
    let sum: u32 = (0..visits).map(|_| draw::visit_requests(&mut rng)).sum();
    let mean = f64::from(sum) / f64::from(visits);
    assert!((mean / 4.5 - 1.0).abs() < 0.1, "{mean}");
}

/// Shares of the most frequent ranks.
fn top(ranks: &Ranks, counts: &[usize]) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let draws = 200_000;
    let mut hits = BTreeMap::<usize, u32>::new();
    (0..draws).for_each(|_| *hits.entry(ranks.draw(&mut rng)).or_default() += 1);
    let share = |count: &usize| hits.range(..*count).map(|(_, hits)| *hits).sum::<u32>();
    counts
        .iter()
        .map(|count| f64::from(share(count)) / f64::from(draws))
        .collect()
}

#[test]
fn few_users_and_models_have_most_of_the_requests() {
    let near = |found: Vec<f64>, expected: &[f64]| {
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (found - expected).abs() < 0.03,
                "{found}, expected {expected}"
            );
        }
    };
    let users = Ranks::zipf(trace::USERS, trace::USER_ZIPF);
    near(
        top(&users, &[1, 42, 425, trace::USERS as usize]),
        &[0.045, 0.277, 0.57, 1.0],
    );
    near(
        top(&Ranks::models(), &[1, 5, 16, trace::MODELS.into()]),
        &[0.31, 0.70, 0.92, 1.0],
    );
}

fn generate(setting: &Setting) -> Workload {
    Workload::generate(setting, &Fleet::new(setting.nodes)).unwrap()
}

#[test]
fn offered_load_is_what_was_asked() {
    for load in [0.3, 0.8, 1.2] {
        for flow in [Flow::Open, Flow::SemiClosed] {
            let setting = Setting {
                load,
                flow,
                ..Setting::default()
            };
            let workload = generate(&setting);
            let work_s: f64 = workload.jobs.iter().map(|job| job.work_s).sum();
            // One model of 20 s for four or five clips of a minute.
            let loading = workload.offered_load
                - work_s / (0.75 * f64::from(setting.nodes * setting.hours) * 3_600.0);
            assert!(
                (0.04 * load..0.10 * load).contains(&loading),
                "{load} {flow:?}: {loading}"
            );
            assert!((workload.offered_load - load).abs() < 0.005);
        }
    }
}

#[test]
fn clips_are_asked_for_within_the_horizon_and_evenly_when_demand_is_steady() {
    let setting = Setting {
        nodes: 200,
        ..Setting::default()
    };
    let mut by_hour = BTreeMap::<u64, f64>::new();
    let workload = generate(&setting);
    for job in &workload.jobs {
        let Submit::At(at) = job.submit else {
            panic!("an open flow waits for nobody");
        };
        *by_hour.entry(at / 3_600_000).or_default() += 1.0;
    }
    assert_eq!(by_hour.len(), 8);
    let mean = workload.jobs.len() as f64 / 8.0;
    for count in by_hour.values() {
        assert!((count / mean - 1.0).abs() < 0.15, "{by_hour:?}");
    }
}

#[test]
fn hours_are_as_uneven_as_the_traces() {
    let setting = Setting {
        nodes: 4,
        hours: 168,
        demand: Demand::Hours,
        ..Setting::default()
    };
    let workload = generate(&setting);
    let mut by_hour = vec![0.0; 168];
    for job in &workload.jobs {
        if let Submit::At(at) = job.submit {
            by_hour[(at / 3_600_000) as usize] += 168.0 / workload.jobs.len() as f64;
        }
    }
    by_hour.sort_by(f64::total_cmp);
    assert!(
        by_hour[84] < 0.6,
        "half the hours have next to nothing: {}",
        by_hour[84]
    );
    assert!(
        (2.5..5.5).contains(&by_hour[151]),
        "the tenth part is crowded: {}",
        by_hour[151]
    );
}

#[test]
fn a_visit_in_a_semi_closed_flow_waits_for_its_results() {
    let workload = generate(&Setting {
        flow: Flow::SemiClosed,
        ..Setting::default()
    });
    let mut after = 0;
    for job in &workload.jobs {
        if let Submit::After {
            job: before,
            think_ms,
        } = job.submit
        {
            let before = workload.job(before);
            assert_eq!((before.user, before.model), (job.user, job.model));
            assert!(think_ms as f64 >= assumed::THINK_MIN_S * 1000.0);
            assert_eq!(job.class, Class::Interactive);
            after += 1;
        }
    }
    assert!(
        after > workload.jobs.len() / 2,
        "{after} of {}",
        workload.jobs.len()
    );
}

#[test]
fn a_user_keeps_a_tier_and_tiers_are_split_as_stated() {
    let workload = generate(&Setting {
        hours: 24,
        nodes: 200,
        ..Setting::default()
    });
    let mut tiers = HashMap::new();
    for job in &workload.jobs {
        assert_eq!(*tiers.entry(job.user).or_insert(job.tier), job.tier);
    }
    let share = |tier| tiers.values().filter(|t| **t == tier).count() as f64 / tiers.len() as f64;
    assert!((share(Tier::Pro) - assumed::PRO_USERS).abs() < 0.03);
    assert!((share(Tier::Studio) - assumed::STUDIO_USERS).abs() < 0.02);
}

#[test]
fn clips_are_as_long_as_assumed_and_predicted_without_bias() {
    let workload = generate(&Setting {
        hours: 24,
        nodes: 200,
        ..Setting::default()
    });
    let count = workload.jobs.len() as f64;
    let mean = |of: fn(&Job) -> f64| workload.jobs.iter().map(of).sum::<f64>() / count;
    let work = mean(|job| job.work_s);
    assert!((work / assumed::CLIP_MEAN_S - 1.0).abs() < 0.05, "{work}");
    let log_error = mean(|job| (job.predicted_s / job.work_s).ln());
    assert!(log_error.abs() < 0.02, "{log_error}");
}

#[test]
fn what_cannot_be_simulated_is_refused_by_name() {
    let check = |setting: Setting, expected: &str| {
        let error = Workload::generate(&setting, &Fleet::new(1))
            .unwrap_err()
            .to_string();
        assert_eq!(error, expected);
    };
    let base = Setting::default;
    check(
        Setting {
            load: 0.0,
            ..base()
        },
        "load must be over 0 and at most 3 (got 0)",
    );
    check(
        Setting {
            load: f64::NAN,
            ..base()
        },
        "load must be over 0 and at most 3 (got NaN)",
    );
    check(
        Setting { hours: 0, ..base() },
        "hours must be 1..=168 (got 0)",
    );
    check(
        Setting {
            nodes: 10_001,
            ..base()
        },
        "nodes must be 1..=10000 (got 10001)",
    );
    check(
        Setting {
            flood: 100_001,
            ..base()
        },
        "flood must be 0..=100000 (got 100001)",
    );
    check(
        Setting {
            adapter_zipf: -1.0,
            ..base()
        },
        "adapter_zipf must be 0..=4 (got -1)",
    );
}
