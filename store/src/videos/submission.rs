//! What is asked to be queued, and what may become of it.

use chrono::{DateTime, SubsecRound as _, Utc};
use flowai_actors::credits::{Millicredits, Price, Rendering};
use flowai_actors::ids::{AdapterId, JobId, UploadId, UserId};
use flowai_actors::spec::RenderSpec;
use flowai_actors::state::{Class, JobState, Tier};

use super::{Cost, Video};
use crate::database::{Database, DatabaseError};
use crate::idempotency::Known;

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

/// Whether so many jobs of all users are unfinished. Reads as many index entries: for once in some seconds.
pub async fn farm_queue_reaches(database: &Database, jobs: u32) -> Result<bool, DatabaseError> {
    let reaches = sqlx::query_scalar("select farm_queue_reaches($1)")
        .bind(i64::from(jobs))
        .fetch_one(database.pool())
        .await?;
    Ok(reaches)
}
