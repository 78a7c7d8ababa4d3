//! Requests that name themselves by `Idempotency-Key`, so that a retry does not happen twice.

use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use flowai_actors::ids::UserId;
use flowai_store::idempotency::{self, Known, NamedRequest};
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::error::ApiError;

const HEADER: &str = "idempotency-key";
const KEY_LENGTH_MAX: usize = 255;

/// A request's own name.
#[derive(Debug)]
pub(crate) struct Named {
    owner: UserId,
    key: String,
    hash: [u8; 32],
}

/// The request's key, if it has one. `route` and `body` are what makes it this request and no other.
///
/// # Errors
/// `IdempotencyKeyInvalid`.
pub(crate) fn named(
    headers: &HeaderMap,
    owner: UserId,
    route: &str,
    body: &[u8],
) -> Result<Option<Named>, ApiError> {
    let Some(value) = headers.get(HEADER) else {
        return Ok(None);
    };
    let key = value
        .to_str()
        .map_err(|_| ApiError::IdempotencyKeyInvalid)?;
    let is_printable = key.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if !is_printable || !(1..=KEY_LENGTH_MAX).contains(&key.len()) {
        return Err(ApiError::IdempotencyKeyInvalid);
    }
    let hash = Sha256::new()
        .chain_update(route)
        .chain_update([0])
        .chain_update(body)
        .finalize()
        .into();
    Ok(Some(Named {
        owner,
        key: key.to_owned(),
        hash,
    }))
}

impl Named {
    pub(crate) fn request(&self) -> NamedRequest<'_> {
        NamedRequest {
            owner: self.owner,
            key: &self.key,
            hash: self.hash,
        }
    }
}

/// The answer that was given before to the request of this name, if there was one.
///
/// # Errors
/// `IdempotencyKeyReused`.
pub(crate) async fn answered(
    app: &App,
    named: Option<&Named>,
) -> Result<Option<(StatusCode, serde_json::Value)>, ApiError> {
    let Some(named) = named else {
        return Ok(None);
    };
    let mut transaction = app.database.begin_as(named.owner).await?;
    let known = idempotency::find(&mut transaction, &named.request()).await?;
    known.map(answer_of).transpose()
}

/// The answer that was given before to a request that is refused now: a retry gets it, also when a model has been withdrawn or the
/// queue has filled since.
///
/// # Errors
/// `error` when there was none; `IdempotencyKeyReused`.
pub(crate) async fn answered_or(
    app: &App,
    named: Option<&Named>,
    error: ApiError,
) -> Result<(StatusCode, serde_json::Value), ApiError> {
    answered(app, named).await?.ok_or(error)
}

/// # Errors
/// `IdempotencyKeyReused`.
pub(crate) fn answer_of(known: Known) -> Result<(StatusCode, serde_json::Value), ApiError> {
    match known {
        Known::Answered { status, body } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
            Ok((status, body))
        }
        Known::Reused => Err(ApiError::IdempotencyKeyReused),
    }
}

/// The answer of before, marked as such.
pub(crate) fn replayed(status: StatusCode, body: serde_json::Value) -> Response {
    let mut response = (status, axum::Json(body)).into_response();
    let yes = HeaderValue::from_static("true");
    response.headers_mut().insert("idempotent-replayed", yes);
    response
}
