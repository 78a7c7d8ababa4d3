//! What a leader reads: all that is unfinished when its term begins, and later what no doorbell announced.

use std::collections::BTreeSet;
use std::time::Duration;

use flowai_actors::ids::{Attempt, JobId, ModelId, NodeId, UserId};
use flowai_actors::limits::RECOVERY_PAGE_JOBS;
use flowai_actors::messages::{AttemptRef, Holding};
use flowai_actors::spec::RenderSpec;
use flowai_actors::state::{Class, JobState, Tier};
use sqlx::FromRow;
use uuid::Uuid;

use crate::database::{Database, DatabaseError};
use crate::number::{attempt_from, epoch_from, generation_from, int, millis, unsigned};

/// A job as its rows say it.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRow {
    pub job: JobId,
    pub owner: UserId,
    pub tier: Tier,
    pub class: Class,
    /// Since it was accepted, or since the job that it starts after was done.
    pub waited: Duration,
    /// The job that it starts after, unless that is done, or this one has begun already.
    pub after: Option<After>,
    pub model: ModelId,
    /// `None` when another version wrote it and this one cannot read it.
    pub spec: Option<RenderSpec>,
    pub state: JobState,
    /// The newest attempt.
    pub attempt: Attempt,
    /// Attempts that failed or were lost; those that were nobody's fault do not count.
    pub failures: u32,
    /// Nodes on which they did.
    pub failed_on: BTreeSet<NodeId>,
    /// Attempts that were lost because their node died.
    pub node_deaths: u32,
    /// Nodes that died.
    pub died_on: BTreeSet<NodeId>,
    /// Attempts that were stopped in favour of another job.
    pub preemptions: u32,
    /// Who holds the attempt, while the job runs.
    pub held: Option<Holding>,
    pub cancel_requested: bool,
    /// Where an earlier attempt got to.
    pub kept: Option<Kept>,
}

/// What a scheduler must know of a job's checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Steps that are done.
    pub step: u32,
    pub device_class: String,
}

/// A job that another one starts after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct After {
    pub job: JobId,
    /// It ended without a clip, or is gone: what waits for it will never start.
    pub has_failed: bool,
}

#[derive(Debug, FromRow)]
struct RawJob {
    job_id: Uuid,
    owner_id: Uuid,
    tier: String,
    class: String,
    waited_ms: i64,
    after_id: Option<Uuid>,
    after_state: Option<String>,
    model_id: String,
    spec: String,
    state: String,
    attempt: i32,
    epoch: i32,
    node_id: Option<String>,
    generation: i32,
    failures: i64,
    failed_on: Vec<String>,
    died_on: Vec<String>,
    node_deaths: i32,
    preemptions: i64,
    cancel_requested: bool,
    kept_step: Option<i32>,
    kept_class: Option<String>,
}

/// A name that a newer version wrote.
fn unknown(what: &str, name: &str) -> DatabaseError {
    let reason =
        format!("{what} {name:?} is unknown to this version; run the version that wrote it");
    DatabaseError::Query(sqlx::Error::Decode(reason.into()))
}

fn node_id(name: String) -> Result<NodeId, DatabaseError> {
    NodeId::try_from(name).map_err(|invalid| unknown("node", &invalid.got))
}

fn node_ids(names: Vec<String>) -> Result<BTreeSet<NodeId>, DatabaseError> {
    names.into_iter().map(node_id).collect()
}

impl TryFrom<RawJob> for JobRow {
    type Error = DatabaseError;

    fn try_from(raw: RawJob) -> Result<Self, DatabaseError> {
        let job = JobId::from_uuid(raw.job_id);
        let attempt = attempt_from(raw.attempt);
        let held = match raw.node_id {
            None => None,
            Some(node) => Some(Holding {
                at: AttemptRef {
                    job,
                    attempt,
                    epoch: epoch_from(raw.epoch),
                },
                node: node_id(node)?,
                generation: generation_from(raw.generation),
            }),
        };
        Ok(Self {
            job,
            owner: UserId::from_uuid(raw.owner_id),
            tier: Tier::from_name(&raw.tier).ok_or_else(|| unknown("tier", &raw.tier))?,
            class: Class::from_name(&raw.class).ok_or_else(|| unknown("class", &raw.class))?,
            waited: Duration::from_millis(raw.waited_ms.unsigned_abs()),
            after: after(raw.after_id, raw.after_state.as_deref()).filter(|_| raw.attempt == 0),
            model: ModelId::try_from(raw.model_id)
                .map_err(|invalid| unknown("model", &invalid.got))?,
            spec: serde_json::from_str(&raw.spec).ok(),
            state: JobState::from_name(&raw.state).ok_or_else(|| unknown("state", &raw.state))?,
            attempt,
            failures: u32::try_from(raw.failures).unwrap_or(u32::MAX),
            failed_on: node_ids(raw.failed_on)?,
            node_deaths: unsigned(raw.node_deaths),
            died_on: node_ids(raw.died_on)?,
            preemptions: u32::try_from(raw.preemptions).unwrap_or(u32::MAX),
            held,
            cancel_requested: raw.cancel_requested,
            kept: raw
                .kept_step
                .zip(raw.kept_class)
                .map(|(step, device_class)| Kept {
                    step: unsigned(step),
                    device_class,
                }),
        })
    }
}

fn after(job: Option<Uuid>, state: Option<&str>) -> Option<After> {
    let state = state.and_then(JobState::from_name);
    Some(After {
        job: JobId::from_uuid(job?),
        has_failed: state.is_none_or(JobState::is_end),
    })
    .filter(|_| state != Some(JobState::Done))
}

fn ids(found: Vec<Uuid>) -> Vec<JobId> {
    found.into_iter().map(JobId::from_uuid).collect()
}

fn uuids(jobs: &[JobId]) -> Vec<Uuid> {
    jobs.iter().map(|job| job.as_uuid()).collect()
}

/// Unfinished jobs as the database sent them: understanding them takes as long as reading them, and may be done meanwhile.
#[derive(Debug)]
pub struct Page(Vec<RawJob>);

impl Page {
    /// Where the next page begins; `None` for the last one.
    pub fn next_after(&self) -> Option<JobId> {
        let is_full = self.0.len() == RECOVERY_PAGE_JOBS as usize;
        let last = self.0.last().filter(|_| is_full)?;
        Some(JobId::from_uuid(last.job_id))
    }

    /// # Errors
    /// A row holds a name that another version wrote.
    pub fn into_rows(self) -> Result<Vec<JobRow>, DatabaseError> {
        self.0.into_iter().map(JobRow::try_from).collect()
    }
}

/// Unfinished jobs in the order of ids, at most [`RECOVERY_PAGE_JOBS`] after `after`.
pub async fn unfinished(database: &Database, after: Option<JobId>) -> Result<Page, DatabaseError> {
    let raw: Vec<RawJob> = sqlx::query_as(
        "select * from leader_job where finished_at is null and job_id > $1 and spec_of > $1 order by job_id limit $2",
    )
    .bind(after.map_or(Uuid::nil(), JobId::as_uuid))
    .bind(int(RECOVERY_PAGE_JOBS))
    .fetch_all(database.pool())
    .await?;
    Ok(Page(raw))
}

/// These jobs, finished ones too. Those that do not exist are left out.
pub async fn jobs(database: &Database, wanted: &[JobId]) -> Result<Vec<JobRow>, DatabaseError> {
    let query = sqlx::query_as("select * from leader_jobs($1)").bind(uuids(wanted));
    let raw: Vec<RawJob> = database.frequent().fetch_all(query).await?;
    raw.into_iter().map(JobRow::try_from).collect()
}

/// Waiting jobs whose ids were made within `age`, by the time in the id: the quick look for what no doorbell announced.
pub async fn newcomers(database: &Database, age: Duration) -> Result<Vec<JobId>, DatabaseError> {
    // The first 48 bits of a UUID of version 7 are its time in milliseconds.
    let found = sqlx::query_scalar(
        "select job_id from job_state
          where finished_at is null and state = 'queued'
            and job_id > (lpad(to_hex((extract(epoch from now()) * 1000 - $1)::bigint), 12, '0')
                          || '00000000000000000000')::uuid
          order by job_id",
    )
    .bind(millis(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)))
    .fetch_all(database.pool())
    .await?;
    Ok(ids(found))
}

/// Ids of all unfinished jobs in order, at most [`RECOVERY_PAGE_JOBS`] after `after`: the thorough look.
pub async fn unfinished_ids(
    database: &Database,
    after: Option<JobId>,
) -> Result<Vec<JobId>, DatabaseError> {
    let found = sqlx::query_scalar(
        "select job_id from job_state where finished_at is null and job_id > $1 order by job_id limit $2",
    )
    .bind(after.map_or(Uuid::nil(), JobId::as_uuid))
    .bind(int(RECOVERY_PAGE_JOBS))
    .fetch_all(database.pool())
    .await?;
    Ok(ids(found))
}

/// What of an unfinished job's row a leader must believe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedRow {
    pub job: JobId,
    /// The newest attempt.
    pub attempt: Attempt,
    /// Who works on it.
    pub node: Option<NodeId>,
}

/// Unfinished jobs in the order of ids, at most [`RECOVERY_PAGE_JOBS`] after `after`. A shorter page is the last one.
pub async fn unfinished_rows(
    database: &Database,
    after: Option<JobId>,
) -> Result<Vec<UnfinishedRow>, DatabaseError> {
    let found: Vec<(Uuid, i32, Option<String>)> = sqlx::query_as(
        "select job_id, attempt, node_id from job_state
          where finished_at is null and job_id > $1 order by job_id limit $2",
    )
    .bind(after.map_or(Uuid::nil(), JobId::as_uuid))
    .bind(int(RECOVERY_PAGE_JOBS))
    .fetch_all(database.pool())
    .await?;
    let row = |(job, attempt, node): (Uuid, i32, Option<String>)| {
        Ok(UnfinishedRow {
            job: JobId::from_uuid(job),
            attempt: attempt_from(attempt),
            node: node.map(node_id).transpose()?,
        })
    };
    found.into_iter().map(row).collect()
}

/// Those of the jobs that their owners want no more.
pub async fn cancel_requests(
    database: &Database,
    among: &[JobId],
) -> Result<Vec<JobId>, DatabaseError> {
    if among.is_empty() {
        return Ok(Vec::new());
    }
    let found = sqlx::query_scalar(
        "select job_id from job_state where job_id = any($1) and cancel_requested_at is not null",
    )
    .bind(uuids(among))
    .fetch_all(database.pool())
    .await?;
    Ok(ids(found))
}

/// Whether this very attempt was settled: what a node is told that asks again because the answer was lost.
pub async fn was_settled(database: &Database, held: &Holding) -> Result<bool, DatabaseError> {
    let was_settled = sqlx::query_scalar(
        "select exists (select from attempt
                         where job_id = $1 and attempt = $2 and node_id = $3 and generation = $4 and outcome = 'done')",
    )
    .bind(held.at.job.as_uuid())
    .bind(int(held.at.attempt.get()))
    .bind(held.node.as_str())
    .bind(int(held.generation.get()))
    .fetch_one(database.pool())
    .await?;
    Ok(was_settled)
}
