//! Adapters that passed the gate and fit a model.

use chrono::{DateTime, Utc};
use flowai_actors::ids::{AdapterId, Sha256, UserId};
use sqlx::PgConnection;

use crate::database::{DatabaseError, violates};
use crate::uploads::{Removal, sha256_of};

/// A stored adapter.
#[derive(Debug, Clone)]
pub struct Adapter {
    pub id: AdapterId,
    /// 1 to 80 characters.
    pub name: String,
    pub sha256: Sha256,
    pub bytes: u64,
    pub family: String,
    /// What the gate found, and the model it was checked against.
    pub report: serde_json::Value,
    pub object_key: String,
    pub created_at: DateTime<Utc>,
}

/// What became of an insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    New,
    /// The caller has a file of the same bytes already.
    AlreadyThere(AdapterId),
}

#[derive(sqlx::FromRow)]
struct Row {
    id: uuid::Uuid,
    name: String,
    sha256: Vec<u8>,
    bytes: i64,
    family: String,
    report: serde_json::Value,
    object_key: String,
    created_at: DateTime<Utc>,
}

impl Row {
    fn read(self) -> Result<Adapter, DatabaseError> {
        Ok(Adapter {
            id: AdapterId::from_uuid(self.id),
            name: self.name,
            sha256: sha256_of("adapter.sha256", &self.sha256)?,
            bytes: self.bytes.unsigned_abs(),
            family: self.family,
            report: self.report,
            object_key: self.object_key,
            created_at: self.created_at,
        })
    }
}

pub async fn insert(
    connection: &mut PgConnection,
    owner: UserId,
    adapter: &Adapter,
) -> Result<Stored, DatabaseError> {
    loop {
        if try_insert(connection, owner, adapter).await? {
            return Ok(Stored::New);
        }
        let id: Option<uuid::Uuid> = sqlx::query_scalar(
            "select id from adapter where owner_id = (select app_user()) and sha256 = $1",
        )
        .bind(adapter.sha256.as_bytes().as_slice())
        .fetch_optional(&mut *connection)
        .await?;
        // One that was removed in between is no longer in the way.
        if let Some(id) = id {
            return Ok(Stored::AlreadyThere(AdapterId::from_uuid(id)));
        }
    }
}

/// Whether there was none with these bytes.
async fn try_insert(
    connection: &mut PgConnection,
    owner: UserId,
    adapter: &Adapter,
) -> Result<bool, DatabaseError> {
    let inserted = sqlx::query(
        "insert into adapter (id, owner_id, name, sha256, bytes, family, report, object_key, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         on conflict on constraint adapter_already_stored do nothing",
    )
    .bind(adapter.id.as_uuid())
    .bind(owner.as_uuid())
    .bind(&adapter.name)
    .bind(adapter.sha256.as_bytes().as_slice())
    .bind(i64::try_from(adapter.bytes).unwrap_or(i64::MAX))
    .bind(&adapter.family)
    .bind(&adapter.report)
    .bind(&adapter.object_key)
    .bind(adapter.created_at)
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// The caller's own adapters, newest first, those older than `before`, at most `limit`.
pub async fn list(
    connection: &mut PgConnection,
    before: Option<AdapterId>,
    limit: i64,
) -> Result<Vec<Adapter>, DatabaseError> {
    let rows: Vec<Row> = sqlx::query_as(
        "select id, name, sha256, bytes, family, report, object_key, created_at from adapter
          where owner_id = (select app_user()) and ($1::uuid is null or id < $1)
          order by id desc limit $2",
    )
    .bind(before.map(AdapterId::as_uuid))
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Row::read).collect()
}

/// Those of `ids` that are the caller's own, in no particular order.
pub async fn find(
    connection: &mut PgConnection,
    ids: &[AdapterId],
) -> Result<Vec<Adapter>, DatabaseError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<uuid::Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
    let rows: Vec<Row> = sqlx::query_as(
        "select id, name, sha256, bytes, family, report, object_key, created_at from adapter
          where owner_id = (select app_user()) and id = any($1)",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Row::read).collect()
}

/// Removes one of the caller's own adapters, unless a job names it.
pub async fn remove(
    connection: &mut PgConnection,
    id: AdapterId,
) -> Result<Removal, DatabaseError> {
    let removed: Result<Option<String>, sqlx::Error> = sqlx::query_scalar(
        "delete from adapter where id = $1 and owner_id = (select app_user()) returning object_key",
    )
    .bind(id.as_uuid())
    .fetch_optional(connection)
    .await;
    match removed {
        Ok(Some(object_key)) => Ok(Removal::Removed { object_key }),
        Ok(None) => Ok(Removal::NotFound),
        Err(error) if violates(&error, "job_adapter_not_found") => Ok(Removal::InUse),
        Err(error) => Err(error.into()),
    }
}
