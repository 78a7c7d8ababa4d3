//! `flowai-svd`: one picture to frames without the farm, and how anyone compares the engine with another one.

mod adapter;
mod animate;
mod measure;
mod spec_file;
mod switch;

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
    /// Measure what loading, switching and taking out adapters costs, on the attention layers of a model's UNet alone.
    Switch(switch::Switch),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Animate(animate) => animate.run(),
        Command::Switch(switch) => switch.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", describe(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes on one line, less those that are part of the text already.
fn describe(error: &anyhow::Error) -> String {
    error
        .chain()
        .skip(1)
        .fold(error.to_string(), |text, cause| {
            let cause = cause.to_string();
            match text.contains(&cause) {
                true => text,
                false => format!("{text}: {cause}"),
            }
        })
}
