//! Join tokens: made and ended by operators, counted down by the leader in the transaction that admits a node.

use std::time::Duration;

use chrono::{DateTime, Utc};
use flowai_actors::ids::{Epoch, NodeId, Sha256, UserId};
use flowai_actors::membership::{Facts, Labels};
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use crate::database::{Database, DatabaseError, not_of};
use crate::leader::hold_term;
use crate::number::int;

/// A token to be stored.
#[derive(Debug)]
pub struct NewJoinToken<'a> {
    pub id: Uuid,
    pub created_by: UserId,
    pub secret_sha256: Sha256,
    pub labels: &'a Labels,
    /// 1..=`JOIN_TOKEN_USES_MAX`.
    pub uses: u32,
    /// At most `JOIN_TOKEN_TTL_S_MAX` seconds.
    pub ttl: Duration,
}

/// A token as operators see it.
#[derive(Debug, Clone)]
pub struct JoinToken {
    pub id: Uuid,
    pub labels: Labels,
    pub uses: u32,
    pub uses_left: u32,
    pub expires_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
}

type Row = (Uuid, Json<Labels>, i32, i32, DateTime<Utc>, DateTime<Utc>);

fn read((id, labels, uses, uses_left, expires_at, created_at): Row) -> JoinToken {
    JoinToken {
        id,
        labels: labels.0,
        uses: uses.unsigned_abs(),
        uses_left: uses_left.unsigned_abs(),
        expires_at,
        created_at,
    }
}

/// On behalf of an administrator: for anybody else the database refuses.
pub async fn insert(
    connection: &mut PgConnection,
    token: &NewJoinToken<'_>,
) -> Result<JoinToken, DatabaseError> {
    let row = sqlx::query_as(
        "insert into join_token (id, created_by, secret_hash, labels, uses, uses_left, expires_at)
         values ($1, $2, $3, $4, $5, $5, now() + $6 * interval '1 second')
         returning id, labels, uses, uses_left, expires_at, created_at",
    )
    .bind(token.id)
    .bind(token.created_by.as_uuid())
    .bind(&token.secret_sha256.as_bytes()[..])
    .bind(Json(token.labels))
    .bind(int(token.uses))
    .bind(token.ttl.as_secs_f64())
    .fetch_one(connection)
    .await?;
    Ok(read(row))
}

/// Those that still admit somebody, newest first, at most `limit`.
pub async fn list(
    connection: &mut PgConnection,
    limit: i64,
) -> Result<Vec<JoinToken>, DatabaseError> {
    let rows = sqlx::query_as(
        "select id, labels, uses, uses_left, expires_at, created_at from join_token
          where revoked_at is null and expires_at > now() and uses_left > 0
          order by id desc limit $1",
    )
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(read).collect())
}

/// Ends a token for good. Nodes that joined by it stay. `false` when there is no such token.
pub async fn revoke(connection: &mut PgConnection, id: Uuid) -> Result<bool, DatabaseError> {
    let done =
        sqlx::query("update join_token set revoked_at = coalesce(revoked_at, now()) where id = $1")
            .bind(id)
            .execute(connection)
            .await?;
    Ok(done.rows_affected() == 1)
}

/// Forgets tokens that ended a day ago, at most `max`, with the certificates that were kept for whoever asks again by them. Nodes
/// that joined by them stay. For the coordinator.
pub async fn forget_expired(database: &Database, max: u32) -> Result<u64, DatabaseError> {
    let forgotten = sqlx::query(
        "delete from join_token where id in (
             select id from join_token where expires_at < now() - interval '1 day' order by expires_at limit $1)",
    )
    .bind(i64::from(max))
    .execute(database.pool())
    .await?;
    Ok(forgotten.rows_affected())
}

/// A machine that shows a token and a key.
#[derive(Debug)]
pub struct Redemption<'a> {
    pub token: Uuid,
    pub secret_sha256: Sha256,
    pub public_key_sha256: Sha256,
    pub facts: &'a Facts,
    /// The name that it gets when it has none by this token and key.
    pub node: &'a NodeId,
}

/// A certificate to be written down.
#[derive(Debug, Clone)]
pub struct Certified {
    /// PEM.
    pub certificate: String,
    pub expires_at: DateTime<Utc>,
}

/// A time in seconds since 1970; `None` when it is out of every calendar.
pub fn time_of(seconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(seconds, 0)
}

/// What became of a redemption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redeemed {
    /// One use was counted, unless this very key was admitted before.
    Admitted {
        node: NodeId,
        labels: Labels,
        certificate: String,
    },
    /// Unknown, wrong, used up, expired or revoked.
    Refused,
    /// A later term has begun.
    Fenced,
}

/// Counts one use down and writes down the node with its certificate, all of it or nothing. Whoever asks again with the
/// same token and key gets the certificate of the first time, also when that was the last use.
///
/// # Errors
/// The database's; then nothing was counted, or an answer was lost and asking again finds it.
pub async fn redeem(
    database: &Database,
    epoch: Epoch,
    redemption: &Redemption<'_>,
    certified: &Certified,
) -> Result<Redeemed, DatabaseError> {
    let mut transaction = database.begin().await?;
    sqlx::query("set local lock_timeout = '1s'")
        .execute(&mut *transaction)
        .await?;
    // The row is locked: of two machines that want the last use, the second sees that it is gone.
    let token: Option<(Json<Labels>, i32)> = sqlx::query_as(
        "select labels, uses_left from join_token
          where id = $1 and secret_hash = $2 and revoked_at is null and expires_at > now()
            for update",
    )
    .bind(redemption.token)
    .bind(&redemption.secret_sha256.as_bytes()[..])
    .fetch_optional(&mut *transaction)
    .await?;
    let Some((Json(labels), uses_left)) = token else {
        return Ok(Redeemed::Refused);
    };
    match admitted_before(&mut transaction, redemption).await? {
        Before::Never => {}
        Before::Admitted { node, certificate } => {
            return Ok(Redeemed::Admitted {
                node,
                labels,
                certificate,
            });
        }
        Before::Revoked => return Ok(Redeemed::Refused),
    }
    if uses_left == 0 {
        return Ok(Redeemed::Refused);
    }
    // Last: who holds the lease's row waits for nobody else's, or many that join by one token keep it from the leader in turn.
    if hold_term(&mut transaction, epoch).await?.is_err() {
        return Ok(Redeemed::Fenced);
    }
    admit(&mut transaction, redemption, &labels, certified).await?;
    transaction.commit().await?;
    Ok(Redeemed::Admitted {
        node: redemption.node.clone(),
        labels,
        certificate: certified.certificate.clone(),
    })
}

/// Whether this key was admitted by this token before.
enum Before {
    Never,
    Admitted {
        node: NodeId,
        certificate: String,
    },
    /// The node was revoked since: its key opens nothing any more.
    Revoked,
}

async fn admitted_before(
    connection: &mut PgConnection,
    redemption: &Redemption<'_>,
) -> Result<Before, DatabaseError> {
    let row: Option<(String, String, bool)> = sqlx::query_as(
        "select c.node_id, c.certificate, m.revoked_at is not null
           from node_certificate c join node_member m using (node_id)
          where c.token_id = $1 and c.public_key_hash = $2",
    )
    .bind(redemption.token)
    .bind(&redemption.public_key_sha256.as_bytes()[..])
    .fetch_optional(connection)
    .await?;
    Ok(match row {
        None => Before::Never,
        Some((_, _, true)) => Before::Revoked,
        Some((node, certificate, false)) => Before::Admitted {
            node: node.parse().map_err(|_| not_of("node_id", &node))?,
            certificate,
        },
    })
}

async fn admit(
    connection: &mut PgConnection,
    redemption: &Redemption<'_>,
    labels: &Labels,
    certified: &Certified,
) -> Result<(), DatabaseError> {
    sqlx::query("update join_token set uses_left = uses_left - 1 where id = $1")
        .bind(redemption.token)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "insert into node_member (node_id, labels, facts, token_id, joined_at, certificate_expires_at)
         values ($1, $2, $3, $4, now(), $5)",
    )
    .bind(redemption.node.as_str())
    .bind(Json(labels))
    .bind(Json(redemption.facts))
    .bind(redemption.token)
    .bind(certified.expires_at)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "insert into node_certificate (token_id, public_key_hash, node_id, certificate) values ($1, $2, $3, $4)",
    )
    .bind(redemption.token)
    .bind(&redemption.public_key_sha256.as_bytes()[..])
    .bind(redemption.node.as_str())
    .bind(&certified.certificate)
    .execute(connection)
    .await?;
    Ok(())
}
