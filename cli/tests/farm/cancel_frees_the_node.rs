//! Goal: a cancelled job ends within a step, running or waiting, and its node takes the next one at once.

use std::time::{Duration, Instant};

use flowai::client::Status;

use crate::support::TestFarm;

const STEP: Duration = Duration::from_millis(400);
/// The step that runs, the next job's one step, and the way of the words on a busy machine: far from the forty seconds that
/// the cancelled job had left.
const FREED_WITHIN: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn cancel_frees_the_node() {
    let farm = TestFarm::stand_in(STEP, |_| ()).await;
    let user = farm.user().await;
    let running = user.submit(100).await;
    let mut follow = user.follow(&running);
    follow.until_denoising().await;
    let (unwanted, next) = (user.submit(100).await, user.submit(1).await);

    user.client.cancel(&unwanted).await.unwrap();
    let video = user.follow(&unwanted).until_end().await;
    assert_eq!((video.status, video.attempt), (Status::Cancelled, 0));

    let asked = Instant::now();
    user.client.cancel(&running).await.unwrap();
    assert_eq!(follow.until_end().await.status, Status::Cancelled);
    user.follow(&next).until_done().await;
    let freed = asked.elapsed();
    assert!(
        freed < FREED_WITHIN,
        "the next job was done after {freed:?}"
    );

    // A cancel that comes late destroys nothing.
    let late = user.client.cancel(&next).await.unwrap_err();
    assert_eq!(late.code(), Some("already_done"));
    user.client.manifest(&next).await.unwrap();
    farm.stop().await;
}
