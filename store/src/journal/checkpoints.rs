//! Writes from where the next attempt of a job may go on.

use std::collections::HashMap;

use flowai_actors::checkpoint::CheckpointFile;
use flowai_actors::ids::JobId;
use flowai_actors::messages::Holding;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::Moved;
use super::change::{Change, Unfinished};
use super::statements::{Columns, Rows, rows};
use crate::number::{bigint, int};

/// Looks for the attempts that are kept while they run; the rows stay as they are, for as long as the transaction lasts.
pub(super) async fn kept(
    connection: &mut PgConnection,
    changes: &[Change],
) -> Result<Rows, sqlx::Error> {
    let columns = Columns::of(changes.iter().filter_map(|change| match change {
        Change::Keep { held, .. } => Some(held),
        _ => None,
    }));
    if columns.jobs.is_empty() {
        return Ok(Vec::new());
    }
    let found = sqlx::query_as(
        "select s.job_id, s.owner_id, s.seq
           from job_state s
           join unnest($1::uuid[], $2::int[], $3::int[], $4::text[], $5::int[])
                as c (job_id, attempt, epoch, node, generation) on s.job_id = c.job_id
          where s.state = 'running' and s.attempt = c.attempt and s.epoch = c.epoch
            and s.node_id = c.node and s.generation = c.generation
            for share of s",
    )
    .bind(columns.jobs)
    .bind(columns.attempts)
    .bind(columns.epochs)
    .bind(columns.nodes)
    .bind(columns.generations)
    .fetch_all(connection)
    .await?;
    Ok(rows(found))
}

/// The checkpoints of the attempts of this transaction. One that failed leaves none: what it left may be why it failed.
pub(super) async fn write(
    connection: &mut PgConnection,
    changes: &[Change],
    moved: &HashMap<JobId, Moved>,
) -> Result<(), sqlx::Error> {
    let mut kept: Vec<(&Holding, &CheckpointFile, Uuid)> = Vec::new();
    let mut failed: Vec<Uuid> = Vec::new();
    for change in changes {
        let Some(owner) = moved.get(&change.job()).map(|moved| moved.owner.as_uuid()) else {
            continue;
        };
        match change {
            Change::Keep { held, checkpoint } => kept.push((held, checkpoint, owner)),
            Change::Requeue {
                held,
                outcome: Unfinished::Failed,
                ..
            } => failed.push(held.at.job.as_uuid()),
            Change::Requeue {
                held, checkpoint, ..
            } => kept.extend(checkpoint.as_ref().map(|file| (held, file, owner))),
            Change::Assign(_)
            | Change::Adopt(_)
            | Change::Settle { .. }
            | Change::Fail { .. }
            | Change::Cancel { .. }
            | Change::FailWaiting { .. }
            | Change::Quarantine { .. }
            | Change::CancelWaiting { .. } => {}
        }
    }
    if !failed.is_empty() {
        sqlx::query("delete from checkpoint where job_id = any($1)")
            .bind(failed)
            .execute(&mut *connection)
            .await?;
    }
    if kept.is_empty() {
        return Ok(());
    }
    let columns = Columns::of(kept.iter().map(|(held, ..)| *held));
    let owners: Vec<Uuid> = kept.iter().map(|(.., owner)| *owner).collect();
    let files = || kept.iter().map(|(_, file, _)| *file);
    sqlx::query(
        "insert into checkpoint as k (job_id, owner_id, attempt, step, steps, sha256, bytes, device_class, engine, resumed)
         select * from unnest($1::uuid[], $2::uuid[], $3::int[], $4::int[], $5::int[], $6::bytea[], $7::bigint[],
                              $8::text[], $9::text[], $10::jsonb[])
         on conflict (job_id) do update
            set attempt = excluded.attempt, step = excluded.step, steps = excluded.steps, sha256 = excluded.sha256,
                bytes = excluded.bytes, device_class = excluded.device_class, engine = excluded.engine,
                resumed = excluded.resumed, kept_at = now()
          where (k.attempt, k.step) <= (excluded.attempt, excluded.step)",
    )
    .bind(columns.jobs)
    .bind(owners)
    .bind(columns.attempts)
    .bind(files().map(|file| int(file.step)).collect::<Vec<_>>())
    .bind(files().map(|file| int(file.steps)).collect::<Vec<_>>())
    .bind(
        files()
            .map(|file| file.sha256.as_bytes().as_slice())
            .collect::<Vec<_>>(),
    )
    .bind(files().map(|file| bigint(file.bytes)).collect::<Vec<_>>())
    .bind(
        files()
            .map(|file| file.device_class.as_str())
            .collect::<Vec<_>>(),
    )
    .bind(files().map(|file| file.engine.as_str()).collect::<Vec<_>>())
    .bind(files().map(|file| Json(&file.resumed)).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
