//! Goal: the checks can fail. Method: each planted bug, and the check that is named for it must be the one that finds it.
//!
//! One test, because a bug is planted in the whole process.
#![cfg(feature = "planted-bugs")]

use flowai_actors::planted::{self, Bug};
use flowai_sim::check::{Check, Settings, run};

/// Within so many seeds each is found.
const SEEDS: u64 = 10_000;

const fn found_by(bug: Bug) -> Check {
    match bug {
        Bug::NoFencing => Check::DeliveredOnce,
        Bug::AckBeforeCommit => Check::AckedExists,
        Bug::DoubleCapture | Bug::HoldLeaks => Check::LedgerBalances,
        Bug::PublishBeforeUpload => Check::ArtefactIsReal,
        Bug::NoQuarantine | Bug::DoorbellOnly => Check::EveryJobEnds,
        Bug::CapOffByOne => Check::BoundsHeld,
        Bug::AgingNeverFires => Check::StartBound,
        Bug::GhostLease => Check::Lease,
    }
}

#[test]
fn each_planted_bug_is_found_by_its_check() {
    let settings = Settings {
        seeds: SEEDS,
        ..Settings::default()
    };
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        planted::choose(Some(bug));
        match run(&settings) {
            Ok(_) => missed.push(format!("{bug} is not found in {SEEDS} seeds")),
            Err(failure) if failure.broken.check != found_by(bug) => {
                missed.push(format!("{bug} is found by {:?}", failure.broken));
            }
            Err(failure) => println!("{bug}: seed {}, {}", failure.seed, failure.broken.seen),
        }
    }
    planted::choose(None);
    assert!(missed.is_empty(), "{missed:#?}");
}
