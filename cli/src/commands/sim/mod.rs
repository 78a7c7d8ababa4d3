//! `flowai sim`: the farm in one thread, from a seed. Nothing is rendered, and no farm is talked to.

mod check;
mod farm;

use clap::Subcommand;

use super::CommandError;
use crate::output::Output;

/// Simulate the farm: break it in every way, or see what the scheduler decides
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    Check(check::Args),
    Farm(farm::Args),
}

pub(super) fn run(args: Args, output: Output) -> Result<(), CommandError> {
    match args.part {
        Part::Check(args) => check::run(args, output),
        Part::Farm(args) => farm::run(&args, output),
    }
}
