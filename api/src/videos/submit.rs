//! The wish: checked, written in one transaction with its name, and only then answered.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowai_actors::ids::{AdapterId, JobId, ModelId, UploadId, UserId};
use flowai_actors::limits::{
    ADAPTER_WEIGHT_ABS_MAX, ADAPTERS_MAX, PROMPT_CHARS_MAX, SEED_MAX, USER_QUEUED_MAX,
};
use flowai_actors::messages::ModelOffer;
use flowai_actors::spec::{AdapterUse, InvalidField, RenderSpec};
use flowai_store::adapters::{self, Adapter};
use flowai_store::videos::{self, NewVideo, Queueing, Video};
use rand::Rng;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::catalogue::Picture;
use super::resource::{VideoResource, present};
use crate::adapters::checked_against;
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::{ApiError, FieldError, Problem};
use crate::http::idempotency::{self, Named};
use crate::http::{JsonBytes, read_json};
use crate::models::{Defaults, decode_chunk_size};

/// A render. What is left out is the model's default, and the seed is drawn.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct VideoRequest {
    /// An upload with the purpose `image`.
    image: Uuid,
    /// Kept with the video; Stable Video Diffusion reads no text.
    #[serde(default)]
    #[schema(max_length = 2000)]
    prompt: String,
    /// May be left out when the farm offers one model.
    model: Option<String>,
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
    pub image: Option<UploadId>,
    pub prompt: String,
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
}

impl From<VideoRequest> for Wish {
    fn from(request: VideoRequest) -> Self {
        Self {
            image: Some(UploadId::from_uuid(request.image)),
            prompt: request.prompt,
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
        }
    }
}

/// The wish that a video was made from, its seed and prompt included.
pub(crate) fn again(video: &Video, adapters: Vec<AdapterWish>) -> Wish {
    let spec = &video.spec;
    Wish {
        image: Some(video.image),
        prompt: video.prompt.clone(),
        model: Some(spec.model.to_string()),
        adapters,
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
    }
}

/// What became of a wish. Either is durable.
#[derive(Debug)]
pub(crate) enum Submitted {
    Accepted {
        id: JobId,
        body: Value,
    },
    /// The answer that the same request got before.
    Replayed {
        status: StatusCode,
        body: Value,
    },
}

/// Render a video.
///
/// It is accepted when this answers 202: then it is durable, and it will be rendered or fail by name. Send an
/// `Idempotency-Key`, so that a retry after a lost answer does not render twice.
#[utoipa::path(post, path = "/v1/videos", tag = "videos", security(("bearer" = [])), request_body = VideoRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable characters, kept 24 hours")),
    responses((status = 202, body = VideoResource), (status = 400, body = Problem), (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    principal: Principal,
    headers: HeaderMap,
    JsonBytes(bytes): JsonBytes,
) -> Result<Response, ApiError> {
    principal.require(Scope::Videos)?;
    let named = idempotency::named(&headers, principal.user, "POST /v1/videos", &bytes)?;
    let wish = read_json::<VideoRequest>(&bytes)?.into();
    let shown = |video: &Video| serde_json::to_value(present(&app, principal.user, video));
    match submit(&app, principal.user, wish, named.as_ref(), shown).await? {
        Submitted::Accepted { id, body } => {
            let location = format!("/v1/videos/{id}");
            let headers = [(header::LOCATION, location)];
            Ok((StatusCode::ACCEPTED, headers, axum::Json(body)).into_response())
        }
        Submitted::Replayed { status, body } => Ok(idempotency::replayed(status, body)),
    }
}

/// Checks a wish and writes it down: job, first event and the answer under its name in one transaction. The leader is told
/// after the commit, never before. `show` makes the answer.
pub(crate) async fn submit(
    app: &App,
    user: UserId,
    wish: Wish,
    named: Option<&Named>,
    show: impl Fn(&Video) -> serde_json::Result<Value>,
) -> Result<Submitted, ApiError> {
    let submitted = match plan(app, user, &wish).await {
        Ok(plan) => write_down(app, user, &wish, &plan, named, show).await?,
        // A retry gets the answer of before, also when its model has been withdrawn since.
        Err(error) => match idempotency::answered(app, named).await? {
            Some((status, body)) => Submitted::Replayed { status, body },
            None => return Err(error),
        },
    };
    if let Submitted::Accepted { id, .. } = submitted {
        app.link.ring(id);
        app.sessions.events_ready(user);
        metrics::counter!("flowai_api_videos_accepted_total").increment(1);
    }
    Ok(submitted)
}

/// What a wish comes to.
struct Plan {
    spec: RenderSpec,
    image: UploadId,
    /// In the order of the wish.
    adapters: Vec<AdapterId>,
}

async fn plan(app: &App, user: UserId, wish: &Wish) -> Result<Plan, ApiError> {
    let offer = chosen_model(app, user, wish.model.as_deref()).await?;
    let missing = || ApiError::field("/image", "missing", "must name an upload");
    let image = wish.image.ok_or_else(missing)?;
    let picture = app.catalogue.picture(&app.database, user, image).await?;
    let adapters = chosen_adapters(app, user, &wish.adapters, &offer).await?;
    Ok(Plan {
        spec: spec_of(wish, &offer, &picture, &adapters)?,
        image,
        adapters: adapters.iter().map(|adapter| adapter.id).collect(),
    })
}

async fn write_down(
    app: &App,
    user: UserId,
    wish: &Wish,
    plan: &Plan,
    named: Option<&Named>,
    show: impl Fn(&Video) -> serde_json::Result<Value>,
) -> Result<Submitted, ApiError> {
    let new = NewVideo {
        adapters: &plan.adapters,
        prompt: wish.prompt.trim(),
        parent: wish.parent,
        ..NewVideo::new(user, &plan.spec, plan.image)
    };
    let body = show(&new.queued()).map_err(|_| ApiError::Internal)?;
    let answer = (StatusCode::ACCEPTED.as_u16(), &body);
    let request = named.map(Named::request);
    match videos::queue(&app.database, &new, request.as_ref(), answer).await? {
        Queueing::Queued => Ok(Submitted::Accepted { id: new.id, body }),
        Queueing::Known(known) => {
            let (status, body) = idempotency::answer_of(known)?;
            Ok(Submitted::Replayed { status, body })
        }
        Queueing::InProgress => Err(ApiError::IdempotencyInProgress),
        Queueing::NoImage => Err(ApiError::NamedNotFound(format!("upload {}", plan.image))),
        Queueing::NoParent => Err(ApiError::NotFound("the video to remix")),
        Queueing::NoAdapter => Err(ApiError::NamedNotFound("one of the adapters".to_owned())),
        Queueing::TooMany => Err(ApiError::TooManyQueued {
            max: USER_QUEUED_MAX,
        }),
    }
}

async fn chosen_model(app: &App, user: UserId, name: Option<&str>) -> Result<ModelOffer, ApiError> {
    let Some(name) = name else {
        let offers = app.catalogue.offers(&app.database, user).await?;
        return match &offers[..] {
            [only] => Ok(only.clone()),
            [] => Err(ApiError::ImpossibleJob(
                "no model is offered yet".to_owned(),
            )),
            _ => {
                let detail = "must be given: the farm offers several models";
                Err(ApiError::field("/model", "missing", detail))
            }
        };
    };
    let unknown = || {
        let name: String = name.chars().take(64).collect();
        ApiError::ImpossibleJob(format!("model {name:?} is not offered; see /v1/models"))
    };
    let id: ModelId = name.parse().map_err(|_| unknown())?;
    let offer = app.catalogue.offer(&app.database, user, &id).await?;
    offer.ok_or_else(unknown)
}

/// In the order of the wish. A missing or foreign one is named: nothing is rendered without it (invariant 10).
async fn chosen_adapters(
    app: &App,
    user: UserId,
    wishes: &[AdapterWish],
    offer: &ModelOffer,
) -> Result<Vec<Adapter>, ApiError> {
    if wishes.len() > ADAPTERS_MAX {
        let detail = format!("at most {ADAPTERS_MAX} may be given (got {})", wishes.len());
        return Err(ApiError::field("/adapters", "length", detail));
    }
    if wishes.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<AdapterId> = wishes.iter().map(|w| AdapterId::from_uuid(w.id)).collect();
    let mut transaction = app.database.begin_as(user).await?;
    let found = adapters::find(&mut transaction, &ids).await?;
    ids.iter()
        .map(|id| {
            let adapter = found.iter().find(|adapter| adapter.id == *id);
            let adapter =
                adapter.ok_or_else(|| ApiError::NamedNotFound(format!("adapter {id}")))?;
            checked_against(adapter, offer)?;
            Ok(adapter.clone())
        })
        .collect()
}

/// The whole spec, all of whose fields are in range.
fn spec_of(
    wish: &Wish,
    offer: &ModelOffer,
    picture: &Picture,
    adapters: &[Adapter],
) -> Result<RenderSpec, ApiError> {
    let defaults = Defaults::of(offer)?;
    let (frames, fps) = timing(wish, &defaults, offer.limits.frames_max);
    let (width, height) = defaults.size(picture.size, wish.width, wish.height);
    let uses = adapters.iter().zip(&wish.adapters);
    let spec = RenderSpec {
        model: offer.id.clone(),
        image: picture.sha256,
        adapters: uses
            .map(|(adapter, wish)| AdapterUse {
                sha256: adapter.sha256,
                weight: wish.weight,
            })
            .collect(),
        frames,
        fps,
        width,
        height,
        steps: wish.steps.unwrap_or(defaults.steps),
        motion_bucket_id: wish.motion_bucket_id.unwrap_or(defaults.motion_bucket_id),
        noise_aug_strength: wish
            .noise_aug_strength
            .unwrap_or(defaults.noise_aug_strength),
        min_guidance_scale: wish
            .min_guidance_scale
            .unwrap_or(defaults.min_guidance_scale),
        max_guidance_scale: wish
            .max_guidance_scale
            .unwrap_or(defaults.max_guidance_scale),
        decode_chunk_size: wish
            .decode_chunk_size
            .unwrap_or_else(|| decode_chunk_size(frames)),
        seed: wish
            .seed
            .unwrap_or_else(|| rand::rng().random_range(0..=SEED_MAX)),
    };
    let mut errors: Vec<FieldError> = match spec.validate(&offer.limits) {
        Ok(()) => Vec::new(),
        Err(invalid) => invalid.into_iter().map(field_error).collect(),
    };
    let length = wish.prompt.trim().chars().count();
    if length > PROMPT_CHARS_MAX {
        let detail = format!("must be at most {PROMPT_CHARS_MAX} characters long (got {length})");
        errors.push(FieldError::new("/prompt", "length", detail));
    }
    if wish.prompt.contains('\0') {
        errors.push(FieldError::new("/prompt", "invalid", "must not hold NUL"));
    }
    if errors.is_empty() {
        Ok(spec)
    } else {
        Err(ApiError::ValidationFailed(errors))
    }
}

/// Frames and their rate. Seconds are met by as many frames as the model makes, shown slower when that is too few.
fn timing(wish: &Wish, defaults: &Defaults, frames_max: u32) -> (u32, u32) {
    match (wish.frames, wish.seconds) {
        (None, Some(seconds)) => {
            let fps = wish.fps.unwrap_or(defaults.fps);
            let frames = (seconds * f64::from(fps)).round() as u32;
            if frames <= frames_max || wish.fps.is_some() {
                (frames, fps)
            } else {
                let slower = (f64::from(frames_max) / seconds).round().max(1.0) as u32;
                (frames_max, slower)
            }
        }
        (frames, _) => (
            frames.unwrap_or(defaults.frames),
            wish.fps.unwrap_or(defaults.fps),
        ),
    }
}

/// `adapters[1].weight` is `/adapters/1/weight`.
fn field_error(invalid: InvalidField) -> FieldError {
    let mut pointer = String::with_capacity(invalid.field.len() + 1);
    pointer.push('/');
    for character in invalid.field.chars() {
        match character {
            '[' | '.' => pointer.push('/'),
            ']' => {}
            other => pointer.push(other),
        }
    }
    FieldError::new(pointer, "out_of_range", invalid.detail)
}

const _: () = assert!(ADAPTER_WEIGHT_ABS_MAX >= 1.0, "as trained is in range");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_become_pointers() {
        for (field, pointer) in [
            ("frames", "/frames"),
            ("adapters[1].weight", "/adapters/1/weight"),
            ("adapters[10]", "/adapters/10"),
        ] {
            let invalid = InvalidField {
                field: field.to_owned(),
                detail: String::new(),
            };
            assert_eq!(field_error(invalid).pointer, pointer);
        }
    }

    #[test]
    fn seconds_are_met_as_well_as_the_model_can() {
        let unet = flowai_model::Preset::FullSvd.config().unet;
        let offer = ModelOffer {
            id: "m".parse().unwrap(),
            sha256: flowai_actors::ids::Sha256::from_bytes([0; 32]),
            family: "svd".to_owned(),
            unet_config: unet.to_json(),
            limits: flowai_actors::spec::SpecLimits {
                side_multiple: 64,
                frames_max: 25,
            },
        };
        let defaults = Defaults::of(&offer).unwrap();
        let check = |frames, fps, seconds, expected| {
            let wish = Wish {
                frames,
                fps,
                seconds,
                ..Wish::default()
            };
            assert_eq!(timing(&wish, &defaults, 25), expected);
        };
        check(None, None, None, (25, 7));
        check(None, None, Some(2.0), (14, 7));
        check(None, None, Some(4.0), (25, 6));
        check(None, None, Some(8.0), (25, 3));
        check(None, None, Some(1_000.0), (25, 1));
        // Whoever says both gets what they said, or an error.
        check(None, Some(24), Some(4.0), (96, 24));
        check(Some(3), None, Some(4.0), (3, 7));
    }
}
