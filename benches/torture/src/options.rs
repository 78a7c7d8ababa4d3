//! What a run is asked to be.

use std::path::PathBuf;

use anyhow::ensure;
use clap::{Args, ValueEnum};

use crate::farm::{APIS, COORDINATORS};
use crate::plant::Plant;

const CLIENTS_MAX: usize = 50;
const NODES_MAX: usize = 16;
const JOBS_MAX: usize = 1_000_000;
const FAULTS_MAX: usize = 100_000;
const RATE_MAX: f64 = 1_000.0;
/// Of a fault with the gap behind it.
const FAULT_S_MEAN: f64 = 10.0;
/// What two cores can render beside everything else.
const UNHURRIED_RATE: f64 = 8.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// Renders no model, so that thousands of jobs fit; some jobs take it down.
    StandIn,
    /// Stable Video Diffusion with a small random model. Poisoned jobs are harmless to it.
    Svd,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Submissions
    #[arg(long, default_value_t = 300)]
    pub(crate) jobs: usize,
    /// Faults, spread evenly over the submissions
    #[arg(long, default_value_t = 20)]
    pub(crate) faults: usize,
    /// Draws the workload and the order and places of the faults
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Each a user with an account of its own
    #[arg(long, default_value_t = 12)]
    pub(crate) clients: usize,
    /// Submissions a second of all clients together, a Poisson process [default: as lasts as long as the faults]
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    #[arg(long, default_value_t = 2)]
    pub(crate) coordinators: usize,
    #[arg(long, default_value_t = 2)]
    pub(crate) apis: usize,
    #[arg(long, default_value_t = 4)]
    pub(crate) nodes: usize,
    #[arg(long, value_enum, default_value_t = Engine::StandIn)]
    pub(crate) engine: Engine,
    /// A step of the stand-in engine; a job has ten
    #[arg(long, default_value_t = 20)]
    pub(crate) step_ms: u64,
    /// Outages of Redis and S3
    #[arg(long, default_value_t = 30)]
    pub(crate) outage_s: u64,
    /// The run ends, and what is open is a finding, when no job has ended for so long after the last fault has healed
    #[arg(long, default_value_t = 120)]
    pub(crate) settle_s: u64,
    /// The run is broken off, and fails, after so long
    #[arg(long, default_value_t = 7_200)]
    pub(crate) limit_s: u64,
    /// Faults of these kinds only, by their names in the report; separated by commas
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// No namespaces, though there could be: everything on loopback through fault proxies
    #[arg(long)]
    pub(crate) loopback: bool,
    /// After the run, damage what the checks must find; separated by commas
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) plant: Vec<Plant>,
    /// Where flowai-coordinator, flowai-api and flowai-render-node lie [default: beside this program]
    #[arg(long, default_value_os_t = beside())]
    pub(crate) programs: PathBuf,
    /// The report, JSON; the clients' history goes beside it
    #[arg(long, default_value = "target/torture/report.json")]
    pub(crate) out: PathBuf,
    /// Keep the farm's folder, logs included, here
    #[arg(long)]
    pub(crate) keep: Option<PathBuf>,
    /// Set by the program itself: it is in namespaces of its own
    #[arg(long, hide = true)]
    pub(crate) inside: bool,
}

fn beside() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program.parent().map(PathBuf::from).unwrap_or_default()
}

impl Options {
    /// # Errors
    /// What is out of its range, by name.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let within = |name: &str, value: usize, min: usize, max: usize| {
            ensure!(
                (min..=max).contains(&value),
                "--{name} must be {min}..={max} (got {value})"
            );
            Ok(())
        };
        within("jobs", self.jobs, 1, JOBS_MAX)?;
        within("faults", self.faults, 0, FAULTS_MAX)?;
        within("clients", self.clients, 2, CLIENTS_MAX)?;
        within("coordinators", self.coordinators, 1, COORDINATORS.len())?;
        within("apis", self.apis, 1, APIS.len())?;
        // A poisoned job takes two nodes down, and others must go on.
        within("nodes", self.nodes, 2, NODES_MAX)?;
        let rate = self.rate();
        ensure!(
            rate > 0.0 && rate <= RATE_MAX,
            "--rate must be above 0 and at most {RATE_MAX} (got {rate})"
        );
        Ok(())
    }

    /// Submissions a second.
    pub(crate) fn rate(&self) -> f64 {
        let faults_s = FAULT_S_MEAN * self.faults as f64;
        let lasting = (self.jobs as f64 / faults_s).min(UNHURRIED_RATE);
        self.rate.unwrap_or(lasting)
    }
}
