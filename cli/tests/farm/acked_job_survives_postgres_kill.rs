//! Goal: what was answered with 202 is rendered, whatever happens to the database a moment later. Method: kill -9 of
//! PostgreSQL right after the answers, while nodes work.

use std::time::Duration;

use crate::support::TestFarm;

const JOBS: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn acked_job_survives_postgres_kill() {
    let farm = TestFarm::stand_in(Duration::from_millis(50), |_| ()).await;
    let user = farm.user().await;
    let video = user.small_video().await;
    let mut jobs = Vec::new();
    for _ in 0..JOBS {
        jobs.push(user.client.submit(&video).await.unwrap().id);
    }

    farm.farm()
        .parts()
        .postgres()
        .expect("an embedded server")
        .kill()
        .await;

    for job in &jobs {
        user.follow(job).until_done().await;
    }
    for job in &jobs {
        farm.assert_delivered_once(job).await;
    }
    farm.stop().await;
}
