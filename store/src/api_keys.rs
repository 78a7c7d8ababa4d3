//! Long-lived keys for programs. Only their hashes are stored.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use flowai_actors::ids::{ApiKeyId, UserId};
use sqlx::PgConnection;

use crate::accounts::TokenHash;
use crate::database::{Database, DatabaseError};

/// A key to be stored.
#[derive(Debug)]
pub struct NewApiKey<'a> {
    pub id: ApiKeyId,
    pub owner: UserId,
    /// 1 to 80 characters.
    pub name: &'a str,
    /// The first 12 characters of the key, by which its owner tells it from others.
    pub prefix: &'a str,
    pub hash: TokenHash,
    pub scopes: Vec<String>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// A key as its owner sees it.
#[derive(Debug, Clone)]
pub struct ApiKey {
    pub id: ApiKeyId,
    pub name: String,
    pub prefix: String,
    pub scopes: Vec<String>,
    pub expires_at: Option<DateTime<Utc>>,
    pub last_used_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
}

/// Whose a presented key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyHolder {
    pub key: ApiKeyId,
    pub user: UserId,
    pub scopes: Vec<String>,
    pub is_suspended: bool,
}

type Row = (
    uuid::Uuid,
    String,
    String,
    Vec<String>,
    Option<DateTime<Utc>>,
    Option<DateTime<Utc>>,
    DateTime<Utc>,
);

fn read((id, name, prefix, scopes, expires_at, last_used_at, created_at): Row) -> ApiKey {
    ApiKey {
        id: ApiKeyId::from_uuid(id),
        name,
        prefix,
        scopes,
        expires_at,
        last_used_at,
        created_at,
    }
}

pub async fn insert(
    connection: &mut PgConnection,
    key: &NewApiKey<'_>,
) -> Result<ApiKey, DatabaseError> {
    let row = sqlx::query_as(
        "insert into api_key (id, owner_id, name, prefix, key_hash, scopes, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7)
         returning id, name, prefix, scopes, expires_at, last_used_at, created_at",
    )
    .bind(key.id.as_uuid())
    .bind(key.owner.as_uuid())
    .bind(key.name)
    .bind(key.prefix)
    .bind(key.hash.as_slice())
    .bind(&key.scopes)
    .bind(key.expires_at)
    .fetch_one(connection)
    .await?;
    Ok(read(row))
}

/// The keys that were not ended, newest first, at most `limit`.
pub async fn list(connection: &mut PgConnection, limit: i64) -> Result<Vec<ApiKey>, DatabaseError> {
    let rows = sqlx::query_as(
        "select id, name, prefix, scopes, expires_at, last_used_at, created_at from api_key
          where owner_id = (select app_user()) and revoked_at is null
          order by id desc limit $1",
    )
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(read).collect())
}

/// Ends a key for good. `false` when there is no such key.
pub async fn revoke(connection: &mut PgConnection, id: ApiKeyId) -> Result<bool, DatabaseError> {
    let done = sqlx::query(
        "update api_key set revoked_at = coalesce(revoked_at, now())
          where id = $1 and owner_id = (select app_user())",
    )
    .bind(id.as_uuid())
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The holder of a key that is neither ended nor expired.
pub async fn by_hash(
    database: &Database,
    hash: &TokenHash,
) -> Result<Option<KeyHolder>, DatabaseError> {
    let mut holders = by_hashes(database, std::slice::from_ref(hash)).await?;
    Ok(holders.remove(hash))
}

/// The holders of these keys, for those that count: one statement for many.
pub async fn by_hashes(
    database: &Database,
    hashes: &[TokenHash],
) -> Result<HashMap<TokenHash, KeyHolder>, DatabaseError> {
    type Row = (Vec<u8>, uuid::Uuid, uuid::Uuid, Vec<String>, bool);
    let hashes: Vec<&[u8]> = hashes.iter().map(TokenHash::as_slice).collect();
    // In the order of hashes: it writes down when keys were used, and several api instances look at once.
    let rows: Vec<Row> = sqlx::query_as(
        "select h.hash, k.key_id, k.user_id, k.scopes, k.suspended
           from (select distinct hash from unnest($1::bytea[]) as u (hash) order by hash) h
          cross join lateral auth_by_api_key(h.hash) k",
    )
    .bind(hashes)
    .fetch_all(database.pool())
    .await?;
    let holders = rows
        .into_iter()
        .filter_map(|(hash, key, user, scopes, is_suspended)| {
            let holder = KeyHolder {
                key: ApiKeyId::from_uuid(key),
                user: UserId::from_uuid(user),
                scopes,
                is_suspended,
            };
            Some((TokenHash::try_from(hash).ok()?, holder))
        });
    Ok(holders.collect())
}
