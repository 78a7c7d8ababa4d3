//! Goal: a job that takes down each node that gets it stops going round: it is quarantined, whoever watches it is told, and the
//! farm goes on.
//! Method: kill -9 of whichever node runs it, which is what such a job does, until it has had two.

use std::time::Duration;

use flowai::client::Status;
use flowai_actors::limits::JOB_NODE_DEATHS_MAX;
use nix::sys::signal::Signal;

use crate::support::{Flowai, TestFarm};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_kills_nodes_is_quarantined() {
    let farm = TestFarm::stand_in(Duration::from_millis(200), |options| options.nodes = 2).await;
    let user = farm.user().await;
    let job = user.submit(100).await;
    let mut follow = user.follow(&job);

    let mut killed = Vec::new();
    for attempt in 1..=JOB_NODE_DEATHS_MAX {
        follow.until_attempt(attempt).await;
        follow.until_denoising().await;
        let node = farm.node_of(&job).await;
        farm.signal(&node, Signal::SIGKILL);
        assert!(!killed.contains(&node), "{node} got it again");
        killed.push(node);
    }

    let video = follow.until_end().await;
    assert_eq!(
        (video.status, video.attempt),
        (Status::Quarantined, JOB_NODE_DEATHS_MAX)
    );
    let folder = tempfile::tempdir().unwrap();
    let watch = Flowai::run(&farm, &user, folder.path(), &["watch", &job]).await;
    watch.assert_refused(5, &[&job, "quarantined", "2 times a node died"]);

    let next = user.submit(2).await;
    assert_eq!(user.follow(&next).until_done().await.attempt, 1);
    farm.stop().await;
}
