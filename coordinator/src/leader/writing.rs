//! Batches written to the journal, however long the database is away. Content that the database refuses is found one by one; rows
//! that somebody else holds are found at once, without waiting for them, so that they delay nobody's but their own.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use fail::fail_point;
use flowai_actors::ids::{Epoch, JobId};
use flowai_actors::kit::Backoff;
use flowai_store::database::{Database, in_time};
use flowai_store::journal::{self, Batch, Change, JournalError};

use super::event::{Event, Outcome};
use super::work::{RETRY_FIRST, RETRY_MOST, pause};
use crate::metrics;

/// Jobs whose rows were held when they were to be written last: these are looked at before they are waited for again.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeldRows(Arc<Mutex<HashSet<JobId>>>);

impl HeldRows {
    fn suspects(&self, batch: &Batch) -> bool {
        let held = self.lock();
        !held.is_empty() && batch.changes().iter().any(|c| held.contains(&c.job()))
    }

    fn found(&self, batch: &Batch, held: &HashSet<JobId>) {
        let mut known = self.lock();
        for change in batch.changes() {
            known.remove(&change.job());
        }
        known.extend(held);
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<JobId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// # Errors
/// A database that this build cannot write to.
pub(super) async fn commit_batch(
    database: &Database,
    held_rows: &HeldRows,
    epoch: Epoch,
    batch: &Batch,
) -> Result<Event, JournalError> {
    let written = match held_rows.suspects(batch) {
        true => Err(Stop::Blocked),
        false => commit(database, epoch, batch).await,
    };
    let written = match written {
        Err(Stop::Blocked) => commit_unheld(database, held_rows, epoch, batch).await,
        Err(Stop::Refused(_)) => one_by_one(database, epoch, batch).await,
        other => other,
    };
    match written {
        Ok(outcomes) => Ok(Event::Committed(outcomes)),
        Err(Stop::Unfit(error)) => Err(error),
        Err(Stop::Fenced | Stop::Blocked | Stop::Refused(_)) => Ok(Event::Fenced),
    }
}

/// Commits what nobody else holds the rows of.
///
/// # Errors
/// `Fenced`, `Unfit`.
async fn commit_unheld(
    database: &Database,
    held_rows: &HeldRows,
    epoch: Epoch,
    batch: &Batch,
) -> Result<Vec<Outcome>, Stop> {
    let jobs: Vec<JobId> = batch.changes().iter().map(Change::job).collect();
    let held = match in_time(journal::held_by_others(database, &jobs)).await {
        Ok(held) => held,
        Err(error) => {
            tracing::warn!(%error, "rows that are held cannot be looked for; all of the batch waits");
            jobs.into_iter().collect()
        }
    };
    held_rows.found(batch, &held);
    let mut rest = Batch::default();
    for change in batch.changes() {
        // Each job's change fits that fitted before.
        if !held.contains(&change.job()) && rest.push(change.clone()).is_err() {
            break;
        }
    }
    let written = match rest.changes().is_empty() {
        true => Ok(Vec::new()),
        false => commit(database, epoch, &rest).await,
    };
    let written = match written {
        Err(Stop::Blocked | Stop::Refused(_)) => one_by_one(database, epoch, &rest).await?,
        other => other?,
    };
    let mut written = written.into_iter();
    let outcome = |change: &Change| match held.contains(&change.job()) {
        true => Outcome::Blocked,
        false => written.next().unwrap_or(Outcome::Blocked),
    };
    Ok(batch.changes().iter().map(outcome).collect())
}

/// # Errors
/// `Fenced`, `Unfit`.
async fn one_by_one(
    database: &Database,
    epoch: Epoch,
    batch: &Batch,
) -> Result<Vec<Outcome>, Stop> {
    let mut outcomes = Vec::new();
    for change in batch.changes() {
        let mut one = Batch::default();
        if one.push(change.clone()).is_err() {
            continue;
        }
        match commit(database, epoch, &one).await {
            Ok(outcome) => outcomes.extend(outcome),
            Err(stop @ (Stop::Fenced | Stop::Unfit(_))) => return Err(stop),
            Err(Stop::Refused(reason)) => outcomes.push(Outcome::Refused(reason)),
            Err(Stop::Blocked) => outcomes.push(Outcome::Blocked),
        }
    }
    Ok(outcomes)
}

enum Stop {
    Fenced,
    Refused(String),
    Blocked,
    Unfit(JournalError),
}

async fn commit(database: &Database, epoch: Epoch, batch: &Batch) -> Result<Vec<Outcome>, Stop> {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
    let has = |kind: fn(&Change) -> bool| batch.changes().iter().any(kind);
    let assigns = has(|change| matches!(change, Change::Assign(_)));
    let settles = has(|change| matches!(change, Change::Settle { .. }));
    loop {
        let start = Instant::now();
        if assigns {
            fail_point!("before_assign_commit");
        }
        if settles {
            fail_point!("before_settle_commit");
        }
        match journal::commit(database, epoch, batch).await {
            Ok(written) => {
                let seconds = start.elapsed().as_secs_f64();
                metrics::record_batch(batch.changes().len(), seconds);
                if assigns {
                    fail_point!("after_assign_commit");
                }
                if settles {
                    fail_point!("after_settle_commit");
                }
                return Ok(written.into_iter().map(Outcome::Written).collect());
            }
            Err(error @ JournalError::Fenced { .. }) => {
                tracing::warn!(%error, "term is over");
                return Err(Stop::Fenced);
            }
            Err(JournalError::Refused(reason)) => return Err(Stop::Refused(reason.to_string())),
            Err(JournalError::Blocked(reason)) => {
                let changes = batch.changes().len();
                tracing::warn!(%reason, changes, "rows of a batch are held by somebody else");
                return Err(Stop::Blocked);
            }
            Err(error @ JournalError::Unfit(_)) => return Err(Stop::Unfit(error)),
            Err(JournalError::Unavailable(reason)) => {
                tracing::warn!(%reason, "database did not take a batch, trying again");
            }
        }
        pause(&mut backoff).await;
    }
}
