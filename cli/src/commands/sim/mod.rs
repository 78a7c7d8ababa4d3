//! `flowai sim`: the farm in one thread, from a seed.

mod check;

use clap::Subcommand;

use super::CommandError;
use crate::output::Output;

/// Simulate the farm: break it in every way and see that nothing is lost
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    Check(check::Args),
}

pub(super) fn run(args: Args, output: Output) -> Result<(), CommandError> {
    match args.part {
        Part::Check(args) => check::run(args, output),
    }
}
