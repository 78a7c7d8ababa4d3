use serde_json::json;

use super::CommandError;
use crate::client::Client;
use crate::output::Output;

/// Cancel a job: a waiting one at once, a running one at its next step
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The job, as `flowai jobs` lists it
    id: String,
}

pub(super) async fn run(args: Args, client: &Client, output: Output) -> Result<(), CommandError> {
    client.cancel(&args.id).await?;
    output.object(&json!({ "event": "cancelling", "id": args.id }));
    output.note(format_args!("cancelling {}", args.id));
    Ok(())
}
