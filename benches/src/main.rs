//! Comparisons and load tests: each states its rival, its settings and the machine, and writes its figures as JSON.
//!
//! What is compared are the programs that people run, as whole processes. This crate links neither libtorch nor Python.

mod child;
mod contender;
mod durable;
mod engine;
mod fanout;
mod farm;
mod figures;
mod machine;
mod peers;
mod plots;
mod scheduler;
mod statistics;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Comparisons and load tests.
#[derive(Parser)]
#[command(name = "flowai-benches", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The engine beside diffusers: time, CPU, memory and start, on the same models and pictures.
    Engine(engine::Options),
    /// A farm as its users see it.
    #[command(subcommand)]
    Farm(farm::Command),
    /// Live updates: from the leader's message to bytes at many sockets.
    Fanout(fanout::Options),
    /// FlowAI's queue beside others.
    Peers(peers::Options),
    /// FlowAI as one of those that `peers` compares.
    #[command(subcommand, hide = true)]
    Contender(contender::Command),
    /// Pictures of what `flowai sim farm --compare` found.
    Plots(plots::Options),
    /// The durable side alone: a new leader's reading, and tables under an old snapshot.
    #[command(subcommand)]
    Durable(durable::Command),
    /// The scheduler alone: what a decision costs, and what a waiting job weighs.
    Scheduler(scheduler::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Engine(options) => engine::run(&options),
        Command::Farm(command) => farm::run(&command),
        Command::Fanout(options) => fanout::run(&options),
        Command::Peers(options) => peers::run(&options),
        Command::Contender(command) => contender::run(&command),
        Command::Plots(options) => plots::run(&options),
        Command::Durable(command) => durable::run(&command),
        Command::Scheduler(options) => scheduler::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
