//! The engine beside diffusers: whole processes, one after the other in turn, on the same model, picture and spec.

mod adapters;
mod case;
mod program;
mod report;

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use flowai_model::Preset;

use self::adapters::Rivals;
use self::case::Case;
use self::program::{Program, Side};
use self::report::{CaseReport, Report, Round};
use crate::{figures, machine};

/// A clip that differs more than this was not the same work.
const FRAMES_DIFFERENCE_MAX: f32 = 1e-3;

#[derive(Args)]
pub(crate) struct Options {
    /// Where the figures go, JSON
    #[arg(long, value_name = "FILE", default_value = "target/bench/engine.json")]
    out: PathBuf,
    /// The engine's program; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    engine: Option<PathBuf>,
    /// The Python that has diffusers
    #[arg(long, value_name = "FILE", default_value = ".oracle/bin/python")]
    python: PathBuf,
    /// The program that runs diffusers
    #[arg(
        long,
        value_name = "FILE",
        default_value = "render-node/svd/oracle/bench_diffusers.py"
    )]
    rival: PathBuf,
    /// The program that does with PEFT what `flowai-svd switch` does
    #[arg(
        long,
        value_name = "FILE",
        default_value = "render-node/svd/oracle/bench_adapters.py"
    )]
    adapters_rival: PathBuf,
    /// Models to run; by default all
    #[arg(long, value_name = "NAME", default_values_t = case::NAMES.map(str::to_owned))]
    case: Vec<String>,
    /// Measured rounds, in each of which every side runs once
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Threads of the CPU kernels, for both
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Leave out the third side: diffusers with the engine's memory layout and allocator settings
    #[arg(long)]
    skip_tuned: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0, "--rounds must be 1 or more");
    let programs = programs(options)?;
    let rivals = Rivals {
        engine: engine(options)?,
        python: options.python.clone(),
        script: options.adapters_rival.clone(),
        threads: options.threads,
    };
    let mut report = Report::start(&programs, options.threads, options.rounds)?;
    for name in &options.case {
        let case = Case::write(name.parse::<Preset>()?, options.threads)?;
        let mut measured = measure(&case, &programs, options.rounds)?;
        measured.add_adapters(adapters::measure(name, &rivals, options.rounds)?);
        eprintln!("{name}\n{measured}");
        report.cases.insert(name.clone(), measured);
    }
    figures::write(&options.out, &report)
}

fn engine(options: &Options) -> Result<PathBuf> {
    Ok(match &options.engine {
        Some(engine) => engine.clone(),
        None => std::env::current_exe()?.with_file_name("flowai-svd"),
    })
}

/// All sides, in the order in which each round runs them.
fn programs(options: &Options) -> Result<Vec<Program>> {
    let engine = engine(options)?;
    let sides = [
        Side::Flowai,
        Side::FlowaiWithPreviews,
        Side::Diffusers,
        Side::TunedDiffusers,
    ];
    let wanted = sides
        .into_iter()
        .filter(|&side| side != Side::TunedDiffusers || !options.skip_tuned);
    let programs = wanted.map(|side| match side {
        Side::Flowai | Side::FlowaiWithPreviews => Program::new(side, &engine, &[]),
        Side::Diffusers | Side::TunedDiffusers => {
            Program::new(side, &options.python, &[&options.rival])
        }
    });
    programs.collect()
}

/// One round that is thrown away, which fills the page cache for every side, then the measured ones.
fn measure(case: &Case, programs: &[Program], rounds: usize) -> Result<CaseReport> {
    let mut differences = Vec::new();
    let mut measured = Vec::new();
    for round in 0..=rounds {
        let mut runs = Round::new();
        for program in programs {
            let load = machine::load()?;
            let run = program
                .run(case)
                .with_context(|| format!("{} on {}", program.side, case.name()))?;
            runs.insert(program.side, run.under(load));
        }
        differences.push(case.frames_difference(Side::Flowai, Side::Diffusers)?);
        if round > 0 {
            measured.push(runs);
        }
    }
    let difference = differences.into_iter().fold(0.0, f32::max);
    if difference > FRAMES_DIFFERENCE_MAX {
        bail!(
            "{}: frames differ by {difference} of 1.0, more than {FRAMES_DIFFERENCE_MAX}: this was not the same work",
            case.name()
        );
    }
    CaseReport::new(case.spec().clone(), measured, difference)
}
