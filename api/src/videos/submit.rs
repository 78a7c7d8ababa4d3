//! The wish: checked, written in one transaction with its name, and only then answered.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fail::fail_point;
use flowai_actors::credits::{Price, Rendering};
use flowai_actors::ids::{JobId, UploadId, UserId};
use flowai_store::videos::{NewVideo, Queueing, Video};
use serde_json::Value;

use super::plan::{Plan, plan};
use super::resource::{VideoResource, present};
use super::wish::{ClassName, VideoRequest, Wish};
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::{ApiError, Problem};
use crate::http::idempotency::{self, Named};
use crate::http::{JsonBytes, read_json};

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
/// It is accepted when this answers 202: then it is durable, and it will be rendered or fail by name. Its price is held until it
/// ends: captured when it is delivered, released when it is not. Send an `Idempotency-Key`, so that a retry after a lost answer
/// does not render twice.
#[utoipa::path(post, path = "/v1/videos", tag = "videos", security(("bearer" = [])), request_body = VideoRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable characters, kept 24 hours")),
    responses((status = 202, body = VideoResource), (status = 400, body = Problem), (status = 401, body = Problem), (status = 402, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    principal: Principal,
    headers: HeaderMap,
    JsonBytes(bytes): JsonBytes,
) -> Result<Response, ApiError> {
    principal.require(Scope::Videos)?;
    let named = idempotency::named(&headers, principal.user, "POST /v1/videos", &bytes)?;
    let wish = read_json::<VideoRequest>(&bytes)?.into_wish(ClassName::Interactive);
    let shown = |video: &Video| serde_json::to_value(present(&app, principal.user, video));
    let submitted = submit(&app, principal.user, wish, named.as_ref(), shown).await?;
    Ok(submitted.into_response())
}

impl IntoResponse for Submitted {
    fn into_response(self) -> Response {
        match self {
            Self::Accepted { id, body } => {
                let location = format!("/v1/videos/{id}");
                let headers = [(header::LOCATION, location)];
                (StatusCode::ACCEPTED, headers, axum::Json(body)).into_response()
            }
            Self::Replayed { status, body } => idempotency::replayed(status, body),
        }
    }
}

/// Checks a wish and writes it down: job, first event, the hold of its price and the answer under its name in one transaction. The leader is told
/// after the commit, never before. `show` makes the answer.
pub(crate) async fn submit(
    app: &App,
    user: UserId,
    wish: Wish,
    named: Option<&Named>,
    show: impl Fn(&Video) -> serde_json::Result<Value>,
) -> Result<Submitted, ApiError> {
    let plan = plan(app, user, &wish).await;
    carry_out(app, user, plan, named, show).await
}

/// Writes down what a wish came to, if it is possible.
pub(super) async fn carry_out(
    app: &App,
    user: UserId,
    plan: Result<Plan, ApiError>,
    named: Option<&Named>,
    show: impl Fn(&Video) -> serde_json::Result<Value>,
) -> Result<Submitted, ApiError> {
    let plan = match plan {
        Ok(plan) => is_taken(app, &plan).await.map(|()| plan),
        Err(error) => Err(error),
    };
    let submitted = match plan {
        Ok(plan) => write_down(app, user, &plan, named, show).await?,
        Err(error) => {
            let (status, body) = idempotency::answered_or(app, named, error).await?;
            Submitted::Replayed { status, body }
        }
    };
    if let Submitted::Accepted { id, .. } = submitted {
        announce(app, user, &[id]);
    }
    Ok(submitted)
}

/// Tells the leader and the user's streams of videos that are committed, and counts them: the last thing before the answer. What
/// the link does not take is found by the leader's sweep.
pub(super) fn announce(app: &App, user: UserId, ids: &[JobId]) {
    fail_point!("after_submit_commit");
    for id in ids {
        app.link.ring(*id);
    }
    app.sessions.events_ready(user);
    metrics::counter!("flowai_api_videos_accepted_total").increment(ids.len() as u64);
    fail_point!("before_ack_202");
}

/// Whether the farm takes such a job at this moment.
async fn is_taken(app: &App, plan: &Plan) -> Result<(), ApiError> {
    app.memory_fit.check(app, &plan.spec)?;
    app.queue_room.check(app).await
}

async fn write_down(
    app: &App,
    user: UserId,
    plan: &Plan,
    named: Option<&Named>,
    show: impl Fn(&Video) -> serde_json::Result<Value>,
) -> Result<Submitted, ApiError> {
    let new = new_video(user, plan);
    let body = show(&new.queued()).map_err(|_| ApiError::Internal)?;
    let answer = (StatusCode::ACCEPTED.as_u16(), &body);
    let request = named.map(Named::request);
    fail_point!("before_submit_commit");
    let queueing = app
        .intake
        .queue(std::slice::from_ref(&new), request.as_ref(), answer)
        .await?;
    Ok(match replay_of(app, queueing, plan.image)? {
        None => Submitted::Accepted { id: new.id, body },
        Some((status, body)) => Submitted::Replayed { status, body },
    })
}

/// What is written down of a plan.
pub(super) fn new_video<'a>(user: UserId, plan: &'a Plan) -> NewVideo<'a> {
    // A draft that is all of its final costs as much.
    let rendering = match &plan.final_spec {
        Some(full) if *full != plan.spec => Rendering::Draft,
        Some(_) | None => Rendering::Full,
    };
    NewVideo {
        final_spec: plan.final_spec.as_ref(),
        adapters: &plan.adapters,
        prompt: &plan.prompt,
        parent: plan.parent,
        class: plan.class,
        after: plan.after,
        price: Price::of(&plan.spec, rendering),
        ..NewVideo::new(user, &plan.spec, plan.image)
    }
}

/// The answer of before, if this was asked before; `None` when it is queued now. `image`: the picture, where there is only one.
pub(super) fn replay_of(
    app: &App,
    queueing: Queueing,
    image: Option<UploadId>,
) -> Result<Option<(StatusCode, Value)>, ApiError> {
    match queueing {
        Queueing::Queued => Ok(None),
        Queueing::Known(known) => idempotency::answer_of(known).map(Some),
        Queueing::InProgress => Err(ApiError::IdempotencyInProgress),
        Queueing::TooFewCredits { needed, available } => {
            Err(ApiError::InsufficientCredits { needed, available })
        }
        Queueing::NoImage => Err(ApiError::NamedNotFound(match image {
            Some(image) => format!("upload {image}"),
            None => "the picture".to_owned(),
        })),
        Queueing::NoAfter => Err(ApiError::NotFound("the video that this one starts after")),
        Queueing::NoParent => Err(ApiError::NotFound("the video that this one continues")),
        Queueing::NoAdapter => Err(ApiError::NamedNotFound("one of the adapters".to_owned())),
        Queueing::TooMany { tier } => Err(ApiError::TooManyQueued {
            tier,
            max: app.queued_max(tier),
        }),
    }
}
