//! The leader's lease row, taken and held. Only the database's clock counts.

use std::time::Duration;

use flowai_actors::ids::Epoch;
use flowai_actors::limits::{LEADER_RENEW_MS, LEADER_WATCH_MS};
use flowai_store::database::{Database, DatabaseError};
use flowai_store::leader::{self, LeaderView};

const WATCH: Duration = Duration::from_millis(LEADER_WATCH_MS);
const RENEW: Duration = Duration::from_millis(LEADER_RENEW_MS);
/// After a renewal that the database did not answer.
const RENEW_AGAIN: Duration = Duration::from_millis(500);

/// Who this coordinator is in the lease row.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// Unique for each process.
    pub(crate) holder: String,
    /// Where nodes and api instances reach its link.
    pub(crate) address: String,
}

/// Waits until this candidate leads, and says the term. `seen` hears of each look at the row.
pub(crate) async fn win(
    database: &Database,
    candidate: &Candidate,
    seen: impl Fn(&LeaderView),
) -> Epoch {
    loop {
        match look(database, candidate, &seen).await {
            Ok(Some(epoch)) => return epoch,
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "lease row cannot be looked at, trying again"),
        }
        tokio::time::sleep(WATCH).await;
    }
}

async fn look(
    database: &Database,
    candidate: &Candidate,
    seen: &impl Fn(&LeaderView),
) -> Result<Option<Epoch>, DatabaseError> {
    let view = leader::look(database).await?;
    seen(&view);
    if view.is_held {
        return Ok(None);
    }
    leader::take_over(database, &candidate.holder, &candidate.address).await
}

/// Renews the term until a later one has begun. While the database is away nobody else can begin one, and nothing is
/// written either: the term goes on when it is back.
pub(crate) async fn hold(database: &Database, epoch: Epoch) {
    loop {
        match leader::renew(database, epoch).await {
            Ok(true) => tokio::time::sleep(RENEW).await,
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(%error, "lease was not renewed, trying again");
                tokio::time::sleep(RENEW_AGAIN).await;
            }
        }
    }
}
