//! Errors in OpenAI's form: `{"error": {message, type, code, param}}`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ApiError;

/// A native error on its way to an OpenAI client.
#[derive(Debug)]
pub(crate) struct OpenAiError(pub ApiError);

impl From<ApiError> for OpenAiError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    error: ErrorObject,
}

#[derive(Debug, Serialize, ToSchema)]
struct ErrorObject {
    message: String,
    #[serde(rename = "type")]
    #[schema(example = "invalid_request_error")]
    kind: &'static str,
    /// The native API's stable code.
    #[schema(example = "validation_failed")]
    code: &'static str,
    /// The first wrong field.
    param: Option<String>,
}

impl IntoResponse for OpenAiError {
    fn into_response(self) -> Response {
        let error = self.0;
        let status = error.status();
        let param = match &error {
            ApiError::ValidationFailed(fields) => fields
                .first()
                .map(|field| field.pointer.trim_start_matches(['/', '?']).to_owned()),
            _ => None,
        };
        let body = ErrorBody {
            error: ErrorObject {
                message: error.to_string(),
                kind: kind_of(status),
                code: error.code(),
                param,
            },
        };
        let mut response = (status, Json(body)).into_response();
        error.decorate(&mut response);
        response
    }
}

fn kind_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        // As OpenAI words it, although with 429.
        StatusCode::PAYMENT_REQUIRED => "insufficient_quota",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_server_error() => "server_error",
        _ => "invalid_request_error",
    }
}
