//! Goal: beats and steps of a running job never reach the database.
//! Method: while a job goes through its steps, its node beats and its user is told, no row of any table gets a new version, but the
//! leader's lease.

use std::time::Duration;

use crate::support::TestFarm;

/// More than one beat of the node lies between the two looks.
const STEPS_BETWEEN: u32 = 60;

const NOW: &str =
    "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint where $1::text is not null";

/// Tables with rows that a transaction wrote which is newer than `$1`.
const WRITTEN: &str = "
    select coalesce(string_agg(name || ': ' || rows, ', '), '') from (
        select c.relname as name,
               (xpath('/row/n/text()', query_to_xml(format(
                   'select count(*) as n from %s where xmin::text::bigint >= %s', c.oid::regclass, $1::bigint),
                   false, true, '')))[1]::text::bigint as rows
          from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where c.relkind = 'r' and n.nspname in ('public', 'event_weeks') and c.relname <> 'leader') as tables
     where rows > 0";

#[tokio::test(flavor = "multi_thread")]
async fn progress_writes_nothing() {
    let farm = TestFarm::stand_in(Duration::from_millis(100), |_| ()).await;
    let user = farm.user().await;
    let job = user.submit(100).await;
    let mut follow = user.follow(&job);
    let first = follow.until_denoising().await.step;
    let mark: i64 = farm.one(NOW, &job).await;
    while follow.until_denoising().await.step < first + STEPS_BETWEEN {}
    let written: String = farm.one(WRITTEN, &mark.to_string()).await;
    assert_eq!(written, "");

    follow.until_done().await;
    let written: String = farm.one(WRITTEN, &mark.to_string()).await;
    assert!(written.contains("job_state"), "an end is seen: {written}");
    farm.stop().await;
}
