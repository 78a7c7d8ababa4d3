//! `/v1/farm/nodes/{id}/drain`: taking a node out of the farm and back, without losing what it does.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use flowai_actors::ids::NodeId;
use flowai_actors::limits::DRAIN_GRACE_S_MAX;
use flowai_store::database::commit;
use flowai_store::members::{self, Drain};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::node::NO_NODE;
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::{ApiError, Problem};
use crate::http::{Json, Path};

/// How a node shall drain.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DrainRequest {
    how: DrainHow,
    /// After so many seconds a lazy drain waits no longer. Left out: it waits for the job's end.
    #[schema(minimum = 1, maximum = 86400)]
    grace_s: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum DrainHow {
    /// It ends its job and gets no other.
    #[default]
    Lazy,
    /// What it works on goes on elsewhere.
    Now,
}

impl DrainRequest {
    fn checked(&self) -> Result<(Drain, Option<Duration>), ApiError> {
        match (self.how, self.grace_s) {
            (DrainHow::Now, Some(_)) => Err(ApiError::field(
                "/grace_s",
                "conflict",
                "must be left out when `how` is `now`",
            )),
            (DrainHow::Now, None) => Ok((Drain::Now, None)),
            (DrainHow::Lazy, Some(s)) if !(1..=DRAIN_GRACE_S_MAX).contains(&s) => {
                let detail = format!("must be 1..={DRAIN_GRACE_S_MAX} (got {s})");
                Err(ApiError::field("/grace_s", "out_of_range", detail))
            }
            (DrainHow::Lazy, grace_s) => Ok((Drain::Lazy, grace_s.map(Duration::from_secs))),
        }
    }
}

/// Drain a render node.
///
/// It gets no other job until it is undrained, also under a new leader and after its own restart.
#[utoipa::path(put, path = "/v1/farm/nodes/{id}/drain", tag = "farm", security(("bearer" = [])), params(("id" = String, Path)), request_body = DrainRequest,
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn drain(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<NodeId>,
    Json(request): Json<DrainRequest>,
) -> Result<StatusCode, ApiError> {
    principal.require_operator(&app, Scope::Farm).await?;
    let (how, grace) = request.checked()?;
    want(&app, &principal, &id, how, grace).await
}

/// Give a drained node jobs again.
#[utoipa::path(delete, path = "/v1/farm/nodes/{id}/drain", tag = "farm", security(("bearer" = [])), params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn undrain(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<NodeId>,
) -> Result<StatusCode, ApiError> {
    principal.require_operator(&app, Scope::Farm).await?;
    want(&app, &principal, &id, Drain::Off, None).await
}

async fn want(
    app: &App,
    principal: &Principal,
    node: &NodeId,
    how: Drain,
    grace: Option<Duration>,
) -> Result<StatusCode, ApiError> {
    let mut transaction = app.database.begin_as(principal.user).await?;
    if !members::drain(&mut transaction, node, how, grace).await? {
        return Err(NO_NODE);
    }
    commit(transaction).await?;
    tracing::info!(%node, how = how.as_str(), by = %principal.user, "an operator drains a node");
    app.link.members_changed();
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lazy_drain_has_a_grace() {
        let check = |how, grace_s| DrainRequest { how, grace_s }.checked().ok();
        let minute = Some(Duration::from_secs(60));
        assert_eq!(check(DrainHow::Lazy, None), Some((Drain::Lazy, None)));
        assert_eq!(check(DrainHow::Lazy, Some(60)), Some((Drain::Lazy, minute)));
        assert_eq!(check(DrainHow::Now, None), Some((Drain::Now, None)));
        assert_eq!(check(DrainHow::Now, Some(60)), None);
        assert_eq!(check(DrainHow::Lazy, Some(0)), None);
        assert_eq!(check(DrainHow::Lazy, Some(DRAIN_GRACE_S_MAX + 1)), None);
    }
}
