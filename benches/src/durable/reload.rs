use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use flowai_actors::ids::Epoch;
use flowai_coordinator::core;
use serde::Serialize;

use super::Durable;
use crate::figures;
use crate::machine::{self, Machine};
use crate::statistics::Summary;

#[derive(Args)]
pub(crate) struct Options {
    /// Where the figures go, JSON
    #[arg(long, value_name = "FILE", default_value = "target/bench/reload.json")]
    out: PathBuf,
    /// Jobs that wait
    #[arg(long, default_value_t = 1_000_000)]
    jobs: u64,
    /// Users that they are of
    #[arg(long, default_value_t = 50_000)]
    users: u64,
    /// How often it is read
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

#[derive(Serialize)]
struct Report {
    at: String,
    machine: Machine,
    load_before: f64,
    jobs: u64,
    users: u64,
    /// From the first question to a scheduler that can decide.
    reload_s: Summary,
}

pub(super) async fn run(options: &Options) -> Result<()> {
    let mut durable = Durable::start().await?;
    durable.queue(options.jobs, options.users).await?;
    let load_before = machine::load()?;
    let mut seconds = Vec::new();
    for _ in 0..options.rounds {
        let start = Instant::now();
        let (state, jobs) =
            core::recover(&durable.database, Epoch::new(1), core::CLOCK_START).await?;
        seconds.push(start.elapsed().as_secs_f64());
        ensure!(jobs as u64 == options.jobs, "{jobs} jobs were read");
        drop(state);
    }
    durable.stop().await?;
    let report = Report {
        at: figures::now(),
        machine: Machine::read()?,
        load_before,
        jobs: options.jobs,
        users: options.users,
        reload_s: Summary::of(seconds).context("nothing was measured")?,
    };
    figures::write(&options.out, &report)?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
