//! Goal: a node that is killed in the middle of denoising costs nobody their job, and the clip is the one that it would have
//! been (INV-11).
//! Method: kill -9 of the node that runs it, with the real engine; another renders it, and it is delivered once.

use std::time::{Duration, Instant};

use flowai::client::NewVideo;
use nix::sys::signal::Signal;

use crate::support::TestFarm;

/// INV-5.
const NOTICED_WITHIN: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn killed_node_loses_no_job() {
    let farm = TestFarm::start(|options| options.nodes = 2).await;
    let user = farm.user().await;
    // Long enough to be killed in the middle of.
    let video = NewVideo {
        frames: Some(8),
        width: Some(128),
        height: Some(96),
        steps: Some(60),
        ..user.small_video().await
    };
    let job = user.client.submit(&video).await.unwrap().id;
    let mut follow = user.follow(&job);
    follow.until_denoising().await;
    let killed = farm.node_of(&job).await;

    farm.signal(&killed, Signal::SIGKILL);
    let died = Instant::now();
    follow.until_attempt(2).await;
    let noticed = died.elapsed();
    assert!(noticed < NOTICED_WITHIN, "noticed after {noticed:?}");
    assert_ne!(farm.node_of(&job).await, killed);
    let done = follow.until_done().await;
    assert_eq!(done.attempt, 2);
    farm.assert_delivered_once(&job).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.mp4");
    let manifest = user.client.download(&job, &path).await.unwrap();
    assert_eq!(manifest.attempt.get(), 2);
    assert_ne!(manifest.node.as_str(), killed);

    // The same wish without a death in between.
    let undisturbed = user.client.submit(&video).await.unwrap().id;
    assert_eq!(user.follow(&undisturbed).until_done().await.attempt, 1);
    let undisturbed = user.client.manifest(&undisturbed).await.unwrap();
    assert_eq!(undisturbed.clip_sha256, manifest.clip_sha256);
    farm.stop().await;
}
