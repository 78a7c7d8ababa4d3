//! How jobs are queued: one, or all of a batch, each with its first event, the hold of its price and the answer that is given again.

use chrono::{DateTime, SubsecRound as _, Utc};
use flowai_actors::credits::{Millicredits, Price, Rendering};
use flowai_actors::ids::{AdapterId, JobId, UploadId, UserId};
use flowai_actors::spec::RenderSpec;
use flowai_actors::state::{Class, JobState, Tier};
use sqlx::types::Json;

use super::{Cost, Video};
use crate::database::{Database, DatabaseError, detail_of, not_of, violates};
use crate::idempotency::{Known, NamedRequest};
use crate::ledger;
use crate::number::{bigint, int};

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
