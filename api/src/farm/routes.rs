//! `/v1/farm`: for operators.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{drain, node, tokens};
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::{ApiError, Problem};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(node::list))
        .routes(routes!(node::read, node::revoke))
        .routes(routes!(drain::drain, drain::undrain))
        .routes(routes!(tokens::create, tokens::list))
        .routes(routes!(tokens::revoke))
        .routes(routes!(queues))
        .routes(routes!(super::compare::compare))
}

#[derive(Serialize, ToSchema)]
struct QueueResource {
    /// `free`, `pro` or `studio`.
    #[schema(example = "free")]
    tier: &'static str,
    queued: u32,
    running: u32,
}

#[derive(Serialize, ToSchema)]
struct QueueList {
    data: Vec<QueueResource>,
}

/// List the queues, by tier.
#[utoipa::path(get, path = "/v1/farm/queues", tag = "farm", security(("bearer" = [])),
    responses((status = 200, body = QueueList), (status = 401, body = Problem), (status = 403, body = Problem), (status = 503, body = Problem)))]
async fn queues(
    State(app): State<App>,
    principal: Principal,
) -> Result<axum::Json<QueueList>, ApiError> {
    principal.require_operator(&app, Scope::FarmRead).await?;
    let farm = app.link.some_of_farm(None).await?;
    let queues = farm.queues.into_iter().map(|queue| QueueResource {
        tier: queue.tier.as_str(),
        queued: queue.queued,
        running: queue.running,
    });
    Ok(axum::Json(QueueList {
        data: queues.collect(),
    }))
}
