//! Goal: jobs are given to nodes and taken back without reading a table whole, also where the statements were planned when the tables
//! were so small that this was the cheapest; and without a lease row nothing is written. What the ledger does at a job's end is
//! planned as the server likes.

use flowai_store::journal::{Change, JournalError};
use serde_json::json;
use sqlx::Connection as _;
use uuid::Uuid;

use crate::farm::{FIRST, Farm, held};

/// So many plans are made for the values at hand before one is kept.
const PLANNED_ANEW: usize = 5;

/// Tables that were read whole in this transaction.
const READ_WHOLE: &str = "
    select coalesce(string_agg(relname, ' ' order by relname), '') from pg_stat_xact_user_tables
     where seq_scan > 0 and relname <> 'leader'";

#[tokio::test]
async fn a_batch_finds_rows_by_index() {
    let mut farm = Farm::start().await;
    let mut jobs = Vec::new();
    for _ in 0..8 {
        jobs.push(farm.queue().await);
    }
    for table in ["job", "job_state", "attempt", "checkpoint", "account"] {
        farm.run(&format!("analyze {table}")).await;
    }
    let assign = |job: Uuid| {
        json!({ "step": "assign", "job": job, "attempt": 1, "node": "n1", "generation": 1, "state": "running",
                "event": "assigned", "data": {} })
    };
    let mut leader = farm.database.pool().acquire().await.unwrap();
    let (last, first) = jobs.split_last().unwrap();
    assert!(first.len() > PLANNED_ANEW);
    for job in first {
        let changes = json!([assign(job.as_uuid())]);
        let written: Vec<(Option<Uuid>, bool)> =
            sqlx::query_as("select owner, is_new from journal_commit(1, $1)")
                .bind(&changes)
                .fetch_all(&mut *leader)
                .await
                .unwrap();
        assert_eq!(written, [(Some(farm.user.as_uuid()), true)]);
    }

    let given_back = json!({ "step": "end", "job": first[0].as_uuid(), "attempt": 1, "epoch": 1, "node": "n1", "generation": 1,
                             "state": "queued", "outcome": "lost", "is_death": false, "event": "retrying", "data": {} });
    let mut transaction = leader.begin().await.unwrap();
    sqlx::query("select from journal_commit(1, $1)")
        .bind(json!([assign(last.as_uuid()), given_back]))
        .execute(&mut *transaction)
        .await
        .unwrap();
    let whole: String = sqlx::query_scalar(READ_WHOLE)
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
    assert_eq!(whole, "");
    transaction.commit().await.unwrap();
    assert_eq!(farm.events(first[0]).await, "queued assigned retrying");
}

#[tokio::test]
async fn without_a_lease_row_nobody_leads() {
    let mut farm = Farm::start().await;
    let job = farm.queue().await;
    farm.run("delete from leader").await;
    let refused = farm
        .commit(FIRST, vec![Change::Assign(held(job, 1))])
        .await
        .unwrap_err();
    assert!(
        matches!(refused, JournalError::Fenced { .. }),
        "{refused:?}"
    );
    assert_eq!(farm.events(job).await, "queued");
}
