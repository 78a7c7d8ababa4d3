//! Goal: a user's jobs take no more nodes than one user may have, however many are idle; what is over waits, and is done too.
//! Method: three jobs of one user on three nodes, looked at in the database while they run; another user's job, which comes
//! last, shows that the third node was free.

use std::time::Duration;

use flowai_actors::limits::USER_RUNNING_MAX;

use crate::support::{TestFarm, User, within};

const RUNNING: &str = "select count(*) from job_state where state = 'running' and owner_id =
    (select owner_id from job where id = $1::uuid)";
const UNFINISHED: &str = "select count(*) from job_state where finished_at is null and owner_id =
    (select owner_id from job where id = $1::uuid)";
const STARTED: &str =
    "select extract(epoch from started_at)::float8 from job_state where job_id = $1::uuid";

#[tokio::test(flavor = "multi_thread")]
async fn user_gets_only_so_many_nodes_at_once() {
    let farm = TestFarm::stand_in(Duration::from_millis(100), |options| options.nodes = 3).await;
    let (eager, other) = (farm.user().await, farm.user().await);
    let submit = async |user: &User| user.submit(30).await;
    let jobs = [
        submit(&eager).await,
        submit(&eager).await,
        submit(&eager).await,
    ];
    let late = submit(&other).await;

    let most = within("all jobs end", most_running(&farm, &jobs[0])).await;

    assert_eq!(most, i64::from(USER_RUNNING_MAX));
    let mut last_start = f64::MIN;
    for job in &jobs {
        eager.follow(job).until_done().await;
        last_start = last_start.max(farm.one(STARTED, job).await);
    }
    other.follow(&late).until_done().await;
    let late_start: f64 = farm.one(STARTED, &late).await;
    assert!(
        late_start < last_start,
        "{late_start} is not before {last_start}"
    );
    farm.stop().await;
}

/// The most jobs of a job's owner that were seen to run at once until all had ended.
async fn most_running(farm: &TestFarm, job: &str) -> i64 {
    let mut most = 0;
    while farm.one::<i64>(UNFINISHED, job).await > 0 {
        most = most.max(farm.one(RUNNING, job).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    most
}
