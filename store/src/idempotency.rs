//! Answers to requests that must not happen twice, written in the transaction of their effect and kept for 24 hours.

use flowai_actors::ids::UserId;
use sqlx::PgConnection;

use crate::database::DatabaseError;

/// A request that names itself.
#[derive(Debug, Clone, Copy)]
pub struct NamedRequest<'a> {
    pub owner: UserId,
    /// 1 to 255 printable characters.
    pub key: &'a str,
    /// Over route and body: the same key with another request is a mistake of the caller.
    pub hash: [u8; 32],
}

/// What is known of a request before it is carried out.
#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    /// Go on; nobody else can until this transaction ends.
    Fresh,
    /// It was carried out; this was the answer.
    Replay {
        status: u16,
        body: serde_json::Value,
    },
    /// Another request had this key.
    Reused,
    /// The same key is at work at this moment.
    InProgress,
}

/// Takes the key for the rest of the transaction.
pub async fn claim(
    connection: &mut PgConnection,
    request: &NamedRequest<'_>,
) -> Result<Claim, DatabaseError> {
    let is_mine: bool = sqlx::query_scalar(
        "select pg_try_advisory_xact_lock(hashtextextended('idempotency' || $1::text || $2, 0))",
    )
    .bind(request.owner.as_uuid())
    .bind(request.key)
    .fetch_one(&mut *connection)
    .await?;
    if !is_mine {
        return Ok(Claim::InProgress);
    }
    sqlx::query(
        "delete from idempotency
          where owner_id = (select app_user()) and created_at < now() - interval '24 hours'",
    )
    .execute(&mut *connection)
    .await?;
    let known: Option<(Vec<u8>, i32, serde_json::Value)> = sqlx::query_as(
        "select request_hash, status, body from idempotency
          where owner_id = (select app_user()) and key = $1",
    )
    .bind(request.key)
    .fetch_optional(connection)
    .await?;
    Ok(match known {
        None => Claim::Fresh,
        Some((hash, _, _)) if hash != request.hash => Claim::Reused,
        Some((_, status, body)) => Claim::Replay {
            status: u16::try_from(status).unwrap_or(200),
            body,
        },
    })
}

/// Keeps the answer of a claimed request.
pub async fn keep(
    connection: &mut PgConnection,
    request: &NamedRequest<'_>,
    status: u16,
    body: &serde_json::Value,
) -> Result<(), DatabaseError> {
    sqlx::query(
        "insert into idempotency (owner_id, key, request_hash, status, body) values ($1, $2, $3, $4, $5)",
    )
    .bind(request.owner.as_uuid())
    .bind(request.key)
    .bind(request.hash.as_slice())
    .bind(i32::from(status))
    .bind(body)
    .execute(connection)
    .await?;
    Ok(())
}
