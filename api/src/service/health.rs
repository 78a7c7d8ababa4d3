//! `/healthz`, `/readyz`, `/version`.

use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use flowai_actors::ids::UserId;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::timeout;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

/// A part that answers later is as good as away.
const PART_WITHIN: Duration = Duration::from_secs(2);
/// Anybody may ask, and as often as they like: what was seen of the parts is believed for so long.
const BELIEVED: Duration = Duration::from_secs(1);

/// What the last look at the parts saw; held during one, so that those who ask meanwhile wait for it.
#[derive(Debug, Default)]
pub(crate) struct PartsSeen(Mutex<Option<(Instant, Answering)>>);

/// Which parts answer.
#[derive(Debug, Clone, Copy)]
struct Answering {
    database: bool,
    redis: bool,
    object_store: bool,
}

impl PartsSeen {
    async fn look(&self, app: &App) -> Answering {
        let mut seen = self.0.lock().await;
        let fresh = seen.filter(|(at, _)| at.elapsed() < BELIEVED);
        if let Some((_, answering)) = fresh {
            return answering;
        }
        // Nobody in particular: the transaction shows that the database answers.
        let nobody = UserId::from_uuid(uuid::Uuid::nil());
        let (database, redis, object_store) = tokio::join!(
            timeout(PART_WITHIN, app.database.begin_as(nobody)),
            timeout(PART_WITHIN, app.redis.ping()),
            timeout(PART_WITHIN, app.objects.check()),
        );
        let answering = Answering {
            database: matches!(database, Ok(Ok(_))),
            redis: matches!(redis, Ok(Ok(()))),
            object_store: matches!(object_store, Ok(Ok(()))),
        };
        *seen = Some((Instant::now(), answering));
        answering
    }
}

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
    let Answering {
        database,
        redis,
        object_store,
    } = app.parts_seen.look(&app).await;
    let (draining, leader) = (app.is_draining(), app.link.is_up());
    let readiness = Readiness {
        ready: !draining && database && redis && object_store && leader,
        draining,
        database,
        redis,
        object_store,
        leader,
    };
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
