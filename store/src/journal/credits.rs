//! What the end of a job does to its owner's credits: captured when it was delivered, released when it was not.

use std::collections::HashMap;

use flowai_actors::credits::StepsDone;
use flowai_actors::ids::JobId;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Moved;
use super::change::Change;
use crate::number::int;

/// Ends the holds of the jobs that ended in this transaction. The database reads from their rows how they ended; a hold ends once.
pub(super) async fn end_holds(
    connection: &mut PgConnection,
    changes: &[Change],
    moved: &HashMap<JobId, Moved>,
) -> Result<(), sqlx::Error> {
    let ended: Vec<(Uuid, Option<StepsDone>)> = changes
        .iter()
        .filter(|change| change.next_state().is_end() && moved.contains_key(&change.job()))
        .map(|change| (change.job().as_uuid(), steps_of(change)))
        .collect();
    if ended.is_empty() {
        return Ok(());
    }
    let jobs: Vec<Uuid> = ended.iter().map(|(job, _)| *job).collect();
    let done: Vec<Option<i32>> = ended
        .iter()
        .map(|(_, steps)| steps.map(|steps| int(steps.done)))
        .collect();
    let total: Vec<Option<i32>> = ended
        .iter()
        .map(|(_, steps)| steps.map(|steps| int(steps.total)))
        .collect();
    sqlx::query("select ledger_end_holds($1, $2, $3)")
        .bind(jobs)
        .bind(done)
        .bind(total)
        .execute(connection)
        .await?;
    Ok(())
}

/// The steps that are paid for although there is no clip.
fn steps_of(change: &Change) -> Option<StepsDone> {
    match change {
        Change::Cancel { steps, .. } => *steps,
        Change::Assign(_)
        | Change::Adopt(_)
        | Change::Keep { .. }
        | Change::Settle { .. }
        | Change::Requeue { .. }
        | Change::Fail { .. }
        | Change::Quarantine { .. }
        | Change::CancelWaiting { .. }
        | Change::FailWaiting { .. } => None,
    }
}
