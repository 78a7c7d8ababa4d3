//! `/v1/adapters`.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use flowai_actors::ids::{AdapterId, ModelId, UploadId, UserId};
use flowai_actors::limits::ADAPTER_BYTES_MAX;
use flowai_actors::messages::ModelOffer;
use flowai_store::adapters::{self, Adapter, Stored};
use flowai_store::database::commit;
use flowai_store::leftovers::Leftovers;
use flowai_store::models;
use flowai_store::uploads::{self, Purpose, Removal, Upload};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::check::{family_name, module_table, stored_report};
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::{ApiError, Problem};
use crate::http::page::{self, Page};
use crate::http::{Json, Path, Query};
use crate::uploads::{Place, require_room};

const NAME_CHARS_MAX: usize = 80;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(get, remove))
}

/// An adapter from an uploaded file.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AdapterRequest {
    /// An upload with the purpose `adapter`.
    upload: Uuid,
    /// The model whose layers it changes: one that makes clips or one that makes first frames.
    #[schema(example = "svd-xt")]
    model: String,
    #[schema(min_length = 1, max_length = 80)]
    name: String,
}

/// A file that fits a model.
#[derive(Debug, Serialize, ToSchema)]
struct AdapterResource {
    id: Uuid,
    name: String,
    sha256: String,
    bytes: u64,
    /// `stable_video_diffusion`: for the `adapters` of a video. `stable_diffusion`: for those of its `keyframe`.
    #[schema(example = "stable_video_diffusion")]
    family: String,
    /// What the file holds: naming formats, ranks and how many modules have each, modules that change the result and
    /// modules without effect, numbers in all, and the model it was checked against.
    #[schema(value_type = Object)]
    report: serde_json::Value,
    created_at: DateTime<Utc>,
}

impl From<Adapter> for AdapterResource {
    fn from(adapter: Adapter) -> Self {
        Self {
            id: adapter.id.as_uuid(),
            name: adapter.name,
            sha256: adapter.sha256.to_string(),
            bytes: adapter.bytes,
            family: adapter.family,
            report: adapter.report,
            created_at: adapter.created_at,
        }
    }
}

/// Make an adapter of an upload.
///
/// Every key of the file is looked up among the model's layers. A file of which anything does not fit is refused whole,
/// with all that does not fit.
#[utoipa::path(post, path = "/v1/adapters", tag = "adapters", security(("bearer" = [])), request_body = AdapterRequest,
    responses((status = 201, body = AdapterResource), (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem), (status = 507, body = Problem)))]
async fn create(
    State(app): State<App>,
    principal: Principal,
    Json(request): Json<AdapterRequest>,
) -> Result<Response, ApiError> {
    principal.require(Scope::Adapters)?;
    let name = request.name.trim();
    if !(1..=NAME_CHARS_MAX).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        let detail = format!("must be 1..={NAME_CHARS_MAX} printable characters");
        return Err(ApiError::field("/name", "length", detail));
    }
    let (upload, offer) = {
        let mut transaction = app.database.begin_as(principal.user).await?;
        let id = UploadId::from_uuid(request.upload);
        let upload = uploads::find(&mut transaction, id).await?;
        let upload = upload.ok_or_else(|| ApiError::NamedNotFound(format!("upload {id}")))?;
        if upload.purpose != Purpose::Adapter {
            let detail = "must be an upload with the purpose adapter";
            return Err(ApiError::field("/upload", "invalid", detail));
        }
        let unknown = || {
            let shown: String = request.model.chars().take(64).collect();
            ApiError::ImpossibleJob(format!("model {shown:?} is not offered; see /v1/models"))
        };
        let model: ModelId = request.model.parse().map_err(|_| unknown())?;
        let model = models::find(&mut transaction, &model).await?;
        (upload, model.ok_or_else(unknown)?.offer)
    };
    require_room(&app, principal.user).await?;
    let place = app.gate.place(principal.user)?;
    let (app, name, owner) = (app.clone(), name.to_owned(), principal.user);
    // Of its own: a client that hangs up leaves no object without a row, and finds the adapter when it looks.
    let made = tokio::spawn(async move { make(&app, owner, name, upload, offer, place).await });
    let resource = made.await.map_err(|_| ApiError::Internal)??;
    let location = format!("/v1/adapters/{}", resource.id);
    let headers = [(header::LOCATION, location)];
    Ok((StatusCode::CREATED, headers, axum::Json(resource)).into_response())
}

/// Checks the file against the model and keeps it as an adapter.
async fn make(
    app: &App,
    owner: UserId,
    name: String,
    upload: Upload,
    offer: ModelOffer,
    _place: Place,
) -> Result<AdapterResource, ApiError> {
    let file = fetch(app, &upload.object_key).await?;
    let report = app
        .gate
        .adapter_fits(
            file.path().to_owned(),
            module_table(&offer)?,
            offer.id.to_string(),
        )
        .await?;

    let id = AdapterId::generate();
    let adapter = Adapter {
        id,
        name,
        sha256: upload.sha256,
        bytes: upload.bytes,
        family: family_name(report.family)?,
        report: stored_report(&report, &offer)?,
        object_key: format!("adapters/{owner}/{id}.safetensors"),
        created_at: Utc::now(),
    };
    // An object of its own, so that the upload can go.
    app.objects
        .copy(&upload.object_key, &adapter.object_key)
        .await?;
    let mut transaction = app.database.begin_as(owner).await?;
    match adapters::insert(&mut transaction, owner, &adapter).await? {
        Stored::New => commit(transaction).await?,
        Stored::AlreadyThere(known) => {
            drop(transaction);
            app.forget_object(&adapter.object_key).await;
            let detail = format!("adapter {known} has the same bytes; use it, or delete it first");
            return Err(ApiError::StateConflict(detail));
        }
    }
    Ok(AdapterResource::from(adapter))
}

/// The object as a temporary file, which can be mapped.
async fn fetch(app: &App, key: &str) -> Result<NamedTempFile, ApiError> {
    let no_room = |error: std::io::Error| {
        tracing::error!(%error, "a file cannot be kept while it is checked");
        ApiError::Overloaded
    };
    let file = NamedTempFile::new().map_err(no_room)?;
    let object = app.objects.get(key).await?;
    if object.head.length > ADAPTER_BYTES_MAX {
        return Err(ApiError::Internal);
    }
    let mut reader = object.into_reader();
    let mut writer = tokio::fs::File::from_std(file.reopen().map_err(no_room)?);
    tokio::io::copy_buf(&mut reader, &mut writer)
        .await
        .map_err(|error| {
            tracing::warn!(%error, "an object broke off");
            ApiError::DependencyDown("the object store")
        })?;
    writer.flush().await.map_err(no_room)?;
    Ok(file)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// 1..=200, default 50.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List the own adapters, newest first.
#[utoipa::path(get, path = "/v1/adapters", tag = "adapters", security(("bearer" = [])), params(ListQuery),
    responses((status = 200, body = Page<AdapterResource>), (status = 400, body = Problem), (status = 401, body = Problem)))]
async fn list(
    State(app): State<App>,
    principal: Principal,
    Query(query): Query<ListQuery>,
) -> Result<Response, ApiError> {
    principal.require(Scope::Adapters)?;
    let limit = page::limit(query.limit)?;
    let name = format!("adapters {}", principal.user);
    let before = query
        .cursor
        .as_deref()
        .map(|cursor| page::behind(&app.keys, &name, cursor))
        .transpose()?;
    let mut transaction = app.database.begin_as(principal.user).await?;
    let before = before.map(AdapterId::from_uuid);
    let mut found = adapters::list(&mut transaction, before, i64::from(limit) + 1).await?;
    let id = |adapter: &Adapter| adapter.id.as_uuid();
    let next_cursor = page::cut(&mut found, limit, &app.keys, &name, id);
    let data: Vec<AdapterResource> = found.into_iter().map(AdapterResource::from).collect();
    Ok(Page { data, next_cursor }.answer(&format!("/v1/adapters?limit={limit}")))
}

/// Look at an adapter.
#[utoipa::path(get, path = "/v1/adapters/{id}", tag = "adapters", security(("bearer" = [])), params(("id" = Uuid, Path)),
    responses((status = 200, body = AdapterResource), (status = 401, body = Problem), (status = 404, body = Problem)))]
async fn get(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<AdapterId>,
) -> Result<axum::Json<AdapterResource>, ApiError> {
    principal.require(Scope::Adapters)?;
    let mut transaction = app.database.begin_as(principal.user).await?;
    let found = adapters::find(&mut transaction, &[id]).await?.pop();
    let adapter = found.ok_or(ApiError::NotFound("an adapter of this id"))?;
    Ok(axum::Json(adapter.into()))
}

/// Delete an adapter that no video names.
#[utoipa::path(delete, path = "/v1/adapters/{id}", tag = "adapters", security(("bearer" = [])), params(("id" = Uuid, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn remove(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<AdapterId>,
) -> Result<StatusCode, ApiError> {
    principal.require(Scope::Adapters)?;
    let mut transaction = app.database.begin_as(principal.user).await?;
    match adapters::remove(&mut transaction, id).await? {
        Removal::Removed { object_key } => {
            app.commit_removal(transaction, principal.user, Leftovers::key(object_key))
                .await?;
            Ok(StatusCode::NO_CONTENT)
        }
        Removal::InUse => {
            let detail = "videos name this adapter; purge them first";
            Err(ApiError::StateConflict(detail.to_owned()))
        }
        Removal::NotFound => Err(ApiError::NotFound("an adapter of this id")),
    }
}
