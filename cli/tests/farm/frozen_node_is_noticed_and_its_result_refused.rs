//! Goal: a node that stands still is noticed within 15 seconds, its job runs elsewhere, and whatever it says when it wakes up
//! changes nothing. Method: SIGSTOP in the middle of denoising, SIGCONT after the job was delivered by another node.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{TestFarm, within};

/// INV-5.
const NOTICED_WITHIN: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn frozen_node_is_noticed_and_its_result_refused() {
    let farm = TestFarm::stand_in(Duration::from_millis(100), |options| options.nodes = 2).await;
    let user = farm.user().await;
    let operator = farm.operator().await;
    let job = user.submit(40).await;
    let mut follow = user.follow(&job);
    follow.until_denoising().await;
    let frozen = farm.node_of(&job).await;

    farm.signal(&frozen, Signal::SIGSTOP);
    let stopped = Instant::now();
    follow.until_attempt(2).await;
    let noticed = stopped.elapsed();
    assert!(noticed < NOTICED_WITHIN, "noticed after {noticed:?}");
    let other = farm.node_of(&job).await;
    assert_ne!(other, frozen);
    follow.until_done().await;
    let before = user.client.manifest(&job).await.unwrap();

    farm.signal(&frozen, Signal::SIGCONT);
    // It has said what it had to say when it is idle under the leader's eyes again.
    let is_back = async {
        loop {
            let nodes = operator.client.nodes().await.unwrap();
            if nodes
                .iter()
                .any(|node| node.id == frozen && node.running.is_none())
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within("the frozen node comes back", is_back).await;
    assert_eq!(user.client.manifest(&job).await.unwrap(), before);
    assert_eq!(before.node.as_str(), other);
    farm.assert_delivered_once(&job).await;

    // And it is good for work again.
    let next = user.submit(2).await;
    user.follow(&next).until_done().await;
    farm.stop().await;
}
