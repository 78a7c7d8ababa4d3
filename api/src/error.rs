//! Everything that a caller can be told instead of an answer: one enum, each variant with its status and stable code.

use std::cell::RefCell;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowai_actors::credits::Millicredits;
use flowai_actors::state::Tier;
use flowai_store::database::DatabaseError;
use flowai_store::objects::ObjectsError;
use flowai_store::redis::RedisError;
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Scope;

/// Why a request got no answer. `Display` is the `detail`: it says what to do next, and never what went wrong inside.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ApiError {
    #[error("the body is no JSON: {0}")]
    MalformedJson(String),
    #[error("Idempotency-Key must be 1 to 255 printable ASCII characters")]
    IdempotencyKeyInvalid,
    #[error("cursor is not one of this list; begin without one")]
    CursorInvalid,

    #[error("send `Authorization: Bearer` with an access token or an API key")]
    TokenMissing,
    #[error("the access token has expired; use the refresh token")]
    TokenExpired,
    #[error("the token is not valid, or its sign-in has ended; log in again")]
    TokenInvalid,
    /// The same for an unknown email and a wrong password.
    #[error("email or password is wrong")]
    LoginRefused,

    #[error("the API key lacks the scope `{}`; make one that has it", .0.as_str())]
    ScopeRequired(Scope),
    #[error("an API key cannot do this; log in")]
    SignInRequired,
    #[error(
        "this costs {needed} credits and {available} are available; render less, or ask an administrator for more"
    )]
    InsufficientCredits {
        needed: Millicredits,
        available: Millicredits,
    },
    #[error("only an operator may do this: an administrator, or an API key with the scope `{}`", .0.as_str())]
    RoleRequired(Scope),
    /// The same for every token that admits nobody.
    #[error(
        "the join token admits nobody: it is wrong, used up, expired or revoked; make a new one with `flowai token create`"
    )]
    JoinRefused,
    #[error("this build is too old for the farm, which runs {0}; upgrade it")]
    UpgradeRequired(String),
    #[error("this account is suspended")]
    AccountSuspended,
    #[error("requests from this origin are refused; use the farm's own pages")]
    OriginRefused,

    #[error("{0} does not exist")]
    NotFound(&'static str),
    /// Of something that a body names.
    #[error("{0} does not exist")]
    NamedNotFound(String),
    #[error("this path does not exist")]
    NoRoute,
    #[error("this path does not know this method")]
    MethodNotAllowed,

    #[error("a request with this Idempotency-Key is at work; ask again in a moment")]
    IdempotencyInProgress,
    #[error("the video has ended ({0}); nothing was changed")]
    AlreadyDone(&'static str),
    #[error("{0}")]
    StateConflict(String),
    #[error(
        "only a draft is continued to a final, and this video is none; ask for one with `draft`"
    )]
    NotADraft,
    #[error("the draft is {0}; only one that is done can be continued")]
    DraftNotDone(&'static str),

    #[error("the body must be at most {bytes_max} bytes")]
    BodyTooLarge { bytes_max: u64 },
    #[error(
        "the body came too slowly; after its first 30 s it must come at 16 KiB a second or more"
    )]
    BodyTooSlow,
    #[error("{0}")]
    MediaTypeRefused(String),
    #[error("the range lies outside of the file, which has {length} bytes")]
    RangeRefused { length: u64 },

    #[error("{}", list(.0))]
    ValidationFailed(Vec<FieldError>),
    #[error("no node can render this: {0}")]
    ImpossibleJob(String),
    #[error("{0}")]
    AdapterIncompatible(String),
    #[error("this Idempotency-Key was used with another request; make a new key")]
    IdempotencyKeyReused,
    #[error("file {0}")]
    FileRefused(String),

    #[error("too many requests; wait as long as Retry-After says")]
    RateLimited(RateState),
    #[error(
        "more than {max} of your videos would wait, the most in tier {}; send fewer, or wait until some have started", .tier.as_str()
    )]
    TooManyQueued { tier: Tier, max: u32 },

    #[error(
        "your pictures and adapters have more than {} GiB, the most in tier {}; remove some that no video names", .most >> 30, .tier.as_str()
    )]
    StorageFull { tier: Tier, most: u64 },

    #[error("the server is at its limit; try again in a moment")]
    Overloaded,
    #[error("the farm's queue is full; try again in a minute")]
    QueueFull,
    #[error("the server is going down; try again in a moment")]
    Draining,
    #[error("{0}")]
    NotConfigured(&'static str),
    #[error("{0} does not answer; try again in a moment")]
    DependencyDown(&'static str),

    #[error(
        "something went wrong here; nothing was accepted, and the request id helps to find out why"
    )]
    Internal,
}

/// A limit that was reached, as the headers say it.
#[derive(Debug, Clone, Copy)]
pub struct RateState {
    pub name: &'static str,
    pub requests_max: u32,
    pub window: Duration,
    pub remaining: u32,
    /// Until more are allowed.
    pub reset: Duration,
}

/// One wrong field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// JSON pointer into the body, or the name of a form field or query parameter behind a `?`.
    #[schema(example = "/frames")]
    pub pointer: String,
    #[schema(example = "out_of_range")]
    pub code: &'static str,
    #[schema(example = "must be 1..=25 (got 0)")]
    pub detail: String,
}

impl FieldError {
    pub fn new(pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            code,
            detail: detail.into(),
        }
    }
}

/// An error as it is sent: RFC 9457, `application/problem+json`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    #[serde(rename = "type")]
    #[schema(example = "urn:flowai:problem:validation_failed")]
    pub kind: String,
    pub title: &'static str,
    pub status: u16,
    /// What is wrong and what to do next.
    pub detail: String,
    /// The path that was asked.
    pub instance: String,
    /// Stable, for programs.
    #[schema(example = "validation_failed")]
    pub code: &'static str,
    pub request_id: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// What an error names of the request that it answers.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestContext {
    pub id: String,
    pub path: String,
}

tokio::task_local! {
    /// Set around each request by the outermost layer.
    pub static REQUEST: RefCell<RequestContext>;
}

impl ApiError {
    /// A single wrong field.
    pub fn field(
        pointer: impl Into<String>,
        code: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self::ValidationFailed(vec![FieldError::new(pointer, code, detail)])
    }

    /// Whether it says nothing of the request.
    pub(crate) const fn is_of_the_farm(&self) -> bool {
        matches!(
            self,
            Self::DependencyDown(_) | Self::Overloaded | Self::Internal
        )
    }

    pub const fn status(&self) -> StatusCode {
        match self {
            Self::MalformedJson(_) | Self::IdempotencyKeyInvalid | Self::CursorInvalid => {
                StatusCode::BAD_REQUEST
            }
            Self::TokenMissing | Self::TokenExpired | Self::TokenInvalid | Self::LoginRefused => {
                StatusCode::UNAUTHORIZED
            }
            Self::InsufficientCredits { .. } => StatusCode::PAYMENT_REQUIRED,
            Self::ScopeRequired(_)
            | Self::SignInRequired
            | Self::RoleRequired(_)
            | Self::AccountSuspended
            | Self::JoinRefused
            | Self::OriginRefused => StatusCode::FORBIDDEN,
            Self::UpgradeRequired(_) => StatusCode::UPGRADE_REQUIRED,
            Self::NotFound(_) | Self::NamedNotFound(_) | Self::NoRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::IdempotencyInProgress
            | Self::AlreadyDone(_)
            | Self::StateConflict(_)
            | Self::NotADraft
            | Self::DraftNotDone(_) => StatusCode::CONFLICT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaTypeRefused(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::RangeRefused { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::ValidationFailed(_)
            | Self::ImpossibleJob(_)
            | Self::AdapterIncompatible(_)
            | Self::IdempotencyKeyReused
            | Self::FileRefused(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::RateLimited(_) | Self::TooManyQueued { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Overloaded
            | Self::QueueFull
            | Self::Draining
            | Self::NotConfigured(_)
            | Self::DependencyDown(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::StorageFull { .. } => StatusCode::INSUFFICIENT_STORAGE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Stable: programs decide by it.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::MalformedJson(_) => "malformed_json",
            Self::IdempotencyKeyInvalid => "idempotency_key_invalid",
            Self::CursorInvalid => "cursor_invalid",
            Self::TokenMissing => "token_missing",
            Self::TokenExpired => "token_expired",
            Self::TokenInvalid => "token_invalid",
            Self::LoginRefused => "login_refused",
            Self::ScopeRequired(_) => "scope_required",
            Self::SignInRequired => "sign_in_required",
            Self::InsufficientCredits { .. } => "insufficient_credits",
            Self::RoleRequired(_) => "role_required",
            Self::AccountSuspended => "account_suspended",
            Self::JoinRefused => "join_refused",
            Self::UpgradeRequired(_) => "upgrade_required",
            Self::OriginRefused => "origin_refused",
            Self::NotFound(_) | Self::NamedNotFound(_) | Self::NoRoute => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::IdempotencyInProgress => "idempotency_in_progress",
            Self::AlreadyDone(_) => "already_done",
            Self::StateConflict(_) => "state_conflict",
            Self::NotADraft => "not_a_draft",
            Self::DraftNotDone(_) => "draft_not_done",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::MediaTypeRefused(_) => "media_type_refused",
            Self::RangeRefused { .. } => "range_refused",
            Self::ValidationFailed(_) => "validation_failed",
            Self::ImpossibleJob(_) => "impossible_job",
            Self::AdapterIncompatible(_) => "adapter_incompatible",
            Self::IdempotencyKeyReused => "idempotency_key_reused",
            Self::FileRefused(_) => "file_refused",
            Self::RateLimited(_) => "rate_limited",
            Self::TooManyQueued { .. } => "too_many_queued",
            Self::BodyTooSlow => "body_too_slow",
            Self::StorageFull { .. } => "storage_full",
            Self::Overloaded | Self::QueueFull => "overloaded",
            Self::Draining => "draining",
            Self::NotConfigured(_) => "not_configured",
            Self::DependencyDown(_) => "dependency_down",
            Self::Internal => "internal",
        }
    }

    /// Whole seconds after which the same request may succeed.
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::RateLimited(rate) => Some(rate.reset.as_secs_f64().ceil().max(1.0) as u64),
            Self::IdempotencyInProgress
            | Self::Overloaded
            | Self::Draining
            | Self::DependencyDown(_) => Some(1),
            Self::TooManyQueued { .. } => Some(30),
            Self::QueueFull => Some(60),
            _ => None,
        }
    }

    /// As it is sent.
    pub fn problem(&self) -> Problem {
        let request = REQUEST
            .try_with(|request| request.borrow().clone())
            .unwrap_or_default();
        let status = self.status();
        Problem {
            kind: format!("urn:flowai:problem:{}", self.code()),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: self.to_string(),
            instance: request.path,
            code: self.code(),
            request_id: request.id,
            errors: match self {
                Self::ValidationFailed(fields) => fields.clone(),
                _ => Vec::new(),
            },
        }
    }

    /// The headers that go with it, whatever form the body has.
    pub fn decorate(&self, response: &mut Response) {
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        match self {
            Self::RateLimited(rate) => crate::http::rate::write_headers(headers, rate),
            Self::TokenMissing => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::TokenExpired | Self::TokenInvalid => {
                let value = HeaderValue::from_static(r#"Bearer error="invalid_token""#);
                headers.insert(header::WWW_AUTHENTICATE, value);
            }
            Self::RangeRefused { length } => {
                if let Ok(value) = HeaderValue::from_str(&format!("bytes */{length}")) {
                    headers.insert(header::CONTENT_RANGE, value);
                }
            }
            _ => {}
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.problem())).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        self.decorate(&mut response);
        response
    }
}

impl From<DatabaseError> for ApiError {
    fn from(error: DatabaseError) -> Self {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "database failed a request"
        );
        if error.is_outage() {
            Self::DependencyDown("the database")
        } else {
            Self::Internal
        }
    }
}

impl From<RedisError> for ApiError {
    fn from(error: RedisError) -> Self {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "redis failed a request"
        );
        Self::DependencyDown("redis")
    }
}

impl From<ObjectsError> for ApiError {
    fn from(error: ObjectsError) -> Self {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "object store failed a request"
        );
        match error {
            ObjectsError::Unavailable { .. } => Self::DependencyDown("the object store"),
            ObjectsError::NotFound { .. }
            | ObjectsError::TooLarge { .. }
            | ObjectsError::Ttl { .. }
            | ObjectsError::File { .. } => Self::Internal,
        }
    }
}

/// Fields that the sentence for people names: a batch has the same fault in each of its videos, and `errors` has them all.
const FIELDS_NAMED_MAX: usize = 8;

fn list(fields: &[FieldError]) -> String {
    let named = fields.iter().take(FIELDS_NAMED_MAX).map(|field| {
        let name = field.pointer.trim_start_matches(['/', '?']);
        format!("{name} {}", field.detail)
    });
    let mut named: Vec<String> = named.collect();
    if let Some(more) = fields.len().checked_sub(FIELDS_NAMED_MAX + 1) {
        named.push(format!("and {} more", more + 1));
    }
    named.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_every_video_of_a_batch_makes_no_endless_sentence() {
        let named = |many: usize| {
            let field = |n| FieldError::new(format!("/videos/{n}/steps"), "range", "is wrong");
            ApiError::ValidationFailed((0..many).map(field).collect()).to_string()
        };
        assert_eq!(named(1), "videos/0/steps is wrong");
        assert!(!named(FIELDS_NAMED_MAX).contains("more"));
        let of_all = named(200);
        assert!(of_all.ends_with("; and 192 more"), "{of_all}");
    }
}
