//! Jobs as their owners see them: queueing, reading, cancelling, purging. What the leader writes about them is elsewhere.

mod ending;
mod intake;
mod submission;

use chrono::{DateTime, Utc};
use flowai_actors::credits::{Millicredits, Price};
use flowai_actors::ids::{AdapterId, JobId, ModelId, Sha256, UploadId, UserId};
use flowai_actors::manifest::Manifest;
use flowai_actors::spec::RenderSpec;
use flowai_actors::state::{Class, JobState};
use sqlx::types::Json;
use sqlx::{PgConnection, QueryBuilder};

use crate::database::{DatabaseError, not_of};
use crate::number::{millicredits, unsigned};
use crate::uploads::sha256_of;

pub use ending::{Cancelling, Purge, cancel, purge};
pub use intake::Intake;
pub use submission::{NewVideo, Queueing, farm_queue_reaches};

/// A job as its owner sees it.
#[derive(Debug, Clone)]
pub struct Video {
    pub id: JobId,
    pub spec: RenderSpec,
    /// Of a draft: what its final will be.
    pub final_spec: Option<RenderSpec>,
    /// The picture that it is made from; none where that is made from words.
    pub image: Option<UploadId>,
    pub prompt: String,
    pub parent: Option<JobId>,
    pub class: Class,
    /// It starts when that one is done.
    pub after: Option<JobId>,
    pub created_at: DateTime<Utc>,
    pub state: JobState,
    pub attempt: u32,
    pub is_cancelling: bool,
    /// Of its newest durable event.
    pub seq: i64,
    pub error: Option<serde_json::Value>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    /// None of one that was accepted before there were credits.
    pub cost: Option<Cost>,
    pub clip: Option<Clip>,
    /// The picture that was made from words, once it is delivered.
    pub keyframe: Option<UploadId>,
}

/// What a job costs its owner: the price is held while it is not over, then captured or released, or in part both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    pub price: Price,
    pub held: Millicredits,
    pub captured: Millicredits,
    pub released: Millicredits,
}

impl Cost {
    const fn held(price: Price) -> Self {
        Self {
            price,
            held: price.amount,
            captured: Millicredits::ZERO,
            released: Millicredits::ZERO,
        }
    }

    fn ended(price: Price, captured: Millicredits) -> Self {
        Self {
            price,
            held: Millicredits::ZERO,
            captured,
            released: price.amount.saturating_sub(captured),
        }
    }
}

/// The delivered clip.
#[derive(Debug, Clone)]
pub struct Clip {
    pub sha256: Sha256,
    pub bytes: u64,
}

/// Where the files of a delivered clip lie, and what they were made from.
#[derive(Debug, Clone)]
pub struct Artefact {
    pub clip: Clip,
    pub clip_key: String,
    pub poster_key: String,
    pub preview_key: String,
    pub spritesheet_key: String,
    /// Of the picture that was made from words.
    pub keyframe_key: Option<String>,
    pub manifest: Manifest,
}

/// What [`Row`] reads, of jobs that are called `j`: columns, and where they come from.
macro_rules! columns {
    () => {
        "select j.id, j.spec, j.final_spec, j.image_id, j.prompt, j.parent_id, j.class, j.after_id, j.created_at,
                s.state, s.attempt, s.cancel_requested_at is not null as is_cancelling, s.seq, s.error,
                s.started_at, s.finished_at, a.clip_sha256, a.clip_bytes, a.keyframe_id,
                h.amount_mc, h.price_book, h.captured_mc, h.ended_at is not null as is_hold_over
           from "
    };
}
macro_rules! joins {
    () => {
        " j join job_state s on s.job_id = j.id left join artefact a on a.job_id = j.id
            left join credit_holds h on h.job_id = j.id "
    };
}

#[derive(sqlx::FromRow)]
struct Row {
    id: uuid::Uuid,
    spec: Json<RenderSpec>,
    final_spec: Option<Json<RenderSpec>>,
    image_id: Option<uuid::Uuid>,
    prompt: String,
    parent_id: Option<uuid::Uuid>,
    class: String,
    after_id: Option<uuid::Uuid>,
    created_at: DateTime<Utc>,
    state: String,
    attempt: i32,
    is_cancelling: bool,
    seq: i64,
    error: Option<serde_json::Value>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    clip_sha256: Option<Vec<u8>>,
    clip_bytes: Option<i64>,
    keyframe_id: Option<uuid::Uuid>,
    amount_mc: Option<i64>,
    price_book: Option<i32>,
    captured_mc: Option<i64>,
    is_hold_over: bool,
}

impl Row {
    fn read(self) -> Result<Video, DatabaseError> {
        let clip = match (self.clip_sha256, self.clip_bytes) {
            (Some(sha256), Some(bytes)) => Some(Clip {
                sha256: sha256_of("artefact.clip_sha256", &sha256)?,
                bytes: bytes.unsigned_abs(),
            }),
            (None, _) | (_, None) => None,
        };
        let price = self.amount_mc.zip(self.price_book);
        let price = price.map(|(amount, book)| Price {
            amount: millicredits(amount),
            book: unsigned(book),
        });
        let cost = price.map(|price| match self.is_hold_over {
            false => Cost::held(price),
            true => Cost::ended(price, millicredits(self.captured_mc.unwrap_or(0))),
        });
        Ok(Video {
            id: JobId::from_uuid(self.id),
            spec: self.spec.0,
            final_spec: self.final_spec.map(|Json(spec)| spec),
            image: self.image_id.map(UploadId::from_uuid),
            prompt: self.prompt,
            parent: self.parent_id.map(JobId::from_uuid),
            class: Class::from_name(&self.class).ok_or_else(|| not_of("job.class", &self.class))?,
            after: self.after_id.map(JobId::from_uuid),
            created_at: self.created_at,
            state: state_of(&self.state)?,
            attempt: self.attempt.unsigned_abs(),
            is_cancelling: self.is_cancelling,
            seq: self.seq,
            error: self.error,
            started_at: self.started_at,
            finished_at: self.finished_at,
            cost,
            clip,
            keyframe: self.keyframe_id.map(UploadId::from_uuid),
        })
    }
}

fn state_of(name: &str) -> Result<JobState, DatabaseError> {
    JobState::from_name(name).ok_or_else(|| not_of("job_state.state", name))
}

/// The next number of the user's stream. Locks the user's counter until the transaction ends.
async fn next_user_seq(connection: &mut PgConnection, owner: UserId) -> Result<i64, DatabaseError> {
    let seq = sqlx::query_scalar(
        "insert into user_stream (user_id, seq) values ($1, 1)
         on conflict (user_id) do update set seq = user_stream.seq + 1 returning seq",
    )
    .bind(owner.as_uuid())
    .fetch_one(connection)
    .await?;
    Ok(seq)
}

/// One of the caller's own jobs.
pub async fn find(
    connection: &mut PgConnection,
    id: JobId,
) -> Result<Option<Video>, DatabaseError> {
    let row: Option<Row> = sqlx::query_as(concat!(
        columns!(),
        "job",
        joins!(),
        "where j.id = $1 and j.owner_id = (select app_user())"
    ))
    .bind(id.as_uuid())
    .fetch_optional(connection)
    .await?;
    row.map(Row::read).transpose()
}

/// Which jobs a list is of, and where it goes on.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    pub state: Option<JobState>,
    pub model: Option<ModelId>,
    /// Behind this job in the list's order.
    pub after: Option<JobId>,
    pub is_oldest_first: bool,
    pub limit: i64,
}

/// The caller's own jobs by the time they were made.
///
/// Those of the page are found first, so that it costs what it holds and not all that its owner has: the planner takes what a policy
/// lets through for a single row, and would read and sort all of it.
pub async fn list(
    connection: &mut PgConnection,
    listing: &Listing,
) -> Result<Vec<Video>, DatabaseError> {
    let (past, order) = match listing.is_oldest_first {
        true => (">", "asc"),
        false => ("<", "desc"),
    };
    let mut query = QueryBuilder::new(concat!(columns!(), "("));
    match listing.state {
        None => query.push("select j.* from job j where j.owner_id = (select app_user())"),
        // As few as may wait and run. They have an index of their own.
        Some(state) if !state.is_end() => query
            .push(
                "select j.* from job_state s, lateral (select * from job where id = s.job_id offset 0) j
                  where s.owner_id = (select app_user()) and s.finished_at is null and s.state = ",
            )
            .push_bind(state.as_str()),
        Some(state) => query
            .push(
                "select j.* from job j, lateral (select state from job_state where job_id = j.id offset 0) s
                  where j.owner_id = (select app_user()) and s.state = ",
            )
            .push_bind(state.as_str()),
    };
    if let Some(model) = &listing.model {
        query.push(" and j.model_id = ").push_bind(model.as_str());
    }
    if let Some(after) = listing.after {
        query
            .push(format_args!(" and j.id {past} "))
            .push_bind(after.as_uuid());
    }
    query.push(format_args!(
        " order by j.owner_id {order}, j.id {order} limit "
    ));
    query.push_bind(listing.limit).push(concat!(")", joins!()));
    query.push(format_args!("order by j.id {order}"));
    let rows: Vec<Row> = query.build_query_as().fetch_all(connection).await?;
    rows.into_iter().map(Row::read).collect()
}

/// The adapters that a job names.
pub async fn adapters_of(
    connection: &mut PgConnection,
    id: JobId,
) -> Result<Vec<AdapterId>, DatabaseError> {
    let ids: Vec<uuid::Uuid> = sqlx::query_scalar(
        "select adapter_id from job_adapter where job_id = $1 and owner_id = (select app_user())",
    )
    .bind(id.as_uuid())
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(AdapterId::from_uuid).collect())
}

/// The delivered files of one of the caller's own jobs.
pub async fn artefact(
    connection: &mut PgConnection,
    id: JobId,
) -> Result<Option<Artefact>, DatabaseError> {
    #[derive(sqlx::FromRow)]
    struct Row {
        clip_sha256: Vec<u8>,
        clip_bytes: i64,
        clip_key: String,
        poster_key: String,
        preview_key: String,
        spritesheet_key: String,
        keyframe_key: Option<String>,
        manifest: Json<Manifest>,
    }
    let row: Option<Row> = sqlx::query_as(
        "select a.clip_sha256, a.clip_bytes, a.clip_key, a.poster_key, a.preview_key, a.spritesheet_key, a.manifest,
                u.object_key as keyframe_key
           from artefact a left join upload u on u.owner_id = a.owner_id and u.id = a.keyframe_id
          where a.job_id = $1 and a.owner_id = (select app_user())",
    )
    .bind(id.as_uuid())
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        Ok(Artefact {
            clip: Clip {
                sha256: sha256_of("artefact.clip_sha256", &row.clip_sha256)?,
                bytes: row.clip_bytes.unsigned_abs(),
            },
            clip_key: row.clip_key,
            poster_key: row.poster_key,
            preview_key: row.preview_key,
            spritesheet_key: row.spritesheet_key,
            keyframe_key: row.keyframe_key,
            manifest: row.manifest.0,
        })
    })
    .transpose()
}
