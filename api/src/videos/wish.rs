//! What somebody wants, as `POST /v1/videos` is told it and as other routes put it together.

use flowai_actors::ids::{JobId, UploadId};
use flowai_actors::spec::{AdapterUse, FirstFrame, KeyframeSampler};
use flowai_actors::state::Class;
use flowai_store::adapters::Adapter;
use flowai_store::videos::Video;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::error::ApiError;

/// A render: of a picture, or of a prompt from which its first frame is made. What is left out is the model's default, and the
/// seed is drawn.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct VideoRequest {
    /// An upload with the purpose `image`. Without one, the first frame is made from the prompt.
    image: Option<Uuid>,
    /// What the first frame shall show. Beside an `image` it is kept with the video: Stable Video Diffusion reads no text.
    #[serde(default)]
    #[schema(max_length = 2000)]
    prompt: String,
    /// What the first frame shall not show. Not beside an `image`.
    #[schema(max_length = 2000)]
    negative_prompt: Option<String>,
    /// What makes the first frame from the prompt; may be left out when the farm offers one. Not beside an `image`.
    keyframe_model: Option<String>,
    /// How the first frame is made from the prompt. Not beside an `image`.
    keyframe: Option<KeyframeSettings>,
    /// Renders few steps, frames and pixels, to see whether the full video is worth it; `POST /v1/videos/{id}/final` makes that
    /// one. A first frame from a prompt is made in full.
    #[serde(default)]
    draft: bool,
    /// May be left out when the farm offers one that makes clips.
    model: Option<String>,
    /// For the model that makes the clip.
    #[serde(default)]
    #[schema(max_items = 8)]
    adapters: Vec<AdapterWish>,
    frames: Option<u32>,
    fps: Option<u32>,
    /// Without a size the video has its picture's shape.
    width: Option<u32>,
    height: Option<u32>,
    steps: Option<u32>,
    /// 0..=255: how much the picture moves.
    motion_bucket_id: Option<u32>,
    /// 0..=1.
    noise_aug_strength: Option<f32>,
    min_guidance_scale: Option<f32>,
    max_guidance_scale: Option<f32>,
    /// Frames decoded at a time. It changes the picture a little.
    decode_chunk_size: Option<u32>,
    seed: Option<u64>,
    /// `batch` for one of many that nobody sits and waits for: it has a longer start bound, or none, and may make room for others
    /// and go on later. Left out: `interactive`, and `batch` in a batch.
    class: Option<ClassName>,
    /// Another of the caller's videos: this one starts when that is done, and fails when that does.
    after: Option<Uuid>,
}

/// Whether somebody sits and waits for a video.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClassName {
    #[default]
    Interactive,
    Batch,
}

impl From<Class> for ClassName {
    fn from(class: Class) -> Self {
        match class {
            Class::Interactive => Self::Interactive,
            Class::Batch => Self::Batch,
        }
    }
}

impl From<ClassName> for Class {
    fn from(name: ClassName) -> Self {
        match name {
            ClassName::Interactive => Self::Interactive,
            ClassName::Batch => Self::Batch,
        }
    }
}

/// How a first frame is made from a prompt.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyframeSettings {
    pub steps: Option<u32>,
    /// 0..=20: how closely it keeps to the prompt; at 1 or less the negative prompt counts for nothing.
    pub guidance_scale: Option<f32>,
    pub sampler: Option<SamplerName>,
    /// Left out: the video's.
    pub seed: Option<u64>,
    /// Left out: the video's size, rounded to a multiple of 8, with at most 1048576 pixels.
    pub width: Option<u32>,
    pub height: Option<u32>,
    /// For the keyframe model.
    #[serde(default)]
    #[schema(max_items = 8)]
    pub adapters: Vec<AdapterWish>,
}

/// How a keyframe model goes from noise to a picture.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SamplerName {
    Ddim,
    Euler,
}

impl From<SamplerName> for KeyframeSampler {
    fn from(name: SamplerName) -> Self {
        match name {
            SamplerName::Ddim => Self::Ddim,
            SamplerName::Euler => Self::Euler,
        }
    }
}

impl From<KeyframeSampler> for SamplerName {
    fn from(sampler: KeyframeSampler) -> Self {
        match sampler {
            KeyframeSampler::Ddim => Self::Ddim,
            KeyframeSampler::Euler => Self::Euler,
        }
    }
}

/// One of the caller's adapters, and how strong.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AdapterWish {
    pub id: Uuid,
    /// -4..=4; 1 is as trained.
    #[serde(default = "as_trained")]
    pub weight: f32,
}

fn as_trained() -> f32 {
    1.0
}

/// What somebody wants, by whatever route it came.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    /// Without one, the first frame is made from the prompt.
    pub image: Option<UploadId>,
    pub prompt: String,
    pub negative_prompt: Option<String>,
    pub keyframe_model: Option<String>,
    pub keyframe: Option<KeyframeSettings>,
    pub draft: bool,
    pub model: Option<String>,
    pub adapters: Vec<AdapterWish>,
    pub frames: Option<u32>,
    pub fps: Option<u32>,
    /// Wanted instead of a number of frames.
    pub seconds: Option<f64>,
    pub width: Option<u32>,
    pub height: Option<u32>,
    pub steps: Option<u32>,
    pub motion_bucket_id: Option<u32>,
    pub noise_aug_strength: Option<f32>,
    pub min_guidance_scale: Option<f32>,
    pub max_guidance_scale: Option<f32>,
    pub decode_chunk_size: Option<u32>,
    pub seed: Option<u64>,
    pub parent: Option<JobId>,
    pub class: ClassName,
    /// It starts when that one is done.
    pub after: Option<JobId>,
}

impl VideoRequest {
    /// `class`: where the request says nothing.
    pub(super) fn into_wish(self, class: ClassName) -> Wish {
        let request = self;
        Wish {
            image: request.image.map(UploadId::from_uuid),
            prompt: request.prompt,
            negative_prompt: request.negative_prompt,
            keyframe_model: request.keyframe_model,
            keyframe: request.keyframe,
            draft: request.draft,
            model: request.model,
            adapters: request.adapters,
            frames: request.frames,
            fps: request.fps,
            seconds: None,
            width: request.width,
            height: request.height,
            steps: request.steps,
            motion_bucket_id: request.motion_bucket_id,
            noise_aug_strength: request.noise_aug_strength,
            min_guidance_scale: request.min_guidance_scale,
            max_guidance_scale: request.max_guidance_scale,
            decode_chunk_size: request.decode_chunk_size,
            seed: request.seed,
            parent: None,
            class: request.class.unwrap_or(class),
            after: request.after.map(JobId::from_uuid),
        }
    }
}

/// The wish that a video was made from, its seeds and prompt included. `adapters`: all that it names.
///
/// # Errors
/// `NamedNotFound` for an adapter of its spec that is not among them.
pub(crate) fn again(video: &Video, adapters: &[Adapter]) -> Result<Wish, ApiError> {
    let spec = video.final_spec.as_ref().unwrap_or(&video.spec);
    let mut wish = Wish {
        image: video.image,
        prompt: video.prompt.clone(),
        negative_prompt: None,
        keyframe_model: None,
        keyframe: None,
        draft: video.final_spec.is_some(),
        model: Some(spec.model.to_string()),
        adapters: wishes_of(&spec.adapters, adapters)?,
        frames: Some(spec.frames),
        fps: Some(spec.fps),
        seconds: None,
        width: Some(spec.width),
        height: Some(spec.height),
        steps: Some(spec.steps),
        motion_bucket_id: Some(spec.motion_bucket_id),
        noise_aug_strength: Some(spec.noise_aug_strength),
        min_guidance_scale: Some(spec.min_guidance_scale),
        max_guidance_scale: Some(spec.max_guidance_scale),
        decode_chunk_size: Some(spec.decode_chunk_size),
        seed: Some(spec.seed),
        parent: video.parent,
        class: ClassName::default(),
        after: None,
    };
    if let FirstFrame::Keyframe(keyframe) = &spec.first_frame {
        wish.negative_prompt = Some(keyframe.negative_prompt.as_str().to_owned());
        wish.keyframe_model = Some(keyframe.model.to_string());
        wish.keyframe = Some(KeyframeSettings {
            steps: Some(keyframe.steps),
            guidance_scale: Some(keyframe.guidance_scale),
            sampler: Some(keyframe.sampler.into()),
            seed: Some(keyframe.seed),
            width: Some(keyframe.width),
            height: Some(keyframe.height),
            adapters: wishes_of(&keyframe.adapters, adapters)?,
        });
    }
    Ok(wish)
}

/// The adapters that a stage of a spec names by their files.
pub(super) fn wishes_of(
    uses: &[AdapterUse],
    adapters: &[Adapter],
) -> Result<Vec<AdapterWish>, ApiError> {
    let wishes = uses.iter().map(|used| {
        let adapter = adapters.iter().find(|known| known.sha256 == used.sha256);
        let missing =
            || ApiError::NamedNotFound(format!("the adapter with sha256 {}", used.sha256));
        Ok(AdapterWish {
            id: adapter.ok_or_else(missing)?.id.as_uuid(),
            weight: used.weight,
        })
    });
    wishes.collect()
}
