//! Goal: a node that is killed in the middle of denoising costs nobody their job. Method: kill -9 of the node that runs it;
//! another renders it, and it is delivered once.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::TestFarm;

#[tokio::test(flavor = "multi_thread")]
async fn killed_node_loses_no_job() {
    let farm = TestFarm::stand_in(Duration::from_millis(100), |options| options.nodes = 2).await;
    let user = farm.user().await;
    let job = user.submit(40).await;
    let mut follow = user.follow(&job);
    follow.until_denoising().await;
    let killed = farm.node_of(&job).await;

    farm.signal(&killed, Signal::SIGKILL);

    let video = follow.until_done().await;
    assert_eq!(video.attempt, 2);
    farm.assert_delivered_once(&job).await;
    let folder = tempfile::tempdir().unwrap();
    let manifest = user
        .client
        .download(&job, &folder.path().join("clip.mp4"))
        .await
        .unwrap();
    assert_eq!(manifest.attempt.get(), 2);
    farm.stop().await;
}
