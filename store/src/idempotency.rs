//! Answers to requests that must not happen twice, written in the transaction of their effect and kept for 24 hours.

use flowai_actors::ids::UserId;
use sqlx::PgConnection;

use crate::database::{Database, DatabaseError};

/// A request that names itself.
#[derive(Debug, Clone, Copy)]
pub struct NamedRequest<'a> {
    pub owner: UserId,
    /// 1 to 255 printable characters.
    pub key: &'a str,
    /// Over route and body: the same key with another request is a mistake of the caller.
    pub hash: [u8; 32],
}

/// What is known of a request that was carried out.
#[derive(Debug, Clone, PartialEq)]
pub enum Known {
    /// This was the answer.
    Answered {
        status: u16,
        body: serde_json::Value,
    },
    /// Another request had this key.
    Reused,
}

impl Known {
    pub(crate) fn answered(status: i32, body: serde_json::Value) -> Self {
        Self::Answered {
            status: u16::try_from(status).unwrap_or(200),
            body,
        }
    }
}

/// Whether the caller's request was carried out before. One that is at work at this moment is not known yet.
pub async fn find(
    connection: &mut PgConnection,
    request: &NamedRequest<'_>,
) -> Result<Option<Known>, DatabaseError> {
    let known: Option<(Vec<u8>, i32, serde_json::Value)> = sqlx::query_as(
        "select request_hash, status, body from idempotency
          where owner_id = (select app_user()) and key = $1 and created_at >= now() - interval '24 hours'",
    )
    .bind(request.key)
    .fetch_optional(connection)
    .await?;
    Ok(known.map(|(hash, status, body)| {
        if hash == request.hash {
            Known::answered(status, body)
        } else {
            Known::Reused
        }
    }))
}

/// Forgets answers whose time is over, of all users, at most `max` of them and the oldest first. For the coordinator.
pub async fn forget_expired(database: &Database, max: u32) -> Result<u64, DatabaseError> {
    let forgotten = sqlx::query(
        "delete from idempotency where (owner_id, key) in (
             select owner_id, key from idempotency
              where created_at < now() - interval '24 hours' order by created_at limit $1)",
    )
    .bind(i64::from(max))
    .execute(database.pool())
    .await?;
    Ok(forgotten.rows_affected())
}
