//! `/openai/v1`.

use std::time::Duration;

use axum::Json;
use axum::extract::multipart::MultipartRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Multipart, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use flowai_actors::ids::{JobId, ModelId};
use flowai_actors::limits::{self, IMAGE_BYTES_MAX};
use flowai_actors::messages::ModelFamily;
use flowai_actors::state::JobState;
use flowai_store::adapters::{self, Adapter};
use flowai_store::models::{self, Model};
use flowai_store::videos::{self as store, Listing, Video};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ErrorBody, OpenAiError};
use super::form::{self, CreateForm, Created};
use super::object::{DeletedVideo, ModelObject, ModelPage, VideoObject, VideoPage};
use crate::app::App;
use crate::auth::{self, Principal, Scope};
use crate::error::ApiError;
use crate::http::idempotency::{self, Named};
use crate::http::{Caller, Json as NativeJson, JsonBytes, Path, Query};
use crate::media::{self, MediaFile};
use crate::uploads::{remove_picture, require_room, store_picture};
use crate::videos::{self, Submitted, Wish, submit};

/// A picture and the words around it.
pub(super) const BODY_BYTES_MAX: usize = IMAGE_BYTES_MAX as usize * 4 / 3 + (1 << 20);
const LIST_LIMIT_DEFAULT: u32 = 20;
const LIST_LIMIT_MAX: u32 = 100;
/// A running video is left by its node within a step; a client that deletes it waits so long.
const DELETE_WAIT: Duration = Duration::from_secs(20);

pub(crate) fn router() -> OpenApiRouter<App> {
    let videos = OpenApiRouter::new()
        .routes(routes!(create, list))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    OpenApiRouter::new()
        .merge(videos)
        .routes(routes!(retrieve, delete))
        .routes(routes!(content))
        .routes(routes!(remix))
        .routes(routes!(list_models))
        .routes(routes!(retrieve_model))
}

/// The gate, with errors in OpenAI's form.
pub(crate) async fn require_principal(
    app: State<App>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Result<Response, OpenAiError> {
    Ok(auth::require_principal(app, caller, request, next).await?)
}

/// List the models.
#[utoipa::path(get, path = "/openai/v1/models", tag = "openai", security(("bearer" = [])),
    responses((status = 200, body = ModelPage), (status = 401, body = ErrorBody)))]
async fn list_models(
    State(app): State<App>,
    principal: Principal,
) -> Result<Json<ModelPage>, OpenAiError> {
    let mut transaction = begin(&app, &principal).await?;
    let found = models::list(&mut transaction)
        .await
        .map_err(ApiError::from)?;
    Ok(Json(ModelPage {
        object: "list",
        data: found
            .into_iter()
            .filter(makes_clips)
            .map(ModelObject::from)
            .collect(),
    }))
}

/// Look at a model.
#[utoipa::path(get, path = "/openai/v1/models/{id}", tag = "openai", security(("bearer" = [])), params(("id" = String, Path)),
    responses((status = 200, body = ModelObject), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn retrieve_model(
    State(app): State<App>,
    principal: Principal,
    id: Result<Path<ModelId>, ApiError>,
) -> Result<Json<ModelObject>, OpenAiError> {
    let Path(id) = id?;
    let mut transaction = begin(&app, &principal).await?;
    let found = models::find(&mut transaction, &id)
        .await
        .map_err(ApiError::from)?;
    let model = found.filter(makes_clips);
    let model = model.ok_or(ApiError::NotFound("a model of this name"))?;
    Ok(Json(model.into()))
}

/// Keyframe models are none that a client may name as the model of a video.
fn makes_clips(model: &Model) -> bool {
    model.offer.family == ModelFamily::Svd
}

/// Render a video from a picture, or from a prompt alone.
#[utoipa::path(post, path = "/openai/v1/videos", tag = "openai", security(("bearer" = [])),
    request_body(content((CreateForm = "multipart/form-data"), (form::CreateRequest = "application/json"))),
    responses((status = 200, body = VideoObject), (status = 401, body = ErrorBody), (status = 402, body = ErrorBody), (status = 422, body = ErrorBody), (status = 429, body = ErrorBody), (status = 507, body = ErrorBody)))]
async fn create(
    State(app): State<App>,
    principal: Principal,
    request: Request,
) -> Result<Response, OpenAiError> {
    principal.require(Scope::Videos)?;
    let headers = request.headers().clone();
    let place = match may_hold_a_picture(&headers) {
        true => Some(app.gate.place(principal.user)?),
        false => None,
    };
    let (created, named) = read_create(&principal, &headers, request).await?;
    let Created { mut wish, picture } = created;
    let Some(picture) = picture else {
        let (answer, _) = accept(&app, &principal, wish, named.as_ref()).await?;
        return Ok(answer);
    };
    // So that a retry stores no picture. The look that counts is the one of the submission.
    if let Some((_, body)) = idempotency::answered(&app, named.as_ref()).await? {
        return Ok(idempotency::replayed(StatusCode::OK, body));
    }
    require_room(&app, principal.user).await?;
    let stored = store_picture(&app, principal.user, picture, place)
        .await?
        .id;
    wish.image = Some(stored);
    let accepted = accept(&app, &principal, wish, named.as_ref()).await;
    if !matches!(accepted, Ok((_, true))) {
        // Nobody was told of it.
        remove_picture(&app, principal.user, stored).await;
    }
    Ok(accepted?.0)
}

/// Whether the body may be larger than that of any other route.
fn may_hold_a_picture(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    is_form(headers) || length.is_none_or(|length| length > limits::BODY_BYTES_MAX)
}

fn is_form(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    content_type
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("multipart/form-data"))
}

/// A form is known by what it says and not by its bytes: its boundary differs in each retry.
async fn read_create(
    principal: &Principal,
    headers: &HeaderMap,
    request: Request,
) -> Result<(Created, Option<Named>), ApiError> {
    const ROUTE: &str = "POST /openai/v1/videos";
    if is_form(headers) {
        let form = Multipart::from_request(request, &()).await;
        let form = form.map_err(|rejection: MultipartRejection| {
            ApiError::MediaTypeRefused(rejection.body_text())
        })?;
        let created = form::from_form(form).await?;
        let picture = created.picture.as_ref().map(Sha256::digest);
        let content = format!("{:?} {picture:?}", created.wish);
        let named = idempotency::named(headers, principal.user, ROUTE, content.as_bytes())?;
        Ok((created, named))
    } else {
        let JsonBytes(bytes) = JsonBytes::read(request, &(), BODY_BYTES_MAX as u64).await?;
        let named = idempotency::named(headers, principal.user, ROUTE, &bytes)?;
        Ok((form::from_json(&bytes)?, named))
    }
}

/// The answer, and whether a video was made of the wish.
async fn accept(
    app: &App,
    principal: &Principal,
    wish: Wish,
    named: Option<&Named>,
) -> Result<(Response, bool), OpenAiError> {
    let user = principal.user;
    let shown = |video: &Video| serde_json::to_value(VideoObject::of(app, user, video));
    let submitted = submit(app, user, wish, named, shown).await;
    Ok(match submitted.map_err(in_their_words)? {
        Submitted::Accepted { body, .. } => (Json::<Value>(body).into_response(), true),
        Submitted::Replayed { body, .. } => (idempotency::replayed(StatusCode::OK, body), false),
    })
}

/// A missing picture is what they call the input reference.
fn in_their_words(error: ApiError) -> ApiError {
    let ApiError::ValidationFailed(mut fields) = error else {
        return error;
    };
    for field in &mut fields {
        if field.pointer == "/image" && field.code == "missing" {
            "/input_reference".clone_into(&mut field.pointer);
        }
    }
    ApiError::ValidationFailed(fields)
}

/// Look at a video.
#[utoipa::path(get, path = "/openai/v1/videos/{id}", tag = "openai", security(("bearer" = [])), params(("id" = String, Path)),
    responses((status = 200, body = VideoObject), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn retrieve(
    State(app): State<App>,
    principal: Principal,
    id: Result<Path<JobId>, ApiError>,
) -> Result<Json<VideoObject>, OpenAiError> {
    principal.require(Scope::Videos)?;
    let Path(id) = id?;
    let video = videos::find(&app, principal.user, id).await?;
    Ok(Json(VideoObject::of(&app, principal.user, &video)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Behind the video of this id.
    after: Option<String>,
    /// 1..=100, default 20.
    limit: Option<u32>,
    /// `desc` (newest first, the default) or `asc`.
    order: Option<String>,
}

/// List the own videos.
#[utoipa::path(get, path = "/openai/v1/videos", tag = "openai", security(("bearer" = [])), params(ListQuery),
    responses((status = 200, body = VideoPage), (status = 401, body = ErrorBody), (status = 422, body = ErrorBody)))]
async fn list(
    State(app): State<App>,
    principal: Principal,
    query: Result<Query<ListQuery>, ApiError>,
) -> Result<Json<VideoPage>, OpenAiError> {
    principal.require(Scope::Videos)?;
    let Query(query) = query?;
    let limit = query.limit.unwrap_or(LIST_LIMIT_DEFAULT);
    if !(1..=LIST_LIMIT_MAX).contains(&limit) {
        let detail = format!("must be 1..={LIST_LIMIT_MAX} (got {limit})");
        return Err(ApiError::field("?limit", "out_of_range", detail).into());
    }
    let is_oldest_first = match query.order.as_deref() {
        None | Some("desc") => false,
        Some("asc") => true,
        Some(_) => {
            return Err(ApiError::field("?order", "invalid", "must be asc or desc").into());
        }
    };
    let after = query.after.as_deref().map(str::parse).transpose();
    let after = after.map_err(|_| ApiError::field("?after", "invalid", "must be a video's id"))?;
    let listing = Listing {
        after,
        is_oldest_first,
        // One more says whether there are more.
        limit: i64::from(limit) + 1,
        ..Listing::default()
    };
    let mut transaction = begin(&app, &principal).await?;
    let mut found = store::list(&mut transaction, &listing)
        .await
        .map_err(ApiError::from)?;
    let has_more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let data: Vec<VideoObject> = found
        .iter()
        .map(|video| VideoObject::of(&app, principal.user, video))
        .collect();
    Ok(Json(VideoPage {
        object: "list",
        first_id: data.first().map(|video| video.id().to_owned()),
        last_id: data.last().map(|video| video.id().to_owned()),
        has_more,
        data,
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ContentQuery {
    /// `video` (the default), `thumbnail` or `spritesheet`.
    variant: Option<String>,
}

/// Download a finished video.
#[utoipa::path(get, path = "/openai/v1/videos/{id}/content", tag = "openai", security(("bearer" = [])), params(("id" = String, Path), ContentQuery),
    responses((status = 200, content_type = "video/mp4"), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn content(
    State(app): State<App>,
    principal: Principal,
    headers: HeaderMap,
    id: Result<Path<JobId>, ApiError>,
    query: Result<Query<ContentQuery>, ApiError>,
) -> Result<Response, OpenAiError> {
    principal.require(Scope::Videos)?;
    let (Path(id), Query(query)) = (id?, query?);
    let file = match query.variant.as_deref() {
        None | Some("video") => MediaFile::Content,
        Some("thumbnail") => MediaFile::Poster,
        Some("spritesheet") => MediaFile::Spritesheet,
        Some(_) => {
            let detail = "must be video, thumbnail or spritesheet";
            return Err(ApiError::field("?variant", "invalid", detail).into());
        }
    };
    let key = media::find(&app, principal.user, id, file).await?;
    Ok(media::serve(&app, &headers, &key, id, file).await?)
}

/// Delete a video. One that has not ended is cancelled first.
#[utoipa::path(delete, path = "/openai/v1/videos/{id}", tag = "openai", security(("bearer" = [])), params(("id" = String, Path)),
    responses((status = 200, body = DeletedVideo), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn delete(
    State(app): State<App>,
    principal: Principal,
    id: Result<Path<JobId>, ApiError>,
) -> Result<Json<DeletedVideo>, OpenAiError> {
    principal.require(Scope::Videos)?;
    let Path(id) = id?;
    match videos::cancel(&app, principal.user, id).await {
        Ok(video) if video.state == JobState::Cancelled => {}
        Ok(video) => videos::wait_for_end(&app, &principal, &video, DELETE_WAIT).await?,
        Err(ApiError::AlreadyDone(_)) => {}
        Err(error) => return Err(error.into()),
    }
    videos::purge(&app, principal.user, id).await?;
    Ok(Json(DeletedVideo {
        id: id.to_string(),
        object: "video.deleted",
        deleted: true,
    }))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RemixRequest {
    prompt: String,
}

/// Render a video anew: the same picture and settings, another prompt and another seed. A picture that was made from the prompt
/// is made anew from the other.
#[utoipa::path(post, path = "/openai/v1/videos/{id}/remix", tag = "openai", security(("bearer" = [])), params(("id" = String, Path)), request_body = RemixRequest,
    responses((status = 200, body = VideoObject), (status = 401, body = ErrorBody), (status = 402, body = ErrorBody), (status = 404, body = ErrorBody), (status = 429, body = ErrorBody)))]
async fn remix(
    State(app): State<App>,
    principal: Principal,
    headers: HeaderMap,
    id: Result<Path<JobId>, ApiError>,
    request: Result<NativeJson<RemixRequest>, ApiError>,
) -> Result<Response, OpenAiError> {
    principal.require(Scope::Videos)?;
    let (Path(id), NativeJson(request)) = (id?, request?);
    let route = format!("POST /openai/v1/videos/{id}/remix");
    let prompt = request.prompt.as_bytes();
    let named = idempotency::named(&headers, principal.user, &route, prompt)?;
    // A retry gets the answer of before, also when the source was purged since.
    if let Some((_, body)) = idempotency::answered(&app, named.as_ref()).await? {
        return Ok(idempotency::replayed(StatusCode::OK, body));
    }
    let source = videos::find(&app, principal.user, id).await?;
    let adapters = used_adapters(&app, &principal, &source).await?;
    let mut wish = Wish {
        prompt: request.prompt,
        seed: None,
        parent: Some(id),
        ..videos::again(&source, &adapters)?
    };
    if let Some(keyframe) = &mut wish.keyframe {
        keyframe.seed = None;
    }
    let (answer, _) = accept(&app, &principal, wish, named.as_ref()).await?;
    Ok(answer)
}

/// The adapters that a video names, of all its stages.
async fn used_adapters(
    app: &App,
    principal: &Principal,
    video: &Video,
) -> Result<Vec<Adapter>, ApiError> {
    let mut transaction = begin(app, principal).await?;
    let ids = store::adapters_of(&mut transaction, video.id).await?;
    Ok(adapters::find(&mut transaction, &ids).await?)
}

async fn begin(
    app: &App,
    principal: &Principal,
) -> Result<flowai_store::database::UserTransaction, ApiError> {
    Ok(app.database.begin_as(principal.user).await?)
}
