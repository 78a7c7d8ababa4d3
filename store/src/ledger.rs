//! Credits as their owners and administrators see them. What moves them is beside what they are moved for: a submission
//! ([`crate::videos::Intake::queue`]), a cancel of what waits, and the leader's [`crate::journal`].

use std::time::Duration;

use chrono::{DateTime, Utc};
use flowai_actors::credits::Millicredits;
use flowai_actors::ids::JobId;
use sqlx::PgConnection;

use crate::database::{Database, DatabaseError, not_of};
use crate::number::{bigint, millicredits};

/// What a user has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Balance {
    pub available: Millicredits,
    /// For jobs that are not over.
    pub held: Millicredits,
}

/// Why credits moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Movement {
    /// At the beginning.
    Gift,
    /// By an administrator.
    Grant,
    /// A job was submitted.
    Hold,
    /// It was delivered, or cancelled while it ran.
    Capture,
    /// It ended without a clip.
    Release,
}

impl Movement {
    const ALL: [Self; 5] = [
        Self::Gift,
        Self::Grant,
        Self::Hold,
        Self::Capture,
        Self::Release,
    ];

    /// As stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gift => "gift",
            Self::Grant => "admin",
            Self::Hold => "hold",
            Self::Capture => "capture",
            Self::Release => "release",
        }
    }
}

/// One transaction of a user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub movement: Movement,
    /// Milli-credits by which what is available changed, and what is held.
    pub available_change: i64,
    pub held_change: i64,
    /// Of a hold and its end.
    pub job: Option<JobId>,
    /// Of a grant: why.
    pub reason: Option<String>,
    pub at: DateTime<Utc>,
}

/// What became of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granting {
    Granted,
    /// The same grant was made before under this key; nothing was moved.
    Known,
    /// Another grant was made under this key; nothing was moved.
    Reused,
    /// Nobody has this email.
    NoAccount,
    /// On whose behalf it was asked is no administrator.
    NotAdmin,
}

/// A row that breaks an invariant of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Imbalance {
    /// `a` to `g`, as in the last part of `0010_ledger.sql`.
    pub invariant: String,
    /// The transaction, owner, lot or job.
    pub subject: String,
    pub finding: String,
}

/// What the caller has.
pub async fn own_balance(connection: &mut PgConnection) -> Result<Balance, DatabaseError> {
    let row: Option<(i64, i64)> = sqlx::query_as(
        "select available_mc, held_mc from credit_balances where owner_id = (select app_user())",
    )
    .fetch_optional(connection)
    .await?;
    // An account that was never given anything has no row.
    Ok(row.map_or(Balance::default(), |(available, held)| Balance {
        available: millicredits(available),
        held: millicredits(held),
    }))
}

/// The caller's newest transactions, the newest first.
pub async fn own_transactions(
    connection: &mut PgConnection,
    limit: i64,
) -> Result<Vec<Transaction>, DatabaseError> {
    #[derive(sqlx::FromRow)]
    struct Row {
        kind: String,
        available_change: i64,
        held_change: i64,
        job_id: Option<uuid::Uuid>,
        reason: Option<String>,
        created_at: DateTime<Utc>,
    }
    let rows: Vec<Row> = sqlx::query_as(
        "select t.kind, t.job_id, t.source_ref as reason, t.created_at, e.available_change, e.held_change
           from ledger_txns t, lateral (
                select coalesce(sum(e.amount_mc) filter (where a.kind = 'available'), 0)::bigint as available_change,
                       coalesce(sum(e.amount_mc) filter (where a.kind = 'held'), 0)::bigint as held_change
                  from ledger_entries e join ledger_accounts a on a.id = e.account_id
                 where e.txn_id = t.id) e
          where t.owner_id = (select app_user())
          order by t.id desc limit $1",
    )
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let mut movements = Movement::ALL.into_iter();
            let movement = movements.find(|movement| movement.as_str() == row.kind);
            Ok(Transaction {
                movement: movement.ok_or_else(|| not_of("ledger_txns.kind", &row.kind))?,
                available_change: row.available_change,
                held_change: row.held_change,
                job: row.job_id.map(JobId::from_uuid),
                reason: row.reason,
                at: row.created_at,
            })
        })
        .collect()
}

/// Gives credits to whoever has this email (in lower case), on behalf of an administrator, in the caller's transaction. `key`
/// names the grant among the administrator's own: a repeat moves nothing. `reason` has at most 500 characters.
pub async fn grant(
    connection: &mut PgConnection,
    email: &str,
    amount: Millicredits,
    reason: &str,
    key: &str,
) -> Result<Granting, DatabaseError> {
    let verdict: String =
        sqlx::query_scalar("select verdict from ledger_grant_as_admin($1, $2, $3, $4)")
            .bind(email)
            .bind(bigint(amount.get()))
            .bind(reason)
            .bind(key)
            .fetch_one(connection)
            .await?;
    match verdict.as_str() {
        "granted" => Ok(Granting::Granted),
        "known" => Ok(Granting::Known),
        "reused" => Ok(Granting::Reused),
        "not_found" => Ok(Granting::NoAccount),
        "not_admin" => Ok(Granting::NotAdmin),
        other => Err(not_of("ledger_grant_as_admin.verdict", other)),
    }
}

/// Every row that breaks an invariant of the ledger, at most `max`; none when money balances (INV-6). Reads all of the ledger, for at
/// most so long, which is an error then. For the coordinator.
pub async fn imbalances(
    database: &Database,
    max: u32,
    within: Duration,
) -> Result<Vec<Imbalance>, DatabaseError> {
    let mut transaction = database.begin().await?;
    sqlx::query("select set_config('statement_timeout', $1, true)")
        .bind(within.as_millis().to_string())
        .execute(&mut *transaction)
        .await?;
    let found =
        sqlx::query_as("select invariant, subject, finding from ledger_imbalances limit $1")
            .bind(i64::from(max))
            .fetch_all(&mut *transaction)
            .await?;
    transaction.commit().await?;
    Ok(found)
}

/// Releases the hold of a job that its owner, the caller, has cancelled while it waited.
pub(crate) async fn end_own_hold(
    connection: &mut PgConnection,
    job: JobId,
) -> Result<(), DatabaseError> {
    sqlx::query("select ledger_end_own_hold($1)")
        .bind(job.as_uuid())
        .execute(connection)
        .await?;
    Ok(())
}
