//! The one writer of what the leader decides: batches of [`Change`]s, each compared with the row it changes.
//!
//! A transaction holds the lease row for share and checks the epoch, so that no later term begins while it lasts and none of
//! an ended term commits. Rows are locked in one order (lease, job states, the users' streams by user, their balances by user, and
//! behind these their lots), and whoever else takes more than one of them takes them in that order. The holds of jobs that end here
//! end in the same transaction: only rows that moved move money. All of it is one function in the database, since a node waits for
//! each way there and back.

mod change;
mod record;

use std::collections::HashSet;

use flowai_actors::ids::{Epoch, JobId, UserId};
use sqlx::types::Json;
use uuid::Uuid;

use self::record::Record;
use crate::database::{Database, DatabaseError, detail_of};
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
    /// The database is none for this build: it lacks a migration, or a right. Whoever holds the lease meanwhile keeps a fitting build
    /// from leading.
    #[error(
        "the database does not take what this build writes; end, and start the build that it was migrated by"
    )]
    Unfit(#[source] sqlx::Error),
}

/// What a refusal of the database says of a batch. <https://www.postgresql.org/docs/15/errcodes-appendix.html>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    TermIsOver,
    RowsAreHeld,
    /// Data, constraints, and what triggers raise.
    Content,
    /// Names and rights, what is not supported, and a case that a function does not know.
    NoneForThisBuild,
    Passing,
}

impl Refusal {
    fn of(code: &str) -> Self {
        match (code, code.get(..2)) {
            (TERM_IS_OVER, _) => Self::TermIsOver,
            (LOCK_NOT_AVAILABLE, _) => Self::RowsAreHeld,
            // A damaged page too holds the rows of some, and not of all.
            ("XX001" | "XX002", _) | (_, Some("22" | "23" | "P0")) => Self::Content,
            (_, Some("42" | "0A" | "20")) => Self::NoneForThisBuild,
            _ => Self::Passing,
        }
    }
}

impl JournalError {
    fn of(error: sqlx::Error, offered: Epoch) -> Self {
        let code = error.as_database_error().and_then(|error| error.code());
        match (Refusal::of(&code.unwrap_or_default()), &error) {
            (Refusal::TermIsOver, _) => {
                let held = Epoch::new(detail_of(&error).parse().unwrap_or_default());
                Self::Fenced { held, offered }
            }
            (Refusal::RowsAreHeld, _) => Self::Blocked(error),
            (Refusal::Content, _) | (_, sqlx::Error::Encode(_)) => Self::Refused(error),
            (Refusal::NoneForThisBuild, _) => Self::Unfit(error),
            (Refusal::Passing, _) => Self::Unavailable(error),
        }
    }
}

/// Those of the jobs whose own row or whose user's stream somebody else has locked at this moment, an api instance that stopped in the
/// middle of a cancel perhaps. Waits for nobody. Balances are not looked at: whoever holds one for long holds the stream as well, but for a
/// grant of credits.
pub async fn held_by_others(
    database: &Database,
    jobs: &[JobId],
) -> Result<HashSet<JobId>, DatabaseError> {
    let jobs: Vec<Uuid> = jobs.iter().map(|job| job.as_uuid()).collect();
    let query = sqlx::query_as(
        "with free as materialized (
             select s.job_id from job_state s join user_stream u on u.user_id = s.owner_id
              where s.job_id = any($1) for no key update of s, u skip locked)
         select s.job_id from job_state s
          where s.job_id = any($1) and s.job_id not in (select job_id from free)",
    )
    .bind(jobs);
    let held: Vec<(Uuid,)> = database.journal().fetch_all(query).await?;
    Ok(held
        .into_iter()
        .map(|(job,)| JobId::from_uuid(job))
        .collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart() {
        for (code, refusal) in [
            ("ZTERM", Refusal::TermIsOver),
            ("55P03", Refusal::RowsAreHeld),
            ("22P02", Refusal::Content),
            ("23505", Refusal::Content),
            ("P0001", Refusal::Content),
            ("42883", Refusal::NoneForThisBuild),
            ("42501", Refusal::NoneForThisBuild),
            ("20000", Refusal::NoneForThisBuild),
            ("0A000", Refusal::NoneForThisBuild),
            ("40P01", Refusal::Passing),
            ("40001", Refusal::Passing),
            ("57P01", Refusal::Passing),
            ("53300", Refusal::Passing),
            ("08006", Refusal::Passing),
            ("", Refusal::Passing),
        ] {
            assert_eq!(Refusal::of(code), refusal, "{code}");
        }
    }
}
