//! Goal: a cancelled job ends within a step, running or waiting, and its node takes the next one at once.

use std::time::{Duration, Instant};

use flowai::client::Status;

use crate::support::TestFarm;

/// Long, so that one step is told from two on a busy machine.
const STEP: Duration = Duration::from_secs(3);
/// The step that runs when the cancel comes, and the way of the words. Two steps would take longer.
const FREED_WITHIN: Duration = Duration::from_secs(5);

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

    let mut next_follow = user.follow(&next);
    let asked = Instant::now();
    user.client.cancel(&running).await.unwrap();
    next_follow.until_attempt(1).await;
    let freed = asked.elapsed();
    assert!(freed < FREED_WITHIN, "the node was free after {freed:?}");
    assert_eq!(follow.until_end().await.status, Status::Cancelled);
    next_follow.until_done().await;

    // A cancel that comes late destroys nothing.
    let late = user.client.cancel(&next).await.unwrap_err();
    assert_eq!(late.code(), Some("already_done"));
    user.client.manifest(&next).await.unwrap();
    farm.stop().await;
}
