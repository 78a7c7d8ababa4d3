use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, CommandError};
use crate::output::print;

/// Print completions for a shell: `flowai completions bash > /etc/bash_completion.d/flowai`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    shell: Shell,
}

pub(super) fn run(args: Args) -> Result<(), CommandError> {
    // To memory first: it panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "flowai", &mut script);
    print(String::from_utf8_lossy(&script).trim_end());
    Ok(())
}
