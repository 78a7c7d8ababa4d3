//! The one writer of what the leader decides: batches of [`Change`]s, each compared with the row it changes.
//!
//! A transaction holds the lease row for share and checks the epoch, so that no later term begins while it lasts and none of
//! an ended term commits. Rows are locked in one order (lease, job states, the users' streams by user, their balances by user, and
//! behind these their lots), and whoever else takes more than one of them takes them in that order. The holds of jobs that end here
//! end in the same transaction: only rows that moved move money.

mod artefacts;
mod change;
mod checkpoints;
mod credits;
mod statements;

use std::collections::HashMap;

use flowai_actors::ids::{Epoch, JobId, UserId};

use crate::database::Database;
use crate::leader;

pub(crate) use change::made_room;
pub use change::{
    Artefact, Batch, Change, Keyframe, MADE_ROOM, Unfinished, artefact_key, clips_prefix,
    preview_key,
};

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

/// Why a batch was not committed. Nothing of it is durable, unless [`JournalError::Unknown`].
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A later term has begun. Step down.
    #[error("the term is over: epoch {held} leads, {offered} was offered; step down")]
    Fenced { held: Epoch, offered: Epoch },
    /// The database cannot be reached, is overloaded, or broke a deadlock. The outcome may be unknown when the connection
    /// broke during the commit; committing again is safe.
    #[error("the database did not take the batch; commit it again")]
    Unavailable(#[source] sqlx::Error),
    /// The database refuses something in the batch itself; again it would do so for ever.
    #[error("the batch holds what the database refuses; commit its changes one by one")]
    Refused(#[source] sqlx::Error),
}

impl From<sqlx::Error> for JournalError {
    fn from(error: sqlx::Error) -> Self {
        // Classes 22 (data) and 23 (constraints): the content is at fault. <https://www.postgresql.org/docs/15/errcodes-appendix.html>
        let code = error.as_database_error().and_then(|error| error.code());
        let is_content = code.is_some_and(|code| code.starts_with("22") || code.starts_with("23"));
        match (is_content, &error) {
            (true, _) | (false, sqlx::Error::Encode(_)) => Self::Refused(error),
            (false, _) => Self::Unavailable(error),
        }
    }
}

/// A row that a statement changed.
struct Moved {
    owner: UserId,
    /// The number of the job's event.
    seq: i64,
}

/// Commits a batch in the term `epoch`. Answers in the order of the batch.
pub async fn commit(
    database: &Database,
    epoch: Epoch,
    batch: &Batch,
) -> Result<Vec<Written>, JournalError> {
    let changes = batch.changes();
    let mut transaction = database.begin().await?;
    if let Err(held) = leader::hold_term(&mut transaction, epoch).await? {
        return Err(JournalError::Fenced {
            held,
            offered: epoch,
        });
    }
    let mut moved: HashMap<JobId, Moved> = HashMap::new();
    moved.extend(statements::assign(&mut transaction, epoch, changes).await?);
    moved.extend(statements::adopt(&mut transaction, epoch, changes).await?);
    moved.extend(checkpoints::kept(&mut transaction, changes).await?);
    moved.extend(statements::end_attempts(&mut transaction, changes).await?);
    moved.extend(statements::cancel_waiting(&mut transaction, changes).await?);
    moved.extend(statements::fail_waiting(&mut transaction, changes).await?);
    artefacts::insert(&mut transaction, changes, &moved).await?;
    checkpoints::write(&mut transaction, changes, &moved).await?;
    statements::append_events(&mut transaction, changes, &moved).await?;
    credits::end_holds(&mut transaction, changes, &moved).await?;
    let before = if moved.len() < changes.len() {
        statements::written_before(&mut transaction, epoch, changes, &moved).await?
    } else {
        HashMap::new()
    };
    transaction.commit().await?;

    Ok(changes
        .iter()
        .map(|change| change.job())
        .map(|job| match (moved.get(&job), before.get(&job)) {
            (Some(moved), _) => Written::Now(moved.owner),
            (None, Some(owner)) => Written::Before(*owner),
            (None, None) => Written::Stale,
        })
        .collect())
}
