//! A video as it is shown.

use chrono::{DateTime, Duration, Utc};
use flowai_actors::ids::UserId;
use flowai_actors::messages::{LiveState, Phase};
use flowai_actors::spec::{AdapterUse, FirstFrame, KeyframeSpec, RenderSpec};
use flowai_actors::state::JobState;
use flowai_actors::waiting::{StartsIn, Waits};
use flowai_store::videos::{Cost, Video};
use serde::{Serialize, Serializer};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::wish::{ClassName, SamplerName};
use crate::app::App;
use crate::media::{self, MediaFile, TICKET_TTL_S};

/// A render, from the wish to the clip.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VideoResource {
    pub id: Uuid,
    /// `queued`, `running`, `done`, `failed`, `cancelled` or `quarantined`.
    #[schema(example = "running")]
    pub status: &'static str,
    /// Whether its end was asked for while it ran.
    pub cancelling: bool,
    pub spec: SpecResource,
    /// Whether it is a draft, which `POST /v1/videos/{id}/final` continues.
    pub draft: bool,
    /// Of a draft: what the full video will be.
    pub final_spec: Option<SpecResource>,
    /// The upload it is made from; none where its first frame is made from the prompt.
    pub image: Option<Uuid>,
    /// The upload that the first frame became that was made from the prompt. It is there with the clip, and may be animated
    /// again as an `image`.
    pub keyframe: Option<Uuid>,
    pub prompt: String,
    /// What it is a remix of, or the draft that it continues.
    pub parent: Option<Uuid>,
    pub class: ClassName,
    /// The video that this one starts after.
    pub after: Option<Uuid>,
    /// While it waits, and the farm has said so lately.
    pub queue: Option<QueuePlace>,
    /// While it runs, and its node has said so lately.
    pub progress: Option<ProgressResource>,
    /// In milli-credits: a credit is 1,000 of them. Null for one that was accepted before there were credits.
    pub cost: Option<CostResource>,
    pub error: Option<VideoError>,
    pub urls: Option<VideoUrls>,
    pub clip: Option<ClipResource>,
    /// Tries so far.
    pub attempt: u32,
    /// Of its newest durable event: an answer with a smaller one is older.
    pub seq: i64,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
}

/// What is rendered: with the model and the device class it determines the clip.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SpecResource {
    #[schema(example = "svd-xt")]
    pub model: String,
    /// How the first frame is made from the prompt, if it is.
    pub keyframe: Option<KeyframeSpecResource>,
    pub adapters: Vec<AdapterUseResource>,
    pub frames: u32,
    pub fps: u32,
    pub width: u32,
    pub height: u32,
    pub steps: u32,
    pub motion_bucket_id: u32,
    #[serde(serialize_with = "as_asked_for")]
    pub noise_aug_strength: f32,
    #[serde(serialize_with = "as_asked_for")]
    pub min_guidance_scale: f32,
    #[serde(serialize_with = "as_asked_for")]
    pub max_guidance_scale: f32,
    pub decode_chunk_size: u32,
    pub seed: u64,
}

/// How a first frame is made from the prompt.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyframeSpecResource {
    #[schema(example = "sd-1.5")]
    pub model: String,
    pub negative_prompt: String,
    pub adapters: Vec<AdapterUseResource>,
    pub width: u32,
    pub height: u32,
    pub steps: u32,
    pub sampler: SamplerName,
    #[serde(serialize_with = "as_asked_for")]
    pub guidance_scale: f32,
    pub seed: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdapterUseResource {
    pub sha256: String,
    #[serde(serialize_with = "as_asked_for")]
    pub weight: f32,
}

impl From<&AdapterUse> for AdapterUseResource {
    fn from(adapter: &AdapterUse) -> Self {
        Self {
            sha256: adapter.sha256.to_string(),
            weight: adapter.weight,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QueuePlace {
    /// 1 is next. None far back in the queue, and for a moment after it came.
    pub position: Option<u32>,
    /// `capacity`: a node has to become free. `loading`: one that has the model loaded has to, which is sooner than to load it.
    /// `share`: other jobs are ahead. `your_cap`: you run as many as your plan allows.
    /// `no_node`, `no_memory`: no node that is up offers the model, or has the memory. `retrying`: a pause after a failure, or
    /// after its files could not be read. `dependency`: it starts after another video.
    #[schema(example = "share")]
    pub code: String,
    /// The same in words.
    pub reason: String,
    /// None when no node can run it now.
    pub starts_in: Option<StartsInResource>,
}

/// A forecast, learned from the starts before.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StartsInResource {
    /// Seconds; as likely sooner as later.
    pub p50_s: f64,
    /// Seconds; nine of ten start before.
    pub p90_s: f64,
}

impl QueuePlace {
    pub(crate) fn new(position: Option<u32>, waits: Waits) -> Self {
        Self {
            position,
            code: waits.code,
            reason: waits.reason,
            starts_in: waits
                .starts_in
                .map(|StartsIn { p50_s, p90_s }| StartsInResource { p50_s, p90_s }),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProgressResource {
    /// `fetching`, `preparing`, `keyframe`, `denoising`, `decoding` or `uploading`.
    #[schema(example = "denoising")]
    pub phase: &'static str,
    /// Of the clip; while the phase is `keyframe`, of the picture that is made from the prompt.
    pub step: u32,
    pub steps: u32,
    /// Seconds, by the node's own estimate.
    pub left_s: Option<f64>,
}

/// What it costs: the price is held until it ends, then captured if it is delivered and released if it is not. One that is
/// cancelled while it runs costs the share of the steps that were done.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CostResource {
    #[schema(example = 10_004)]
    pub price_mc: u64,
    /// The version of the prices that it was reckoned by.
    pub price_version: u32,
    #[schema(example = 10_004)]
    pub held_mc: u64,
    pub captured_mc: u64,
    pub released_mc: u64,
}

impl From<Cost> for CostResource {
    fn from(cost: Cost) -> Self {
        Self {
            price_mc: cost.price.amount.get(),
            price_version: cost.price.book,
            held_mc: cost.held.get(),
            captured_mc: cost.captured.get(),
            released_mc: cost.released.get(),
        }
    }
}

/// Why there is no clip.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VideoError {
    pub code: String,
    pub detail: String,
}

/// Paths on this origin that need no token, for five minutes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VideoUrls {
    pub content: String,
    pub poster: String,
    pub preview: String,
    pub spritesheet: String,
    /// The picture that was made from the prompt.
    pub keyframe: Option<String>,
    pub manifest: String,
    /// Of all but the manifest, which needs the token.
    pub expires_at: DateTime<Utc>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ClipResource {
    pub sha256: String,
    pub bytes: u64,
}

/// A job of `user` as it is shown now.
pub(crate) fn present(app: &App, user: UserId, video: &Video) -> VideoResource {
    let known = app.live.of(user, video.id);
    let queue = match (video.state, known.position) {
        (JobState::Queued, Some(LiveState::Position { position, waits })) => {
            Some(QueuePlace::new(Some(position), waits))
        }
        _ => None,
    };
    let progress = match (video.state, known.progress) {
        (
            JobState::Running,
            Some(LiveState::Progress {
                attempt,
                phase,
                step,
                steps,
                left_s,
            }),
        ) if attempt.get() == video.attempt => Some(ProgressResource {
            phase: phase_name(phase),
            step,
            steps,
            left_s,
        }),
        _ => None,
    };
    VideoResource {
        id: video.id.as_uuid(),
        status: video.state.as_str(),
        cancelling: video.state == JobState::Running && video.is_cancelling,
        spec: SpecResource::from(&video.spec),
        draft: video.final_spec.is_some(),
        final_spec: video.final_spec.as_ref().map(SpecResource::from),
        image: video.image.map(|image| image.as_uuid()),
        keyframe: video.keyframe.map(|keyframe| keyframe.as_uuid()),
        prompt: video.prompt.clone(),
        parent: video.parent.map(|parent| parent.as_uuid()),
        class: video.class.into(),
        after: video.after.map(|after| after.as_uuid()),
        queue,
        progress,
        cost: video.cost.map(Into::into),
        error: video.error.as_ref().map(error),
        urls: video.clip.is_some().then(|| urls(app, user, video)),
        clip: video.clip.as_ref().map(|clip| ClipResource {
            sha256: clip.sha256.to_string(),
            bytes: clip.bytes,
        }),
        attempt: video.attempt,
        seq: video.seq,
        created_at: video.created_at,
        started_at: video.started_at,
        finished_at: video.finished_at,
    }
}

/// The shortest decimal that reads as this number, also where it passes a value of 64 bits: nobody asked for
/// 0.019999999552965164.
fn as_asked_for<S: Serializer>(number: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    let decimal = number.to_string().parse().unwrap_or(f64::from(*number));
    serializer.serialize_f64(decimal)
}

fn urls(app: &App, user: UserId, video: &Video) -> VideoUrls {
    let expires_at = Utc::now() + Duration::seconds(TICKET_TTL_S);
    let link = |file| media::link(&app.keys, user, video.id, file, expires_at);
    VideoUrls {
        content: link(MediaFile::Content),
        poster: link(MediaFile::Poster),
        preview: link(MediaFile::Preview),
        spritesheet: link(MediaFile::Spritesheet),
        keyframe: video.keyframe.map(|_| link(MediaFile::Keyframe)),
        manifest: format!("/v1/videos/{}/manifest", video.id),
        expires_at,
    }
}

fn error(stored: &Value) -> VideoError {
    let text = |name: &str| stored.get(name).and_then(Value::as_str).map(str::to_owned);
    VideoError {
        code: text("code").unwrap_or_else(|| "failed".to_owned()),
        detail: text("detail").unwrap_or_default(),
    }
}

pub(crate) const fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Fetching => "fetching",
        Phase::Preparing => "preparing",
        Phase::Keyframe => "keyframe",
        Phase::Denoising => "denoising",
        Phase::Decoding => "decoding",
        Phase::Uploading => "uploading",
    }
}

impl From<&RenderSpec> for SpecResource {
    fn from(spec: &RenderSpec) -> Self {
        let RenderSpec {
            model,
            first_frame,
            adapters,
            frames,
            fps,
            width,
            height,
            steps,
            motion_bucket_id,
            noise_aug_strength,
            min_guidance_scale,
            max_guidance_scale,
            decode_chunk_size,
            seed,
        } = spec;
        Self {
            model: model.to_string(),
            keyframe: match first_frame {
                FirstFrame::Image(_) => None,
                FirstFrame::Keyframe(keyframe) => Some(KeyframeSpecResource::from(&**keyframe)),
            },
            adapters: adapters.iter().map(Into::into).collect(),
            frames: *frames,
            fps: *fps,
            width: *width,
            height: *height,
            steps: *steps,
            motion_bucket_id: *motion_bucket_id,
            noise_aug_strength: *noise_aug_strength,
            min_guidance_scale: *min_guidance_scale,
            max_guidance_scale: *max_guidance_scale,
            decode_chunk_size: *decode_chunk_size,
            seed: *seed,
        }
    }
}

impl From<&KeyframeSpec> for KeyframeSpecResource {
    fn from(spec: &KeyframeSpec) -> Self {
        let KeyframeSpec {
            model,
            // Shown as the video's.
            prompt: _,
            negative_prompt,
            adapters,
            width,
            height,
            steps,
            sampler,
            guidance_scale,
            seed,
        } = spec;
        Self {
            model: model.to_string(),
            negative_prompt: negative_prompt.as_str().to_owned(),
            adapters: adapters.iter().map(Into::into).collect(),
            width: *width,
            height: *height,
            steps: *steps,
            sampler: (*sampler).into(),
            guidance_scale: *guidance_scale,
            seed: *seed,
        }
    }
}
