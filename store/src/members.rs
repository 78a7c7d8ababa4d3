//! What operators want of nodes, and what is known of those that joined by a token.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use flowai_actors::ids::{Epoch, NodeId};
pub use flowai_actors::membership::Drain;
use flowai_actors::membership::{Facts, Labels};
use sqlx::PgConnection;
use sqlx::types::Json;

use crate::database::{Database, DatabaseError, not_of};
use crate::leader::hold_term;

/// What is wanted of one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    pub drain: Drain,
    pub is_revoked: bool,
}

/// Nodes of which something is wanted; of all others nothing is.
pub type Standings = BTreeMap<NodeId, Standing>;

/// What every coordinator looks at. Whether the grace of a lazy drain is over is for the database's clock to say. A revoked
/// node all of whose certificates ended a day ago needs no mention: coordinators, whose clocks may differ from the database's,
/// let it in no more. Of one that did not join, only whoever issued them knows.
pub async fn standings(database: &Database) -> Result<Standings, DatabaseError> {
    let rows: Vec<(String, String, bool)> = sqlx::query_as(
        "select node_id, case when drain_now_at <= now() then 'now' else drain end, revoked_at is not null
           from node_member
          where (drain <> 'off' or revoked_at is not null)
            and (revoked_at is null or joined_at is null or certificate_expires_at > now() - interval '1 day')",
    )
    .fetch_all(database.pool())
    .await?;
    rows.into_iter()
        .map(|(node, drain, is_revoked)| {
            let drain = drain_of(&drain)?;
            let node = node.parse().map_err(|_| not_of("node_id", &node))?;
            Ok((node, Standing { drain, is_revoked }))
        })
        .collect()
}

fn drain_of(name: &str) -> Result<Drain, DatabaseError> {
    Drain::from_name(name).ok_or_else(|| not_of("drain", name))
}

/// A node as operators know it, whether or not it is there.
#[derive(Debug, Clone)]
pub struct Member {
    pub node: NodeId,
    pub labels: Labels,
    pub facts: Facts,
    pub joined_at: Option<DateTime<Utc>>,
    pub certificate_expires_at: Option<DateTime<Utc>>,
    pub drain: Drain,
    /// When a lazy drain waits no longer.
    pub drain_now_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
}

type Row = (
    String,
    Json<Labels>,
    Json<Facts>,
    Option<DateTime<Utc>>,
    Option<DateTime<Utc>>,
    String,
    Option<DateTime<Utc>>,
    Option<DateTime<Utc>>,
);

fn read(row: Row) -> Result<Member, DatabaseError> {
    let (node, labels, facts, joined_at, certificate_expires_at, drain, drain_now_at, revoked_at) =
        row;
    Ok(Member {
        node: node.parse().map_err(|_| not_of("node_id", &node))?,
        labels: labels.0,
        facts: facts.0,
        joined_at,
        certificate_expires_at,
        drain: drain_of(&drain)?,
        drain_now_at,
        revoked_at,
    })
}

/// The rows that [`Row`] reads.
macro_rules! member_rows {
    () => {
        "select node_id, labels, facts, joined_at, certificate_expires_at,
                case when drain_now_at <= now() then 'now' else drain end, drain_now_at, revoked_at
           from node_member "
    };
}

/// On behalf of an administrator: nobody else sees a row. By name, at most `limit`.
pub async fn list(connection: &mut PgConnection, limit: i64) -> Result<Vec<Member>, DatabaseError> {
    let rows: Vec<Row> = sqlx::query_as(concat!(member_rows!(), "order by node_id limit $1"))
        .bind(limit)
        .fetch_all(connection)
        .await?;
    rows.into_iter().map(read).collect()
}

/// On behalf of an administrator: nobody else sees the row.
pub async fn find(
    connection: &mut PgConnection,
    node: &NodeId,
) -> Result<Option<Member>, DatabaseError> {
    let row: Option<Row> = sqlx::query_as(concat!(member_rows!(), "where node_id = $1"))
        .bind(node.as_str())
        .fetch_optional(connection)
        .await?;
    row.map(read).transpose()
}

/// On behalf of an administrator. `grace`: when a lazy drain becomes one that waits no longer. `false` when no such node ever
/// joined or registered, or when it was revoked.
pub async fn drain(
    connection: &mut PgConnection,
    node: &NodeId,
    how: Drain,
    grace: Option<Duration>,
) -> Result<bool, DatabaseError> {
    let grace_s = grace
        .filter(|_| how == Drain::Lazy)
        .map(|grace| grace.as_secs_f64());
    let done = sqlx::query(
        "insert into node_member (node_id, drain, drain_now_at)
         select known.id, $2, now() + $3 * interval '1 second'
           from (select id from node where id = $1 union select node_id from node_member where node_id = $1) known
         on conflict (node_id) do update set drain = excluded.drain, drain_now_at = excluded.drain_now_at
            where node_member.revoked_at is null",
    )
    .bind(node.as_str())
    .bind(how.as_str())
    .bind(grace_s)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// On behalf of an administrator: the node is let in no more, for good. Again is as once. `false` when no such node ever joined
/// or registered.
pub async fn revoke(connection: &mut PgConnection, node: &NodeId) -> Result<bool, DatabaseError> {
    let done = sqlx::query(
        "insert into node_member (node_id, revoked_at)
         select known.id, now()
           from (select id from node where id = $1 union select node_id from node_member where node_id = $1) known
         on conflict (node_id) do update set revoked_at = coalesce(node_member.revoked_at, excluded.revoked_at)",
    )
    .bind(node.as_str())
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// What became of the leader's wish to renew a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    Written,
    Revoked,
    /// A later term has begun.
    Fenced,
}

/// Writes down until when the node's newest certificate is valid, before it hears of it.
pub async fn renew(
    database: &Database,
    epoch: Epoch,
    node: &NodeId,
    expires_at: DateTime<Utc>,
) -> Result<Renewal, DatabaseError> {
    let mut transaction = database.begin().await?;
    if hold_term(&mut transaction, epoch).await?.is_err() {
        return Ok(Renewal::Fenced);
    }
    let done = sqlx::query(
        "insert into node_member (node_id, certificate_expires_at) values ($1, $2)
         on conflict (node_id) do update
            set certificate_expires_at = greatest(node_member.certificate_expires_at, excluded.certificate_expires_at)
          where node_member.revoked_at is null",
    )
    .bind(node.as_str())
    .bind(expires_at)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(match done.rows_affected() {
        1 => Renewal::Written,
        _ => Renewal::Revoked,
    })
}

/// Forgets nodes that joined and whose certificates have all ended 30 days ago, at most `max`: none of them comes back under its
/// name, so that its revocation says nothing any more. A node of which an operator wants a drain stays known, and so does one
/// that did not join: only whoever issued its certificates knows when the last of them ends. For the coordinator.
///
/// A model that only they offered, or only nodes that are revoked, is offered no more.
pub async fn forget_ended(database: &Database, max: u32) -> Result<u64, DatabaseError> {
    let forgotten: i64 = sqlx::query_scalar(
        "with gone as (
             delete from node_member where node_id in (
                 select node_id from node_member
                  where joined_at is not null and certificate_expires_at < now() - interval '30 days' and drain = 'off'
                  order by certificate_expires_at limit $1)
               -- again: an operator may have drained one of them meanwhile.
               and certificate_expires_at < now() - interval '30 days' and drain = 'off'
             returning node_id),
         nodes as (delete from node where id in (select node_id from gone)),
         offers as (
             delete from node_offer where node_id in (select node_id from node_member where revoked_at is not null))
         select count(*) from gone",
    )
    .bind(i64::from(max))
    .fetch_one(database.pool())
    .await?;
    Ok(forgotten.unsigned_abs())
}
