//! Goal: a node that stands still is noticed within 15 seconds, its job runs elsewhere, and whatever it says when it wakes up
//! changes nothing.
//! Method: SIGSTOP in the middle of denoising. After another node has delivered the job, somebody with the frozen node's own
//! certificate and generation says what a node that noticed nothing would say: that it wants to upload, and that it has
//! rendered. Then SIGCONT: the real one finds its way back.

use std::time::{Duration, Instant};

use flowai_actors::messages::{EndedAnswer, UploadTargetsAnswer};
use nix::sys::signal::Signal;

use crate::support::{TestFarm, Zombie, first_attempt, within};

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
    let (at, generation) = first_attempt(&farm, &job).await;
    follow.until_done().await;
    let before = user.client.manifest(&job).await.unwrap();
    assert_eq!(before.node.as_str(), other);

    let zombie = Zombie::of(&farm, &frozen, generation).await;
    let targets = zombie.wants_to_upload(at, &before).await;
    assert_eq!(targets, UploadTargetsAnswer::Stale);
    let told = zombie.says_it_rendered(at, &before).await;
    assert_eq!(told, EndedAnswer::Stale);
    zombie.leave().await;
    assert_eq!(user.client.manifest(&job).await.unwrap(), before);
    farm.assert_delivered_once(&job).await;

    farm.signal(&frozen, Signal::SIGCONT);
    let is_back = async {
        loop {
            let nodes = operator.client.nodes().await.unwrap();
            if nodes
                .iter()
                .any(|node| node.about.id == frozen && node.running.is_none())
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within("the frozen node comes back", is_back).await;
    assert_eq!(user.client.manifest(&job).await.unwrap(), before);
    farm.assert_delivered_once(&job).await;

    // Both are good for work again: two jobs run at once.
    let (one, two) = (user.submit(20).await, user.submit(20).await);
    let (mut one_follow, mut two_follow) = (user.follow(&one), user.follow(&two));
    one_follow.until_denoising().await;
    two_follow.until_denoising().await;
    assert_ne!(farm.node_of(&one).await, farm.node_of(&two).await);
    one_follow.until_done().await;
    two_follow.until_done().await;
    farm.stop().await;
}
