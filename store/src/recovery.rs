//! What a leader reads: all that is unfinished when its term begins, and later what no doorbell announced.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use flowai_actors::ids::{Attempt, JobId, ModelId, NodeId, UserId};
use flowai_actors::limits::RECOVERY_PAGE_JOBS;
use flowai_actors::messages::{AttemptRef, Holding};
use flowai_actors::spec::RenderSpec;
use flowai_actors::state::{Class, JobState, Tier};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::QueryAs;
use sqlx::{FromRow, Postgres, Row as _};
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

/// Of `leader_jobs` and `leader_page`, in the order of [`RawJob`]'s fields.
macro_rules! job_columns {
    () => {
        "job_id, owner_id, tier, class, ready_at, after_id, after_state, model_id, spec, state, attempt, epoch, node_id, generation,
         failures, failed_on, died_on, node_deaths, preemptions, cancel_requested, kept_step, kept_class"
    };
}

/// Read by place: a leader begins with a million of them.
#[derive(Debug)]
struct RawJob {
    job: JobId,
    owner: UserId,
    tier: Option<Tier>,
    class: Option<Class>,
    ready_at: DateTime<Utc>,
    after: Option<JobId>,
    after_state: Option<JobState>,
    model: Option<ModelId>,
    spec: String,
    state: Option<JobState>,
    attempt: i32,
    epoch: i32,
    node: Option<String>,
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

impl FromRow<'_, PgRow> for RawJob {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            job: JobId::from_uuid(row.try_get(0)?),
            owner: UserId::from_uuid(row.try_get(1)?),
            tier: Tier::from_name(row.try_get(2)?),
            class: Class::from_name(row.try_get(3)?),
            ready_at: row.try_get(4)?,
            after: row.try_get::<Option<Uuid>, _>(5)?.map(JobId::from_uuid),
            after_state: row
                .try_get::<Option<&str>, _>(6)?
                .and_then(JobState::from_name),
            model: ModelId::try_from(row.try_get::<String, _>(7)?).ok(),
            spec: row.try_get(8)?,
            state: JobState::from_name(row.try_get(9)?),
            attempt: row.try_get(10)?,
            epoch: row.try_get(11)?,
            node: row.try_get(12)?,
            generation: row.try_get(13)?,
            failures: row.try_get(14)?,
            failed_on: row.try_get(15)?,
            died_on: row.try_get(16)?,
            node_deaths: row.try_get(17)?,
            preemptions: row.try_get(18)?,
            cancel_requested: row.try_get(19)?,
            kept_step: row.try_get(20)?,
            kept_class: row.try_get(21)?,
        })
    }
}

fn node_id(name: String) -> Option<NodeId> {
    NodeId::try_from(name).ok()
}

fn node_ids(names: Vec<String>) -> Option<BTreeSet<NodeId>> {
    names.into_iter().map(node_id).collect()
}

impl RawJob {
    /// As it stands at `now`, by the database's clock. `None` where it holds a name that another version wrote.
    fn understood(self, now: DateTime<Utc>) -> Option<JobRow> {
        let (job, attempt) = (self.job, attempt_from(self.attempt));
        let held = match self.node {
            None => None,
            Some(node) => Some(Holding {
                at: AttemptRef {
                    job,
                    attempt,
                    epoch: epoch_from(self.epoch),
                },
                node: node_id(node)?,
                generation: generation_from(self.generation),
            }),
        };
        Some(JobRow {
            job,
            owner: self.owner,
            tier: self.tier?,
            class: self.class?,
            waited: (now - self.ready_at).to_std().unwrap_or_default(),
            after: after(self.after, self.after_state).filter(|_| self.attempt == 0),
            model: self.model?,
            spec: serde_json::from_str(&self.spec).ok(),
            state: self.state?,
            attempt,
            failures: u32::try_from(self.failures).unwrap_or(u32::MAX),
            failed_on: node_ids(self.failed_on)?,
            node_deaths: unsigned(self.node_deaths),
            died_on: node_ids(self.died_on)?,
            preemptions: u32::try_from(self.preemptions).unwrap_or(u32::MAX),
            held,
            cancel_requested: self.cancel_requested,
            kept: self
                .kept_step
                .zip(self.kept_class)
                .map(|(step, device_class)| Kept {
                    step: unsigned(step),
                    device_class,
                }),
        })
    }
}

/// Jobs as their rows say them.
#[derive(Debug, Default)]
pub struct JobRows {
    pub rows: Vec<JobRow>,
    /// Another version wrote these, which this one cannot read: they wait for it.
    pub unread: Vec<JobId>,
}

impl JobRows {
    fn of(raw: impl IntoIterator<Item = RawJob>, now: DateTime<Utc>) -> Self {
        let mut found = Self::default();
        for raw in raw {
            let job = raw.job;
            match raw.understood(now) {
                Some(row) => found.rows.push(row),
                None => found.unread.push(job),
            }
        }
        if let Some(job) = found.unread.first() {
            let jobs = found.unread.len();
            tracing::warn!(%job, jobs, "another version wrote jobs, which wait for it");
        }
        found
    }
}

fn after(job: Option<JobId>, state: Option<JobState>) -> Option<After> {
    Some(After {
        job: job?,
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

/// Where the page of unfinished jobs ends that begins after `after`, in the order of ids; `None` for the last one. Whoever knows the ends
/// reads several pages at a time.
pub async fn page_end(
    database: &Database,
    after: Option<JobId>,
) -> Result<Option<JobId>, DatabaseError> {
    let end: Option<Uuid> = sqlx::query_scalar(
        "select job_id from job_state where finished_at is null and job_id > $1 order by job_id offset $2 limit 1",
    )
    .bind(after.map_or(Uuid::nil(), JobId::as_uuid))
    .bind(int(RECOVERY_PAGE_JOBS - 1))
    .fetch_optional(database.pool())
    .await?;
    Ok(end.map(JobId::from_uuid))
}

/// What the database's clock shows: of pages that are read one after the other, all wait by the same one.
pub async fn now(database: &Database) -> Result<DateTime<Utc>, DatabaseError> {
    let query = sqlx::query_scalar("select now()");
    Ok(query.fetch_one(database.pool()).await?)
}

/// Unfinished jobs behind `after` and up to the `end` of their page, or all there are, in the order of ids; as they stand at `now`, by the
/// database's clock.
pub async fn unfinished(
    database: &Database,
    after: Option<JobId>,
    end: Option<JobId>,
    now: DateTime<Utc>,
) -> Result<JobRows, DatabaseError> {
    let raw: Vec<RawJob> = sqlx::query_as(concat!(
        "select ",
        job_columns!(),
        " from leader_page($1, $2)"
    ))
    .bind(after.map_or(Uuid::nil(), JobId::as_uuid))
    .bind(end.map_or(Uuid::max(), JobId::as_uuid))
    .fetch_all(database.pool())
    .await?;
    Ok(JobRows::of(raw, now))
}

/// With the database's clock.
struct Timed(RawJob, DateTime<Utc>);

impl FromRow<'_, PgRow> for Timed {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self(RawJob::from_row(row)?, row.try_get("now")?))
    }
}

/// These jobs, finished ones too. Those that do not exist are left out.
pub async fn jobs(database: &Database, wanted: &[JobId]) -> Result<JobRows, DatabaseError> {
    let query = sqlx::query_as(concat!(
        "select ",
        job_columns!(),
        ", now() from leader_jobs($1)"
    ))
    .bind(uuids(wanted));
    let raw: Vec<Timed> = database.frequent().fetch_all(query).await?;
    let now = raw.first().map(|timed| timed.1).unwrap_or_default();
    Ok(JobRows::of(raw.into_iter().map(|timed| timed.0), now))
}

/// Waiting jobs whose ids were made within `age`, by the time in the id, at most [`RECOVERY_PAGE_JOBS`], the newest first: the quick look
/// for what no doorbell announced. What an api gave an id of a clock further ahead is found by the thorough one.
pub async fn newcomers(database: &Database, age: Duration) -> Result<Vec<JobId>, DatabaseError> {
    // The first 48 bits of a UUID of version 7 are its time in milliseconds.
    let query = sqlx::query_as(
        "select job_id from job_state
          where finished_at is null and state = 'queued'
            and job_id between (lpad(to_hex((extract(epoch from now()) * 1000 - $1)::bigint), 12, '0')
                                || '00000000000000000000')::uuid
                           and (lpad(to_hex((extract(epoch from now()) * 1000 + $1)::bigint), 12, '0')
                                || '00000000000000000000')::uuid
          order by job_id desc limit $2",
    )
    .bind(millis(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)))
    .bind(int(RECOVERY_PAGE_JOBS));
    frequent_ids(database, query).await
}

async fn frequent_ids(
    database: &Database,
    query: QueryAs<'_, Postgres, (Uuid,), PgArguments>,
) -> Result<Vec<JobId>, DatabaseError> {
    let found = database.frequent().fetch_all(query).await?;
    Ok(found
        .into_iter()
        .map(|(job,)| JobId::from_uuid(job))
        .collect())
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

/// Unfinished jobs in the order of ids, at most [`RECOVERY_PAGE_JOBS`] after `after`. A shorter page is the last one, or lacks rows of
/// another version.
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
    // Rows of another version wait for it.
    let row = |(job, attempt, node): (Uuid, i32, Option<String>)| {
        Some(UnfinishedRow {
            job: JobId::from_uuid(job),
            attempt: attempt_from(attempt),
            node: match node {
                Some(name) => Some(node_id(name)?),
                None => None,
            },
        })
    };
    Ok(found.into_iter().filter_map(row).collect())
}

/// Those of the jobs that their owners want no more.
pub async fn cancel_requests(
    database: &Database,
    among: &[JobId],
) -> Result<Vec<JobId>, DatabaseError> {
    if among.is_empty() {
        return Ok(Vec::new());
    }
    let query = sqlx::query_as(
        "select job_id from job_state where job_id = any($1) and cancel_requested_at is not null",
    )
    .bind(uuids(among));
    frequent_ids(database, query).await
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
