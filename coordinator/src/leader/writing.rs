//! Batches written to the journal, however long the database is away. Content that the database refuses is found one by one; rows
//! that somebody else holds are looked for without waiting for them, so that they delay nobody's for long but their own.

use std::collections::{HashMap, HashSet};
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

/// Jobs whose rows were held when they were to be written last. They are written behind all others of their batch, so that they delay
/// none of those; there they wait in the line for their rows, which may only have been busy.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeldRows(Arc<Mutex<HashSet<JobId>>>);

impl HeldRows {
    /// The changes of others, and of these.
    fn split(&self, batch: &Batch) -> (Batch, Batch) {
        let held = self.lock();
        let (mut others, mut suspects) = (Batch::default(), Batch::default());
        for change in batch.changes() {
            let part = match held.contains(&change.job()) {
                true => &mut suspects,
                false => &mut others,
            };
            // A part of what fitted fits.
            drop(part.push(change.clone()));
        }
        (others, suspects)
    }

    fn came_out(&self, outcomes: &HashMap<JobId, Outcome>) {
        let mut held = self.lock();
        for (job, outcome) in outcomes {
            match outcome {
                Outcome::Blocked => held.insert(*job),
                Outcome::Written(_) | Outcome::Refused(_) => held.remove(job),
            };
        }
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
    let (others, suspects) = held_rows.split(batch);
    let mut outcomes = HashMap::new();
    for part in [others, suspects] {
        match commit_part(database, epoch, &part).await {
            Ok(found) => outcomes.extend(found),
            Err(Over::Fenced) => return Ok(Event::Fenced),
            Err(Over::Unfit(error)) => return Err(error),
        }
    }
    held_rows.came_out(&outcomes);
    let outcome = |change: &Change| outcomes.remove(&change.job()).unwrap_or(Outcome::Blocked);
    Ok(Event::Committed(
        batch.changes().iter().map(outcome).collect(),
    ))
}

/// What became of each job's change: a batch has one of each.
type Outcomes = Vec<(JobId, Outcome)>;

async fn commit_part(database: &Database, epoch: Epoch, part: &Batch) -> Result<Outcomes, Over> {
    if part.changes().is_empty() {
        return Ok(Outcomes::new());
    }
    match commit(database, epoch, part).await {
        Ok(outcomes) => Ok(of_jobs(part, outcomes)),
        Err(Stop::Blocked) => commit_unheld(database, epoch, part).await,
        Err(Stop::Refused(_)) => one_by_one(database, epoch, part).await,
        Err(Stop::Over(over)) => Err(over),
    }
}

/// Commits what nobody else holds the rows of.
async fn commit_unheld(database: &Database, epoch: Epoch, part: &Batch) -> Result<Outcomes, Over> {
    let jobs: Vec<JobId> = part.changes().iter().map(Change::job).collect();
    let held = match in_time(journal::held_by_others(database, &jobs)).await {
        Ok(held) => held,
        Err(error) => {
            tracing::warn!(%error, "rows that are held cannot be looked for; all of the batch waits");
            jobs.into_iter().collect()
        }
    };
    let mut rest = Batch::default();
    for change in part.changes() {
        if !held.contains(&change.job()) {
            // A part of what fitted fits.
            drop(rest.push(change.clone()));
        }
    }
    let mut outcomes: Outcomes = held
        .into_iter()
        .map(|job| (job, Outcome::Blocked))
        .collect();
    if rest.changes().is_empty() {
        return Ok(outcomes);
    }
    outcomes.extend(match commit(database, epoch, &rest).await {
        Ok(written) => of_jobs(&rest, written),
        Err(Stop::Blocked | Stop::Refused(_)) => one_by_one(database, epoch, &rest).await?,
        Err(Stop::Over(over)) => return Err(over),
    });
    Ok(outcomes)
}

async fn one_by_one(database: &Database, epoch: Epoch, part: &Batch) -> Result<Outcomes, Over> {
    let mut outcomes = Outcomes::new();
    for change in part.changes() {
        let mut one = Batch::default();
        drop(one.push(change.clone()));
        match commit(database, epoch, &one).await {
            Ok(written) => outcomes.extend(of_jobs(&one, written)),
            Err(Stop::Over(over)) => return Err(over),
            Err(Stop::Refused(reason)) => outcomes.push((change.job(), Outcome::Refused(reason))),
            Err(Stop::Blocked) => outcomes.push((change.job(), Outcome::Blocked)),
        }
    }
    Ok(outcomes)
}

fn of_jobs(batch: &Batch, outcomes: Vec<Outcome>) -> Outcomes {
    let jobs = batch.changes().iter().map(Change::job);
    jobs.zip(outcomes).collect()
}

/// Why the term ends.
enum Over {
    /// A later one has begun.
    Fenced,
    /// The database is none for this build.
    Unfit(JournalError),
}

enum Stop {
    Over(Over),
    Refused(String),
    Blocked,
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
                return Err(Stop::Over(Over::Fenced));
            }
            Err(JournalError::Refused(reason)) => return Err(Stop::Refused(reason.to_string())),
            Err(JournalError::Blocked(reason)) => {
                let changes = batch.changes().len();
                tracing::warn!(%reason, changes, "rows of a batch are held by somebody else");
                return Err(Stop::Blocked);
            }
            Err(error @ JournalError::Unfit(_)) => return Err(Stop::Over(Over::Unfit(error))),
            Err(JournalError::Unavailable(reason)) => {
                tracing::warn!(%reason, "database did not take a batch, trying again");
            }
        }
        pause(&mut backoff).await;
    }
}
