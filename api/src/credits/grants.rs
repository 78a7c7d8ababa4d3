//! `POST /v1/credits/grants`.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use flowai_actors::credits::Millicredits;
use flowai_store::database::commit;
use flowai_store::ledger::{self, Granting};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::{ApiError, FieldError, Problem};
use crate::http::{JsonBytes, idempotency, read_json};

/// What a reason is kept in.
const REASON_CHARS_MAX: usize = 500;

/// Credits for somebody.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GrantRequest {
    #[schema(format = "email", example = "ada@example.org")]
    email: String,
    /// In milli-credits; at least 1.
    #[schema(example = 100_000)]
    amount_mc: u64,
    /// Kept with it, and shown to them.
    #[schema(min_length = 1, max_length = 500, example = "the demo on Friday")]
    reason: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GrantResource {
    email: String,
    amount_mc: u64,
    reason: String,
}

/// Give credits to somebody.
///
/// Send an `Idempotency-Key`, so that a retry after a lost answer does not give twice: here it is kept for ever.
#[utoipa::path(post, path = "/v1/credits/grants", tag = "credits", security(("bearer" = [])), request_body = GrantRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable characters")),
    responses((status = 201, body = GrantResource), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    principal: Principal,
    headers: HeaderMap,
    JsonBytes(bytes): JsonBytes,
) -> Result<Response, ApiError> {
    principal.require_operator(&app, Scope::Credits).await?;
    let named = idempotency::named(&headers, principal.user, "POST /v1/credits/grants", &bytes)?;
    let request: GrantRequest = read_json(&bytes)?;
    let email = request.email.trim().to_lowercase();
    let reason = request.reason.trim();
    check(&request, reason)?;
    let key = match &named {
        Some(named) => named.request().key.to_owned(),
        None => Uuid::now_v7().to_string(),
    };
    let amount = Millicredits::new(request.amount_mc);
    let mut transaction = app.database.begin_as(principal.user).await?;
    let granting = ledger::grant(&mut transaction, &email, amount, reason, &key).await?;
    let granted = GrantResource {
        email,
        amount_mc: amount.get(),
        reason: reason.to_owned(),
    };
    match granting {
        Granting::Granted => {
            commit(transaction).await?;
            tracing::info!(by = %principal.user, amount_mc = amount.get(), "credits granted");
            Ok((StatusCode::CREATED, axum::Json(granted)).into_response())
        }
        Granting::Known => {
            let body = serde_json::to_value(granted).map_err(|_| ApiError::Internal)?;
            Ok(idempotency::replayed(StatusCode::CREATED, body))
        }
        Granting::Reused => Err(ApiError::IdempotencyKeyReused),
        Granting::NoAccount => Err(ApiError::NotFound("an account of this email")),
        Granting::NotAdmin => Err(ApiError::RoleRequired(Scope::Credits)),
    }
}

fn check(request: &GrantRequest, reason: &str) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    let most = Millicredits::MAX_GRANT.get();
    if !(1..=most).contains(&request.amount_mc) {
        let detail = format!("must be 1..={most} (got {})", request.amount_mc);
        errors.push(FieldError::new("/amount_mc", "out_of_range", detail));
    }
    if !(1..=REASON_CHARS_MAX).contains(&reason.chars().count()) {
        let detail = format!("must be 1..={REASON_CHARS_MAX} characters long");
        errors.push(FieldError::new("/reason", "length", detail));
    }
    for (pointer, text) in [("/reason", reason), ("/email", &request.email)] {
        if text.contains('\0') {
            errors.push(FieldError::new(pointer, "invalid", "must not hold NUL"));
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::ValidationFailed(errors))
    }
}
