use std::collections::BTreeMap;

use clap::Subcommand;
use serde_json::json;

use super::CommandError;
use super::seconds::Seconds;
use crate::client::{Client, NewJoinToken};
use crate::output::{Output, table};

/// Make, list and end the tokens by which machines join as nodes (operators)
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    Create(CreateArgs),
    List(ListArgs),
    Revoke(RevokeArgs),
}

/// Make a token; it is shown once
#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// How long it admits machines, at most 24h
    #[arg(long, default_value = "1h")]
    ttl: Seconds,
    /// How many machines it admits
    #[arg(long, default_value_t = 1)]
    uses: u32,
    /// Of every node that joins by it: gpu=h100,zone=a
    #[arg(long, value_delimiter = ',', value_name = "NAME=VALUE")]
    labels: Vec<Label>,
}

/// List the tokens that still admit somebody
#[derive(Debug, clap::Args)]
struct ListArgs {}

/// End a token; nodes that joined by it stay
#[derive(Debug, clap::Args)]
struct RevokeArgs {
    /// The token's id, as `flowai token list` shows it
    id: String,
}

#[derive(Debug, Clone)]
struct Label(String, String);

impl std::str::FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| format!("must be name=value (got {text:?})"))?;
        Ok(Self(name.to_owned(), value.to_owned()))
    }
}

pub(super) async fn run(args: Args, client: &Client, output: Output) -> Result<(), CommandError> {
    match args.command {
        TokenCommand::Create(args) => create(args, client, output).await,
        TokenCommand::List(ListArgs {}) => list(client, output).await,
        TokenCommand::Revoke(args) => revoke(args, client, output).await,
    }
}

async fn create(args: CreateArgs, client: &Client, output: Output) -> Result<(), CommandError> {
    let mut labels = BTreeMap::new();
    for Label(name, value) in args.labels {
        if labels.insert(name.clone(), value).is_some() {
            let twice = format!("--labels names {name} twice");
            return Err(CommandError::Usage(twice));
        }
    }
    let Seconds(ttl_s) = args.ttl;
    let new = NewJoinToken {
        ttl_s,
        uses: args.uses,
        labels,
    };
    let made = client.make_join_token(&new).await?;
    output.object(&made);
    output.line(&made.token);
    output.note(format_args!(
        "shown once; on each machine: flowai node join {} --token … --data DIR (until {}, {} of {} uses left)",
        client.url(),
        made.about.expires_at.format("%F %T UTC"),
        made.about.uses_left,
        made.about.uses,
    ));
    Ok(())
}

async fn list(client: &Client, output: Output) -> Result<(), CommandError> {
    let tokens = client.join_tokens().await?;
    for token in &tokens {
        output.object(token);
    }
    if tokens.is_empty() {
        output.note("no token admits anybody");
        return Ok(());
    }
    let row = |token: &crate::client::JoinTokenInfo| {
        [
            token.id.clone(),
            format!("{} of {}", token.uses_left, token.uses),
            token.expires_at.format("%F %T UTC").to_string(),
            super::nodes::labels_text(&token.labels),
        ]
    };
    let rows: Vec<_> = tokens.iter().map(row).collect();
    output.line(table(["TOKEN", "LEFT", "EXPIRES", "LABELS"], &rows));
    Ok(())
}

async fn revoke(args: RevokeArgs, client: &Client, output: Output) -> Result<(), CommandError> {
    client.revoke_join_token(&args.id).await?;
    output.object(&json!({ "event": "token_revoked", "id": args.id }));
    output.note(format_args!("{} admits nobody any more", args.id));
    Ok(())
}
