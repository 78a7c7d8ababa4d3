//! What the API says, as far as the commands read it. Fields that a newer server adds are passed over.

use chrono::{DateTime, Utc};
use flowai_actors::credits::Millicredits;
use flowai_actors::ids::Sha256;
use flowai_actors::messages::ModelFamily;
use serde::{Deserialize, Serialize};

use super::farm::AboutNode;

/// A list, or one page of it.
#[derive(Debug, Deserialize)]
pub(super) struct Page<T> {
    pub(super) data: Vec<T>,
    /// Where the next page begins; lists that are short come whole.
    #[serde(default)]
    pub(super) next_cursor: Option<String>,
}

/// The jobs of a batch.
#[derive(Debug, Deserialize)]
pub(super) struct Batch {
    pub(super) videos: Vec<Video>,
}

/// What a login gives.
#[derive(Deserialize)]
pub(super) struct Tokens {
    pub(super) access_token: String,
}

/// A new API key: the only time that it is shown.
#[derive(Deserialize)]
pub(super) struct NewApiKey {
    pub(super) id: String,
    pub(super) key: String,
}

/// The caller's account.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Me {
    pub id: String,
    pub email: String,
    pub tier: String,
    pub role: String,
    pub limits: MyLimits,
}

/// What an account may have at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MyLimits {
    /// Videos that wait.
    pub videos_queued_max: u32,
}

/// What the caller has, in milli-credits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Credits {
    pub available_mc: Millicredits,
    pub held_mc: Millicredits,
    /// The newest first.
    pub transactions: Vec<CreditTransaction>,
}

/// How credits moved.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreditTransaction {
    pub kind: String,
    pub available_change_mc: i64,
    pub held_change_mc: i64,
    /// Of a hold and its end.
    pub video: Option<String>,
    /// Of a grant.
    pub reason: Option<String>,
    pub at: DateTime<Utc>,
}

/// Credits that an administrator gave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreditGrant {
    pub email: String,
    pub amount_mc: Millicredits,
    pub reason: String,
}

/// A stored file, before anything was made of it.
#[derive(Debug, Clone, Deserialize)]
pub struct Upload {
    pub id: String,
    pub sha256: Sha256,
}

/// A stored adapter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Adapter {
    pub id: String,
    pub name: String,
    pub sha256: Sha256,
    pub bytes: u64,
}

/// An offered model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Model {
    pub id: String,
    pub sha256: Sha256,
    /// `svd` makes clips, `sd` makes first frames from prompts.
    pub family: String,
    pub limits: ModelLimits,
}

/// What a model is for, as [`Model::family`] names it.
pub const CLIP_MODELS: &str = ModelFamily::Svd.name();
pub const KEYFRAME_MODELS: &str = ModelFamily::Sd.name();

/// What a model narrows a render to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelLimits {
    pub frames_max: u32,
    /// Width and height must be multiples of it.
    pub side_multiple: u32,
}

/// What a render is asked to be. What is left out is the server's or the model's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct NewVideo {
    /// An upload's id. Without one the first frame is made from the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyframe_model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyframe: Option<NewKeyframe>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub draft: bool,
    /// `interactive` or `batch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The job that it starts after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<AdapterWeight>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frames: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fps: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub motion_bucket_id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_guidance_scale: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_guidance_scale: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decode_chunk_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// How a first frame is made from the prompt.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct NewKeyframe {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<AdapterWeight>,
}

/// An adapter of a render.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdapterWeight {
    pub id: String,
    pub weight: f32,
}

/// Where a job stands, as the server words it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Queued,
    Running,
    Done,
    Failed,
    Cancelled,
    Quarantined,
    /// Of a newer server.
    #[serde(other)]
    Unknown,
}

impl Status {
    pub const fn is_end(self) -> bool {
        match self {
            Self::Done | Self::Failed | Self::Cancelled | Self::Quarantined => true,
            Self::Queued | Self::Running | Self::Unknown => false,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Quarantined => "quarantined",
            Self::Unknown => "unknown",
        }
    }
}

/// A job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Video {
    pub id: String,
    pub status: Status,
    /// Its end was asked for while it runs.
    pub cancelling: bool,
    pub spec: VideoSpec,
    /// Few steps, frames and pixels: to be continued to a final.
    #[serde(default)]
    pub draft: bool,
    /// The upload it is made from.
    #[serde(default)]
    pub image: Option<String>,
    /// The upload that the first frame became that was made from the prompt.
    #[serde(default)]
    pub keyframe: Option<String>,
    pub error: Option<JobError>,
    /// While it waits: why.
    #[serde(default)]
    pub queue: Option<QueuePlace>,
    /// Tries so far.
    pub attempt: u32,
    /// Of its newest durable event.
    pub seq: u64,
    pub created_at: DateTime<Utc>,
}

/// Why a job waits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueuePlace {
    /// 1 is next; `None` far back, and for a moment after it came.
    pub position: Option<u32>,
    pub code: String,
    pub reason: String,
    /// `None` when no node can run it now.
    pub starts_in: Option<StartsIn>,
}

/// When a job will probably start, seconds from now.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StartsIn {
    /// As likely sooner as later.
    pub p50_s: f64,
    /// Nine of ten start before.
    pub p90_s: f64,
}

/// What of a render's spec a list shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VideoSpec {
    pub model: String,
    pub frames: u32,
    pub width: u32,
    pub height: u32,
    pub steps: u32,
    pub seed: u64,
}

/// Why a job failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobError {
    pub code: String,
    pub detail: String,
}

/// A render node as the leader sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Node {
    #[serde(flatten)]
    pub about: AboutNode,
    /// Grows with every start of the node.
    pub generation: u32,
    pub version: String,
    pub device: String,
    /// Equal classes give equal bits; the autoscaler's groups are made of them.
    pub device_class: String,
    /// Of the device.
    pub memory_bytes: u64,
    pub models: Vec<String>,
    pub refused_models: Vec<RefusedModel>,
    pub adapters: NodeAdapters,
    pub running: Option<Running>,
    /// Models of which it gets no job for now, after failures that may be its own.
    #[serde(default)]
    pub distrusted_models: Vec<String>,
    /// How many times as long as usual on its device class its steps take, while that is much more.
    #[serde(default)]
    pub slowness: Option<f64>,
    /// Since its last beat.
    pub silent_ms: u64,
}

/// Where a node has adapters.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeAdapters {
    /// `None` where the device's memory is the host's.
    pub device: Option<Tier>,
    pub host: Tier,
    pub disk: Tier,
}

/// How full a memory for adapters is, and how it was used since the node began.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Tier {
    pub bytes: u64,
    pub bytes_max: u64,
    pub hits: u64,
    pub misses: u64,
    pub evictions: u64,
}

/// A folder that a node does not offer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefusedModel {
    pub folder: String,
    pub reason: String,
}

/// What a node works on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Running {
    pub video: String,
    pub attempt: u32,
}
