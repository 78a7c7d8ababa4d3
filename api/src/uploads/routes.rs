//! `/v1/uploads`.

use axum::extract::{DefaultBodyLimit, Multipart, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use flowai_actors::ids::{Sha256, UploadId, UserId};
use flowai_actors::limits::{ADAPTER_BYTES_MAX, IMAGE_BYTES_MAX};
use flowai_model::Sha256Digest;
use flowai_store::database::{UserTransaction, commit};
use flowai_store::leftovers::Leftovers;
use flowai_store::uploads::{self, Purpose, Removal, Upload};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::receive::{IncomingFile, UPLOAD_BODY_BYTES_MAX, broken, receive_file, receive_text};
use super::{Place, require_room};
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::{ApiError, Problem};
use crate::http::page::{self, Page};
use crate::http::{Path, Query};

pub(crate) fn router() -> OpenApiRouter<App> {
    let upload = OpenApiRouter::new()
        .routes(routes!(create, list))
        .layer(DefaultBodyLimit::max(UPLOAD_BODY_BYTES_MAX));
    OpenApiRouter::new()
        .routes(routes!(get, remove))
        .merge(upload)
}

/// The form of an upload.
#[derive(ToSchema)]
#[allow(
    dead_code,
    reason = "describes the form; the handler reads its fields as they come"
)]
struct UploadForm {
    /// `image`: png, jpeg or webp, 2 to 8192 pixels a side, at most 40 million. `adapter`: a LoRA in safetensors, at most
    /// 1 GiB.
    #[schema(pattern = "^(image|adapter)$")]
    purpose: String,
    #[schema(format = Binary, content_media_type = "application/octet-stream")]
    file: String,
}

/// A stored file.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UploadResource {
    pub id: Uuid,
    #[schema(example = "image")]
    pub purpose: &'static str,
    /// Of the bytes as stored: a picture is encoded anew.
    pub sha256: String,
    pub bytes: u64,
    pub content_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    pub created_at: DateTime<Utc>,
}

impl From<Upload> for UploadResource {
    fn from(upload: Upload) -> Self {
        Self {
            id: upload.id.as_uuid(),
            purpose: upload.purpose.as_str(),
            sha256: upload.sha256.to_string(),
            bytes: upload.bytes,
            content_type: upload.content_type,
            width: upload.size.map(|(width, _)| width),
            height: upload.size.map(|(_, height)| height),
            created_at: upload.created_at,
        }
    }
}

/// Upload a file in one call.
///
/// A picture is decoded, turned upright, stripped of its metadata and stored as PNG. An adapter file is checked and stored
/// as it is; `POST /v1/adapters` makes an adapter of it.
#[utoipa::path(post, path = "/v1/uploads", tag = "uploads", security(("bearer" = [])),
    request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses((status = 201, body = UploadResource), (status = 401, body = Problem), (status = 413, body = Problem), (status = 415, body = Problem), (status = 422, body = Problem), (status = 429, body = Problem), (status = 507, body = Problem)))]
async fn create(
    State(app): State<App>,
    principal: Principal,
    form: Result<Multipart, axum::extract::multipart::MultipartRejection>,
) -> Result<Response, ApiError> {
    let mut form = form.map_err(|_| {
        ApiError::MediaTypeRefused("send the file as multipart/form-data".to_owned())
    })?;
    require_room(&app, principal.user).await?;
    let place = app.gate.place(principal.user)?;
    let (mut purpose, mut file) = (None, None);
    let too_large = broken(ADAPTER_BYTES_MAX);
    while let Some(field) = form.next_field().await.map_err(&too_large)? {
        match field.name() {
            Some("purpose") => {
                let text = receive_text(field, "purpose", ADAPTER_BYTES_MAX).await?;
                purpose = Some(read_purpose(&text)?);
            }
            Some("file") => file = Some(receive_file(field, ADAPTER_BYTES_MAX).await?),
            other => {
                let name = other
                    .unwrap_or_default()
                    .chars()
                    .take(64)
                    .collect::<String>();
                let detail = "is not a field of this form; they are purpose and file";
                return Err(ApiError::field(format!("?{name}"), "unknown", detail));
            }
        }
    }
    let missing = |name: &str| ApiError::field(format!("?{name}"), "missing", "must be given");
    let purpose = purpose.ok_or_else(|| missing("purpose"))?;
    let file = file.ok_or_else(|| missing("file"))?;
    let upload = match purpose {
        Purpose::Image => {
            principal.require(Scope::Videos)?;
            match file {
                IncomingFile::InMemory(bytes) => {
                    store_picture(&app, principal.user, bytes, Some(place)).await?
                }
                IncomingFile::OnDisk(_) => {
                    return Err(ApiError::BodyTooLarge {
                        bytes_max: IMAGE_BYTES_MAX,
                    });
                }
            }
        }
        Purpose::Adapter => {
            principal.require(Scope::Adapters)?;
            store_adapter_file(&app, principal.user, file, Some(place)).await?
        }
    };
    let location = format!("/v1/uploads/{}", upload.id);
    let resource = axum::Json(UploadResource::from(upload));
    let headers = [(header::LOCATION, location)];
    Ok((StatusCode::CREATED, headers, resource).into_response())
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Only those for this: `image` or `adapter`.
    purpose: Option<String>,
    /// 1 to 200; 50 if left out.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List the own uploads, newest first.
///
/// First frames that were made from words are among them. What no video was made from can be removed.
#[utoipa::path(get, path = "/v1/uploads", tag = "uploads", security(("bearer" = [])), params(ListQuery),
    responses((status = 200, body = Page<UploadResource>), (status = 400, body = Problem), (status = 401, body = Problem), (status = 422, body = Problem)))]
async fn list(
    State(app): State<App>,
    principal: Principal,
    Query(query): Query<ListQuery>,
) -> Result<Response, ApiError> {
    let purpose = query.purpose.as_deref().map(read_purpose).transpose()?;
    for shown in Purpose::ALL {
        if purpose.is_none_or(|purpose| purpose == shown) {
            require_scope_for(&principal, shown)?;
        }
    }
    let limit = page::limit(query.limit)?;
    let filter = purpose.map_or(String::new(), |purpose| {
        format!("&purpose={}", purpose.as_str())
    });
    let name = format!("uploads {}{filter}", principal.user);
    let before = query
        .cursor
        .as_deref()
        .map(|cursor| page::behind(&app.keys, &name, cursor))
        .transpose()?;
    let before = before.map(UploadId::from_uuid);
    let mut transaction = app.database.begin_as(principal.user).await?;
    let more = i64::from(limit) + 1;
    let mut found = uploads::list(&mut transaction, purpose, before, more).await?;
    let id = |upload: &Upload| upload.id.as_uuid();
    let next_cursor = page::cut(&mut found, limit, &app.keys, &name, id);
    let data: Vec<UploadResource> = found.into_iter().map(UploadResource::from).collect();
    Ok(Page { data, next_cursor }.answer(&format!("/v1/uploads?limit={limit}{filter}")))
}

/// Look at an upload.
#[utoipa::path(get, path = "/v1/uploads/{id}", tag = "uploads", security(("bearer" = [])), params(("id" = Uuid, Path)),
    responses((status = 200, body = UploadResource), (status = 401, body = Problem), (status = 404, body = Problem)))]
async fn get(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<UploadId>,
) -> Result<axum::Json<UploadResource>, ApiError> {
    let mut transaction = app.database.begin_as(principal.user).await?;
    let upload = uploads::find(&mut transaction, id).await?;
    let upload = upload.ok_or(ApiError::NotFound("an upload of this id"))?;
    require_scope_for(&principal, upload.purpose)?;
    Ok(axum::Json(upload.into()))
}

/// Remove an upload that no video names.
#[utoipa::path(delete, path = "/v1/uploads/{id}", tag = "uploads", security(("bearer" = [])), params(("id" = Uuid, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn remove(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<UploadId>,
) -> Result<StatusCode, ApiError> {
    let mut transaction = app.database.begin_as(principal.user).await?;
    let upload = uploads::find(&mut transaction, id).await?;
    let upload = upload.ok_or(ApiError::NotFound("an upload of this id"))?;
    require_scope_for(&principal, upload.purpose)?;
    match uploads::remove(&mut transaction, id).await? {
        Removal::Removed { object_key } => {
            app.commit_removal(transaction, principal.user, Leftovers::key(object_key))
                .await?;
            Ok(StatusCode::NO_CONTENT)
        }
        Removal::InUse => {
            let detail = "videos were made from this upload; purge them first";
            Err(ApiError::StateConflict(detail.to_owned()))
        }
        Removal::NotFound => Err(ApiError::NotFound("an upload of this id")),
    }
}

fn require_scope_for(principal: &Principal, purpose: Purpose) -> Result<(), ApiError> {
    principal.require(match purpose {
        Purpose::Image => Scope::Videos,
        Purpose::Adapter => Scope::Adapters,
    })
}

fn read_purpose(text: &str) -> Result<Purpose, ApiError> {
    Purpose::ALL
        .into_iter()
        .find(|purpose| purpose.as_str() == text)
        .ok_or_else(|| ApiError::field("?purpose", "invalid", "must be image or adapter"))
}

/// Puts a picture through the gate, into the object store and then into the database. `place`: its owner's, until it is stored; a small
/// body needs none.
pub(crate) async fn store_picture(
    app: &App,
    owner: UserId,
    bytes: Bytes,
    place: Option<Place>,
) -> Result<Upload, ApiError> {
    let picture = app.gate.picture(bytes).await?;
    let png = Bytes::from(picture.png);
    let id = UploadId::generate();
    let upload = Upload {
        id,
        purpose: Purpose::Image,
        sha256: sha256(&Sha256Digest::of(&png)),
        bytes: png.len() as u64,
        content_type: "image/png".to_owned(),
        size: Some((picture.width, picture.height)),
        object_key: format!("uploads/{owner}/{id}.png"),
        created_at: Utc::now(),
    };
    keep(app, owner, upload, Content::Picture(png), place).await
}

/// Takes back a picture, unless a video names it, also one that is being submitted. One that stays costs space and nothing
/// else, so a failure is logged and changes no answer.
pub(crate) async fn remove_picture(app: &App, owner: UserId, id: UploadId) {
    if let Err(error) = remove_unused(app, owner, id).await {
        tracing::warn!(%error, upload = %id, "a picture that nothing needs stays");
    }
}

async fn remove_unused(app: &App, owner: UserId, id: UploadId) -> Result<(), ApiError> {
    let mut transaction = app.database.begin_as(owner).await?;
    match uploads::remove(&mut transaction, id).await? {
        Removal::Removed { object_key } => {
            let leftovers = Leftovers::key(object_key);
            app.commit_removal(transaction, owner, leftovers).await
        }
        Removal::InUse | Removal::NotFound => Ok(()),
    }
}

async fn store_adapter_file(
    app: &App,
    owner: UserId,
    file: IncomingFile,
    place: Option<Place>,
) -> Result<Upload, ApiError> {
    let file = app.gate.adapter_file(file.into_file()?).await?;
    let io = |error: std::io::Error| {
        tracing::error!(%error, "a checked file cannot be read");
        ApiError::Internal
    };
    let path = file.path().to_owned();
    let digest = tokio::task::spawn_blocking(move || Sha256Digest::of_file(&path)).await;
    let digest = digest.map_err(|_| ApiError::Internal)?.map_err(io)?;
    let id = UploadId::generate();
    let upload = Upload {
        id,
        purpose: Purpose::Adapter,
        sha256: sha256(&digest),
        bytes: file.as_file().metadata().map_err(io)?.len(),
        content_type: "application/octet-stream".to_owned(),
        size: None,
        object_key: format!("uploads/{owner}/{id}.safetensors"),
        created_at: Utc::now(),
    };
    keep(app, owner, upload, Content::Adapter(file), place).await
}

/// What has passed its gate.
enum Content {
    Picture(Bytes),
    Adapter(NamedTempFile),
}

/// Stores the object, and after it the row, so that no row ever names one that is missing. By a task of its own: a client that hangs up
/// leaves no object that counts for nobody.
async fn keep(
    app: &App,
    owner: UserId,
    upload: Upload,
    content: Content,
    place: Option<Place>,
) -> Result<Upload, ApiError> {
    let app = app.clone();
    let kept = tokio::spawn(async move {
        let _place = place;
        let (objects, key) = (&app.objects, &upload.object_key);
        match content {
            Content::Picture(png) => objects.put(key, png, &upload.content_type).await?,
            Content::Adapter(file) => {
                let path = file.path();
                objects.put_file(key, path, &upload.content_type).await?;
            }
        }
        fail::fail_point!("after_upload_put");
        match inserted(&app, owner, &upload).await {
            // Whoever hears nothing of a commit cannot know that nothing was written.
            Ok(transaction) => commit(transaction).await?,
            Err(error) => {
                app.forget_object(key).await;
                return Err(error);
            }
        }
        Ok(upload)
    });
    kept.await.map_err(|_| ApiError::Internal)?
}

/// Its row, until its transaction is committed.
async fn inserted(app: &App, owner: UserId, upload: &Upload) -> Result<UserTransaction, ApiError> {
    let mut transaction = app.database.begin_as(owner).await?;
    uploads::insert(&mut transaction, owner, upload).await?;
    Ok(transaction)
}

/// The same hash in the farm's words.
fn sha256(digest: &Sha256Digest) -> Sha256 {
    Sha256::from_bytes(*digest.as_bytes())
}
