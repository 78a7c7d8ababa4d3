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

/// Rows of each table that come to those of the tests after the plans were made, and that nobody analyses.
const GROWTH: usize = 1_000;

/// Tables that were read whole in this transaction, also by way of an index.
const READ_WHOLE: &str = "
    select coalesce(string_agg(format('%s (%s scans, %s rows by index)', relname, seq_scan, idx_tup_fetch), ', ' order by relname), '')
      from pg_stat_xact_user_tables
     where (seq_scan > 0 and relname <> 'leader') or idx_tup_fetch > 100";

/// A video of each user, from a picture that has the user's own id.
const SUBMIT: &str = "
    with asked as (select * from unnest($1::uuid[], $2::uuid[]) with ordinality as a (owner, id, place))
    select verdict from submit(
        $1, array(select id::text from asked), array(select sha256('r') from asked), array(select 202 from asked),
        array(select '{}'::jsonb from asked), array(select place::int from asked), $2, array(select now() from asked),
        array(select '{}'::jsonb from asked), array(select null::jsonb from asked), array(select 'tiny' from asked), $1,
        array(select null from asked), array(select '' from asked), array(select null::uuid from asked),
        array(select 'interactive' from asked), array(select null::uuid from asked), array(select 10 from asked),
        array(select 1 from asked), '{}', '{}', '{}', '{\"studio\": 100}')";

/// A connection keeps the counts of its transactions together for a second.
async fn forget_counts(connection: &mut PgConnection) {
    let flushed = sqlx::query("select pg_stat_force_next_flush()").execute(connection);
    flushed.await.unwrap();
}

async fn read_whole(transaction: &mut PgConnection) -> String {
    let read_whole = sqlx::query_scalar(READ_WHOLE);
    read_whole.fetch_one(transaction).await.unwrap()
}

/// Other users with a job each, since the plans were made.
async fn grow(farm: &mut Farm) {
    for statement in [
        format!(
            "create temporary table other as select gen_random_uuid() as id from generate_series(1, {GROWTH})"
        ),
        "insert into account (id, email, tier) select id, id || '@example.org', 'studio' from other".to_owned(),
        "insert into upload (id, owner_id, purpose, sha256, bytes, content_type, width, height, object_key)
         select id, id, 'image', sha256('i'), 1, 'image/png', 8, 8, 'k' from other"
            .to_owned(),
        "select count(ledger_grant(id, 'gift', 'gift:' || id || ':test', 1000, null, 'test')) from other".to_owned(),
        "select count(*) from (select array_agg(id order by id) as ids, count(*)::int as n from other) o, submit(
            ids, array_fill(null::text, array[n]), array_fill(null::bytea, array[n]), array_fill(202, array[n]),
            array_fill('{}'::jsonb, array[n]), array(select generate_series(1, n)), ids, array_fill(now(), array[n]),
            array_fill('{}'::jsonb, array[n]), array_fill(null::jsonb, array[n]), array_fill('tiny'::text, array[n]), ids,
            array_fill(null::text, array[n]), array_fill(''::text, array[n]), array_fill(null::uuid, array[n]),
            array_fill('interactive'::text, array[n]), array_fill(null::uuid, array[n]), array_fill(10, array[n])::bigint[],
            array_fill(1, array[n]), '{}', '{}', '{}', '{\"studio\": 100}')"
            .to_owned(),
    ] {
        farm.run(&statement).await;
    }
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

/// How many of these jobs a leader reads.
async fn read_by(leader: &mut PgConnection, jobs: &[Uuid]) -> i64 {
    let read = sqlx::query_scalar("select count(spec) from leader_jobs($1)").bind(jobs);
    read.fetch_one(leader).await.unwrap()
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
    let all: Vec<Uuid> = jobs.iter().map(|job| job.as_uuid()).collect();
    for (n, job) in first.iter().enumerate() {
        assert_eq!(read_by(&mut leader, &all).await, all.len() as i64);
        let ended = if n % 2 == 0 {
            deliver(*job)
        } else {
            fail(*job)
        };
        write(&mut leader, &[ended]).await;
    }

    grow(&mut farm).await;
    forget_counts(&mut leader).await;
    let mut transaction = leader.begin().await.unwrap();
    let given_back = end(*lost, "queued", "lost", "retrying");
    let changes = [assign(*waiting), given_back, deliver(*done), fail(*failed)];
    assert_eq!(read_by(&mut transaction, &all).await, all.len() as i64);
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
    let mut both = [first.as_uuid(), second.as_uuid()];
    both.sort();
    let mut connection = api.pool().acquire().await.unwrap();
    // Alone, and with somebody else's.
    for users in [&both[..1], &both] {
        for _ in 0..PLANNED_ANEW + 3 {
            submit(&mut connection, users).await;
        }
    }
    grow(&mut farm).await;
    for users in [&both[..1], &both] {
        let whole = submit(&mut connection, users).await;
        assert_eq!(whole, "", "{users:?}");
    }
}

/// Submits for each of the users; gives what was read whole for it.
async fn submit(api: &mut PgConnection, users: &[Uuid]) -> String {
    let ids: Vec<Uuid> = users.iter().map(|_| JobId::generate().as_uuid()).collect();
    forget_counts(api).await;
    let mut transaction = api.begin().await.unwrap();
    let verdicts: Vec<String> = sqlx::query_scalar(SUBMIT)
        .bind(users)
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
    let whole = read_whole(&mut transaction).await;
    transaction.commit().await.unwrap();
    whole
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
