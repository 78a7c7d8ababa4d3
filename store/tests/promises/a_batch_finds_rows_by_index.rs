//! Goal: jobs are accepted, given to nodes, taken back and paid for without reading a table whole, also where the statements were
//! planned when the tables were so small that this was the cheapest; and without a lease row nothing is written.

use flowai_actors::ids::{JobId, UserId};
use flowai_store::journal::{Change, JournalError};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::farm::{FIRST, Farm, held};

/// So many plans are made for the values at hand before one is kept.
const PLANNED_ANEW: usize = 5;

/// Tables that were read whole in this transaction.
const READ_WHOLE: &str = "
    select coalesce(string_agg(relname, ' ' order by relname), '') from pg_stat_xact_user_tables
     where seq_scan > 0 and relname <> 'leader'";

/// A video of each user, from a picture that has the user's own id.
const SUBMIT: &str = "
    with asked as (select * from unnest($1::uuid[], $2::uuid[]) with ordinality as a (owner, id, place))
    select verdict from submit(
        $1, array(select 1 from asked), array(select 10 from asked), array(select id::text from asked), array(select sha256('r') from asked),
        array(select 202 from asked), array(select '{}'::jsonb from asked),
        array(select place::int from asked), $2, array(select now() from asked), array(select '{}'::jsonb from asked),
        array(select null::jsonb from asked), array(select 'tiny' from asked), $1, array(select null from asked),
        array(select '' from asked), array(select null::uuid from asked), array(select 'interactive' from asked),
        array(select null::uuid from asked), array(select 10 from asked), '{}', '{}', '{}', '{\"studio\": 100}', 1)";

async fn read_whole(transaction: &mut PgConnection) -> String {
    let read_whole = sqlx::query_scalar(READ_WHOLE);
    read_whole.fetch_one(transaction).await.unwrap()
}

fn assign(job: JobId) -> Value {
    json!({ "step": "assign", "job": job, "attempt": 1, "node": "n1", "generation": 1, "state": "running", "event": "assigned",
            "data": {} })
}

fn end(job: JobId, state: &str, outcome: &str, event: &str) -> Value {
    json!({ "step": "end", "job": job, "attempt": 1, "epoch": 1, "node": "n1", "generation": 1, "state": state,
            "outcome": outcome, "is_death": false, "event": event, "data": {} })
}

fn deliver(job: JobId) -> Value {
    let mut done = end(job, "done", "done", "done");
    done["artefact"] = json!({ "sha256": "07".repeat(32), "bytes": 9, "manifest": {}, "clip": "c", "poster": "p", "preview": "w",
                               "spritesheet": "s" });
    done
}

fn fail(job: JobId) -> Value {
    let mut failed = end(job, "failed", "failed", "failed");
    failed["error"] = json!({ "code": "render_failed", "detail": "" });
    failed
}

async fn write(leader: &mut PgConnection, changes: &[Value]) {
    let written: Vec<(Option<Uuid>, bool)> =
        sqlx::query_as("select owner, is_new from journal_commit(1, $1)")
            .bind(json!(changes))
            .fetch_all(leader)
            .await
            .unwrap();
    let is_new = |(owner, is_new): &(Option<Uuid>, bool)| owner.is_some() && *is_new;
    assert!(written.iter().all(is_new), "{written:?}");
}

#[tokio::test]
async fn a_batch_finds_rows_by_index() {
    let mut farm = Farm::start().await;
    let mut jobs = Vec::new();
    for _ in 0..12 {
        jobs.push(farm.queue().await);
    }
    farm.run("analyze").await;
    let mut leader = farm.database.pool().acquire().await.unwrap();
    let [waiting, lost, done, failed, first @ ..] = jobs.as_slice() else {
        panic!("{jobs:?}");
    };
    assert!(first.len() > PLANNED_ANEW);
    for job in [lost, done, failed].into_iter().chain(first) {
        write(&mut leader, &[assign(*job)]).await;
    }
    for (n, job) in first.iter().enumerate() {
        let ended = if n % 2 == 0 {
            deliver(*job)
        } else {
            fail(*job)
        };
        write(&mut leader, &[ended]).await;
    }

    let mut transaction = leader.begin().await.unwrap();
    let given_back = end(*lost, "queued", "lost", "retrying");
    let changes = [assign(*waiting), given_back, deliver(*done), fail(*failed)];
    write(&mut transaction, &changes).await;
    // What is looked at when the transaction ends.
    sqlx::query("set constraints all immediate")
        .execute(&mut *transaction)
        .await
        .unwrap();
    assert_eq!(read_whole(&mut transaction).await, "");
    transaction.commit().await.unwrap();
    assert_eq!(farm.events(*lost).await, "queued assigned retrying");
    assert_eq!(farm.events(*failed).await, "queued assigned failed");
    assert_eq!(
        farm.text("select count(*) from ledger_imbalances").await,
        "0"
    );
}

#[tokio::test]
async fn a_submission_finds_rows_by_index() {
    let mut farm = Farm::start().await;
    farm.run("analyze").await;
    let api = farm.app_with(1).await;
    let (first, second) = (farm.user, UserId::generate());
    farm.sign_up(second).await;
    // Alone, and with somebody else's.
    for users in [vec![first], vec![first, second]] {
        let mut users: Vec<Uuid> = users.into_iter().map(UserId::as_uuid).collect();
        users.sort();
        let mut connection = api.pool().acquire().await.unwrap();
        let mut whole = String::new();
        for _ in 0..PLANNED_ANEW + 3 {
            let ids: Vec<Uuid> = users.iter().map(|_| JobId::generate().as_uuid()).collect();
            let mut transaction = connection.begin().await.unwrap();
            let verdicts: Vec<String> = sqlx::query_scalar(SUBMIT)
                .bind(&users)
                .bind(&ids)
                .fetch_all(&mut *transaction)
                .await
                .unwrap();
            assert!(
                verdicts.iter().all(|verdict| verdict == "queued"),
                "{verdicts:?}"
            );
            sqlx::query("set constraints all immediate")
                .execute(&mut *transaction)
                .await
                .unwrap();
            whole = read_whole(&mut transaction).await;
            transaction.commit().await.unwrap();
        }
        assert_eq!(whole, "", "{users:?}");
    }
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
