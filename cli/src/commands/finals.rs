use std::path::PathBuf;

use super::CommandError;
use super::delivery::Delivery;
use crate::client::Client;
use crate::output::Output;

/// Continue a draft to the full video: the same picture and seed; watch, download the clip
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Ctrl-C stops watching; the job goes on. Exit codes: flowai help exit-codes"
)]
pub(super) struct Args {
    /// The draft, as `flowai jobs` lists it. It must be done
    id: String,
    #[command(flatten)]
    delivery: Delivery,
}

pub(super) async fn run(args: Args, client: &Client, output: Output) -> Result<(), CommandError> {
    let out = args.delivery.out(PathBuf::from("final.mp4"))?;
    let job = client.submit_final(&args.id).await?;
    args.delivery.of(job, &out, client, output).await
}
