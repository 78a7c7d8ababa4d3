//! `/v1/farm/tokens`: join tokens, shown once.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use flowai_actors::limits::{JOIN_TOKEN_TTL_S_MAX, JOIN_TOKEN_TTL_S_MIN, JOIN_TOKEN_USES_MAX};
use flowai_actors::membership::{self, check_labels};
use flowai_store::database::commit;
use flowai_store::join_tokens::{self, JoinToken, NewJoinToken};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::{ApiError, FieldError, Problem};
use crate::http::{Json, Path};

/// Tokens that a list shows.
const TOKENS_MAX: i64 = 1_000;
const TTL_S_DEFAULT: u64 = 3_600;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NewTokenRequest {
    /// Seconds until it admits nobody any more.
    #[schema(minimum = 60, maximum = 86400)]
    ttl_s: u64,
    /// Machines that it admits.
    #[schema(minimum = 1, maximum = 1000)]
    uses: u32,
    /// Of every node that joins by it.
    labels: BTreeMap<String, String>,
}

impl Default for NewTokenRequest {
    fn default() -> Self {
        Self {
            ttl_s: TTL_S_DEFAULT,
            uses: 1,
            labels: BTreeMap::new(),
        }
    }
}

/// A token as it is seen after it was made.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenResource {
    id: Uuid,
    labels: BTreeMap<String, String>,
    uses: u32,
    uses_left: u32,
    expires_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
}

/// A token that was just made.
#[derive(Serialize, ToSchema)]
pub(super) struct CreatedToken {
    /// For `flowai node join`. It is not shown again.
    token: String,
    #[serde(flatten)]
    about: TokenResource,
}

#[derive(Serialize, ToSchema)]
pub(super) struct TokenList {
    data: Vec<TokenResource>,
}

impl From<JoinToken> for TokenResource {
    fn from(token: JoinToken) -> Self {
        let JoinToken {
            id,
            labels,
            uses,
            uses_left,
            expires_at,
            created_at,
        } = token;
        Self {
            id,
            labels,
            uses,
            uses_left,
            expires_at,
            created_at,
        }
    }
}

/// Make a join token.
#[utoipa::path(post, path = "/v1/farm/tokens", tag = "farm", security(("bearer" = [])), request_body = NewTokenRequest,
    responses((status = 201, body = CreatedToken), (status = 401, body = Problem), (status = 403, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    principal: Principal,
    Json(request): Json<NewTokenRequest>,
) -> Result<(StatusCode, axum::Json<CreatedToken>), ApiError> {
    principal.require_operator(&app, Scope::Farm).await?;
    check(&request)?;
    let token = membership::JoinToken::generate(app.join.ca_sha256);
    let new = NewJoinToken {
        id: token.id(),
        created_by: principal.user,
        secret_sha256: token.secret_sha256(),
        labels: &request.labels,
        uses: request.uses,
        ttl: Duration::from_secs(request.ttl_s),
    };
    let mut transaction = app.database.begin_as(principal.user).await?;
    let about = join_tokens::insert(&mut transaction, &new).await?.into();
    commit(transaction).await?;
    tracing::info!(token = %token.id(), by = %principal.user, uses = request.uses, "a join token was made");
    let created = CreatedToken {
        token: token.reveal(),
        about,
    };
    Ok((StatusCode::CREATED, axum::Json(created)))
}

fn check(request: &NewTokenRequest) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    let mut out_of_range = |pointer, detail| {
        errors.push(FieldError::new(pointer, "out_of_range", detail));
    };
    if !(JOIN_TOKEN_TTL_S_MIN..=JOIN_TOKEN_TTL_S_MAX).contains(&request.ttl_s) {
        let (range, got) = (JOIN_TOKEN_TTL_S_MIN, request.ttl_s);
        out_of_range(
            "/ttl_s",
            format!("must be {range}..={JOIN_TOKEN_TTL_S_MAX} (got {got})"),
        );
    }
    if !(1..=JOIN_TOKEN_USES_MAX).contains(&request.uses) {
        let got = request.uses;
        out_of_range(
            "/uses",
            format!("must be 1..={JOIN_TOKEN_USES_MAX} (got {got})"),
        );
    }
    if let Err(error) = check_labels(&request.labels) {
        errors.push(FieldError::new("/labels", "invalid", error.to_string()));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::ValidationFailed(errors))
    }
}

/// List the join tokens that still admit somebody.
#[utoipa::path(get, path = "/v1/farm/tokens", tag = "farm", security(("bearer" = [])),
    responses((status = 200, body = TokenList), (status = 401, body = Problem), (status = 403, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    principal: Principal,
) -> Result<axum::Json<TokenList>, ApiError> {
    principal.require_operator(&app, Scope::FarmRead).await?;
    let mut transaction = app.database.begin_as(principal.user).await?;
    let tokens = join_tokens::list(&mut transaction, TOKENS_MAX).await?;
    Ok(axum::Json(TokenList {
        data: tokens.into_iter().map(TokenResource::from).collect(),
    }))
}

/// Revoke a join token.
///
/// Nodes that joined by it stay.
#[utoipa::path(delete, path = "/v1/farm/tokens/{id}", tag = "farm", security(("bearer" = [])), params(("id" = Uuid, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn revoke(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, ApiError> {
    principal.require_operator(&app, Scope::Farm).await?;
    let mut transaction = app.database.begin_as(principal.user).await?;
    if !join_tokens::revoke(&mut transaction, id).await? {
        return Err(ApiError::NotFound("a join token of this id"));
    }
    commit(transaction).await?;
    tracing::info!(token = %id, by = %principal.user, "a join token was revoked");
    Ok(StatusCode::NO_CONTENT)
}
