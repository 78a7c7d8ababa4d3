use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;
use url::Url;

use super::CommandError;
use crate::client::{Client, Secret};
use crate::join::{self, Place};
use crate::output::Output;

/// Join this machine to a farm as a render node, or revoke one
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    Join(JoinArgs),
    Revoke(RevokeArgs),
}

/// Join this machine to a farm: its key is made here and stays here
#[derive(Debug, clap::Args)]
struct JoinArgs {
    /// The farm's address, https://…; plain http on this machine only
    farm: Url,
    /// What `flowai token create` showed
    #[arg(long, env = "FLOWAI_JOIN_TOKEN", hide_env_values = true)]
    token: Secret,
    /// The node's own folder: identity, caches, the count of its starts
    #[arg(long)]
    data: PathBuf,
    /// Join anew although this folder has an identity; the old one is put aside
    #[arg(long)]
    again: bool,
}

/// Let a node in no more, for good (operators)
#[derive(Debug, clap::Args)]
struct RevokeArgs {
    /// The node, as `flowai nodes` lists it
    node: String,
}

pub(super) async fn run(
    args: Args,
    client: impl FnOnce() -> Result<Client, CommandError>,
    output: Output,
) -> Result<(), CommandError> {
    match args.command {
        NodeCommand::Join(args) => join(args, output).await,
        NodeCommand::Revoke(args) => revoke(args, &client()?, output).await,
    }
}

async fn join(args: JoinArgs, output: Output) -> Result<(), CommandError> {
    let JoinArgs {
        farm,
        token,
        data,
        again,
    } = args;
    let place = Place::of(&data)?;
    let joined = join::join(&farm, &token, &place, again).await?;
    output.object(&json!({
        "event": "joined",
        "node": joined.node,
        "labels": joined.labels,
        "settings": joined.settings,
        "expires_at_s": joined.expires_at_s,
    }));
    output.line(&joined.node);
    output.note(format_args!(
        "this machine is {} now; its settings are in {}. Start it with its models:\n  \
         set -a; . \"{}\"; set +a; FLOWAI_MODELS_DIR=… FLOWAI_DEVICE=… flowai-render-node",
        joined.node,
        joined.settings.display(),
        joined.settings.display(),
    ));
    Ok(())
}

async fn revoke(args: RevokeArgs, client: &Client, output: Output) -> Result<(), CommandError> {
    let node = args.node;
    client.revoke_node(&node).await?;
    output.object(&json!({ "event": "node_revoked", "node": node }));
    output.note(format_args!(
        "{node} is let in no more; what it worked on goes on elsewhere"
    ));
    Ok(())
}
