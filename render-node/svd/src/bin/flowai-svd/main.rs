//! `flowai-svd`: one picture to frames without the farm, and how anyone compares the engine with another one.

mod adapter;
mod animate;
mod measure;
mod spec_file;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Stable Video Diffusion from the command line.
#[derive(Parser)]
#[command(name = "flowai-svd", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Turn a picture into frames, equal to diffusers' for the same seed, weights and picture.
    Animate(animate::Animate),
}

fn main() -> ExitCode {
    let Command::Animate(animate) = Arguments::parse().command;
    match animate.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
