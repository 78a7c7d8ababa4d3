use std::fmt::Write as _;
use std::time::{Duration, Instant};

#[cfg(feature = "planted-bugs")]
use flowai_actors::planted::{self, Bug};
use flowai_sim::check::{Failure, STEPS_MAX, Settings, Summary, run as run_seeds};
use serde_json::json;

use super::super::CommandError;
use crate::output::Output;

/// Break the simulated farm from many seeds and check every invariant after every step
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exits with 1 on the first invariant that breaks, with what led to it and the command that replays it."
)]
pub(super) struct Args {
    /// Worlds to run, one after the other
    #[arg(long, value_name = "N", default_value_t = 100)]
    seeds: u64,
    /// The first seed
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    from: u64,
    /// Render nodes of each world, up to 10000 [default: a few, as the seed says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    nodes: Option<u32>,
    /// Events after which a world is cut short
    #[arg(long, value_name = "N", default_value_t = STEPS_MAX)]
    steps: u64,
    /// A bug to plant first: the checks must find it
    #[cfg(feature = "planted-bugs")]
    #[arg(long, value_name = "BUG")]
    planted: Option<Bug>,
}

pub(super) fn run(args: Args, output: Output) -> Result<(), CommandError> {
    #[cfg(feature = "planted-bugs")]
    planted::choose(args.planted);
    let settings = Settings {
        seeds: args.seeds,
        from: args.from,
        nodes: args.nodes.map(|nodes| nodes as usize),
        steps_max: args.steps,
    };
    let start = Instant::now();
    match run_seeds(&settings) {
        Ok(summary) => {
            say(&summary, start.elapsed(), output);
            Ok(())
        }
        Err(failure) => Err(CommandError::Failed(told(&failure, &args))),
    }
}

fn say(summary: &Summary, took: Duration, output: Output) {
    let Summary {
        seeds,
        events,
        jobs,
        simulated_ms,
        nodes_most,
        cut,
    } = *summary;
    let hours = simulated_ms as f64 / 3.6e6;
    let per_s = events as f64 / took.as_secs_f64().max(1e-9);
    output.object(&json!({
        "seeds": seeds, "jobs": jobs, "events": events, "simulated_hours": hours, "events_per_s": per_s,
        "nodes_most": nodes_most, "cut_short": cut, "broken": 0,
    }));
    let mut line = format!(
        "{seeds} seeds, {jobs} jobs, up to {nodes_most} nodes, {events} events, {hours:.1} simulated hours, {per_s:.0} events/s: nothing broke"
    );
    if cut > 0 {
        let _ = write!(
            line,
            "; {cut} were cut short by --steps and show nothing of how they end"
        );
    }
    output.line(line);
}

fn told(failure: &Failure, args: &Args) -> String {
    let Failure {
        seed,
        broken,
        before,
        lines,
    } = failure;
    let mut replay = format!("flowai sim check --seeds 1 --from {seed}");
    if let Some(nodes) = args.nodes {
        let _ = write!(replay, " --nodes {nodes}");
    }
    if args.steps != STEPS_MAX {
        let _ = write!(replay, " --steps {}", args.steps);
    }
    #[cfg(feature = "planted-bugs")]
    if let Some(bug) = args.planted {
        let _ = write!(replay, " --planted {bug}");
    }
    format!(
        "{} does not hold: {}\n\nthe last of what happened in seed {seed}, after {} seeds that went well:\n{}\n\nreplay: {replay}",
        broken.check,
        broken.seen,
        before.seeds,
        lines.join("\n"),
    )
}
