//! `DELETE /v1/videos/{id}`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use flowai_actors::ids::{JobId, UserId};
use flowai_actors::state::JobState;
use flowai_store::checkpoints::checkpoints_prefix;
use flowai_store::database::commit;
use flowai_store::journal::clips_prefix;
use flowai_store::leftovers::Leftovers;
use flowai_store::videos::{self, Cancelling, Purge, Video};
use serde::Deserialize;
use utoipa::IntoParams;

use super::resource::{VideoResource, present};
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::{ApiError, Problem};
use crate::http::{Path, Query};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RemoveQuery {
    /// Delete the clip and the picture that it was made from instead of cancelling. A picture that was made from the prompt
    /// stays, as an upload. Only a video that has ended can be purged.
    #[serde(default)]
    purge: bool,
}

/// Cancel a video, or purge one that has ended.
///
/// A waiting one is cancelled at once and costs nothing, a running one at its next step and costs the share of the steps that were
/// done. Cancelling twice is cancelling once. A video that
/// has ended otherwise answers 409 and keeps its clip.
#[utoipa::path(delete, path = "/v1/videos/{id}", tag = "videos", security(("bearer" = [])), params(("id" = Uuid, Path), RemoveQuery),
    responses((status = 200, body = VideoResource), (status = 204, description = "purged"), (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn remove(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<JobId>,
    Query(query): Query<RemoveQuery>,
) -> Result<Response, ApiError> {
    principal.require(Scope::Videos)?;
    if query.purge {
        purge(&app, principal.user, id).await?;
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let video = cancel(&app, principal.user, id).await?;
    Ok(Json(present(&app, principal.user, &video)).into_response())
}

/// Cancels one of the user's own videos and says how it stands then.
///
/// # Errors
/// `AlreadyDone` when it had ended otherwise, `NotFound`.
pub(crate) async fn cancel(app: &App, user: UserId, id: JobId) -> Result<Video, ApiError> {
    let mut transaction = app.database.begin_as(user).await?;
    let has_changed = match videos::cancel(&mut transaction, user, id).await? {
        Cancelling::Cancelled | Cancelling::Requested => true,
        Cancelling::AlreadyAsked | Cancelling::AlreadyEnded(JobState::Cancelled) => false,
        Cancelling::AlreadyEnded(state) => return Err(ApiError::AlreadyDone(state.as_str())),
        Cancelling::NotFound => return Err(ApiError::NotFound("a video of this id")),
    };
    let video = videos::find(&mut transaction, id).await?;
    let video = video.ok_or(ApiError::NotFound("a video of this id"))?;
    if has_changed {
        commit(transaction).await?;
        fail::fail_point!("after_cancel_commit");
        app.link.ring(id);
        app.sessions.events_ready(user);
    }
    Ok(video)
}

/// Removes an ended video with its files.
///
/// # Errors
/// `StateConflict` when it has not ended, `NotFound`.
pub(crate) async fn purge(app: &App, user: UserId, id: JobId) -> Result<(), ApiError> {
    let mut transaction = app.database.begin_as(user).await?;
    let keys = match videos::purge(&mut transaction, id).await? {
        Purge::Purged {
            picture_key,
            keyframe_keys,
        } => picture_key.into_iter().chain(keyframe_keys).collect(),
        Purge::Unfinished => {
            let detail = "the video has not ended; cancel it and wait for its end";
            return Err(ApiError::StateConflict(detail.to_owned()));
        }
        Purge::Awaited => {
            let detail = "another video starts after this one and has yet to; cancel that one, or purge this one later";
            return Err(ApiError::StateConflict(detail.to_owned()));
        }
        Purge::NotFound => return Err(ApiError::NotFound("a video of this id")),
    };
    // Also what attempts left that were lost, cancelled or too late.
    let prefixes = vec![clips_prefix(id), checkpoints_prefix(id)];
    app.commit_removal(transaction, user, Leftovers { keys, prefixes })
        .await
}
