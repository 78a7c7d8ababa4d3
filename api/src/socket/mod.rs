//! `/v1/ws`: the same events by WebSocket, for pages. The credential is a ticket of thirty seconds, good once, sent as the
//! second value of `Sec-WebSocket-Protocol`, so that it lies in no URL and no log.

use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowai_actors::ids::{JobId, SignInId, UserId};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::app::App;
use crate::auth::{Credential, Principal};
use crate::error::{ApiError, Problem};
use crate::events::{WireEvent, wire};
use crate::session::{CloseReason, OpenStream, Stream, Subject};

const PROTOCOL: &str = "flowai.v1";
const TICKET_PREFIX: &str = "ticket.";
const TICKET_PURPOSE: &str = "socket";
const TICKET_TTL: Duration = Duration::from_secs(30);
/// A socket that asks for nothing is closed.
const SUBSCRIBE_WITHIN: Duration = Duration::from_secs(10);
/// A reader that takes longer for one message is too slow.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// Asked this often whether it still lives.
const PING_EVERY: Duration = Duration::from_secs(20);
/// Each subscription is looked up in the database: whoever changes its mind more often waits.
const SUBSCRIBE_EVERY: Duration = Duration::from_millis(250);
/// What a client sends is one small object.
const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// Close codes of this protocol, beside those of WebSocket itself.
mod close {
    /// The credential has ended.
    pub(super) const REVOKED: u16 = 4401;
    /// The message was none of this protocol, or named something that is not there.
    pub(super) const REFUSED: u16 = 4400;
    /// Come back with the last id.
    pub(super) const RESYNC: u16 = 4409;
}

/// The socket itself: its credential is the ticket.
pub(crate) fn open_router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(connect))
}

/// For known callers.
pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create_ticket))
}

#[derive(Serialize, ToSchema)]
struct SocketTicket {
    /// For `Sec-WebSocket-Protocol: flowai.v1, ticket.<this>`.
    ticket: String,
    /// Seconds.
    expires_in: u64,
}

/// Get a ticket for one WebSocket.
#[utoipa::path(post, path = "/v1/ws-tickets", tag = "events", security(("bearer" = [])),
    responses((status = 201, body = SocketTicket), (status = 401, body = Problem), (status = 403, body = Problem), (status = 503, body = Problem)))]
async fn create_ticket(State(app): State<App>, principal: Principal) -> Result<Response, ApiError> {
    let sign_in = principal.require_sign_in()?;
    let value = format!("{} {}", principal.user, sign_in);
    let ticket = app
        .redis
        .issue_ticket(TICKET_PURPOSE, &value, TICKET_TTL)
        .await?;
    let ticket = SocketTicket {
        ticket,
        expires_in: TICKET_TTL.as_secs(),
    };
    Ok((StatusCode::CREATED, axum::Json(ticket)).into_response())
}

/// Open a WebSocket.
///
/// The first message says what to hear: `{"since": 12}` for all of the caller's videos, `{"video": "…", "since": 3}` for
/// one; a later one changes it. Without `since` it begins as the SSE streams do. Events come as
/// `{"event", "id"?, "data"}`. Close codes: 4400 refused, 4401 the sign-in has ended, 4409 come back with the last id.
#[utoipa::path(get, path = "/v1/ws", tag = "events",
    responses((status = 101), (status = 401, body = Problem), (status = 403, body = Problem), (status = 415, body = Problem), (status = 503, body = Problem)))]
async fn connect(
    State(app): State<App>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade
        .map_err(|_| ApiError::MediaTypeRefused("open this path as a WebSocket".to_owned()))?;
    let ticket = offered_ticket(&headers).ok_or(ApiError::TokenMissing)?;
    let holder = app.redis.redeem_ticket(TICKET_PURPOSE, ticket).await?;
    let (user, sign_in) = holder
        .as_deref()
        .and_then(read_holder)
        .ok_or(ApiError::TokenInvalid)?;
    let credential = Credential::SignIn(sign_in);
    if !app.authenticator.still_counts(&credential).await? {
        return Err(ApiError::TokenInvalid);
    }
    let principal = Principal { user, credential };
    Ok(upgrade
        .protocols([PROTOCOL])
        .max_message_size(MESSAGE_BYTES_MAX)
        .on_upgrade(move |socket| serve(app, principal, socket)))
}

fn offered_ticket(headers: &HeaderMap) -> Option<&str> {
    let offered = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let mut offered = offered.split(',').map(str::trim);
    let is_ours = offered.next() == Some(PROTOCOL);
    offered
        .next()
        .filter(|_| is_ours)?
        .strip_prefix(TICKET_PREFIX)
}

fn read_holder(text: &str) -> Option<(UserId, SignInId)> {
    let (user, sign_in) = text.split_once(' ')?;
    Some((user.parse().ok()?, sign_in.parse().ok()?))
}

/// What a client asks to hear.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Subscription {
    video: Option<Uuid>,
    since: Option<i64>,
}

/// Why a socket is closed from here.
enum Closed {
    With(u16, &'static str),
    /// The client left, or cannot be reached.
    Gone,
}

async fn serve(app: App, principal: Principal, mut socket: WebSocket) {
    if let Err(Closed::With(code, reason)) = talk(&app, &principal, &mut socket).await {
        let frame = CloseFrame {
            code,
            reason: reason.into(),
        };
        // A client that is gone needs no farewell.
        let farewell = socket.send(Message::Close(Some(frame)));
        timeout(WRITE_WITHIN, farewell).await.ok();
    }
}

async fn talk(app: &App, principal: &Principal, socket: &mut WebSocket) -> Result<(), Closed> {
    let deadline = Instant::now() + SUBSCRIBE_WITHIN;
    let mut subscription = loop {
        let received = timeout_at(deadline, socket.recv()).await;
        let received = received.map_err(|_| Closed::With(close::REFUSED, "subscribe first"))?;
        if let Some(subscription) = read(received)? {
            break subscription;
        }
    };
    loop {
        let next = Instant::now() + SUBSCRIBE_EVERY;
        let (subject, mut stream) = subscribe(app, principal, subscription).await?;
        subscription = forward(app, principal.user, subject, &mut stream, socket).await?;
        sleep_until(next).await;
    }
}

async fn subscribe(
    app: &App,
    principal: &Principal,
    subscription: Subscription,
) -> Result<(Subject, Stream), Closed> {
    let subject = subscription
        .video
        .map_or(Subject::User, |id| Subject::Job(JobId::from_uuid(id)));
    let request = OpenStream {
        user: principal.user,
        credential: principal.credential.clone(),
        subject,
        since: subscription.since,
        is_wait: false,
    };
    match app.sessions.open(request).await {
        Ok(stream) => Ok((subject, stream)),
        Err(ApiError::NotFound(_)) => Err(Closed::With(close::REFUSED, "no video of this id")),
        Err(_) => Err(Closed::With(close::RESYNC, "resync")),
    }
}

/// Sends a stream's items until the client asks for another one.
async fn forward(
    app: &App,
    user: UserId,
    subject: Subject,
    stream: &mut Stream,
    socket: &mut WebSocket,
) -> Result<Subscription, Closed> {
    let mut pings = tokio::time::interval(PING_EVERY);
    loop {
        let message = tokio::select! {
            item = stream.next() => match item {
                Ok(item) => text(&wire(app, user, subject, &item)),
                Err(CloseReason::Resync) => return Err(Closed::With(close::RESYNC, "resync")),
                Err(CloseReason::Revoked) => return Err(Closed::With(close::REVOKED, "revoked")),
            },
            received = socket.recv() => match read(received)? {
                Some(subscription) => return Ok(subscription),
                None => continue,
            },
            _ = pings.tick() => Message::Ping(bytes::Bytes::new()),
        };
        match timeout(WRITE_WITHIN, socket.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Closed::Gone),
            Err(_) => return Err(Closed::With(close::RESYNC, "resync")),
        }
    }
}

fn text(event: &WireEvent) -> Message {
    // Names, numbers and JSON values: nothing that cannot be written.
    Message::Text(serde_json::to_string(event).unwrap_or_default().into())
}

/// A subscription, or `None` for what the protocol answers by itself.
fn read(received: Option<Result<Message, axum::Error>>) -> Result<Option<Subscription>, Closed> {
    match received {
        Some(Ok(Message::Text(text))) => serde_json::from_str(&text)
            .map(Some)
            .map_err(|_| Closed::With(close::REFUSED, "send {\"video\"?, \"since\"?}")),
        Some(Ok(Message::Binary(_))) => Err(Closed::With(close::REFUSED, "send text")),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(None),
        Some(Ok(Message::Close(_)) | Err(_)) | None => Err(Closed::Gone),
    }
}
