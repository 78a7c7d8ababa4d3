//! The lease row: who leads, until when, and the number of the term.
//!
//! Only the database's `now()` counts here, so that clocks of machines need not agree. Taking over adds one to the epoch;
//! the journal compares it in every transaction, so that a leader that lost the row without knowing writes nothing (INV-2).

use flowai_actors::ids::Epoch;
use flowai_actors::limits::LEADER_TERM_MS;
use sqlx::PgConnection;

use crate::database::{Database, DatabaseError};
use crate::number::{epoch_from, int, millis};

/// The row as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderView {
    /// Of the newest term; zero before the first.
    pub epoch: Epoch,
    /// The coordinator that took the newest term.
    pub holder: Option<String>,
    /// Where its link listens, `host:port`.
    pub address: Option<String>,
    /// Whether the term still runs.
    pub is_held: bool,
}

/// Looks without touching.
pub async fn look(database: &Database) -> Result<LeaderView, DatabaseError> {
    type Row = (i32, Option<String>, Option<String>, bool);
    let query = sqlx::query_as("select epoch, holder, address, expires_at > now() from leader");
    let rows: Vec<Row> = database.lease().fetch_all(query).await?;
    let row = rows.into_iter().next().ok_or(sqlx::Error::RowNotFound)?;
    let (epoch, holder, address, is_held) = row;
    Ok(LeaderView {
        epoch: epoch_from(epoch),
        holder,
        address,
        is_held,
    })
}

/// Takes a lease that nobody holds for [`LEADER_TERM_MS`] and publishes where the taker listens; `None` while it is held,
/// also by an earlier term of the same holder.
pub async fn take_over(
    database: &Database,
    holder: &str,
    address: &str,
) -> Result<Option<Epoch>, DatabaseError> {
    let query = sqlx::query_as(
        "update leader
            set epoch = epoch + 1, holder = $1, address = $2, expires_at = now() + $3 * interval '1 millisecond'
          where expires_at <= now()
         returning epoch",
    )
    .bind(holder)
    .bind(address)
    .bind(millis(LEADER_TERM_MS));
    let taken: Vec<(i32,)> = database.lease().fetch_all(query).await?;
    Ok(taken.first().map(|(epoch,)| epoch_from(*epoch)))
}

/// Holds the lease for another [`LEADER_TERM_MS`]. `false` when a later term has begun, or another holder's of this number, as on a
/// replica that was promoted without the newest term: this one is over for good. A lease that ran out and that nobody took can still be
/// renewed.
pub async fn renew(database: &Database, epoch: Epoch, holder: &str) -> Result<bool, DatabaseError> {
    let query = sqlx::query_as(
        "update leader set expires_at = now() + $3 * interval '1 millisecond'
          where epoch = $1 and holder = $2 returning epoch",
    )
    .bind(int(epoch.get()))
    .bind(holder)
    .bind(millis(LEADER_TERM_MS));
    let renewed: Vec<(i32,)> = database.lease().fetch_all(query).await?;
    Ok(!renewed.is_empty())
}

/// Ends the own term at once, so that a standby need not wait for its end. `false` when it had ended.
pub async fn give_up(
    database: &Database,
    epoch: Epoch,
    holder: &str,
) -> Result<bool, DatabaseError> {
    let query = sqlx::query_as(
        "update leader set expires_at = now()
          where epoch = $1 and holder = $2 and expires_at > now() returning epoch",
    )
    .bind(int(epoch.get()))
    .bind(holder);
    let given: Vec<(i32,)> = database.lease().fetch_all(query).await?;
    Ok(!given.is_empty())
}

/// Makes sure that no later term begins before the transaction ends, which waits half a second for the rows of others and is ended
/// after two seconds of nothing: the leader renews this row, and the next one waits for it. `Err` with the epoch that counts now when a
/// later term has begun.
pub(crate) async fn hold_term(
    connection: &mut PgConnection,
    epoch: Epoch,
) -> Result<Result<(), Epoch>, sqlx::Error> {
    let (held, ..): (i32, String, String) = sqlx::query_as(
        "select epoch, set_config('lock_timeout', '500ms', true), set_config('idle_in_transaction_session_timeout', '2s', true)
           from leader for share",
    )
    .fetch_one(connection)
    .await?;
    let held = epoch_from(held);
    Ok(if held == epoch { Ok(()) } else { Err(held) })
}
