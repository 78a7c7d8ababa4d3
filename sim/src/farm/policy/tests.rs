use super::super::measure::Figures;
use super::super::{Demand, Flow, Setting, run};
use super::*;

fn small() -> Setting {
    Setting {
        load: 0.8,
        seed: 3,
        hours: 4,
        nodes: 10,
        ..Setting::default()
    }
}

fn figures(setting: &Setting, choice: Choice) -> Figures {
    run(setting, choice).unwrap()
}

#[test]
fn same_seed_same_figures() {
    for choice in Choice::ALL {
        assert_eq!(
            figures(&small(), choice),
            figures(&small(), choice),
            "{choice:?}"
        );
        let other = Setting { seed: 4, ..small() };
        assert_ne!(
            figures(&small(), choice),
            figures(&other, choice),
            "{choice:?}"
        );
    }
}

#[test]
fn every_policy_renders_every_clip() {
    for choice in Choice::ALL {
        for load in [0.6, 1.2] {
            for flow in [Flow::Open, Flow::SemiClosed] {
                let setting = Setting {
                    load,
                    flow,
                    ..small()
                };
                assert_eq!(
                    figures(&setting, choice).unfinished,
                    0,
                    "{choice:?} {load} {flow:?}"
                );
            }
        }
        let hours = Setting {
            demand: Demand::Hours,
            ..small()
        };
        assert_eq!(figures(&hours, choice).unfinished, 0, "{choice:?}");
    }
}

#[test]
fn every_policy_is_asked_for_the_same_clips() {
    let jobs: Vec<u32> = Choice::ALL
        .map(|choice| figures(&small(), choice).jobs)
        .into();
    assert!(
        jobs.iter().all(|count| *count == jobs[0] && *count > 300),
        "{jobs:?}"
    );
}

#[test]
fn fifo_lets_a_flooder_make_everybody_wait() {
    let calm = Setting {
        load: 0.5,
        ..small()
    };
    let flood = Setting {
        flood: 400,
        ..calm.clone()
    };
    let p90 = |setting: &Setting, choice| figures(setting, choice).wait["free"].p90_s;
    let (before, after) = (p90(&calm, Choice::Fifo), p90(&flood, Choice::Fifo));
    assert!(
        after > before + 600.0,
        "fifo: {before} s, with the flood {after} s"
    );
    for choice in [Choice::Fair, Choice::Flowai] {
        let (before, after) = (p90(&calm, choice), p90(&flood, choice));
        assert!(
            after < before + 300.0,
            "{choice:?}: {before} s, with the flood {after} s"
        );
    }
}

#[test]
fn strict_priority_lets_free_users_starve_for_paying_ones() {
    let setting = Setting {
        load: 1.2,
        ..small()
    };
    let strict = figures(&setting, Choice::Strict).wait;
    let fifo = figures(&setting, Choice::Fifo).wait;
    assert!(strict["paid"].p99_s < 0.5 * fifo["paid"].p99_s);
    assert!(strict["free"].p90_s > fifo["free"].p90_s);
}

#[test]
fn fair_queueing_keeps_users_of_equal_weight_closer_than_fifo_does() {
    let setting = Setting {
        load: 1.2,
        ..small()
    };
    let gap = |choice| figures(&setting, choice).fairness.gap_p99_s;
    assert!(gap(Choice::Fair) < gap(Choice::Fifo));
}

#[test]
fn a_policy_is_found_by_its_name() {
    for choice in Choice::ALL {
        assert_eq!(Choice::from_name(choice.as_str()), Some(choice));
    }
    assert_eq!(Choice::from_name("lottery"), None);
}
