use serde::Serialize;

use super::CommandError;
use crate::client::{Client, Comparison};
use crate::output::{Output, table};

/// Compare what the leader believes of unfinished jobs with the database (operators)
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exits with 1 when anything differed. The database is right, and the leader believes it by then."
)]
pub(super) struct Args {}

/// One line for programs.
#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    #[serde(flatten)]
    comparison: &'a Comparison,
}

pub(super) async fn run(
    Args {}: Args,
    client: &Client,
    output: Output,
) -> Result<(), CommandError> {
    let comparison = client.compare().await?;
    output.object(&Line {
        event: "compared",
        comparison: &comparison,
    });
    let Comparison {
        jobs, differing, ..
    } = comparison;
    if differing == 0 {
        output.line(format!(
            "{jobs} unfinished jobs; the leader believes what the database says"
        ));
        return Ok(());
    }
    let rows: Vec<_> = comparison
        .differences
        .into_iter()
        .map(|difference| [difference.video, difference.memory, difference.row])
        .collect();
    output.line(table(["JOB", "LEADER", "DATABASE"], &rows));
    Err(CommandError::Failed(format!(
        "of {differing} jobs the leader believed what the database does not say; it believes the database now. Please report it"
    )))
}
