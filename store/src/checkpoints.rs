//! Checkpoints of unfinished jobs: where they lie, and what is forgotten when their jobs have ended. They are written by the
//! journal.

use flowai_actors::checkpoint::CheckpointFile;
use flowai_actors::ids::{Attempt, JobId, Sha256};
use flowai_actors::manifest::Resumed;
use sqlx::types::Json;
use uuid::Uuid;

use crate::database::{Database, DatabaseError};
use crate::number::{attempt_from, unsigned};

/// What the keys of all checkpoints begin with.
pub const CHECKPOINTS_PREFIX: &str = "checkpoints/";

/// The newest checkpoint of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// The attempt that left it.
    pub attempt: Attempt,
    pub file: CheckpointFile,
}

/// Where the checkpoint of a step of an attempt lies. Whoever names an attempt that it holds can name no other job's.
pub fn checkpoint_key(job: JobId, attempt: Attempt, step: u32) -> String {
    format!(
        "{}{attempt}/step-{step}.checkpoint",
        checkpoints_prefix(job)
    )
}

/// What the keys of all checkpoints of a job begin with.
pub fn checkpoints_prefix(job: JobId) -> String {
    format!("{CHECKPOINTS_PREFIX}{job}/")
}

/// The job, attempt and step of a [`checkpoint_key`].
pub fn parse_key(key: &str) -> Option<(JobId, Attempt, u32)> {
    let (job, rest) = key.strip_prefix(CHECKPOINTS_PREFIX)?.split_once('/')?;
    let (attempt, file) = rest.split_once('/')?;
    let step = file.strip_prefix("step-")?.strip_suffix(".checkpoint")?;
    let attempt = Attempt::new(attempt.parse().ok()?);
    Some((job.parse().ok()?, attempt, step.parse().ok()?))
}

/// From where the next attempt of the job may go on.
pub async fn of_job(
    database: &Database,
    job: JobId,
) -> Result<Option<StoredCheckpoint>, DatabaseError> {
    type Row = (
        i32,
        i32,
        i32,
        Vec<u8>,
        i64,
        String,
        String,
        Json<Vec<Resumed>>,
    );
    let found: Option<Row> = sqlx::query_as(
        "select attempt, step, steps, sha256, bytes, device_class, engine, resumed
           from checkpoint where job_id = $1",
    )
    .bind(job.as_uuid())
    .fetch_optional(database.pool())
    .await?;
    Ok(found.and_then(
        |(attempt, step, steps, sha256, bytes, device_class, engine, Json(resumed))| {
            Some(StoredCheckpoint {
                attempt: attempt_from(attempt),
                file: CheckpointFile {
                    sha256: Sha256::from_bytes(sha256.try_into().ok()?),
                    bytes: u64::try_from(bytes).ok()?,
                    step: unsigned(step),
                    steps: unsigned(steps),
                    device_class,
                    engine,
                    resumed,
                },
            })
        },
    ))
}

/// Forgets the checkpoint of a job that has ended; that of an unfinished one stays, whoever asks.
pub async fn forget(database: &Database, job: JobId) -> Result<(), DatabaseError> {
    sqlx::query(
        "delete from checkpoint c using job_state s
          where c.job_id = $1 and s.job_id = c.job_id and s.finished_at is not null",
    )
    .bind(job.as_uuid())
    .execute(database.pool())
    .await?;
    Ok(())
}

/// Forgets the checkpoints of all jobs that have ended: what no leader heard of.
pub async fn forget_ended(database: &Database) -> Result<u64, DatabaseError> {
    let forgotten = sqlx::query(
        "delete from checkpoint c using job_state s where s.job_id = c.job_id and s.finished_at is not null",
    )
    .execute(database.pool())
    .await?;
    Ok(forgotten.rows_affected())
}

/// Those of the jobs that have not ended.
pub async fn unfinished(database: &Database, among: &[JobId]) -> Result<Vec<JobId>, DatabaseError> {
    let among: Vec<Uuid> = among.iter().map(|job| job.as_uuid()).collect();
    let found: Vec<Uuid> = sqlx::query_scalar(
        "select job_id from job_state where job_id = any($1) and finished_at is null",
    )
    .bind(among)
    .fetch_all(database.pool())
    .await?;
    Ok(found.into_iter().map(JobId::from_uuid).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::KEY_LENGTH_MAX;

    #[test]
    fn a_key_says_whose_it_is_and_fits() {
        let job = JobId::generate();
        let key = checkpoint_key(job, Attempt::new(20), 100);
        assert!(key.starts_with(&checkpoints_prefix(job)) && key.len() <= KEY_LENGTH_MAX);
        assert_eq!(parse_key(&key), Some((job, Attempt::new(20), 100)));
        for other in [
            "clips/x",
            "checkpoints/x/1/step-1.checkpoint",
            "checkpoints/",
        ] {
            assert_eq!(parse_key(other), None, "{other}");
        }
    }
}
