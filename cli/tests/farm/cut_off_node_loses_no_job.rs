//! Goal: a node that lives and cannot be reached is noticed within 15 seconds, its job runs elsewhere and is delivered once, and
//! the node is good for work when it is reached again.
//! Method: the link of one node leads through a proxy that stops forwarding in the middle of denoising and closes nothing, as
//! a cut network does.

use std::time::{Duration, Instant};

use crate::support::{FarNode, TestFarm, within};

/// INV-5.
const NOTICED_WITHIN: Duration = Duration::from_secs(15);
const STEP_MS: u64 = 100;

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_node_loses_no_job() {
    let farm = TestFarm::stand_in(Duration::from_millis(STEP_MS), |_| ()).await;
    let far = FarNode::start(&farm, STEP_MS).await;
    let user = farm.user().await;
    let operator = farm.operator().await;
    let far_is_idle = || async {
        loop {
            let nodes = operator.client.nodes().await.unwrap();
            if nodes
                .iter()
                .any(|node| node.about.id == FarNode::NAME && node.running.is_none())
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within("the far node is there", far_is_idle()).await;
    // Two at once, so that one of them is there.
    let (one, two) = (user.submit(40).await, user.submit(40).await);
    let (mut one_follow, mut two_follow) = (user.follow(&one), user.follow(&two));
    one_follow.until_denoising().await;
    two_follow.until_denoising().await;
    let (job, mut follow, mut other) = match farm.node_of(&one).await == FarNode::NAME {
        true => (&one, one_follow, two_follow),
        false => (&two, two_follow, one_follow),
    };
    assert_eq!(farm.node_of(job).await, FarNode::NAME);

    far.cut();
    let cut = Instant::now();
    other.until_done().await;
    follow.until_attempt(2).await;
    let noticed = cut.elapsed();
    assert!(noticed < NOTICED_WITHIN, "noticed after {noticed:?}");
    assert_eq!(farm.node_of(job).await, "node-1");
    let done = follow.until_done().await;
    assert_eq!(done.attempt, 2);
    let delivered = user.client.manifest(job).await.unwrap();

    far.mend();
    within("the far node is back", far_is_idle()).await;
    assert_eq!(user.client.manifest(job).await.unwrap(), delivered);
    farm.assert_delivered_once(job).await;
    farm.assert_delivered_once(if job == &one { &two } else { &one })
        .await;
    farm.stop().await;
}
