//! Farms in virtual time: nothing is rendered, and no farm is talked to.

mod farm;

use super::CommandError;
use crate::output::Output;

/// Simulate farms, to see what the scheduler decides
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Farm(farm::Args),
}

pub(super) fn run(args: Args, output: Output) -> Result<(), CommandError> {
    match args.command {
        Command::Farm(args) => farm::run(&args, output),
    }
}
