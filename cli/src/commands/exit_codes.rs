use super::CommandError;
use crate::exit;
use crate::output::print;

/// List the exit codes
#[derive(Debug, clap::Args)]
#[command(after_help = exit::table())]
pub(super) struct Args {}

pub(super) fn run(Args {}: Args) -> Result<(), CommandError> {
    print(exit::table().trim_end());
    Ok(())
}
