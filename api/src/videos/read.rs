//! `GET /v1/videos/{id}` and its files.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use flowai_actors::ids::{JobId, UserId};
use flowai_actors::state::JobState;
use flowai_store::videos::{self, Video};
use tokio::time::Instant;

use super::resource::{QueuePlace, VideoResource, present};
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::{ApiError, Problem};
use crate::http::Path;
use crate::media::{self, MediaFile, TICKET_TTL_S};
use crate::session::{CloseReason, Item, OpenStream, Stream, Subject};

/// Longer waits belong to a stream.
const WAIT_S_MAX: u64 = 30;

/// One of the user's own videos.
pub(crate) async fn find(app: &App, user: UserId, id: JobId) -> Result<Video, ApiError> {
    let mut transaction = app.database.begin_as(user).await?;
    let video = videos::find(&mut transaction, id).await?;
    video.ok_or(ApiError::NotFound("a video of this id"))
}

/// Look at a video.
///
/// `Prefer: wait=N` (at most 30) answers when it has ended, or after N seconds as it stands then.
#[utoipa::path(get, path = "/v1/videos/{id}", tag = "videos", security(("bearer" = [])),
    params(("id" = Uuid, Path), ("Prefer" = Option<String>, Header, description = "wait=N: seconds to wait for the end")),
    responses((status = 200, body = VideoResource), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(app): State<App>,
    principal: Principal,
    headers: HeaderMap,
    Path(id): Path<JobId>,
) -> Result<Response, ApiError> {
    principal.require(Scope::Videos)?;
    let mut video = find(&app, principal.user, id).await?;
    let wait = wanted_wait(&headers);
    if let Some(wait) = wait
        && !video.state.is_end()
    {
        wait_for_end(&app, &principal, &video, wait).await?;
        video = find(&app, principal.user, id).await?;
    }
    let mut shown = present(&app, principal.user, &video);
    if video.state == JobState::Queued
        && let Some((position, waits)) = app.link.why(id).await
    {
        shown.queue = Some(QueuePlace::new(position, waits));
    }
    let mut response = Json(shown).into_response();
    if let Some(wait) = wait
        && let Ok(applied) = HeaderValue::from_str(&format!("wait={}", wait.as_secs()))
    {
        response.headers_mut().insert("preference-applied", applied);
    }
    Ok(response)
}

/// Of `Prefer: wait=N`, at most 30 seconds.
pub(super) fn wanted_wait(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get_all("prefer").iter();
    preferences
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|preference| preference.trim().strip_prefix("wait=")?.parse::<u64>().ok())
        .map(|seconds| Duration::from_secs(seconds.min(WAIT_S_MAX)))
}

/// Waits for the job's end through the user's session, which reads each event anyway. Where that is at its limit, the time is
/// waited for.
pub(crate) async fn wait_for_end(
    app: &App,
    principal: &Principal,
    video: &Video,
    wait: Duration,
) -> Result<(), ApiError> {
    let deadline = Instant::now() + wait;
    let request = OpenStream {
        user: principal.user,
        credential: principal.credential.clone(),
        subject: Subject::Job(video.id),
        since: Some(video.seq),
        is_wait: true,
    };
    let ended = async {
        loop {
            let mut stream = match app.sessions.open(request.clone()).await {
                Ok(stream) => stream,
                Err(ApiError::Overloaded) => return std::future::pending().await,
                Err(error) => return Err(error),
            };
            if has_ended(&mut stream).await || app.is_draining() {
                return Ok(());
            }
        }
    };
    // Whether it ended or the time did: the video is read again.
    let in_time = tokio::time::timeout_at(deadline, ended).await;
    in_time.unwrap_or(Ok(()))
}

/// `false` when the stream has to be opened anew to know.
async fn has_ended(stream: &mut Stream) -> bool {
    let is_end = |video: &Video| video.state.is_end();
    loop {
        match stream.next().await {
            Ok(Item::Event(event)) if event.kind.is_end() => return true,
            Ok(Item::Snapshot { videos, .. }) if videos.iter().all(is_end) => return true,
            Ok(Item::Event(_) | Item::Snapshot { .. } | Item::Live { .. }) => {}
            Err(CloseReason::Resync) => return false,
            Err(CloseReason::Revoked) => return true,
        }
    }
}

/// The clip: a redirect to a signed link.
#[utoipa::path(get, path = "/v1/videos/{id}/content", tag = "videos", security(("bearer" = [])), params(("id" = Uuid, Path)),
    responses((status = 302), (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn content(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<JobId>,
) -> Result<Response, ApiError> {
    redirect(&app, &principal, id, MediaFile::Content).await
}

/// The first picture of the clip: a redirect to a signed link.
#[utoipa::path(get, path = "/v1/videos/{id}/poster", tag = "videos", security(("bearer" = [])), params(("id" = Uuid, Path)),
    responses((status = 302), (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn poster(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<JobId>,
) -> Result<Response, ApiError> {
    redirect(&app, &principal, id, MediaFile::Poster).await
}

/// Frames of the clip side by side: a redirect to a signed link.
#[utoipa::path(get, path = "/v1/videos/{id}/spritesheet", tag = "videos", security(("bearer" = [])), params(("id" = Uuid, Path)),
    responses((status = 302), (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn spritesheet(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<JobId>,
) -> Result<Response, ApiError> {
    redirect(&app, &principal, id, MediaFile::Spritesheet).await
}

/// The picture that was made from the prompt, as PNG: a redirect to a signed link.
///
/// A video of an uploaded picture has none.
#[utoipa::path(get, path = "/v1/videos/{id}/keyframe", tag = "videos", security(("bearer" = [])), params(("id" = Uuid, Path)),
    responses((status = 302), (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn keyframe(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<JobId>,
) -> Result<Response, ApiError> {
    redirect(&app, &principal, id, MediaFile::Keyframe).await
}

pub(super) async fn redirect(
    app: &App,
    principal: &Principal,
    id: JobId,
    file: MediaFile,
) -> Result<Response, ApiError> {
    principal.require(Scope::Videos)?;
    // Said here rather than behind the link.
    media::find(app, principal.user, id, file).await?;
    let until = Utc::now() + chrono::Duration::seconds(TICKET_TTL_S);
    let link = media::link(&app.keys, principal.user, id, file, until);
    Ok((StatusCode::FOUND, [(header::LOCATION, link)]).into_response())
}

/// What the clip was made from.
#[utoipa::path(get, path = "/v1/videos/{id}/manifest", tag = "videos", security(("bearer" = [])), params(("id" = Uuid, Path)),
    responses((status = 200, body = Object), (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn manifest(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<JobId>,
) -> Result<Response, ApiError> {
    principal.require(Scope::Videos)?;
    let mut transaction = app.database.begin_as(principal.user).await?;
    match videos::artefact(&mut transaction, id).await? {
        Some(artefact) => Ok(Json(artefact.manifest).into_response()),
        None => match videos::find(&mut transaction, id).await? {
            Some(video) => Err(media::no_clip_of(video.state)),
            None => Err(ApiError::NotFound("a video of this id")),
        },
    }
}
