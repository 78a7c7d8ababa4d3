//! `/v1/farm/compare`: whether the leader believes what the rows say.

use axum::extract::State;
use flowai_actors::messages::{Compared, Difference};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::{ApiError, Problem};

/// What a comparison found.
#[derive(Serialize, ToSchema)]
pub(super) struct ComparisonResource {
    /// Unfinished videos in the database.
    jobs: u64,
    /// Those that seemed to differ at first: most are news that was on its way.
    suspected: u64,
    /// Those that differed when they were read again. Each is a bug worth reporting, and mended: the database is believed.
    differing: u64,
    /// At most 100 of them.
    differences: Vec<DifferenceResource>,
}

#[derive(Serialize, ToSchema)]
struct DifferenceResource {
    video: Uuid,
    /// What the leader believed, for people.
    #[schema(example = "attempt 1 runs on gpu-1")]
    memory: String,
    /// What the database says, for people.
    #[schema(example = "waits after 1 attempts")]
    row: String,
}

impl From<Compared> for ComparisonResource {
    fn from(compared: Compared) -> Self {
        let of = |difference: Difference| DifferenceResource {
            video: difference.job.as_uuid(),
            memory: difference.memory,
            row: difference.row,
        };
        Self {
            jobs: compared.jobs,
            suspected: compared.suspected,
            differing: compared.differing,
            differences: compared.differences.into_iter().map(of).collect(),
        }
    }
}

/// Compare what the leader believes of unfinished videos with the database, now.
///
/// It does so by itself every minute. What differs is mended.
#[utoipa::path(post, path = "/v1/farm/compare", tag = "farm", security(("bearer" = [])),
    responses((status = 200, body = ComparisonResource), (status = 401, body = Problem), (status = 403, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn compare(
    State(app): State<App>,
    principal: Principal,
) -> Result<axum::Json<ComparisonResource>, ApiError> {
    principal.require_operator(&app, Scope::Farm).await?;
    Ok(axum::Json(app.link.compare().await?.into()))
}
