//! Goal: the death of the leader costs nobody their job, neither a running nor a waiting one. Method: kill -9 of the leader
//! while one job denoises and another waits, with a standby beside it.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::TestFarm;

const HOLDER: &str = "select holder from leader where $1::text is not null";
const EPOCH: &str = "select epoch from leader where $1::text is not null";

#[tokio::test(flavor = "multi_thread")]
async fn killed_coordinator_loses_no_job() {
    let farm = TestFarm::stand_in(Duration::from_millis(200), |options| {
        options.coordinators = 2
    })
    .await;
    let user = farm.user().await;
    let (running, waiting) = (user.submit(60).await, user.submit(2).await);
    let mut follow = user.follow(&running);
    follow.until_denoising().await;
    // The program's name and the count of its starts.
    let holder: String = farm.one(HOLDER, &running).await;
    let (leader, _) = holder.rsplit_once('-').unwrap();
    let epoch: i32 = farm.one(EPOCH, &running).await;

    farm.signal(leader, Signal::SIGKILL);

    let video = follow.until_done().await;
    // Its node never stopped: the new leader adopts the attempt.
    assert_eq!(video.attempt, 1);
    user.follow(&waiting).until_done().await;
    let now: i32 = farm.one(EPOCH, &running).await;
    assert!(now > epoch, "term {now} follows term {epoch}");
    for job in [&running, &waiting] {
        farm.assert_delivered_once(job).await;
    }
    farm.stop().await;
}
