//! Jobs as their owners see them: queueing, reading, cancelling, purging. What the leader writes about them is elsewhere.

use chrono::{DateTime, SubsecRound as _, Utc};
use flowai_actors::credits::{Millicredits, Price, Rendering};
use flowai_actors::ids::{AdapterId, JobId, ModelId, Sha256, UploadId, UserId};
use flowai_actors::manifest::Manifest;
use flowai_actors::messages::ArtefactFile;
use flowai_actors::spec::RenderSpec;
use flowai_actors::state::{Class, EventKind, JobState, Tier};
use sqlx::types::Json;
use sqlx::{Connection as _, PgConnection};

use crate::database::{Database, DatabaseError, detail_of, not_of, violates};
use crate::idempotency::{Known, NamedRequest};
use crate::journal::artefact_key;
use crate::ledger;
use crate::number::{attempt_from, bigint, int, millicredits, unsigned};
use crate::uploads::{self, Removal, sha256_of};

/// A render that was asked for and found possible.
#[derive(Debug)]
pub struct NewVideo<'a> {
    pub id: JobId,
    pub owner: UserId,
    pub spec: &'a RenderSpec,
    /// Of a draft: what its final will be.
    pub final_spec: Option<&'a RenderSpec>,
    /// The picture that the spec names; none where it is made from words.
    pub image: Option<UploadId>,
    /// Those of all stages of the spec.
    pub adapters: &'a [AdapterId],
    pub prompt: &'a str,
    pub parent: Option<JobId>,
    pub class: Class,
    /// It starts when that one is done.
    pub after: Option<JobId>,
    /// What is held for it.
    pub price: Price,
    /// Multiplies how many of the owner's jobs may wait, for load tests.
    pub queued_scale: u32,
    /// In whole microseconds, as the database keeps it.
    pub created_at: DateTime<Utc>,
}

impl<'a> NewVideo<'a> {
    /// One of this moment at the present price, with no adapters, prompt or source, and no draft.
    pub fn new(owner: UserId, spec: &'a RenderSpec, image: Option<UploadId>) -> Self {
        Self {
            id: JobId::generate(),
            owner,
            spec,
            final_spec: None,
            image,
            adapters: &[],
            prompt: "",
            parent: None,
            class: Class::Interactive,
            after: None,
            price: Price::of(spec, Rendering::Full),
            queued_scale: 1,
            created_at: Utc::now().trunc_subsecs(6),
        }
    }

    /// As its owner sees it when it has just been queued.
    pub fn queued(&self) -> Video {
        Video {
            id: self.id,
            spec: self.spec.clone(),
            final_spec: self.final_spec.cloned(),
            image: self.image,
            prompt: self.prompt.to_owned(),
            parent: self.parent,
            class: self.class,
            after: self.after,
            created_at: self.created_at,
            state: JobState::Queued,
            attempt: 0,
            is_cancelling: false,
            seq: 1,
            error: None,
            started_at: None,
            finished_at: None,
            cost: Some(Cost::held(self.price)),
            clip: None,
            keyframe: None,
        }
    }
}

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

/// What became of the wish to queue.
#[derive(Debug, Clone, PartialEq)]
pub enum Queueing {
    Queued,
    /// A request of this name was carried out before; nothing was written.
    Known(Known),
    /// A request of this name is at work at this moment.
    InProgress,
    /// The price is more than what the user has.
    TooFewCredits {
        needed: Millicredits,
        available: Millicredits,
    },
    /// As many of the user's jobs wait as may in its tier.
    TooMany {
        tier: Tier,
    },
    /// The picture was removed a moment ago.
    NoImage,
    /// One of the adapters was removed a moment ago.
    NoAdapter,
    /// The video that it is a remix of was purged a moment ago.
    NoParent,
    /// The job to start after is not one of the owner's.
    NoAfter,
}

/// What became of the wish to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelling {
    /// It waited, and is cancelled.
    Cancelled,
    /// It runs, and its node will stop at the next step boundary.
    Requested,
    /// It runs, and somebody asked before.
    AlreadyAsked,
    /// It had ended before, perhaps by an earlier cancel.
    AlreadyEnded(JobState),
    NotFound,
}

/// What became of the wish to purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purge {
    /// The rows are gone; every file of the job's attempts may go but a delivered keyframe, which is a picture by itself.
    Purged {
        /// Of the picture that the job was made from, where no other job names it: it may go.
        picture_key: Option<String>,
        /// Of keyframes that attempts left and that were never delivered: they may go.
        keyframe_keys: Vec<String>,
    },
    /// It has not ended yet.
    Unfinished,
    NotFound,
}

/// The rows that [`Row`] reads, up to their condition.
macro_rules! video_rows {
    () => {
        "select j.id, j.spec, j.final_spec, j.image_id, j.prompt, j.parent_id, j.class, j.after_id, j.created_at,
                s.state, s.attempt, s.cancel_requested_at is not null as is_cancelling, s.seq, s.error,
                s.started_at, s.finished_at, a.clip_sha256, a.clip_bytes, a.keyframe_id,
                h.amount_mc, h.price_book, h.captured_mc, h.ended_at is not null as is_hold_over
           from job j join job_state s on s.job_id = j.id left join artefact a on a.job_id = j.id
                left join credit_holds h on h.job_id = j.id
          where "
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

/// Writes a job, its state, its first event, the hold of its price and the answer that a request of this name gets again, in a transaction of its own,
/// on its owner's behalf: what is `Queued` is durable.
pub async fn queue(
    database: &Database,
    video: &NewVideo<'_>,
    named: Option<&NamedRequest<'_>>,
    answer: (u16, &serde_json::Value),
) -> Result<Queueing, DatabaseError> {
    let adapters: Vec<uuid::Uuid> = video.adapters.iter().map(|id| id.as_uuid()).collect();
    let verdict: Result<Verdict, sqlx::Error> = sqlx::query_as(
        "select verdict, known_status, known_answer
           from submit_video($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
                             $17, $18, $19, $20)",
    )
    .bind(video.owner.as_uuid())
    .bind(video.id.as_uuid())
    .bind(video.created_at)
    .bind(Json(video.spec))
    .bind(video.final_spec.map(Json))
    .bind(video.spec.model.as_str())
    .bind(video.image.map(UploadId::as_uuid))
    .bind(
        video
            .spec
            .keyframe()
            .map(|keyframe| keyframe.model.as_str()),
    )
    .bind(adapters)
    .bind(video.prompt)
    .bind(video.parent.map(JobId::as_uuid))
    .bind(video.class.as_str())
    .bind(video.after.map(JobId::as_uuid))
    .bind(queued_caps(video.queued_scale))
    .bind(bigint(video.price.amount.get()))
    .bind(int(video.price.book))
    .bind(named.map(|request| request.key))
    .bind(named.map(|request| request.hash.as_slice()))
    .bind(i32::from(answer.0))
    .bind(answer.1)
    .fetch_one(database.pool())
    .await;
    queueing(verdict, video.price.amount)
}

type Verdict = (String, Option<i32>, Option<serde_json::Value>);

/// What `submit_video` and `submit_videos` say.
fn queueing(
    verdict: Result<Verdict, sqlx::Error>,
    needed: Millicredits,
) -> Result<Queueing, DatabaseError> {
    let (verdict, status, body) = match verdict {
        Ok(verdict) => verdict,
        Err(error) if violates(&error, "job_too_many_queued") => {
            let tier = detail_of(&error);
            let tier = Tier::from_name(&tier).ok_or_else(|| not_of("account.tier", &tier))?;
            return Ok(Queueing::TooMany { tier });
        }
        Err(error) if violates(&error, "credits_insufficient") => {
            let available = ledger::available_in(&error)?;
            return Ok(Queueing::TooFewCredits { needed, available });
        }
        Err(error) if violates(&error, "job_image_not_found") => return Ok(Queueing::NoImage),
        Err(error) if violates(&error, "job_adapter_not_found") => return Ok(Queueing::NoAdapter),
        Err(error) if violates(&error, "job_parent_not_found") => return Ok(Queueing::NoParent),
        Err(error) if violates(&error, "job_after_not_found") => return Ok(Queueing::NoAfter),
        Err(error) => return Err(error.into()),
    };
    match (verdict.as_str(), status, body) {
        ("queued", ..) => Ok(Queueing::Queued),
        ("in_progress", ..) => Ok(Queueing::InProgress),
        ("reused", ..) => Ok(Queueing::Known(Known::Reused)),
        ("replayed", Some(status), Some(body)) => {
            Ok(Queueing::Known(Known::answered(status, body)))
        }
        (other, ..) => Err(not_of("submit_video.verdict", other)),
    }
}

/// By tier, as `submit_video` reads them.
fn queued_caps(scale: u32) -> serde_json::Value {
    let cap = |tier: Tier| -> (String, serde_json::Value) {
        let most = tier.queued_max().saturating_mul(scale);
        (tier.as_str().to_owned(), most.into())
    };
    serde_json::Value::Object(Tier::ALL.map(cap).into_iter().collect())
}

/// Whether so many jobs of all users are unfinished. Reads as many index entries: for once in some seconds.
pub async fn farm_queue_reaches(database: &Database, jobs: u32) -> Result<bool, DatabaseError> {
    let reaches = sqlx::query_scalar("select farm_queue_reaches($1)")
        .bind(i64::from(jobs))
        .fetch_one(database.pool())
        .await?;
    Ok(reaches)
}

/// [`queue`] for many jobs of one owner: all of them or none, with one answer for all. Their events have the order of `videos`,
/// and the first one's time and price list count for all.
pub async fn queue_all(
    database: &Database,
    videos: &[NewVideo<'_>],
    named: Option<&NamedRequest<'_>>,
    answer: (u16, &serde_json::Value),
) -> Result<Queueing, DatabaseError> {
    let Some(first) = videos.first() else {
        return Ok(Queueing::Queued);
    };
    let uses: Vec<(JobId, AdapterId)> = videos
        .iter()
        .flat_map(|video| video.adapters.iter().map(|adapter| (video.id, *adapter)))
        .collect();
    let keyframes: Vec<Option<&str>> = videos
        .iter()
        .map(|video| Some(video.spec.keyframe()?.model.as_str()))
        .collect();
    let verdict: Result<Verdict, sqlx::Error> = sqlx::query_as(
        "select verdict, known_status, known_answer
           from submit_videos($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
                              $17, $18, $19, $20, $21)",
    )
    .bind(first.owner.as_uuid())
    .bind(each(videos, |video| video.id.as_uuid()))
    .bind(first.created_at)
    .bind(each(videos, |video| Json(video.spec)))
    .bind(each(videos, |video| video.final_spec.map(Json)))
    .bind(each(videos, |video| video.spec.model.as_str()))
    .bind(each(videos, |video| video.image.map(UploadId::as_uuid)))
    .bind(keyframes)
    .bind(each(&uses, |(video, _)| video.as_uuid()))
    .bind(each(&uses, |(_, adapter)| adapter.as_uuid()))
    .bind(each(videos, |video| video.prompt))
    .bind(each(videos, |video| video.parent.map(JobId::as_uuid)))
    .bind(each(videos, |video| video.class.as_str()))
    .bind(each(videos, |video| video.after.map(JobId::as_uuid)))
    .bind(queued_caps(first.queued_scale))
    .bind(each(videos, |video| bigint(video.price.amount.get())))
    .bind(int(first.price.book))
    .bind(named.map(|request| request.key))
    .bind(named.map(|request| request.hash.as_slice()))
    .bind(i32::from(answer.0))
    .bind(answer.1)
    .fetch_one(database.pool())
    .await;
    let needed = videos.iter().map(|video| video.price.amount.get()).sum();
    queueing(verdict, Millicredits::new(needed))
}

/// A column of a batch.
fn each<'a, T, C>(rows: &'a [T], column: impl Fn(&'a T) -> C) -> Vec<C> {
    rows.iter().map(column).collect()
}

/// One of the caller's own jobs.
pub async fn find(
    connection: &mut PgConnection,
    id: JobId,
) -> Result<Option<Video>, DatabaseError> {
    let row: Option<Row> = sqlx::query_as(concat!(
        video_rows!(),
        "j.id = $1 and j.owner_id = (select app_user())"
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
pub async fn list(
    connection: &mut PgConnection,
    listing: &Listing,
) -> Result<Vec<Video>, DatabaseError> {
    let newest_first = concat!(
        video_rows!(),
        "j.owner_id = (select app_user())
            and ($1::text is null or s.state = $1) and ($2::text is null or j.model_id = $2)
            and ($3::uuid is null or j.id < $3)
          order by j.id desc limit $4"
    );
    let oldest_first = concat!(
        video_rows!(),
        "j.owner_id = (select app_user())
            and ($1::text is null or s.state = $1) and ($2::text is null or j.model_id = $2)
            and ($3::uuid is null or j.id > $3)
          order by j.id limit $4"
    );
    let statement = if listing.is_oldest_first {
        oldest_first
    } else {
        newest_first
    };
    let rows: Vec<Row> = sqlx::query_as(statement)
        .bind(listing.state.map(JobState::as_str))
        .bind(listing.model.as_ref().map(ModelId::as_str))
        .bind(listing.after.map(JobId::as_uuid))
        .bind(listing.limit)
        .fetch_all(connection)
        .await?;
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

/// Cancels a job that waits, which then costs nothing, or asks for the end of one that runs. One that has ended is left alone (its clip stays).
pub async fn cancel(
    connection: &mut PgConnection,
    owner: UserId,
    id: JobId,
) -> Result<Cancelling, DatabaseError> {
    // The job's row before the user's counter and the balance after it, as the leader locks them.
    let unfinished: Option<(String, bool)> = sqlx::query_as(
        "select state, cancel_requested_at is not null from job_state
          where job_id = $1 and owner_id = (select app_user()) and finished_at is null for update",
    )
    .bind(id.as_uuid())
    .fetch_optional(&mut *connection)
    .await?;
    let Some((state, is_cancelling)) = unfinished else {
        return how_it_ended(connection, id).await;
    };
    let (statement, kind, cancelling) = match state_of(&state)? {
        JobState::Queued => (
            "update job_state set state = 'cancelled', finished_at = now(), cancel_requested_at = now(), seq = seq + 1
              where job_id = $1 and state = 'queued' returning seq",
            EventKind::Cancelled,
            Cancelling::Cancelled,
        ),
        JobState::Running if is_cancelling => return Ok(Cancelling::AlreadyAsked),
        JobState::Running => (
            "update job_state set cancel_requested_at = now(), seq = seq + 1
              where job_id = $1 and state = 'running' returning seq",
            EventKind::Cancelling,
            Cancelling::Requested,
        ),
        ended @ (JobState::Done
        | JobState::Failed
        | JobState::Cancelled
        | JobState::Quarantined) => return Ok(Cancelling::AlreadyEnded(ended)),
    };
    let seq: i64 = sqlx::query_scalar(statement)
        .bind(id.as_uuid())
        .fetch_one(&mut *connection)
        .await?;
    let user_seq = next_user_seq(&mut *connection, owner).await?;
    sqlx::query(
        "insert into job_event (owner_id, user_seq, job_id, seq, kind) values ($1, $2, $3, $4, $5)",
    )
    .bind(owner.as_uuid())
    .bind(user_seq)
    .bind(id.as_uuid())
    .bind(seq)
    .bind(kind.as_str())
    .execute(&mut *connection)
    .await?;
    if cancelling == Cancelling::Cancelled {
        ledger::end_own_hold(connection, id).await?;
    }
    Ok(cancelling)
}

async fn how_it_ended(
    connection: &mut PgConnection,
    id: JobId,
) -> Result<Cancelling, DatabaseError> {
    let state: Option<String> = sqlx::query_scalar(
        "select state from job_state where job_id = $1 and owner_id = (select app_user())",
    )
    .bind(id.as_uuid())
    .fetch_optional(connection)
    .await?;
    Ok(match state {
        None => Cancelling::NotFound,
        Some(state) => Cancelling::AlreadyEnded(state_of(&state)?),
    })
}

/// Removes an ended job with its events and its clip, and its picture when nothing else names it. A keyframe that was
/// delivered stays, as one of the owner's pictures.
pub async fn purge(connection: &mut PgConnection, id: JobId) -> Result<Purge, DatabaseError> {
    #[derive(sqlx::FromRow)]
    struct Row {
        is_finished: bool,
        image_id: Option<uuid::Uuid>,
        is_from_words: bool,
        attempts: i32,
        delivered: Option<i32>,
    }
    let known: Option<Row> = sqlx::query_as(
        "select s.finished_at is not null as is_finished, j.image_id, j.keyframe_model_id is not null as is_from_words,
                s.attempt as attempts, a.attempt as delivered
           from job j join job_state s on s.job_id = j.id left join artefact a on a.job_id = j.id
          where j.id = $1 and j.owner_id = (select app_user())",
    )
    .bind(id.as_uuid())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = known else {
        return Ok(Purge::NotFound);
    };
    if !row.is_finished {
        return Ok(Purge::Unfinished);
    }
    sqlx::query("delete from job where id = $1 and owner_id = (select app_user())")
        .bind(id.as_uuid())
        .execute(&mut *connection)
        .await?;
    let picture_key = match row.image_id {
        Some(image) => remove_picture(connection, UploadId::from_uuid(image)).await?,
        None => None,
    };
    let attempts = (1..=row.attempts).filter(|_| row.is_from_words);
    let undelivered = attempts.filter(|attempt| row.delivered != Some(*attempt));
    Ok(Purge::Purged {
        picture_key,
        keyframe_keys: undelivered
            .map(|attempt| artefact_key(id, attempt_from(attempt), ArtefactFile::Keyframe))
            .collect(),
    })
}

/// The key of the picture's object when it was removed. Another job may name it, also one that is being submitted: then it
/// stays.
async fn remove_picture(
    connection: &mut PgConnection,
    image: UploadId,
) -> Result<Option<String>, DatabaseError> {
    let mut savepoint = connection.begin().await?;
    match uploads::remove(&mut savepoint, image).await? {
        Removal::Removed { object_key } => {
            savepoint.commit().await?;
            Ok(Some(object_key))
        }
        Removal::InUse | Removal::NotFound => {
            savepoint.rollback().await?;
            Ok(None)
        }
    }
}
