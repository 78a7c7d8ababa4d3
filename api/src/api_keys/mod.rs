//! `/v1/api-keys`: credentials for programs, shown once.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use chrono::{DateTime, Utc};
use flowai_actors::ids::ApiKeyId;
use flowai_store::accounts::{self, AccountRole};
use flowai_store::api_keys::{self, ApiKey, NewApiKey};
use flowai_store::database::commit;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::app::App;
use crate::auth::{Principal, Scope, hash_of};
use crate::error::{ApiError, FieldError, Problem};
use crate::http::{Json, Path};

const NAME_CHARS_MAX: usize = 80;
/// What of a key its owner still sees later.
const PREFIX_CHARS: usize = 12;
const KEYS_MAX: usize = 100;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(revoke))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewApiKeyRequest {
    /// What it is for.
    #[schema(min_length = 1, max_length = 80)]
    name: String,
    #[schema(min_items = 1)]
    scopes: Vec<Scope>,
    /// Never, when left out.
    #[serde(default)]
    expires_at: Option<DateTime<Utc>>,
}

/// A key as it is seen after it was made.
#[derive(Serialize, ToSchema)]
struct ApiKeyResource {
    id: Uuid,
    name: String,
    /// The first characters of the key.
    #[schema(example = "flk_Zm9vYmFy")]
    prefix: String,
    scopes: Vec<String>,
    expires_at: Option<DateTime<Utc>>,
    last_used_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
}

/// A key that was just made.
#[derive(Serialize, ToSchema)]
struct CreatedApiKey {
    /// For `Authorization: Bearer`. It is not shown again.
    key: String,
    #[serde(flatten)]
    about: ApiKeyResource,
}

#[derive(Serialize, ToSchema)]
struct ApiKeyList {
    data: Vec<ApiKeyResource>,
}

impl From<ApiKey> for ApiKeyResource {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id.as_uuid(),
            name: key.name,
            prefix: key.prefix,
            scopes: key.scopes,
            expires_at: key.expires_at,
            last_used_at: key.last_used_at,
            created_at: key.created_at,
        }
    }
}

/// Make an API key.
#[utoipa::path(post, path = "/v1/api-keys", tag = "account", security(("bearer" = [])), request_body = NewApiKeyRequest,
    responses((status = 201, body = CreatedApiKey), (status = 401, body = Problem), (status = 403, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn create(
    State(app): State<App>,
    principal: Principal,
    Json(request): Json<NewApiKeyRequest>,
) -> Result<Response, ApiError> {
    principal.require_sign_in()?;
    check(&request)?;
    let mut transaction = app.database.begin_as(principal.user).await?;
    let of_operators = request.scopes.iter().find(|scope| scope.is_operators());
    if let Some(&scope) = of_operators {
        let account = accounts::own(&mut transaction).await?;
        if account.is_none_or(|account| account.role != AccountRole::Admin) {
            return Err(ApiError::RoleRequired(scope));
        }
    }
    let known = api_keys::list(&mut transaction, KEYS_MAX as i64).await?;
    if known.len() >= KEYS_MAX {
        let detail = format!("there are {KEYS_MAX} keys already; end some first");
        return Err(ApiError::StateConflict(detail));
    }
    let key = format!("flk_{}", BASE64URL.encode(rand::random::<[u8; 32]>()));
    let mut scopes: Vec<String> = Vec::new();
    for scope in request.scopes {
        if !scopes.iter().any(|known| known == scope.as_str()) {
            scopes.push(scope.as_str().to_owned());
        }
    }
    let new = NewApiKey {
        id: ApiKeyId::generate(),
        owner: principal.user,
        name: request.name.trim(),
        prefix: &key[..PREFIX_CHARS],
        hash: hash_of(&key),
        scopes,
        expires_at: request.expires_at,
    };
    let stored = api_keys::insert(&mut transaction, &new).await?;
    commit(transaction).await?;
    let location = format!("/v1/api-keys/{}", stored.id);
    let created = CreatedApiKey {
        key,
        about: stored.into(),
    };
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        axum::Json(created),
    )
        .into_response())
}

fn check(request: &NewApiKeyRequest) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    let name = request.name.trim();
    if !(1..=NAME_CHARS_MAX).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        let detail = format!("must be 1..={NAME_CHARS_MAX} characters long, on one line");
        errors.push(FieldError::new("/name", "length", detail));
    }
    if request.scopes.is_empty() {
        let detail = "must name at least one scope";
        errors.push(FieldError::new("/scopes", "length", detail));
    }
    if request.expires_at.is_some_and(|at| at <= Utc::now()) {
        errors.push(FieldError::new(
            "/expires_at",
            "out_of_range",
            "must lie ahead",
        ));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::ValidationFailed(errors))
    }
}

/// List the API keys that were not ended.
#[utoipa::path(get, path = "/v1/api-keys", tag = "account", security(("bearer" = [])),
    responses((status = 200, body = ApiKeyList), (status = 401, body = Problem), (status = 403, body = Problem)))]
async fn list(
    State(app): State<App>,
    principal: Principal,
) -> Result<axum::Json<ApiKeyList>, ApiError> {
    principal.require_sign_in()?;
    let mut transaction = app.database.begin_as(principal.user).await?;
    let keys = api_keys::list(&mut transaction, KEYS_MAX as i64).await?;
    let data = keys.into_iter().map(ApiKeyResource::from).collect();
    Ok(axum::Json(ApiKeyList { data }))
}

/// End an API key.
#[utoipa::path(delete, path = "/v1/api-keys/{id}", tag = "account", security(("bearer" = [])), params(("id" = Uuid, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)))]
async fn revoke(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<ApiKeyId>,
) -> Result<StatusCode, ApiError> {
    principal.require_sign_in()?;
    let mut transaction = app.database.begin_as(principal.user).await?;
    if !api_keys::revoke(&mut transaction, id).await? {
        return Err(ApiError::NotFound("an API key of this id"));
    }
    commit(transaction).await?;
    app.authenticator.forget_key(id);
    Ok(StatusCode::NO_CONTENT)
}
