//! `/healthz`, `/readyz`, `/version`.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use flowai_actors::ids::UserId;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

/// A part that answers later is as good as away.
const PART_WITHIN: Duration = Duration::from_secs(2);

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(version))
}

/// Whether the process lives.
#[utoipa::path(get, path = "/healthz", tag = "service", responses((status = 204)))]
async fn healthz() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// Whether each part answers; names only.
#[derive(Serialize, ToSchema)]
struct Readiness {
    ready: bool,
    draining: bool,
    database: bool,
    redis: bool,
    object_store: bool,
    leader: bool,
}

/// Whether it should get traffic.
#[utoipa::path(get, path = "/readyz", tag = "service",
    responses((status = 200, body = Readiness), (status = 503, body = Readiness)))]
async fn readyz(State(app): State<App>) -> Response {
    // Nobody in particular: the transaction shows that the database answers.
    let nobody = UserId::from_uuid(uuid::Uuid::nil());
    let (database, redis, object_store) = tokio::join!(
        timeout(PART_WITHIN, app.database.begin_as(nobody)),
        timeout(PART_WITHIN, app.redis.ping()),
        timeout(PART_WITHIN, app.objects.check()),
    );
    let mut readiness = Readiness {
        ready: false,
        draining: app.is_draining(),
        database: matches!(database, Ok(Ok(_))),
        redis: matches!(redis, Ok(Ok(()))),
        object_store: matches!(object_store, Ok(Ok(()))),
        leader: app.link.is_up(),
    };
    let Readiness {
        ready: _,
        draining,
        database,
        redis,
        object_store,
        leader,
    } = readiness;
    readiness.ready = !draining && database && redis && object_store && leader;
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, axum::Json(readiness)).into_response()
}

#[derive(Serialize, ToSchema)]
struct Version {
    name: &'static str,
    #[schema(example = "0.1.0")]
    version: &'static str,
}

/// Which build this is.
#[utoipa::path(get, path = "/version", tag = "service", responses((status = 200, body = Version)))]
async fn version() -> axum::Json<Version> {
    axum::Json(Version {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
    })
}
