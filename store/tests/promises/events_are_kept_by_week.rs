//! Goal: events of long ago go without a trace, and no event is lost for want of a week to put it into.

use std::sync::Arc;
use std::time::Duration;

use flowai_store::events;
use sqlx::{Connection as _, PgConnection};

use crate::farm::Farm;

const AHEAD: u32 = 2;
const KEPT: u32 = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Many times the second after which it gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// The number and the part of each event, as the owner of the tables.
const WHERE_THEY_ARE: &str = "select string_agg(user_seq || ' ' || tableoid::regclass, ', ' order by user_seq) from job_event";

#[tokio::test]
async fn old_weeks_are_dropped_and_events_without_a_week_are_put_into_theirs() {
    let mut farm = Farm::start().await;
    let job = farm.queue_for(farm.user).await;
    let user = farm.user;
    let ages = [
        (2, "2 weeks"),
        (3, "5 weeks"),
        (4, "7 weeks"),
        (5, "-20 weeks"),
    ];
    for (seq, age) in ages {
        farm.run(&format!(
            "insert into job_event (owner_id, user_seq, job_id, seq, kind, at)
             values ('{user}', {seq}, '{job}', {seq}, 'assigned', now() - interval '{age}')"
        ))
        .await;
    }
    let before = farm.text(WHERE_THEY_ARE).await;
    assert_eq!(
        before.matches("event_weeks.other").count(),
        ages.len(),
        "{before}"
    );

    events::keep_weeks(&farm.database, AHEAD, KEPT)
        .await
        .unwrap();
    let after = farm.text(WHERE_THEY_ARE).await;
    let kept: Vec<&str> = after
        .split(", ")
        .filter_map(|event| event.split(' ').next())
        .collect();
    assert_eq!(kept, ["1", "2", "3", "5"], "{after}");
    // One of a time that is too far off for a week stays where it is found.
    assert_eq!(after.matches("event_weeks.other").count(), 1, "{after}");
    assert!(after.ends_with("5 event_weeks.other"), "{after}");

    let parts = "select string_agg(relname, ' ' order by relname) from pg_class
                  where relnamespace = 'event_weeks'::regnamespace and relkind = 'r'";
    let weeks = farm.text(parts).await;
    events::keep_weeks(&farm.database, AHEAD, KEPT)
        .await
        .unwrap();
    assert_eq!(farm.text(parts).await, weeks);
}

/// A clock that had not been set yet: its three thousand weeks would keep those to come from ever being made.
#[tokio::test]
async fn an_event_of_long_ago_makes_no_weeks() {
    let mut farm = Farm::start().await;
    let job = farm.queue_for(farm.user).await;
    let user = farm.user;
    farm.run(&format!(
        "insert into job_event (owner_id, user_seq, job_id, seq, kind, at)
         values ('{user}', 2, '{job}', 2, 'assigned', 'epoch')"
    ))
    .await;
    events::keep_weeks(&farm.database, AHEAD, KEPT)
        .await
        .unwrap();
    let after = farm.text(WHERE_THEY_ARE).await;
    assert!(after.starts_with("1 ") && !after.contains(','), "{after}");
    let weeks = "select count(*) from pg_class
                  where relnamespace = 'event_weeks'::regnamespace and relkind = 'r' and relname like 'from%'";
    let weeks: u32 = farm.text(weeks).await.parse().unwrap();
    assert!(weeks <= AHEAD + KEPT + 2, "{weeks}");
}

#[tokio::test]
async fn whoever_uses_the_events_for_long_puts_weeks_off_and_others_go_on() {
    let farm = Arc::new(Farm::start().await);
    // Weeks are missing, and a transaction that may write jobs stays open: a part refers to them.
    let mut writer = farm.another_owner().await;
    sqlx::raw_sql("begin; lock table job in row exclusive mode")
        .execute(&mut writer)
        .await
        .unwrap();
    let mut looker = farm.another_owner().await;
    let database = farm.database.clone();
    let keeping = tokio::spawn(async move { events::keep_weeks(&database, 20, KEPT).await });
    until_waiting(&mut looker, 1).await;
    // Whoever comes now is behind it, until it gives up.
    let submission = tokio::spawn({
        let farm = farm.clone();
        async move { farm.queue_for(farm.user).await }
    });
    until_waiting(&mut looker, 2).await;
    let refused = keeping.await.unwrap().unwrap_err();
    assert!(
        format!("{refused:?}").contains("lock timeout"),
        "{refused:?}"
    );
    let queued = tokio::time::timeout(PATIENCE, submission).await;
    queued.expect("the submission goes on").unwrap();

    drop(writer);
    events::keep_weeks(&farm.database, 20, KEPT).await.unwrap();
}

/// Until so many wait for the table of jobs.
async fn until_waiting(looker: &mut PgConnection, count: i64) {
    let waiting = async {
        loop {
            let waiting: i64 = sqlx::query_scalar(
                "select count(*) from pg_locks where not granted and relation = 'job'::regclass",
            )
            .fetch_one(&mut *looker)
            .await
            .unwrap();
            if waiting >= count {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("they wait");
}

#[tokio::test]
async fn nobody_but_the_leader_makes_weeks_or_looks_into_one() {
    let farm = Farm::start().await;
    let refused = events::keep_weeks(&farm.app, AHEAD, KEPT)
        .await
        .unwrap_err();
    assert!(
        format!("{refused:?}").contains("permission denied for function"),
        "{refused:?}"
    );
    for database in [&farm.app, &farm.database] {
        let mut connection = database.pool().acquire().await.unwrap();
        let mut transaction = connection.begin().await.unwrap();
        let looked = sqlx::query("select from event_weeks.other")
            .execute(&mut *transaction)
            .await;
        let refused = looked.unwrap_err().to_string();
        assert!(
            refused.contains("permission denied for schema event_weeks"),
            "{refused}"
        );
    }
}

/// They come without a pause, into the part of those that have no week.
#[tokio::test(flavor = "multi_thread")]
async fn a_week_is_made_while_its_events_come() {
    let mut farm = Farm::start().await;
    let job = farm.queue_for(farm.user).await;
    let user = farm.user;
    let mut writer = farm.another_owner().await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        let mut seq = 10_u32;
        while stopped.try_recv().is_err() {
            let statement = format!(
                "insert into job_event (owner_id, user_seq, job_id, seq, kind, at)
                 values ('{user}', {seq}, '{job}', {seq}, 'assigned', now() + interval '10 weeks')"
            );
            let done = sqlx::query(sqlx::AssertSqlSafe(statement));
            done.execute(&mut writer).await.unwrap();
            seq += 1;
        }
    });
    farm.until("select count(*) > 50 from event_weeks.other", "true")
        .await;
    let mut failures = 0;
    // Behind whoever writes it may have to wait for too long.
    while let Err(error) = events::keep_weeks(&farm.database, 11, KEPT).await {
        assert!(error.is_outage(), "{error:?}");
        failures += 1;
        assert!(failures < 10);
    }
    stop.send(()).unwrap();
    writing.await.unwrap();
    assert_eq!(
        farm.text("select count(*) from event_weeks.other").await,
        "0"
    );
}
