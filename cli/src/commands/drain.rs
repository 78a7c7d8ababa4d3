use serde_json::json;

use super::CommandError;
use super::seconds::Seconds;
use crate::client::{Client, DrainHow};
use crate::output::Output;

/// Give a node no more jobs: it ends the one that it has (operators)
#[derive(Debug, clap::Args)]
pub(super) struct DrainArgs {
    /// The node, as `flowai nodes` lists it
    node: String,
    /// Do not wait for the job's end: it goes on on another node
    #[arg(long, conflicts_with = "grace")]
    now: bool,
    /// Wait at most so long for the job's end: 90s, 10m, 2h
    #[arg(long)]
    grace: Option<Seconds>,
}

/// Give a drained node jobs again (operators)
#[derive(Debug, clap::Args)]
pub(super) struct UndrainArgs {
    /// The node, as `flowai nodes` lists it
    node: String,
}

pub(super) async fn drain(
    args: DrainArgs,
    client: &Client,
    output: Output,
) -> Result<(), CommandError> {
    let DrainArgs { node, now, grace } = args;
    let how = if now {
        DrainHow::Now
    } else {
        DrainHow::Lazy {
            grace_s: grace.map(|Seconds(grace_s)| grace_s),
        }
    };
    client.drain(&node, how).await?;
    output.object(&json!({ "event": "draining", "node": node }));
    output.note(format_args!(
        "{node} gets no more jobs; `flowai nodes` says when it is drained"
    ));
    Ok(())
}

pub(super) async fn undrain(
    args: UndrainArgs,
    client: &Client,
    output: Output,
) -> Result<(), CommandError> {
    let node = args.node;
    client.undrain(&node).await?;
    output.object(&json!({ "event": "undrained", "node": node }));
    output.note(format_args!("{node} gets jobs again"));
    Ok(())
}
