//! `GET /v1/videos/{id}/events` and `GET /v1/me/events`.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use flowai_actors::ids::{JobId, UserId};
use futures::stream::{self, Stream as FuturesStream};
use rand::Rng;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::wire::{WireEvent, wire};
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::{ApiError, Problem};
use crate::http::Path;
use crate::session::{CloseReason, OpenStream, Stream, Subject};

/// A comment this often keeps proxies from closing a quiet stream.
const COMMENT_EVERY: Duration = Duration::from_secs(15);
/// A thousand readers of an instance that went down shall not come back at once.
const RETRY_MS: std::ops::Range<u64> = 500..2_500;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(of_video))
        .routes(routes!(of_user))
}

/// What happens to a video.
///
/// Durable events (`queued`, `assigned`, `cancelling`, `retrying`, `done`, `failed`, `cancelled`, `quarantined`) have an
/// `id`; send the last one as `Last-Event-ID` to go on behind it. Without it the stream begins with the first event.
/// `progress` and `position` have no id and come at most four times a second. `snapshot` stands for events that cannot be
/// repeated. The stream ends with `resync` (come back) or `revoked` (the credential has ended).
#[utoipa::path(get, path = "/v1/videos/{id}/events", tag = "events", security(("bearer" = [])),
    params(("id" = Uuid, Path), ("Last-Event-ID" = Option<String>, Header)),
    responses((status = 200, content_type = "text/event-stream"), (status = 401, body = Problem), (status = 404, body = Problem)))]
async fn of_video(
    State(app): State<App>,
    principal: Principal,
    headers: HeaderMap,
    Path(id): Path<JobId>,
) -> Result<Response, ApiError> {
    open(app, principal, &headers, Subject::Job(id)).await
}

/// What happens to all of the caller's videos. Without `Last-Event-ID` it begins with a `snapshot`: the newest 100, and those that have
/// not ended (the newest 1,000 of them that wait).
#[utoipa::path(get, path = "/v1/me/events", tag = "events", security(("bearer" = [])),
    params(("Last-Event-ID" = Option<String>, Header)),
    responses((status = 200, content_type = "text/event-stream"), (status = 401, body = Problem)))]
async fn of_user(
    State(app): State<App>,
    principal: Principal,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    open(app, principal, &headers, Subject::User).await
}

async fn open(
    app: App,
    principal: Principal,
    headers: &HeaderMap,
    subject: Subject,
) -> Result<Response, ApiError> {
    principal.require(Scope::Videos)?;
    if app.is_draining() {
        return Err(ApiError::Draining);
    }
    let user = principal.user;
    let request = OpenStream {
        user,
        credential: principal.credential,
        subject,
        since: last_event_id(headers),
        is_wait: false,
    };
    let stream = app.sessions.open(request).await?;
    let comments = KeepAlive::new().interval(COMMENT_EVERY);
    let events = Sse::new(as_sse(app, user, subject, stream)).keep_alive(comments);
    let mut response = events.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that buffer would hold events back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// An id that was never given out is as good as none of these: the session answers with a snapshot.
fn last_event_id(headers: &HeaderMap) -> Option<i64> {
    let value = headers.get("last-event-id")?;
    Some(value.to_str().ok()?.trim().parse().unwrap_or(-1))
}

/// What is left to send.
enum Left {
    /// First of all: how long to wait before coming back.
    Retry(Stream),
    Items(Stream),
    Nothing,
}

fn as_sse(
    app: App,
    user: UserId,
    subject: Subject,
    stream: Stream,
) -> impl FuturesStream<Item = Result<Event, Infallible>> {
    stream::unfold((app, Left::Retry(stream)), move |(app, left)| async move {
        let (event, left) = match left {
            Left::Retry(stream) => {
                let wait = Duration::from_millis(rand::rng().random_range(RETRY_MS));
                (Event::default().retry(wait), Left::Items(stream))
            }
            Left::Items(mut stream) => match stream.next().await {
                Ok(item) => (
                    as_event(wire(&app, user, subject, &item)),
                    Left::Items(stream),
                ),
                Err(reason) => (farewell(reason), Left::Nothing),
            },
            Left::Nothing => return None,
        };
        Some((Ok(event), (app, left)))
    })
}

fn as_event(wire: WireEvent) -> Event {
    let event = Event::default()
        .event(wire.event)
        .data(wire.data.to_string());
    match wire.id {
        Some(id) => event.id(id.to_string()),
        None => event,
    }
}

fn farewell(reason: CloseReason) -> Event {
    let name = match reason {
        CloseReason::Resync => "resync",
        CloseReason::Revoked => "revoked",
    };
    Event::default().event(name).data("{}")
}
