use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, CommandError};

/// Print completions for a shell: `flowai completions bash > /etc/bash_completion.d/flowai`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    shell: Shell,
}

pub(super) fn run(args: Args) -> Result<(), CommandError> {
    clap_complete::generate(
        args.shell,
        &mut Cli::command(),
        "flowai",
        &mut std::io::stdout(),
    );
    Ok(())
}
