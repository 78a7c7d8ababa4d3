//! Goal: when both wait, a paying user's job starts before a free user's that came earlier, and the free user's starts too.

use std::time::Duration;

use crate::support::TestFarm;

const STARTED: &str =
    "select extract(epoch from started_at)::float8 from job_state where job_id = $1::uuid";

#[tokio::test(flavor = "multi_thread")]
async fn paying_user_starts_first() {
    let farm = TestFarm::stand_in(Duration::from_millis(100), |_| ()).await;
    let (busy, free, paying) = (farm.user().await, farm.user().await, farm.user().await);
    farm.set_tier(&paying.email, "pro").await;
    let holds_the_node = busy.submit(30).await;
    busy.follow(&holds_the_node).until_denoising().await;

    let free_job = free.submit(2).await;
    let paid_job = paying.submit(2).await;

    free.follow(&free_job).until_done().await;
    paying.follow(&paid_job).until_done().await;
    let free_start: f64 = farm.one(STARTED, &free_job).await;
    let paid_start: f64 = farm.one(STARTED, &paid_job).await;
    assert!(
        paid_start < free_start,
        "{paid_start} is not before {free_start}"
    );
    farm.stop().await;
}
