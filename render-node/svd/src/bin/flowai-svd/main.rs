//! `flowai-svd`: one prompt to a picture and one picture to frames without the farm, and how anyone compares the engine with
//! another one.

mod ablate;
mod adapter;
mod animate;
mod bench;
mod files;
mod guesses;
mod keyframe;
mod measure;
mod spec_file;
mod stages;
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
    /// Turn a prompt into the picture to animate, equal to diffusers' for the same seed, weights and words.
    Keyframe(keyframe::Keyframe),
    /// Measure what each of the engine's exact tricks saves, alone, beside the same computation without it.
    Ablate(ablate::Ablate),
    /// Measure where a clip's time goes, stage by stage, on a device.
    Bench(bench::Bench),
    /// Measure what loading, switching and taking out adapters costs, on the attention layers of a model's UNet alone.
    Switch(switch::Switch),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Animate(animate) => animate.run(),
        Command::Keyframe(keyframe) => keyframe.run(),
        Command::Ablate(ablate) => ablate.run(),
        Command::Bench(bench) => bench.run(),
        Command::Switch(switch) => switch.run(),
    };
    match done {
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
