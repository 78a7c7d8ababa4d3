//! Goal: a job that names another one starts when that is done, although a node was idle all the time, and says until then why it
//! waits; when the other one ends without a clip, it fails by name and costs nothing.

use std::time::Duration;

use flowai::client::NewVideo;

use crate::support::{TestFarm, User, within};

const STARTED: &str =
    "select extract(epoch from started_at)::float8 from job_state where job_id = $1::uuid";
const FINISHED: &str =
    "select extract(epoch from finished_at)::float8 from job_state where job_id = $1::uuid";

async fn submit_after(user: &User, job: &str) -> String {
    let video = NewVideo {
        steps: Some(2),
        after: Some(job.to_owned()),
        ..user.small_video().await
    };
    user.client.submit(&video).await.unwrap().id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_starts_after_another() {
    let farm = TestFarm::stand_in(Duration::from_millis(100), |options| options.nodes = 2).await;
    let user = farm.user().await;
    let first = user.submit(60).await;
    user.follow(&first).until_denoising().await;
    let second = submit_after(&user, &first).await;
    let says_why = async {
        loop {
            let video = user.client.video(&second).await.unwrap();
            if let Some(queue) = video.queue {
                break queue.code;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert_eq!(within("it says why it waits", says_why).await, "dependency");
    user.follow(&second).until_done().await;
    let first_end: f64 = farm.one(FINISHED, &first).await;
    let second_start: f64 = farm.one(STARTED, &second).await;
    assert!(first_end <= second_start, "{first_end} {second_start}");

    let cancelled = user.submit(60).await;
    let never = submit_after(&user, &cancelled).await;
    user.client.cancel(&cancelled).await.unwrap();
    let fails = async {
        loop {
            let video = user.client.video(&never).await.unwrap();
            if let Some(error) = video.error {
                break error.code;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert_eq!(within("it fails", fails).await, "dependency_failed");
    let held: i64 = farm
        .one(
            "select coalesce(sum(b.held_mc), 0)::bigint from credit_balances b
              where b.owner_id = (select owner_id from job where id = $1::uuid)",
            &never,
        )
        .await;
    assert_eq!(held, 0);
    farm.stop().await;
}
