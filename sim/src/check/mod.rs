//! `flowai sim check`: worlds that fail, one after the other, each from a seed, with every invariant checked on the way.

mod bad_node;
mod checks;
mod clock;
mod coordinator;
mod faults;
mod idling;
mod node;
mod overload;
mod plan;
mod silence;
mod statements;
pub mod store;
mod trace;
mod users;
mod world;

pub use checks::{Broken, Check};
pub use world::Outcome;

use trace::Trace;
use world::World;

/// Of one seed: a world that has not ended by then goes round in circles.
pub const STEPS_MAX: u64 = 20_000_000;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub seeds: u64,
    pub from: u64,
    /// As many as each seed says, if not given.
    pub nodes: Option<usize>,
    /// Of each seed.
    pub steps_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seeds: 1,
            from: 0,
            nodes: None,
            steps_max: STEPS_MAX,
        }
    }
}

/// What was run without anything broken.
#[derive(Debug, Clone, Copy, Default)]
pub struct Summary {
    pub seeds: u64,
    pub events: u64,
    pub jobs: u64,
    pub simulated_ms: u64,
    /// Of the largest farm.
    pub nodes_most: u64,
    /// Seeds that reached the bound on their steps.
    pub cut: u64,
}

/// A seed in which something broke.
#[derive(Debug, Clone)]
pub struct Failure {
    pub seed: u64,
    pub broken: Broken,
    /// Seeds that went well before it.
    pub before: Summary,
    /// The last of what happened.
    pub lines: Vec<String>,
}

/// Runs seeds in order.
///
/// # Errors
/// The first seed in which something broke.
pub fn run(settings: &Settings) -> Result<Summary, Box<Failure>> {
    let mut summary = Summary::default();
    for seed in settings.from..settings.from.saturating_add(settings.seeds) {
        let outcome = run_seed(seed, settings);
        if let Some(broken) = outcome.broken {
            // The same again, in words.
            let told = World::run(seed, settings.nodes, settings.steps_max, Trace::in_words());
            return Err(Box::new(Failure {
                seed,
                broken,
                before: summary,
                lines: told.lines,
            }));
        }
        summary.seeds += 1;
        summary.events += outcome.events;
        summary.jobs += outcome.jobs;
        summary.simulated_ms += outcome.simulated_ms;
        summary.nodes_most = summary.nodes_most.max(outcome.nodes);
        summary.cut += u64::from(outcome.is_cut);
    }
    Ok(summary)
}

/// One world, from its beginning to its end or to the first thing that breaks.
pub fn run_seed(seed: u64, settings: &Settings) -> Outcome {
    World::run(seed, settings.nodes, settings.steps_max, Trace::default())
}
