//! Goal: whatever fails, nothing is lost, doubled or paid twice, and every job ends.
//! Method: worlds from seeds, with every invariant checked after every step.

use flowai_sim::check::{Settings, run, run_seed};

/// As many as a change waits for; a command runs any number.
const SEEDS: u64 = 2_000;

#[test]
fn no_seed_breaks_an_invariant() {
    let settings = Settings {
        seeds: SEEDS,
        ..Settings::default()
    };
    match run(&settings) {
        Ok(summary) => {
            assert_eq!((summary.seeds, summary.cut), (SEEDS, 0));
            println!("{summary:?}");
        }
        Err(failure) => panic!(
            "seed {}: {:?}\n{}",
            failure.seed,
            failure.broken,
            failure.lines.join("\n")
        ),
    }
}

#[test]
fn the_same_seed_is_the_same_world() {
    let settings = Settings::default();
    let mut hashes = Vec::new();
    for seed in 0..20 {
        let (one, other) = (run_seed(seed, &settings), run_seed(seed, &settings));
        assert_eq!(
            (one.hash, one.events, one.simulated_ms),
            (other.hash, other.events, other.simulated_ms),
            "seed {seed}"
        );
        hashes.push(one.hash);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 20, "different seeds are different worlds");
}

#[test]
fn a_world_that_is_cut_short_says_so() {
    let settings = Settings {
        steps_max: 100,
        ..Settings::default()
    };
    let outcome = run_seed(0, &settings);
    assert!(outcome.is_cut && outcome.broken.is_none());
}
