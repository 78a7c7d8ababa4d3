//! `POST /v1/batches`: many videos at once, all of them or none.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use fail::fail_point;
use flowai_actors::ids::{JobId, UserId};
use flowai_actors::limits::BATCH_VIDEOS_MAX;
use flowai_store::videos::NewVideo;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::plan::{Plan, plan};
use super::resource::{VideoResource, present};
use super::submit::{announce, new_video, replay_of};
use super::wish::{ClassName, VideoRequest};
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::{ApiError, FieldError, Problem};
use crate::http::idempotency::{self, Named};
use crate::http::{JsonBytes, read_json};

/// Many renders that nobody sits and waits for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchRequest {
    #[schema(min_items = 1, max_items = 200)]
    videos: Vec<VideoRequest>,
}

/// The videos of a batch, in the order of the request.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BatchResource {
    videos: Vec<VideoResource>,
}

/// Render many videos.
///
/// All of them are accepted when this answers 202, or none: then the errors name what is wrong with which, as
/// `/videos/3/frames`. They have the class `batch` where they do not say another, count against the caller's waiting videos
/// together, and cost what each costs by itself. Send an `Idempotency-Key`, so that a retry after a lost answer does not render
/// twice.
#[utoipa::path(post, path = "/v1/batches", tag = "videos", security(("bearer" = [])), request_body = BatchRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable characters, kept 24 hours")),
    responses((status = 202, body = BatchResource), (status = 400, body = Problem), (status = 401, body = Problem), (status = 402, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    principal: Principal,
    headers: HeaderMap,
    JsonBytes(bytes): JsonBytes,
) -> Result<Response, ApiError> {
    principal.require(Scope::Videos)?;
    let user = principal.user;
    let named = idempotency::named(&headers, user, "POST /v1/batches", &bytes)?;
    let request = read_json::<BatchRequest>(&bytes)?;
    match plan_all(&app, user, request).await {
        Ok(plans) => write_down(&app, user, &plans, named.as_ref()).await,
        Err(error) => {
            let (status, body) = idempotency::answered_or(&app, named.as_ref(), error).await?;
            Ok(idempotency::replayed(status, body))
        }
    }
}

/// # Errors
/// What is wrong with the fields of any of them, together; else the first thing that is missing or impossible.
async fn plan_all(app: &App, user: UserId, request: BatchRequest) -> Result<Vec<Plan>, ApiError> {
    let many = request.videos.len();
    if !(1..=BATCH_VIDEOS_MAX).contains(&many) {
        let detail = format!("must hold 1 to {BATCH_VIDEOS_MAX} videos (got {many})");
        return Err(ApiError::field("/videos", "length", detail));
    }
    let (mut plans, mut fields, mut first) = (Vec::with_capacity(many), Vec::new(), None);
    for (place, video) in request.videos.into_iter().enumerate() {
        let wish = video.into_wish(ClassName::Batch);
        let plan = plan(app, user, &wish).await;
        match plan.and_then(|plan| app.memory_fit.check(app, &plan.spec).map(|()| plan)) {
            Ok(plan) => plans.push(plan),
            Err(ApiError::ValidationFailed(errors)) => {
                fields.extend(errors.into_iter().map(|error| FieldError {
                    pointer: format!("/videos/{place}{}", error.pointer),
                    ..error
                }));
            }
            // Nothing that any of them could change: the others would only wait for it too.
            Err(error) if error.is_of_the_farm() => return Err(error),
            Err(error) => first = first.or(Some(of_video(place, error))),
        }
    }
    match (fields.is_empty(), first) {
        (false, _) => Err(ApiError::ValidationFailed(fields)),
        (true, Some(error)) => Err(error),
        (true, None) => app.queue_room.check(app).await.map(|()| plans),
    }
}

/// The error, saying of which video it is where that matters.
fn of_video(place: usize, error: ApiError) -> ApiError {
    let named = |what: &str| format!("videos[{place}]: {what}");
    match error {
        ApiError::NotFound(what) => ApiError::NamedNotFound(named(what)),
        ApiError::NamedNotFound(what) => ApiError::NamedNotFound(named(&what)),
        ApiError::ImpossibleJob(why) => ApiError::ImpossibleJob(named(&why)),
        ApiError::AdapterIncompatible(why) => ApiError::AdapterIncompatible(named(&why)),
        of_all => of_all,
    }
}

/// Jobs, first events, holds and the answer under the request's name in one transaction; the leader is told after the commit.
async fn write_down(
    app: &App,
    user: UserId,
    plans: &[Plan],
    named: Option<&Named>,
) -> Result<Response, ApiError> {
    let mut new: Vec<NewVideo<'_>> = plans.iter().map(|plan| new_video(user, plan)).collect();
    // They are written down as of one moment, and shown so.
    if let Some(created_at) = new.first().map(|first| first.created_at) {
        new.iter_mut().for_each(|one| one.created_at = created_at);
    }
    let shown = new.iter().map(|one| present(app, user, &one.queued()));
    let resource = BatchResource {
        videos: shown.collect(),
    };
    let body = serde_json::to_value(resource).map_err(|_| ApiError::Internal)?;
    let answer = (StatusCode::ACCEPTED.as_u16(), &body);
    let request = named.map(Named::request);
    fail_point!("before_submit_commit");
    let queueing = app.intake.queue(&new, request.as_ref(), answer).await?;
    if let Some((status, body)) = replay_of(app, queueing, None)? {
        return Ok(idempotency::replayed(status, body));
    }
    let ids: Vec<JobId> = new.iter().map(|one| one.id).collect();
    announce(app, user, &ids);
    Ok((StatusCode::ACCEPTED, axum::Json(body)).into_response())
}
