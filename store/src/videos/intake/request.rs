//! One request to queue, as it waits for its statement.

use chrono::{DateTime, Utc};
use flowai_actors::ids::{AdapterId, JobId, UploadId};
use flowai_actors::spec::RenderSpec;
use uuid::Uuid;

use super::super::NewVideo;
use crate::idempotency::NamedRequest;
use crate::number::{bigint, int};

/// Videos of one owner, all of which are queued or none.
pub(super) struct Request {
    pub(super) owner: Uuid,
    pub(super) key: Option<String>,
    pub(super) hash: Option<[u8; 32]>,
    /// What a repeat under the key is told.
    pub(super) status: i32,
    pub(super) answer: serde_json::Value,
    /// The prices of all together, in milli-credits.
    pub(super) due_mc: i64,
    /// In the order of their events.
    pub(super) videos: Vec<Row>,
}

/// What is written of one video.
pub(super) struct Row {
    pub(super) id: Uuid,
    pub(super) created_at: DateTime<Utc>,
    pub(super) spec: RenderSpec,
    pub(super) final_spec: Option<RenderSpec>,
    pub(super) image: Option<Uuid>,
    pub(super) adapters: Vec<Uuid>,
    pub(super) prompt: String,
    pub(super) parent: Option<Uuid>,
    pub(super) class: &'static str,
    pub(super) after: Option<Uuid>,
    pub(super) price_mc: i64,
    /// By which book of prices.
    pub(super) price_book: i32,
}

impl Request {
    /// `None` without videos. The first one's owner counts for all.
    pub(super) fn new(
        videos: &[NewVideo<'_>],
        named: Option<&NamedRequest<'_>>,
        (status, answer): (u16, &serde_json::Value),
    ) -> Option<Self> {
        let first = videos.first()?;
        let rows: Vec<Row> = videos.iter().map(Row::new).collect();
        Some(Self {
            owner: first.owner.as_uuid(),
            key: named.map(|named| named.key.to_owned()),
            hash: named.map(|named| named.hash),
            status: i32::from(status),
            answer: answer.clone(),
            due_mc: rows.iter().map(|row| row.price_mc).sum(),
            videos: rows,
        })
    }
}

impl Row {
    fn new(video: &NewVideo<'_>) -> Self {
        Self {
            id: video.id.as_uuid(),
            created_at: video.created_at,
            spec: video.spec.clone(),
            final_spec: video.final_spec.cloned(),
            image: video.image.map(UploadId::as_uuid),
            adapters: video
                .adapters
                .iter()
                .copied()
                .map(AdapterId::as_uuid)
                .collect(),
            prompt: video.prompt.to_owned(),
            parent: video.parent.map(JobId::as_uuid),
            class: video.class.as_str(),
            after: video.after.map(JobId::as_uuid),
            price_mc: bigint(video.price.amount.get()),
            price_book: int(video.price.book),
        }
    }
}
