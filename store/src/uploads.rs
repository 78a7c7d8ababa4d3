//! Files that users sent, checked by the gate before they were stored.

use chrono::{DateTime, Utc};
use flowai_actors::ids::{Sha256, UploadId, UserId};
use flowai_actors::state::Tier;
use sqlx::PgConnection;

use crate::database::{DatabaseError, not_of, violates};

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Image,
    Adapter,
}

impl Purpose {
    pub const ALL: [Self; 2] = [Self::Image, Self::Adapter];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Adapter => "adapter",
        }
    }
}

/// A stored file.
#[derive(Debug, Clone)]
pub struct Upload {
    pub id: UploadId,
    pub purpose: Purpose,
    /// Of the bytes as stored.
    pub sha256: Sha256,
    pub bytes: u64,
    pub content_type: String,
    /// Width and height of a picture, px.
    pub size: Option<(u32, u32)>,
    pub object_key: String,
    pub created_at: DateTime<Utc>,
}

/// What became of a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// The row is gone; the object under this key may go.
    Removed {
        object_key: String,
    },
    /// Jobs name it, or a clip began with it.
    InUse,
    NotFound,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: uuid::Uuid,
    purpose: String,
    sha256: Vec<u8>,
    bytes: i64,
    content_type: String,
    width: Option<i32>,
    height: Option<i32>,
    object_key: String,
    created_at: DateTime<Utc>,
}

impl Row {
    fn read(self) -> Result<Upload, DatabaseError> {
        let purpose = match self.purpose.as_str() {
            "image" => Purpose::Image,
            "adapter" => Purpose::Adapter,
            other => return Err(not_of("upload.purpose", other)),
        };
        Ok(Upload {
            id: UploadId::from_uuid(self.id),
            purpose,
            sha256: sha256_of("upload.sha256", &self.sha256)?,
            bytes: self.bytes.unsigned_abs(),
            content_type: self.content_type,
            size: self
                .width
                .zip(self.height)
                .map(|(width, height)| (width.unsigned_abs(), height.unsigned_abs())),
            object_key: self.object_key,
            created_at: self.created_at,
        })
    }
}

/// A hash column.
pub(crate) fn sha256_of(column: &'static str, bytes: &[u8]) -> Result<Sha256, DatabaseError> {
    bytes
        .try_into()
        .map(Sha256::from_bytes)
        .map_err(|_| not_of(column, "bytes of another length than 32"))
}

pub async fn insert(
    connection: &mut PgConnection,
    owner: UserId,
    upload: &Upload,
) -> Result<(), DatabaseError> {
    sqlx::query(
        "insert into upload (id, owner_id, purpose, sha256, bytes, content_type, width, height, object_key, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(upload.id.as_uuid())
    .bind(owner.as_uuid())
    .bind(upload.purpose.as_str())
    .bind(upload.sha256.as_bytes().as_slice())
    .bind(i64::try_from(upload.bytes).unwrap_or(i64::MAX))
    .bind(&upload.content_type)
    .bind(upload.size.map(|(width, _)| width.cast_signed()))
    .bind(upload.size.map(|(_, height)| height.cast_signed()))
    .bind(&upload.object_key)
    .bind(upload.created_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// The caller's tier, and how many bytes their pictures and adapters have.
pub async fn stored(connection: &mut PgConnection) -> Result<(Tier, u64), DatabaseError> {
    let (tier, bytes): (String, i64) = sqlx::query_as(
        "select a.tier, ((select coalesce(sum(bytes), 0) from upload where owner_id = a.id)
                         + (select coalesce(sum(bytes), 0) from adapter where owner_id = a.id))::bigint
           from account a where a.id = (select app_user())",
    )
    .fetch_one(connection)
    .await?;
    let tier = Tier::from_name(&tier).ok_or_else(|| not_of("account.tier", &tier))?;
    Ok((tier, bytes.unsigned_abs()))
}

/// One of the caller's own uploads.
pub async fn find(
    connection: &mut PgConnection,
    id: UploadId,
) -> Result<Option<Upload>, DatabaseError> {
    let row: Option<Row> = sqlx::query_as(
        "select id, purpose, sha256, bytes, content_type, width, height, object_key, created_at
           from upload where id = $1 and owner_id = (select app_user())",
    )
    .bind(id.as_uuid())
    .fetch_optional(connection)
    .await?;
    row.map(Row::read).transpose()
}

/// The caller's own uploads of one purpose or of any, newest first, those older than `before`, at most `limit`.
pub async fn list(
    connection: &mut PgConnection,
    purpose: Option<Purpose>,
    before: Option<UploadId>,
    limit: i64,
) -> Result<Vec<Upload>, DatabaseError> {
    let rows: Vec<Row> = sqlx::query_as(
        "select id, purpose, sha256, bytes, content_type, width, height, object_key, created_at from upload
          where owner_id = (select app_user()) and ($1::text is null or purpose = $1) and ($2::uuid is null or id < $2)
          order by id desc limit $3",
    )
    .bind(purpose.map(Purpose::as_str))
    .bind(before.map(UploadId::as_uuid))
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Row::read).collect()
}

/// Removes one of the caller's own uploads, unless a job names it, or a clip began with it.
pub async fn remove(connection: &mut PgConnection, id: UploadId) -> Result<Removal, DatabaseError> {
    // As whoever removes a job with its picture does first: neither waits for the other with what the other needs.
    sqlx::query("select from user_stream where user_id = (select app_user()) for update")
        .execute(&mut *connection)
        .await?;
    let removed: Result<Option<String>, sqlx::Error> = sqlx::query_scalar(
        "delete from upload where id = $1 and owner_id = (select app_user()) returning object_key",
    )
    .bind(id.as_uuid())
    .fetch_optional(connection)
    .await;
    match removed {
        Ok(Some(object_key)) => Ok(Removal::Removed { object_key }),
        Ok(None) => Ok(Removal::NotFound),
        Err(error)
            if violates(&error, "job_image_not_found")
                || violates(&error, "artefact_keyframe_not_found") =>
        {
            Ok(Removal::InUse)
        }
        Err(error) => Err(error.into()),
    }
}
