use chrono::{DateTime, Utc};
use clap::Subcommand;
use flowai_actors::credits::Millicredits;
use serde_json::json;

use super::CommandError;
use crate::client::{Client, CreditGrant, CreditTransaction};
use crate::output::{Output, duration_text, table};

/// Show your credits and what moved them last, or give some to somebody (operators)
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    /// At most so many transactions
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    limit: u32,
    #[command(subcommand)]
    act: Option<Act>,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Give credits to somebody (operators)
    Grant(GrantArgs),
}

#[derive(Debug, clap::Args)]
struct GrantArgs {
    email: String,
    /// Credits, with at most three decimals
    amount: Millicredits,
    /// Kept with it, and shown to them
    #[arg(long)]
    reason: String,
}

pub(super) async fn run(args: Args, client: &Client, output: Output) -> Result<(), CommandError> {
    match args.act {
        Some(Act::Grant(args)) => grant(args, client, output).await,
        None => show(args.limit, client, output).await,
    }
}

async fn grant(args: GrantArgs, client: &Client, output: Output) -> Result<(), CommandError> {
    let granted = client
        .grant_credits(&CreditGrant {
            email: args.email,
            amount_mc: args.amount,
            reason: args.reason,
        })
        .await?;
    output.object(&granted);
    output.note(format_args!(
        "{} has {} credits more",
        granted.email, granted.amount_mc
    ));
    Ok(())
}

async fn show(limit: u32, client: &Client, output: Output) -> Result<(), CommandError> {
    let credits = client.credits(limit).await?;
    output.object(&json!({ "available_mc": credits.available_mc, "held_mc": credits.held_mc }));
    for transaction in &credits.transactions {
        output.object(transaction);
    }
    output.line(format_args!(
        "{} credits available, {} held",
        credits.available_mc, credits.held_mc
    ));
    if credits.transactions.is_empty() {
        return Ok(());
    }
    let now = Utc::now();
    let rows: Vec<_> = credits
        .transactions
        .iter()
        .map(|transaction| row(transaction, now))
        .collect();
    output.line(table(["WHAT", "AVAILABLE", "HELD", "FOR", "AGE"], &rows));
    Ok(())
}

fn row(transaction: &CreditTransaction, now: DateTime<Utc>) -> [String; 5] {
    let age = now.signed_duration_since(transaction.at);
    let what_for = transaction.video.as_ref().or(transaction.reason.as_ref());
    [
        transaction.kind.clone(),
        change(transaction.available_change_mc),
        change(transaction.held_change_mc),
        what_for.cloned().unwrap_or_default(),
        duration_text(age.as_seconds_f64()),
    ]
}

/// With its sign, in credits.
fn change(amount: i64) -> String {
    let size = Millicredits::new(amount.unsigned_abs());
    match amount {
        0 => String::new(),
        ..0 => format!("-{size}"),
        1.. => format!("+{size}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_has_its_sign() {
        for (amount, text) in [(0, ""), (-10_004, "-10.004"), (50, "+0.05")] {
            assert_eq!(change(amount), text);
        }
    }
}
