//! Durable events, by the user's own count. A user's events commit in the order of that count, because its counter is
//! locked until they do: whoever reads all after `n` misses none.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use flowai_actors::ids::{JobId, UserId};
use flowai_actors::state::EventKind;
use sqlx::PgConnection;

use crate::database::{Database, DatabaseError, not_of};
use crate::number::int;

/// More weeks than there will be.
const ALL_WEEKS: u32 = 5_000;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Counts the user's events.
    pub user_seq: i64,
    pub job: JobId,
    /// Counts the job's events.
    pub seq: i64,
    pub kind: EventKind,
    pub data: serde_json::Value,
    pub at: DateTime<Utc>,
}

type Row = (
    i64,
    uuid::Uuid,
    i64,
    String,
    serde_json::Value,
    DateTime<Utc>,
);

fn read((user_seq, job, seq, kind, data, at): Row) -> Result<Event, DatabaseError> {
    Ok(Event {
        user_seq,
        job: JobId::from_uuid(job),
        seq,
        kind: EventKind::from_name(&kind).ok_or_else(|| not_of("job_event.kind", &kind))?,
        data,
        at,
    })
}

/// The caller's newest count; 0 before the first event.
pub async fn head(connection: &mut PgConnection) -> Result<i64, DatabaseError> {
    let seq: Option<i64> =
        sqlx::query_scalar("select seq from user_stream where user_id = (select app_user())")
            .fetch_optional(connection)
            .await?;
    Ok(seq.unwrap_or(0))
}

/// The newest counts of these users, on nobody's behalf: one statement for all who listen. Those without events are left out.
pub async fn heads(
    database: &Database,
    users: &[UserId],
) -> Result<HashMap<UserId, i64>, DatabaseError> {
    let users: Vec<uuid::Uuid> = users.iter().map(|user| user.as_uuid()).collect();
    let rows: Vec<(uuid::Uuid, i64)> = sqlx::query_as("select user_id, seq from stream_heads($1)")
        .bind(users)
        .fetch_all(database.pool())
        .await?;
    let heads = rows.into_iter();
    Ok(heads
        .map(|(user, seq)| (UserId::from_uuid(user), seq))
        .collect())
}

/// Makes the weeks that events are written to, so many ahead, and drops those that ended more than `kept` weeks ago, on nobody's
/// behalf. Whoever uses events, jobs or accounts waits behind it while it waits for others who do, a second at most for each of
/// these tables; then it is an error and to be called again.
pub async fn keep_weeks(database: &Database, ahead: u32, kept: u32) -> Result<(), DatabaseError> {
    sqlx::query("select forget_events_before($1)")
        .bind(int(kept))
        .execute(database.pool())
        .await?;
    // A transaction for each: its locks last for one week's sake, and whoever keeps a week from being dropped undoes none that was made.
    for weeks in 0..=ahead {
        keep(database, weeks, ALL_WEEKS).await?;
    }
    keep(database, 0, kept).await
}

async fn keep(database: &Database, ahead: u32, kept: u32) -> Result<(), DatabaseError> {
    sqlx::query("select keep_event_weeks($1, $2)")
        .bind(int(ahead))
        .bind(int(kept))
        .execute(database.pool())
        .await?;
    Ok(())
}

/// The caller's events after `user_seq`, in order, at most `limit`. Those of weeks that are kept no longer are not there.
pub async fn after(
    connection: &mut PgConnection,
    user_seq: i64,
    limit: i64,
) -> Result<Vec<Event>, DatabaseError> {
    let rows: Vec<Row> = sqlx::query_as(
        "select user_seq, job_id, seq, kind, data, at from job_event
          where owner_id = (select app_user()) and user_seq > $1
          order by user_seq limit $2",
    )
    .bind(user_seq)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(read).collect()
}

/// The events of one of the caller's jobs after the job's own `seq`, in order, at most `limit`. Those of weeks that are kept no
/// longer are not there.
pub async fn of_job_after(
    connection: &mut PgConnection,
    job: JobId,
    seq: i64,
    limit: i64,
) -> Result<Vec<Event>, DatabaseError> {
    let rows: Vec<Row> = sqlx::query_as(
        "select user_seq, job_id, seq, kind, data, at from job_event
          where owner_id = (select app_user()) and job_id = $1 and seq > $2
          order by seq limit $3",
    )
    .bind(job.as_uuid())
    .bind(seq)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(read).collect()
}
