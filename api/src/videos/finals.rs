//! `POST /v1/videos/{id}/final`: a draft that was worth it, in full.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use flowai_actors::ids::{AdapterId, JobId, UserId};
use flowai_actors::messages::ModelFamily;
use flowai_actors::spec::{FirstFrame, RenderSpec};
use flowai_actors::state::Class;
use flowai_actors::state::JobState;
use flowai_store::adapters;
use flowai_store::videos::{self, Video};

use super::plan::{Plan, chosen_adapters, chosen_model, invalid_fields};
use super::read::find;
use super::resource::{VideoResource, present};
use super::submit::carry_out;
use super::wish::wishes_of;
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::{ApiError, Problem};
use crate::http::Path;
use crate::http::idempotency;

/// Continue a draft to the full video.
///
/// The new video names the draft as its `parent`. It has the draft's seed and begins with the draft's picture: with a prompt, the
/// one that was made of it, to the byte. The draft must be done.
#[utoipa::path(post, path = "/v1/videos/{id}/final", tag = "videos", security(("bearer" = [])),
    params(("id" = Uuid, Path), ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable characters, kept 24 hours")),
    responses((status = 202, body = VideoResource), (status = 400, body = Problem), (status = 401, body = Problem), (status = 402, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    principal: Principal,
    headers: HeaderMap,
    Path(id): Path<JobId>,
) -> Result<Response, ApiError> {
    principal.require(Scope::Videos)?;
    let user = principal.user;
    let route = format!("POST /v1/videos/{id}/final");
    let named = idempotency::named(&headers, user, &route, &[])?;
    let shown = |video: &Video| serde_json::to_value(present(&app, user, video));
    let plan = plan(&app, user, id).await;
    let submitted = carry_out(&app, user, plan, named.as_ref(), shown).await?;
    Ok(submitted.into_response())
}

async fn plan(app: &App, user: UserId, id: JobId) -> Result<Plan, ApiError> {
    let draft = find(app, user, id).await?;
    let full = draft.final_spec.as_ref().ok_or(ApiError::NotADraft)?;
    if draft.state != JobState::Done {
        return Err(ApiError::DraftNotDone(draft.state.as_str()));
    }
    let name = Some(full.model.as_str());
    let offer = chosen_model(app, user, ModelFamily::Svd, name).await?;
    let wishes = {
        let mut transaction = app.database.begin_as(user).await?;
        let ids = videos::adapters_of(&mut transaction, id).await?;
        let known = adapters::find(&mut transaction, &ids).await?;
        wishes_of(&full.adapters, &known)?
    };
    let used = chosen_adapters(app, user, "/adapters", &wishes, &offer).await?;
    let image = draft.image.or(draft.keyframe);
    let image = image.ok_or(ApiError::NotFound("the draft's picture"))?;
    let picture = app.catalogue.picture(&app.database, user, image).await?;
    let spec = RenderSpec {
        first_frame: FirstFrame::Image(picture.sha256),
        ..full.clone()
    };
    // The model may have another folder by now.
    let errors = invalid_fields(&spec, &offer);
    if !errors.is_empty() {
        return Err(ApiError::ValidationFailed(errors));
    }
    let adapters: Vec<AdapterId> = used.iter().map(|adapter| adapter.id).collect();
    Ok(Plan {
        spec,
        final_spec: None,
        image: Some(image),
        adapters,
        prompt: draft.prompt,
        parent: Some(id),
        class: Class::Interactive,
        after: None,
    })
}
