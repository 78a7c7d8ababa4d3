//! `/v1/me`.

use axum::extract::State;
use chrono::{DateTime, Utc};
use flowai_store::accounts;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::app::App;
use crate::auth::Principal;
use crate::error::{ApiError, Problem};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get))
}

/// The caller's account.
#[derive(Serialize, ToSchema)]
struct AccountResource {
    id: Uuid,
    email: String,
    /// `free`, `pro` or `studio`: a weight in the queue.
    #[schema(example = "free")]
    tier: &'static str,
    /// `user`, `moderator` or `admin`.
    #[schema(example = "user")]
    role: &'static str,
    limits: AccountLimits,
    created_at: DateTime<Utc>,
}

#[derive(Serialize, ToSchema)]
struct AccountLimits {
    /// More than these run only while nobody else could use a node.
    videos_running_max: u32,
    videos_queued_max: u32,
}

/// Look at the own account.
#[utoipa::path(get, path = "/v1/me", tag = "account", security(("bearer" = [])),
    responses((status = 200, body = AccountResource), (status = 401, body = Problem)))]
async fn get(
    State(app): State<App>,
    principal: Principal,
) -> Result<axum::Json<AccountResource>, ApiError> {
    let mut transaction = app.database.begin_as(principal.user).await?;
    let account = accounts::own(&mut transaction).await?;
    let account = account.ok_or(ApiError::TokenInvalid)?;
    Ok(axum::Json(AccountResource {
        id: account.id.as_uuid(),
        email: account.email,
        tier: account.tier.as_str(),
        role: account.role.as_str(),
        limits: AccountLimits {
            videos_running_max: account.tier.running_max(),
            videos_queued_max: app.queued_max(account.tier),
        },
        created_at: account.created_at,
    }))
}
