//! What the database holds after the run, read by the checker's own statements over the published schema.

use std::collections::HashMap;

use sqlx::PgPool;

use crate::clock::At;

#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) owner: String,
    pub(crate) state: String,
    pub(crate) attempt: i32,
    pub(crate) finished_us: Option<i64>,
    pub(crate) error: Option<String>,
    /// As it was asked for.
    pub(crate) spec: serde_json::Value,
}

#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Attempt {
    pub(crate) job: String,
    pub(crate) attempt: i32,
    pub(crate) epoch: i32,
    pub(crate) node: String,
    pub(crate) started_us: i64,
    pub(crate) ended_us: Option<i64>,
    pub(crate) outcome: Option<String>,
}

#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Artefact {
    pub(crate) job: String,
    pub(crate) attempt: i32,
    pub(crate) sha256: String,
    pub(crate) bytes: i64,
    pub(crate) clip_key: String,
    pub(crate) poster_key: String,
    pub(crate) preview_key: String,
    pub(crate) spritesheet_key: String,
    pub(crate) manifest: serde_json::Value,
}

#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Event {
    pub(crate) job: String,
    pub(crate) owner: String,
    pub(crate) seq: i64,
    pub(crate) user_seq: i64,
    pub(crate) kind: String,
}

#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) jobs: HashMap<String, Job>,
    /// In order of job and attempt.
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) artefacts: Vec<Artefact>,
    /// In order of owner and number.
    pub(crate) events: Vec<Event>,
    /// The job by owner and idempotency key.
    pub(crate) keys: HashMap<(String, String), String>,
    /// The owner by email.
    pub(crate) owners: HashMap<String, String>,
}

impl Facts {
    pub(crate) async fn read(database: &PgPool) -> Result<Self, sqlx::Error> {
        let jobs: Vec<Job> = sqlx::query_as(
            "select j.id::text as id, j.owner_id::text as owner, s.state, s.attempt, s.error ->> 'code' as error, j.spec,
                    (extract(epoch from s.finished_at) * 1e6)::bigint as finished_us
               from job j join job_state s on s.job_id = j.id",
        )
        .fetch_all(database)
        .await?;
        let attempts = sqlx::query_as(
            "select job_id::text as job, attempt, epoch, node_id as node, outcome,
                    (extract(epoch from started_at) * 1e6)::bigint as started_us,
                    (extract(epoch from ended_at) * 1e6)::bigint as ended_us
               from attempt order by job_id, attempt",
        )
        .fetch_all(database)
        .await?;
        let artefacts = sqlx::query_as(
            "select job_id::text as job, attempt, encode(clip_sha256, 'hex') as sha256, clip_bytes as bytes,
                    clip_key, poster_key, preview_key, spritesheet_key, manifest
               from artefact order by job_id",
        )
        .fetch_all(database)
        .await?;
        let events = sqlx::query_as(
            "select job_id::text as job, owner_id::text as owner, seq, user_seq, kind
               from job_event order by owner_id, user_seq",
        )
        .fetch_all(database)
        .await?;
        let keys: Vec<(String, String, Option<String>)> =
            sqlx::query_as("select owner_id::text, key, body ->> 'id' from idempotency")
                .fetch_all(database)
                .await?;
        let owners: Vec<(String, String)> = sqlx::query_as("select email, id::text from account")
            .fetch_all(database)
            .await?;
        Ok(Self {
            jobs: jobs.into_iter().map(|job| (job.id.clone(), job)).collect(),
            attempts,
            artefacts,
            events,
            keys: keys
                .into_iter()
                .map(|(owner, key, job)| ((owner, key), job.unwrap_or_default()))
                .collect(),
            owners: owners.into_iter().collect(),
        })
    }

    pub(crate) fn owner_of_client(&self, client: usize) -> Option<&str> {
        let email = format!("client-{client}@example.org");
        self.owners.get(&email).map(String::as_str)
    }
}

impl Attempt {
    pub(crate) fn started(&self) -> At {
        At(self.started_us)
    }

    pub(crate) fn ended(&self) -> Option<At> {
        self.ended_us.map(At)
    }
}

/// Jobs that have not ended at this moment.
pub(crate) async fn unfinished(database: &PgPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from job_state where finished_at is null")
        .fetch_one(database)
        .await
}
