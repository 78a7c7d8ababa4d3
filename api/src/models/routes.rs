//! `/v1/models`.

use axum::extract::State;
use chrono::{DateTime, Utc};
use flowai_actors::ids::ModelId;
use flowai_actors::limits::{
    FRAMES_MAX, KEYFRAME_PIXELS_MAX, PIXELS_MAX, SIDE_PX_MAX, SIDE_PX_MIN,
};
use flowai_actors::messages::ModelFamily;
use flowai_store::models::{self, Model};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Defaults, KeyframeDefaults};
use crate::app::App;
use crate::auth::Principal;
use crate::error::{ApiError, Problem};
use crate::http::Path;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get))
}

/// A model that a node offers, whether or not it is up at this moment.
#[derive(Serialize, ToSchema)]
struct ModelResource {
    #[schema(example = "svd-xt")]
    id: String,
    /// Over the files of its folder.
    sha256: String,
    /// `svd` makes clips: a video's `model`. `sd` makes first frames from prompts: a video's `keyframe_model`.
    #[schema(example = "svd")]
    family: &'static str,
    limits: ModelLimits,
    /// Of a model that makes clips.
    defaults: Option<Defaults>,
    /// Of a model that makes first frames.
    keyframe_defaults: Option<KeyframeDefaults>,
    updated_at: DateTime<Utc>,
}

#[derive(Serialize, ToSchema)]
struct ModelLimits {
    /// 1 for a model that makes first frames.
    frames_max: u32,
    /// Width and height must be multiples of it.
    side_multiple: u32,
    side_min: u32,
    side_max: u32,
    pixels_max: u32,
}

#[derive(Serialize, ToSchema)]
struct ModelList {
    data: Vec<ModelResource>,
}

impl ModelResource {
    fn of(model: Model) -> Result<Self, ApiError> {
        let Model { offer, updated_at } = model;
        let (defaults, keyframe_defaults, pixels_max) = match offer.family {
            ModelFamily::Svd => (Some(Defaults::of(&offer)?), None, PIXELS_MAX),
            ModelFamily::Sd => {
                let defaults = KeyframeDefaults::of(&offer)?;
                (None, Some(defaults), KEYFRAME_PIXELS_MAX)
            }
        };
        Ok(Self {
            id: offer.id.to_string(),
            sha256: offer.sha256.to_string(),
            family: offer.family.name(),
            limits: ModelLimits {
                frames_max: offer.limits.frames_max.min(FRAMES_MAX),
                side_multiple: offer.limits.side_multiple,
                side_min: SIDE_PX_MIN,
                side_max: SIDE_PX_MAX,
                pixels_max,
            },
            defaults,
            keyframe_defaults,
            updated_at,
        })
    }
}

/// List the models.
#[utoipa::path(get, path = "/v1/models", tag = "models", security(("bearer" = [])),
    responses((status = 200, body = ModelList), (status = 401, body = Problem)))]
async fn list(
    State(app): State<App>,
    principal: Principal,
) -> Result<axum::Json<ModelList>, ApiError> {
    let mut transaction = app.database.begin_as(principal.user).await?;
    let models = models::list(&mut transaction).await?;
    // One that this build cannot read is none that it can offer; why is logged.
    let data = models
        .into_iter()
        .filter_map(|model| ModelResource::of(model).ok());
    Ok(axum::Json(ModelList {
        data: data.collect(),
    }))
}

/// Look at a model.
#[utoipa::path(get, path = "/v1/models/{id}", tag = "models", security(("bearer" = [])), params(("id" = String, Path)),
    responses((status = 200, body = ModelResource), (status = 401, body = Problem), (status = 404, body = Problem)))]
async fn get(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<ModelId>,
) -> Result<axum::Json<ModelResource>, ApiError> {
    let mut transaction = app.database.begin_as(principal.user).await?;
    let model = models::find(&mut transaction, &id).await?;
    let model = model.ok_or(ApiError::NotFound("a model of this name"))?;
    ModelResource::of(model).map(axum::Json)
}
