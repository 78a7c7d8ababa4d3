use std::path::PathBuf;

use clap::CommandFactory;

use super::{Cli, CommandError};
use crate::output::print;

/// Print the manual page, or write one page a command into a folder
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the pages go, such as /usr/local/share/man/man1
    folder: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> Result<(), CommandError> {
    match args.folder {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command())
                .render(&mut page)
                .map_err(CommandError::io("writing the manual page"))?;
            print(String::from_utf8_lossy(&page).trim_end());
            Ok(())
        }
        Some(folder) => {
            let what = format!("writing manual pages into {}", folder.display());
            std::fs::create_dir_all(&folder)
                .and_then(|()| clap_mangen::generate_to(Cli::command(), &folder))
                .map_err(CommandError::io(what))
        }
    }
}
