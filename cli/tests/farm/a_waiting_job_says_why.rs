//! Goal: `flowai jobs --why` and `GET /v1/videos/{id}` say of a job that waits where it stands, what for, and when it will start.

use std::time::Duration;

use crate::support::{Flowai, TestFarm, User, within};

const STEP: Duration = Duration::from_secs(1);
/// As many as a job may have: far longer than anybody asks here.
const STEPS: u32 = 100;

/// Waits until the leader has put the job into the line.
async fn queue_of(user: &User, job: &str) -> flowai::client::QueuePlace {
    let answered = async {
        loop {
            if let Some(queue) = user.client.video(job).await.unwrap().queue
                && queue.position.is_some()
            {
                return queue;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within("it says why it waits", answered).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_job_says_why() {
    let farm = TestFarm::stand_in(STEP, |_| ()).await;
    let (busy, user) = (farm.user().await, farm.user().await);
    let runs = busy.submit(STEPS).await;
    busy.follow(&runs).until_denoising().await;
    let (next, after) = (user.submit(2).await, user.submit(2).await);

    let queue = queue_of(&user, &next).await;
    assert_eq!((queue.position, queue.code.as_str()), (Some(1), "capacity"));
    let starts_in = queue.starts_in.unwrap();
    assert!(starts_in.p50_s <= starts_in.p90_s, "{starts_in:?}");
    let queue = queue_of(&user, &after).await;
    assert_eq!((queue.position, queue.code.as_str()), (Some(2), "share"));

    let folder = tempfile::tempdir().unwrap();
    let told = Flowai::run(&farm, &user, folder.path(), &["jobs", "--why"]).await;
    assert_eq!(told.status, Some(0), "{told:?}");
    let line_of = |job: &str| {
        let line = told.stdout.lines().find(|line| line.starts_with(job));
        line.unwrap_or_else(|| panic!("{job} is not in it: {told:?}"))
            .to_owned()
    };
    let (first, second) = (line_of(&next), line_of(&after));
    assert!(
        first.contains("next: waits for a free node; starts"),
        "{first}"
    );
    assert!(second.contains("number 2 in the queue"), "{second}");

    busy.client.cancel(&runs).await.unwrap();
    user.follow(&after).until_done().await;
    farm.stop().await;
}
