//! Requests that name themselves by `Idempotency-Key`, so that a retry does not happen twice.

use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use flowai_actors::ids::UserId;
use flowai_store::database::UserTransaction;
use flowai_store::idempotency::{self, Claim, Keeping, NamedRequest};
use sha2::{Digest, Sha256};

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
    fn request(&self) -> NamedRequest<'_> {
        NamedRequest {
            owner: self.owner,
            key: &self.key,
            hash: self.hash,
        }
    }
}

/// Takes the key for the rest of the transaction. `Some` is the answer that was given before.
///
/// # Errors
/// `IdempotencyInProgress`, `IdempotencyKeyReused`.
pub(crate) async fn claim(
    transaction: &mut UserTransaction,
    named: Option<&Named>,
) -> Result<Option<(StatusCode, serde_json::Value)>, ApiError> {
    let Some(named) = named else {
        return Ok(None);
    };
    match idempotency::claim(transaction, &named.request()).await? {
        Claim::Fresh => Ok(None),
        Claim::Replay { status, body } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
            Ok(Some((status, body)))
        }
        Claim::Reused => Err(ApiError::IdempotencyKeyReused),
        Claim::InProgress => Err(ApiError::IdempotencyInProgress),
    }
}

/// Keeps the answer, in the transaction of what it tells of.
///
/// # Errors
/// `IdempotencyInProgress`.
pub(crate) async fn keep(
    transaction: &mut UserTransaction,
    named: Option<&Named>,
    status: StatusCode,
    body: &serde_json::Value,
) -> Result<(), ApiError> {
    if let Some(named) = named {
        match idempotency::keep(transaction, &named.request(), status.as_u16(), body).await? {
            Keeping::Kept => {}
            // Its answer is there by now: the next try gets it.
            Keeping::AnsweredMeanwhile => return Err(ApiError::IdempotencyInProgress),
        }
    }
    Ok(())
}

/// The answer of before, marked as such.
pub(crate) fn replayed(status: StatusCode, body: serde_json::Value) -> Response {
    let mut response = (status, axum::Json(body)).into_response();
    let yes = HeaderValue::from_static("true");
    response.headers_mut().insert("idempotent-replayed", yes);
    response
}
