//! The one writer of what the leader decides: batches of [`Change`]s, each compared with the row it changes.
//!
//! A transaction holds the lease row for share and checks the epoch, so that no later term begins while it lasts and none of
//! an ended term commits. Rows are locked in one order (lease, job states, the users' streams by user, their balances by user, and
//! behind these their lots), and whoever else takes more than one of them takes them in that order. The holds of jobs that end here
//! end in the same transaction: only rows that moved move money. All of it is one function in the database, since a node waits for
//! each way there and back.

mod change;
mod record;

use flowai_actors::ids::{Epoch, UserId};
use sqlx::types::Json;
use uuid::Uuid;

use self::record::Record;
use crate::database::{Database, detail_of};
use crate::number::int;

pub use change::{
    Artefact, Batch, Change, Keyframe, MADE_ROOM, Unfinished, artefact_key, artefacts_prefix,
    clips_prefix, preview_key,
};

/// The error of `journal_commit` for a term that has ended.
const TERM_IS_OVER: &str = "ZTERM";
/// PostgreSQL's for a row that was waited for longer than `lock_timeout`.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// What became of one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is durable, and so is its event in this user's stream.
    Now(UserId),
    /// The row says so already: the same change came before, and its confirmation was lost.
    Before(UserId),
    /// The row holds something else. Nothing was changed.
    Stale,
}

/// Why a batch was not committed. Nothing of it is durable, but for what [`JournalError::Unavailable`] says.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A later term has begun. Step down.
    #[error("the term is over: epoch {held} leads, {offered} was offered; step down")]
    Fenced { held: Epoch, offered: Epoch },
    /// The database cannot be reached, is overloaded, or broke a deadlock. The outcome may be unknown when the connection
    /// broke during the commit or no answer came; committing again is safe.
    #[error("the database did not take the batch; commit it again")]
    Unavailable(#[source] sqlx::Error),
    /// Somebody else held a row of it for too long, an api instance that stopped in the middle of a cancel perhaps. Whoever
    /// holds the lease's row must not wait for them: commit the changes one by one, and this one later.
    #[error("rows of the batch are held by somebody else; commit its changes one by one")]
    Blocked(#[source] sqlx::Error),
    /// The database refuses something in the batch itself; again it would do so for ever.
    #[error("the batch holds what the database refuses; commit its changes one by one")]
    Refused(#[source] sqlx::Error),
}

impl JournalError {
    fn of(error: sqlx::Error, offered: Epoch) -> Self {
        let refusal = error.as_database_error().and_then(|error| error.code());
        let code = refusal.as_deref().unwrap_or_default();
        if code == TERM_IS_OVER {
            let held = Epoch::new(detail_of(&error).parse().unwrap_or_default());
            return Self::Fenced { held, offered };
        }
        if code == LOCK_NOT_AVAILABLE {
            return Self::Blocked(error);
        }
        // Classes 22 (data) and 23 (constraints): the content is at fault. <https://www.postgresql.org/docs/15/errcodes-appendix.html>
        let is_content = code.starts_with("22") || code.starts_with("23");
        match (is_content, &error) {
            (true, _) | (false, sqlx::Error::Encode(_)) => Self::Refused(error),
            (false, _) => Self::Unavailable(error),
        }
    }
}

/// Commits a batch in the term `epoch`. Answers in the order of the batch.
pub async fn commit(
    database: &Database,
    epoch: Epoch,
    batch: &Batch,
) -> Result<Vec<Written>, JournalError> {
    let records: Vec<Record<'_>> = batch.changes().iter().map(Record::of).collect();
    let query = sqlx::query_as("select owner, is_new from journal_commit($1, $2)")
        .bind(int(epoch.get()))
        .bind(Json(records));
    let outcomes: Vec<(Option<Uuid>, bool)> = database
        .journal()
        .fetch_all(query)
        .await
        .map_err(|error| JournalError::of(error, epoch))?;
    let written =
        outcomes.into_iter().map(
            |(owner, is_new)| match (owner.map(UserId::from_uuid), is_new) {
                (Some(owner), true) => Written::Now(owner),
                (Some(owner), false) => Written::Before(owner),
                (None, _) => Written::Stale,
            },
        );
    Ok(written.collect())
}
