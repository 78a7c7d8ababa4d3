//! The layers around the whole router, outermost first: request id and log line, headers, panics, time, origin.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use flowai_actors::limits::BODY_BYTES_MAX;
use tower_http::catch_panic::CatchPanicLayer;
use uuid::Uuid;

use super::origin::check_origin;
use super::pace::keep_pace;
use crate::app::App;
use crate::error::{ApiError, REQUEST, RequestContext};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest of all: an upload of a gigabyte over a slow line. Streams answer at once and then go on.
const ANSWER_WITHIN: Duration = Duration::from_secs(900);

/// Nothing that this API serves is a page; the documentation's own page has its own policy.
const CONTENT_POLICY: &str =
    "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
/// Swagger UI carries inline styles and pictures; it gets no cookies and asks this origin only.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Puts the layers around a router.
pub(crate) fn surround(router: Router<App>, app: App) -> Router {
    router
        .layer(middleware::from_fn_with_state(app.clone(), check_origin))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(keep_pace))
        .layer(middleware::from_fn(in_time))
        .layer(CatchPanicLayer::custom(|_| {
            ApiError::Internal.into_response()
        }))
        .layer(middleware::from_fn_with_state(app.clone(), protect))
        .layer(middleware::from_fn(observe))
        .with_state(app)
}

async fn in_time(request: Request, next: Next) -> Response {
    tokio::time::timeout(ANSWER_WITHIN, next.run(request))
        .await
        .unwrap_or_else(|_| ApiError::Overloaded.into_response())
}

/// Gives the request its id, counts and logs it: the route's template, never the path, the query or a header.
async fn observe(request: Request, next: Next) -> Response {
    let id = request
        .headers()
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| (1..=64).contains(&id.len()) && id.bytes().all(is_id_byte))
        .map_or_else(|| Uuid::now_v7().to_string(), str::to_owned);
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("none", MatchedPath::as_str)
        .to_owned();
    let method = request.method().clone();
    let context = RequestContext {
        id: id.clone(),
        path: request.uri().path().to_owned(),
    };
    let began = Instant::now();
    let mut response = REQUEST
        .scope(RefCell::new(context), next.run(request))
        .await;
    let (status, took) = (response.status(), began.elapsed());
    let labels = [
        ("method", method_label(&method).to_owned()),
        ("route", route.clone()),
        ("status", status.as_u16().to_string()),
    ];
    metrics::counter!("flowai_api_requests_total", &labels).increment(1);
    metrics::histogram!("flowai_api_request_duration_seconds", &labels[..2])
        .record(took.as_secs_f64());
    tracing::info!(
        request_id = id,
        %method,
        route,
        status = status.as_u16(),
        took_ms = took.as_millis() as u64,
        "request"
    );
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Anybody may invent methods, and each label is kept for ever.
fn method_label(method: &Method) -> &str {
    let is_known = matches!(
        *method,
        Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::PATCH
            | Method::DELETE
            | Method::OPTIONS
    );
    if is_known { method.as_str() } else { "other" }
}

fn is_id_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

async fn protect(State(app): State<App>, request: Request, next: Next) -> Response {
    let is_docs = request.uri().path().starts_with("/docs");
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let policy = if is_docs { DOCS_POLICY } else { CONTENT_POLICY };
    // A handler that serves media has set a stricter policy and its own caching.
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), microphone=(), geolocation=()",
        ),
    ] {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    if app.public_url.scheme() == "https" {
        let two_years = HeaderValue::from_static("max-age=63072000; includeSubDomains");
        headers.insert(header::STRICT_TRANSPORT_SECURITY, two_years);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_anybody_may_invent_is_no_label() {
        let brew = Method::from_bytes(b"BREW").unwrap();
        assert_eq!(
            (method_label(&brew), method_label(&Method::PUT)),
            ("other", "PUT")
        );
    }
}
