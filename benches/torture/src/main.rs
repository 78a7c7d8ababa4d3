//! `flowai-torture`: the real programs under faults, and an independent checker of what became of every job.
//!
//! All traffic stays on loopback or in network namespaces that the run makes itself; it ends only what it started, and all of
//! it ends with it. What is promised and how each fault is done: `docs/reliability.md`.

mod checker;
mod clients;
mod clock;
mod disk;
mod farm;
mod faults;
mod isolation;
mod network;
mod options;
mod pace;
mod plant;
mod proxy;
mod recovery;
mod report;
mod run;
mod samples;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nix::unistd::geteuid;
use tracing_subscriber::EnvFilter;

use options::Options;

/// The exit status of a run in which something was broken.
const STATUS_BROKEN: u8 = 1;
/// … and of one that says nothing.
const STATUS_VOID: u8 = 3;

/// Runs FlowAI's programs under faults and checks what became of every job.
#[derive(Debug, Parser)]
#[command(name = "flowai-torture", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One run
    Run(Box<Options>),
    /// The names of all faults, one a line
    Faults,
    /// The object store of a run, as a process of its own
    #[command(hide = true)]
    S3 {
        folder: PathBuf,
        ready_file: PathBuf,
    },
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let levels = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(levels)
        .with_writer(std::io::stderr)
        .init();
    match carry_out(command) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("flowai-torture: {error:#}");
            ExitCode::from(STATUS_VOID)
        }
    }
}

fn carry_out(command: Command) -> anyhow::Result<u8> {
    let options = match command {
        Command::Faults => {
            for kind in faults::Kind::possible(faults::Means::ALL) {
                println!("{}", kind.name);
            }
            return Ok(0);
        }
        Command::S3 { folder, ready_file } => {
            let serve = farm::serve_s3(&folder, &ready_file);
            return tokio::runtime::Runtime::new()?.block_on(serve).map(|()| 0);
        }
        Command::Run(options) => options,
    };
    options.check()?;
    let wants_namespaces = geteuid().is_root() && !options.loopback;
    if wants_namespaces && !options.inside {
        let missing = network::missing_programs();
        anyhow::ensure!(
            missing.is_empty(),
            "{} must be installed, or run with --loopback",
            missing.join(", ")
        );
        if isolation::is_possible() {
            return Ok(u8::try_from(isolation::run_inside()?).unwrap_or(STATUS_VOID));
        }
        eprintln!(
            "this process may make no namespaces: everything is on loopback, and no packet is dropped"
        );
    }
    let report = tokio::runtime::Runtime::new()?.block_on(run::run(&options))?;
    println!("\n{}", report.table());
    for missed in report.missed() {
        println!("goal not shown: {missed}");
    }
    for check in &report.checks {
        for finding in check.findings.iter().filter(|_| check.broken > 0) {
            println!("{}: {finding}", check.name);
        }
    }
    Ok(if report.is_good() { 0 } else { STATUS_BROKEN })
}
