//! What a decision costs and what a waiting job weighs: the scheduler alone, in memory, at a depth that no farm should see.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, Generation, GpuSeconds, JobId, ModelId, NodeId, Sha256, UserId};
use flowai_actors::state::{Class, Tier};
use flowai_coordinator::scheduler::{
    AttemptEnd, Effect, Event, NodeOffer, Ran, Readiness, Scheduler, Shape, WaitingJob,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

use crate::figures;
use crate::machine::{self, Machine};
use crate::statistics::Percentiles;

/// Models that every node offers. A published trace of a farm names 87 (Alibaba GenTD26).
const MODELS: u64 = 87;
const ADAPTERS: u64 = 1_000;
/// Nobody may have more in the queue.
const OF_A_USER_MAX: u32 = 200;

#[derive(Args)]
pub(crate) struct Options {
    /// Where the figures go, JSON
    #[arg(
        long,
        value_name = "FILE",
        default_value = "target/bench/scheduler.json"
    )]
    out: PathBuf,
    /// Jobs that wait
    #[arg(long, default_value_t = 1_000_000)]
    jobs: u64,
    /// Users that they are of
    #[arg(long, default_value_t = 50_000)]
    users: u64,
    /// Nodes, all of which work
    #[arg(long, default_value_t = 10_000)]
    nodes: u64,
    /// Events of each kind that are measured
    #[arg(long, default_value_t = 20_000)]
    events: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Serialize)]
struct Report {
    at: String,
    machine: Machine,
    load_before: f64,
    jobs: u64,
    users: u64,
    nodes: u64,
    models: u64,
    seed: u64,
    /// Growth of the process's resident memory over the jobs that were queued.
    bytes_a_job: f64,
    /// Of the arrivals until all waited.
    fill_s: f64,
    /// Microseconds of one step of the scheduler, by what it took in.
    step_us: Steps,
    /// Milliseconds of the first thousand places with their forecasts, as the leader asks for them once a second.
    line_ms: Percentiles,
}

#[derive(Serialize)]
struct Steps {
    /// A render ends, and its node is given the next job.
    end_and_start: Percentiles,
    arrival: Percentiles,
    beat: Percentiles,
    tick: Percentiles,
}

struct Bench {
    scheduler: Scheduler,
    random: StdRng,
    models: Vec<ModelId>,
    users: Vec<UserId>,
    now_ms: u64,
    running: Vec<(NodeId, JobId, Attempt)>,
    /// By user.
    submitted: Vec<u32>,
}

const FIRST: Generation = Generation::new(1);

impl Bench {
    fn step(&mut self, event: Event) -> Vec<Effect> {
        self.scheduler
            .step(event, Monotonic::from_millis(self.now_ms))
    }

    /// Microseconds.
    fn timed(&mut self, event: Event) -> (f64, Vec<Effect>) {
        let start = Instant::now();
        let effects = self.step(event);
        (1e6 * start.elapsed().as_secs_f64(), effects)
    }

    fn job(&mut self, age_ms: u64) -> WaitingJob {
        // The square makes some users and models far more common than others.
        let skewed = |random: &mut StdRng, count: u64| {
            (count as f64 * random.random::<f64>().powi(2)) as u64
        };
        let mut user = skewed(&mut self.random, self.users.len() as u64) as usize;
        while self.submitted[user] >= OF_A_USER_MAX {
            user = (user + 1) % self.users.len();
        }
        self.submitted[user] += 1;
        let model = skewed(&mut self.random, MODELS) as usize;
        let has_adapter = self.random.random_bool(0.17);
        let adapter = has_adapter.then(|| skewed(&mut self.random, ADAPTERS));
        let frames = [14, 25][self.random.random_range(0..2)];
        WaitingJob {
            job: JobId::generate(),
            owner: self.users[user],
            tier: Tier::ALL[user % 3],
            class: if self.random.random_bool(0.2) {
                Class::Batch
            } else {
                Class::Interactive
            },
            model: self.models[model].clone(),
            keyframe_model: None,
            adapters: adapter.into_iter().map(hash).collect(),
            shape: Shape {
                frames,
                width: 1_024,
                height: 576,
                steps: 25,
            },
            cost: GpuSeconds(f64::from(frames) * 2.4),
            queued_at: Monotonic::from_millis(self.now_ms - age_ms),
            after: None,
            resume: None,
            attempt: Attempt::ZERO,
            failures: 0,
            failed_on: BTreeSet::new(),
            node_deaths: 0,
            died_on: BTreeSet::new(),
            preemptions: 0,
        }
    }

    fn note(&mut self, effects: &[Effect]) {
        let starts = effects.iter().filter_map(|effect| match effect {
            Effect::Assign {
                job, attempt, node, ..
            } => Some((node.clone(), *job, *attempt)),
            _ => None,
        });
        self.running.extend(starts);
    }
}

fn hash(n: u64) -> Sha256 {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    Sha256::from_bytes(bytes)
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let load_before = machine::load()?;
    let mut bench = Bench {
        scheduler: Scheduler::default(),
        random: StdRng::seed_from_u64(options.seed),
        models: (0..MODELS)
            .map(|n| format!("model-{n}").parse())
            .collect::<Result<_, _>>()?,
        users: (0..options.users).map(|_| UserId::generate()).collect(),
        now_ms: options.jobs,
        running: Vec::new(),
        submitted: vec![0; options.users as usize],
    };
    let most = u64::from(OF_A_USER_MAX) * options.users;
    let wanted = options.nodes + options.jobs + options.events as u64;
    ensure!(
        wanted <= most,
        "{} users may submit {most} jobs, and {wanted} are wanted",
        options.users
    );
    for n in 0..options.nodes {
        let node: NodeId = format!("node-{n}").parse()?;
        let offer = NodeOffer {
            node,
            generation: FIRST,
            models: bench.models.clone(),
            device_class: "gpu".to_owned(),
            memory_bytes: 80 << 30,
            running: None,
        };
        bench.step(Event::NodeRegistered(offer));
    }
    // Every node works before anything waits.
    while (bench.running.len() as u64) < options.nodes {
        let job = bench.job(0);
        let effects = bench.step(Event::JobArrived(job));
        ensure!(!effects.is_empty(), "a job waits although a node is free");
        bench.note(&effects);
    }

    let before = resident_bytes()?;
    let start = Instant::now();
    for n in 0..options.jobs {
        // A thousand a second, so that most of a million wait beyond their bounds.
        let job = bench.job(options.jobs - n);
        bench.step(Event::JobArrived(job));
    }
    let fill_s = start.elapsed().as_secs_f64();
    let bytes_a_job = (resident_bytes()?.saturating_sub(before)) as f64 / options.jobs as f64;

    let (mut ends, mut arrivals, mut beats, mut ticks) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for n in 0..options.events {
        bench.now_ms += 1;
        let at = bench.random.random_range(0..bench.running.len());
        let (node, job, attempt) = bench.running.swap_remove(at);
        let busy = GpuSeconds(bench.random.random_range(20.0..80.0));
        let ran = Some(Ran {
            busy,
            load: GpuSeconds(2.0),
        });
        let end = AttemptEnd::Rendered { ran };
        let (us, effects) = bench.timed(Event::Ended {
            node,
            generation: FIRST,
            job,
            attempt,
            end,
        });
        ends.push(us);
        let count = bench.running.len();
        bench.note(&effects);
        ensure!(bench.running.len() == count + 1, "a node stands idle");

        let job = bench.job(0);
        arrivals.push(bench.timed(Event::JobArrived(job)).0);
        // Each within its lease.
        for turn in [2 * n, 2 * n + 1] {
            let node: NodeId = format!("node-{}", turn as u64 % options.nodes).parse()?;
            let beat = Event::Beat {
                node,
                generation: FIRST,
                readiness: Readiness::Ready,
                holds: None,
            };
            beats.push(bench.timed(beat).0);
        }
        if n % 100 == 0 {
            ticks.push(bench.timed(Event::Tick).0);
        }
    }
    let mut lines = Vec::new();
    for _ in 0..50 {
        let start = Instant::now();
        let line = bench.scheduler.line(1_000);
        ensure!(line.len() == 1_000, "the line has {} places", line.len());
        lines.push(1e3 * start.elapsed().as_secs_f64());
    }

    let percentiles = |figures| Percentiles::of(figures).context("nothing was measured");
    let report = Report {
        at: figures::now(),
        machine: Machine::read()?,
        load_before,
        jobs: options.jobs,
        users: options.users,
        nodes: options.nodes,
        models: MODELS,
        seed: options.seed,
        bytes_a_job,
        fill_s,
        step_us: Steps {
            end_and_start: percentiles(ends)?,
            arrival: percentiles(arrivals)?,
            beat: percentiles(beats)?,
            tick: percentiles(ticks)?,
        },
        line_ms: percentiles(lines)?,
    };
    figures::write(&options.out, &report)?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

fn resident_bytes() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").context("/proc/self/statm")?;
    let pages = text
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    Ok(pages.context("/proc/self/statm: has no second number")? * 4_096)
}
