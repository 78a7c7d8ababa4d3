//! Goal: a page of videos costs the same whoever's it is: who has thousands waits no longer for the newest ten.
//! Method: the rows of jobs that the database read in the page's transaction.

use flowai_actors::ids::JobId;
use flowai_actors::state::JobState;
use flowai_store::videos::{self, Listing, Video};

use crate::farm::Farm;

const JOBS: u32 = 3_000;
const PAGE: i64 = 10;

/// A page, and how many rows of `job` and `job_state` were read for it.
async fn page(farm: &Farm, listing: &Listing) -> (Vec<Video>, i64) {
    let mut transaction = farm.app.begin_as(farm.user).await.unwrap();
    let videos = videos::list(&mut transaction, listing).await.unwrap();
    let read = sqlx::query_scalar(
        "select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint
           from pg_stat_xact_user_tables where relname in ('job', 'job_state')",
    );
    let read = read.fetch_one(&mut *transaction).await.unwrap();
    (videos, read)
}

#[tokio::test]
async fn a_page_costs_what_it_holds() {
    let mut farm = Farm::start().await;
    let job = farm.queue().await;
    for (table, key, end) in [
        ("job", "id", ""),
        (
            "job_state",
            "job_id",
            ", 'state', 'done', 'finished_at', now()",
        ),
    ] {
        farm.run(&format!(
            "insert into {table} select (jsonb_populate_record(t, jsonb_build_object('{key}',
                 lpad(to_hex(n), 8, '0') || '-0000-7000-8000-000000000000'{end}))).*
               from {table} t, generate_series(1, {JOBS}) n where t.{key} = '{job}'"
        ))
        .await;
    }
    farm.run("analyze job, job_state").await;
    let ids = |videos: &[Video]| -> Vec<JobId> { videos.iter().map(|video| video.id).collect() };
    let listing = |state, after, is_oldest_first| Listing {
        state,
        model: None,
        after,
        is_oldest_first,
        limit: PAGE,
    };
    let (newest, read) = page(&farm, &listing(None, None, false)).await;
    assert_eq!(newest[0].id, job);
    assert!(read <= 6 * PAGE, "{read}");
    let after = newest.last().map(|video| video.id);
    let (next, read) = page(&farm, &listing(None, after, false)).await;
    assert!(next[0].id < newest[9].id && next.len() == PAGE as usize);
    assert!(read <= 6 * PAGE, "{read}");
    let (oldest, read) = page(&farm, &listing(None, None, true)).await;
    assert!(ids(&oldest).is_sorted() && oldest[9].id < next[0].id);
    assert!(read <= 6 * PAGE, "{read}");

    // What waits is found among all that has ended.
    let (queued, read) = page(&farm, &listing(Some(JobState::Queued), None, true)).await;
    assert_eq!(ids(&queued), [job]);
    assert!(read <= 6 * PAGE, "{read}");
    let (done, read) = page(&farm, &listing(Some(JobState::Done), None, false)).await;
    assert_eq!(ids(&done), [&ids(&newest)[1..], &ids(&next)[..1]].concat());
    assert!(read <= 8 * PAGE, "{read}");
}
