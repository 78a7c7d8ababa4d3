//! `GET /v1/videos`.

use axum::extract::State;
use axum::response::Response;
use flowai_actors::ids::{JobId, ModelId};
use flowai_actors::state::JobState;
use flowai_store::videos::{self, Listing, Video};
use serde::Deserialize;
use utoipa::IntoParams;

use super::resource::{VideoResource, present};
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::{ApiError, Problem};
use crate::http::Query;
use crate::http::page::{self, Page};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// 1..=200, default 50.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Only those in this state.
    status: Option<String>,
    /// Only those of this model.
    model: Option<String>,
}

/// List the own videos, newest first.
#[utoipa::path(get, path = "/v1/videos", tag = "videos", security(("bearer" = [])), params(ListQuery),
    responses((status = 200, body = Page<VideoResource>), (status = 400, body = Problem), (status = 401, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    principal: Principal,
    Query(query): Query<ListQuery>,
) -> Result<Response, ApiError> {
    principal.require(Scope::Videos)?;
    let limit = page::limit(query.limit)?;
    let state = query.status.as_deref().map(read_state).transpose()?;
    let model: Option<ModelId> = query
        .model
        .as_deref()
        .map(|name| {
            name.parse()
                .map_err(|_| ApiError::field("?model", "invalid", "is no model's name"))
        })
        .transpose()?;
    // Whose list, and which: a cursor of another one is refused.
    let name = format!("videos {} {:?} {:?}", principal.user, state, model);
    let after = query
        .cursor
        .as_deref()
        .map(|cursor| page::behind(&app.keys, &name, cursor))
        .transpose()?;
    let listing = Listing {
        state,
        model: model.clone(),
        after: after.map(JobId::from_uuid),
        is_oldest_first: false,
        // One more says whether there is a next page.
        limit: i64::from(limit) + 1,
    };
    let mut transaction = app.database.begin_as(principal.user).await?;
    let mut videos = videos::list(&mut transaction, &listing).await?;
    let id = |video: &Video| video.id.as_uuid();
    let next_cursor = page::cut(&mut videos, limit, &app.keys, &name, id);
    let data: Vec<VideoResource> = videos
        .iter()
        .map(|video| present(&app, principal.user, video))
        .collect();
    let mut path = format!("/v1/videos?limit={limit}");
    for (name, value) in [
        ("status", state.map(JobState::as_str)),
        ("model", model.as_ref().map(ModelId::as_str)),
    ] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={value}"));
        }
    }
    Ok(Page { data, next_cursor }.answer(&path))
}

fn read_state(name: &str) -> Result<JobState, ApiError> {
    JobState::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = JobState::ALL.iter().map(|state| state.as_str()).collect();
        let detail = format!("must be one of {}", names.join(", "));
        ApiError::field("?status", "invalid", detail)
    })
}
