//! `GET /v1/videos/{id}/preview`: what a video will be while it is rendered, and what it is afterwards. Pulled and never
//! pushed: the caller's pace is the limit, and pictures are never in the way of progress (`docs/adr/0011`).

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flowai_actors::ids::JobId;
use flowai_actors::limits::{PREVIEW_BYTES_MAX, PREVIEW_WAIT_MS};
use flowai_actors::preview::{PREVIEW_CONTENT_TYPE, PreviewReady};
use flowai_store::journal::preview_key;
use flowai_store::objects::ObjectsError;
use serde::Deserialize;
use utoipa::IntoParams;

use super::read::{find, redirect, wait_for_end, wanted_wait};
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::{ApiError, Problem};
use crate::http::{Path, Query};
use crate::media::MediaFile;

/// What the caller has seen.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Seen {
    /// `Flowai-Preview-N` of the newest preview that was shown: a newer one is waited for.
    #[serde(default)]
    after: u64,
}

/// A small moving picture of a video.
///
/// While the video waits or is rendered: the newest preview after `after` as an animated WebP, as soon as there is one; 204 when
/// none came within 25 seconds: ask again at once. Its headers say which it is. Show only rising numbers. When the video has
/// ended: a redirect to the picture of the clip.
#[utoipa::path(get, path = "/v1/videos/{id}/preview", tag = "videos", security(("bearer" = [])),
    params(("id" = Uuid, Path), Seen, ("Prefer" = Option<String>, Header, description = "wait=N: seconds to wait for a newer one, at most 25")),
    responses(
        (status = 200, content_type = "image/webp", headers(
            ("Flowai-Preview-N" = u64, description = "rises over the steps and attempts of the video"),
            ("Flowai-Attempt" = u32, description = "the try that it is of"),
            ("Flowai-Step" = u32, description = "denoising steps that were done"))),
        (status = 204), (status = 302), (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn preview(
    State(app): State<App>,
    principal: Principal,
    headers: HeaderMap,
    Path(id): Path<JobId>,
    Query(seen): Query<Seen>,
) -> Result<Response, ApiError> {
    principal.require(Scope::Videos)?;
    let video = find(&app, principal.user, id).await?;
    if video.state.is_end() {
        return redirect(&app, &principal, id, MediaFile::Preview).await;
    }
    let newer = async {
        let mut after = seen.after;
        loop {
            let ready = app.previews.newer(principal.user, id, after).await;
            match read(&app, &ready).await {
                // Thrown away because a newer one has come, or because the attempt has ended.
                Err(ObjectsError::NotFound { .. }) => after = ready.number(),
                found => return found.map(|webp| (ready, webp)),
            }
        }
    };
    let patience = Duration::from_millis(PREVIEW_WAIT_MS);
    let wait = wanted_wait(&headers).map_or(patience, |wait| wait.min(patience));
    let ended = async {
        // Without a stream of its events the end is seen by the next question.
        if wait_for_end(&app, &principal, &video, wait).await.is_err() {
            tokio::time::sleep(wait).await;
        }
    };
    tokio::select! {
        found = newer => {
            let (ready, webp) = found?;
            return Ok(shown(&ready, webp));
        }
        () = ended => {}
    }
    match find(&app, principal.user, id).await?.state.is_end() {
        true => redirect(&app, &principal, id, MediaFile::Preview).await,
        false => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

async fn read(app: &App, ready: &PreviewReady) -> Result<Bytes, ObjectsError> {
    let key = preview_key(ready.job, ready.attempt, ready.step);
    let object = app.objects.get(&key).await?;
    object.into_bytes(PREVIEW_BYTES_MAX).await
}

fn shown(ready: &PreviewReady, webp: Bytes) -> Response {
    let mut response = webp.into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(PREVIEW_CONTENT_TYPE),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("flowai-preview-n", HeaderValue::from(ready.number()));
    headers.insert("flowai-attempt", HeaderValue::from(ready.attempt.get()));
    headers.insert("flowai-step", HeaderValue::from(ready.step));
    response
}
