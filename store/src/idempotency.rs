//! Answers to requests that must not happen twice, written in the transaction of their effect and kept for 24 hours.

use flowai_actors::ids::UserId;
use sqlx::PgConnection;

use crate::database::{DatabaseError, violates};

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
    // One statement, for every submission waits for it. It looks before it has the lock: whoever committed in between is met
    // by `keep`.
    type Row = (
        bool,
        Option<Vec<u8>>,
        Option<i32>,
        Option<serde_json::Value>,
    );
    let (is_mine, hash, status, body): Row = sqlx::query_as(
        "with held as materialized (
             select pg_try_advisory_xact_lock(hashtextextended('idempotency' || $1::text || $2, 0)) as is_mine
         ), expired as (
             delete from idempotency
              where owner_id = (select app_user()) and created_at < now() - interval '24 hours'
         )
         select held.is_mine, known.request_hash, known.status, known.body
           from held left join idempotency known
             on known.owner_id = (select app_user()) and known.key = $2
            and known.created_at >= now() - interval '24 hours'",
    )
    .bind(request.owner.as_uuid())
    .bind(request.key)
    .fetch_one(&mut *connection)
    .await?;
    if !is_mine {
        return Ok(Claim::InProgress);
    }
    Ok(match (hash, status, body) {
        (Some(hash), _, _) if hash != request.hash => Claim::Reused,
        (Some(_), Some(status), Some(body)) => Claim::Replay {
            status: u16::try_from(status).unwrap_or(200),
            body,
        },
        _ => Claim::Fresh,
    })
}

/// What became of an answer that was to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    Kept,
    /// The same request was answered while this one claimed the key: the transaction must be dropped.
    AnsweredMeanwhile,
}

/// Keeps the answer of a claimed request.
pub async fn keep(
    connection: &mut PgConnection,
    request: &NamedRequest<'_>,
    status: u16,
    body: &serde_json::Value,
) -> Result<Keeping, DatabaseError> {
    let kept = sqlx::query(
        "insert into idempotency (owner_id, key, request_hash, status, body) values ($1, $2, $3, $4, $5)",
    )
    .bind(request.owner.as_uuid())
    .bind(request.key)
    .bind(request.hash.as_slice())
    .bind(i32::from(status))
    .bind(body)
    .execute(connection)
    .await;
    match kept {
        Ok(_) => Ok(Keeping::Kept),
        Err(error) if violates(&error, "idempotency_key_used") => Ok(Keeping::AnsweredMeanwhile),
        Err(error) => Err(error.into()),
    }
}
