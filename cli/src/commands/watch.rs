use std::path::PathBuf;
use std::time::Duration;

use super::delivery::{save, writable};
use super::{CommandError, follow};
use crate::client::Client;
use crate::output::Output;

/// Follow a job to its end
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The job, as `flowai jobs` lists it
    id: String,
    /// Download the clip when it is done
    #[arg(long)]
    out: Option<PathBuf>,
    /// Replace the clip if there is one
    #[arg(long, requires = "out")]
    force: bool,
    /// Stop watching after so many seconds; the job goes on
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

pub(super) async fn run(args: Args, client: &Client, output: Output) -> Result<(), CommandError> {
    if let Some(path) = args.out.as_deref() {
        writable(path, args.force)?;
    }
    let timeout = args.timeout.map(Duration::from_secs);
    let video = follow::follow(client, &args.id, timeout, output).await?;
    match args.out {
        Some(path) => save(client, &video.id, &path, output).await.map(drop),
        None => {
            output.line(video.status.as_str());
            Ok(())
        }
    }
}
