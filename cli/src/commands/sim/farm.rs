use std::fs;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use chrono::{SecondsFormat, Utc};
use clap::ValueEnum;
use flowai_sim::farm::compare::{LOADS, Outcome, Report, Summary, cases, run_all};
use flowai_sim::farm::measure::Figures;
use flowai_sim::farm::policy::Choice;
use flowai_sim::farm::{Demand, Flow, Setting, run as simulate};

use super::super::CommandError;
use crate::output::{Output, table};

/// Simulate a day's work on a farm under a policy: waits, loads, fairness
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Offered GPU-seconds over the farm's
    #[arg(long, default_value_t = 0.8, conflicts_with = "compare")]
    load: f64,
    /// Who decides what runs where
    #[arg(long, value_enum, default_value_t = Policy::Flowai, conflicts_with = "compare")]
    policy: Policy,
    /// Equal seeds give equal clips and equal figures; --compare begins with it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long clips are asked for
    #[arg(long, default_value_t = Setting::default().hours)]
    hours: u32,
    /// Half of them are as fast as the reference, half are half as fast
    #[arg(long, default_value_t = Setting::default().nodes)]
    nodes: u32,
    /// Hours as uneven as in the trace, instead of a steady rate
    #[arg(long)]
    uneven: bool,
    /// A visit's next clip is asked for when the one before is done
    #[arg(long)]
    semi_closed: bool,
    /// Clips that one free user asks for at once, on top of the load
    #[arg(long, default_value_t = 0)]
    flood: u32,
    /// Exponent of Zipf's law over the adapters
    #[arg(long, default_value_t = Setting::default().adapter_zipf)]
    adapter_zipf: f64,
    /// Every policy at loads of 60, 80, 95 and 120 %
    #[arg(long, requires = "out")]
    compare: bool,
    /// Of each load, for --compare
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000), requires = "compare")]
    seeds: u64,
    /// Where --compare writes every run's figures, as JSON
    #[arg(long, value_name = "FILE", requires = "compare")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Policy {
    /// The coordinator's scheduler itself
    Flowai,
    /// First come, first served
    Fifo,
    /// Studio before pro before free
    Strict,
    /// Fair queueing by weight, and nothing else
    Fair,
}

impl From<Policy> for Choice {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Flowai => Self::Flowai,
            Policy::Fifo => Self::Fifo,
            Policy::Strict => Self::Strict,
            Policy::Fair => Self::Fair,
        }
    }
}

impl Args {
    fn setting(&self) -> Setting {
        Setting {
            load: self.load,
            seed: self.seed,
            hours: self.hours,
            nodes: self.nodes,
            demand: if self.uneven {
                Demand::Hours
            } else {
                Demand::Steady
            },
            flow: if self.semi_closed {
                Flow::SemiClosed
            } else {
                Flow::Open
            },
            flood: self.flood,
            adapter_zipf: self.adapter_zipf,
        }
    }
}

pub(super) fn run(args: &Args, output: Output) -> Result<(), CommandError> {
    let setting = args.setting();
    match &args.out {
        Some(out) => compare(args, setting, out, output),
        None => one(args, &setting, output),
    }
}

fn one(args: &Args, setting: &Setting, output: Output) -> Result<(), CommandError> {
    let figures = {
        let _working = output.working("simulating");
        simulate(setting, args.policy.into()).map_err(usage)?
    };
    let outcome = Outcome {
        policy: Choice::from(args.policy).as_str().to_owned(),
        load: setting.load,
        seed: setting.seed,
        figures,
    };
    output.object(&outcome);
    output.line(waits(&outcome.figures));
    output.line(table(["FIGURE", "VALUE"], &rows(&outcome.figures)));
    Ok(())
}

fn usage(error: impl std::fmt::Display) -> CommandError {
    CommandError::Usage(error.to_string())
}

fn waits(figures: &Figures) -> String {
    let seconds = |s: f64| format!("{s:.1}");
    let rows: Vec<_> = figures
        .wait
        .iter()
        .map(|(tier, wait)| {
            let missed = figures
                .bounds
                .get(tier)
                .map_or("-".to_owned(), |bounds| bounds.missed.to_string());
            [
                tier.clone(),
                wait.jobs.to_string(),
                seconds(wait.p50_s),
                seconds(wait.p90_s),
                seconds(wait.p99_s),
                seconds(wait.max_s),
                missed,
            ]
        })
        .collect();
    table(
        [
            "TIER",
            "CLIPS",
            "WAIT P50, s",
            "P90",
            "P99",
            "MOST",
            "PAST BOUND",
        ],
        &rows,
    )
}

fn rows(figures: &Figures) -> Vec<[String; 2]> {
    let Figures {
        loads,
        fairness,
        preemption,
        promises,
        utilisation,
        ..
    } = figures;
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let of = |part: u32, whole: u32| {
        format!(
            "{part} of {whole} ({})",
            percent(f64::from(part) / f64::from(whole.max(1)))
        )
    };
    [
        ("offered load", percent(figures.offered_load)),
        ("nodes rendering", percent(utilisation.rendering)),
        ("nodes loading", percent(utilisation.loading)),
        (
            "starts with a cold model",
            of(loads.cold_models, loads.starts),
        ),
        ("cold adapters", of(loads.cold_adapters, loads.adapters)),
        ("GPU-hours loading", format!("{:.2}", loads.gpu_hours)),
        (
            "of them adapters",
            format!("{:.2}", loads.adapter_gpu_hours),
        ),
        (
            "fairness gap",
            format!(
                "{:.0} GPU-s, {:.1} mean clips, {:.1} of the longest",
                fairness.gap_s, fairness.gap_jobs, fairness.gap_longest_jobs
            ),
        ),
        ("99 % of pairs", format!("{:.0} GPU-s", fairness.gap_p99_s)),
        (
            "Jain's index",
            fairness
                .jain
                .map_or("-".to_owned(), |jain| format!("{jain:.3}")),
        ),
        (
            "stopped for another",
            format!("{}, {:.0} GPU-s lost", preemption.stops, preemption.lost_s),
        ),
        (
            "started in time",
            promises.map_or("no promise".to_owned(), |p| of(p.kept, p.jobs)),
        ),
        ("unfinished", figures.unfinished.to_string()),
        ("until the last end", format!("{:.0} s", figures.drain_s)),
    ]
    .map(|(name, value)| [name.to_owned(), value])
    .into()
}

fn compare(args: &Args, setting: Setting, out: &Path, output: Output) -> Result<(), CommandError> {
    let cases = cases(&setting, &Choice::ALL, &LOADS, args.seeds);
    let threads = available_parallelism().map_or(1, usize::from);
    let outcomes = {
        let _working = output.working(&format!("simulating {} farms", cases.len()));
        run_all(&cases, threads).map_err(usage)?
    };
    let report = Report {
        made_at: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
        setting,
        seeds: args.seeds,
        outcomes,
    };
    write(out, &report)?;
    let summaries = report.summaries();
    summaries.iter().for_each(|summary| output.object(summary));
    output.line(markdown(&summaries));
    output.note(format_args!("every run's figures: {}", out.display()));
    Ok(())
}

/// As documents have it: a row a figure, a column a policy and load.
fn markdown(summaries: &[Summary]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in summaries.iter().flat_map(|summary| &summary.figures) {
        if !names.contains(name) {
            names.push(name);
        }
    }
    let mut lines = Vec::new();
    let mut loads: Vec<f64> = summaries.iter().map(|summary| summary.load).collect();
    loads.dedup();
    for load in loads {
        let at_load: Vec<_> = summaries
            .iter()
            .filter(|summary| summary.load == load)
            .collect();
        let policies: Vec<_> = at_load
            .iter()
            .map(|summary| summary.policy.as_str())
            .collect();
        lines.push(format!(
            "| load {:.0} % | {} |",
            100.0 * load,
            policies.join(" | ")
        ));
        lines.push(format!("|{}", "---|".repeat(policies.len() + 1)));
        for name in &names {
            let cells = at_load.iter().map(|summary| {
                let figure = summary.figures.iter().find(|(figure, _)| figure == name);
                figure.map_or("–".to_owned(), |(_, middle)| middle.to_string())
            });
            let cells: Vec<_> = cells.collect();
            lines.push(format!("| {name} | {} |", cells.join(" | ")));
        }
        lines.push(String::new());
    }
    lines.join("\n")
}

fn write(path: &Path, report: &Report) -> Result<(), CommandError> {
    let text =
        serde_json::to_string(report).map_err(|error| CommandError::Failed(error.to_string()))?;
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(CommandError::io(dir.display().to_string()))?;
    }
    fs::write(path, text + "\n").map_err(CommandError::io(path.display().to_string()))
}
