//! Goal: no node stands idle while a job waits that it could run, whoever's it is; but a user who runs as many as its tier's cap
//! is served after everybody else.
//! Method: a free user's jobs on every node, looked at in the database while they run; of the next ones to start, another
//! user's comes first although it was submitted last.

use std::time::Duration;

use flowai_actors::state::Tier;

use crate::support::{TestFarm, within};

const NODES: usize = 3;
const RUNNING: &str = "select count(*) from job_state where state = 'running' and owner_id =
    (select owner_id from job where id = $1::uuid)";
const STARTED: &str =
    "select extract(epoch from started_at)::float8 from job_state where job_id = $1::uuid";

#[tokio::test(flavor = "multi_thread")]
async fn idle_nodes_serve_a_user_beyond_its_cap() {
    let farm =
        TestFarm::stand_in(Duration::from_millis(100), |options| options.nodes = NODES).await;
    let (eager, other) = (farm.user().await, farm.user().await);
    assert!((Tier::Free.running_max() as usize) < NODES);
    let mut jobs = Vec::new();
    for _ in 0..=NODES {
        jobs.push(eager.submit(80).await);
    }
    let everywhere = async {
        while farm.one::<i64>(RUNNING, &jobs[0]).await < NODES as i64 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("all nodes work", everywhere).await;
    let late = other.submit(30).await;

    for job in &jobs {
        eager.follow(job).until_done().await;
    }
    other.follow(&late).until_done().await;

    let late_start: f64 = farm.one(STARTED, &late).await;
    let last_start: f64 = farm.one(STARTED, &jobs[NODES]).await;
    assert!(
        late_start < last_start,
        "{late_start} is not before {last_start}"
    );
    farm.stop().await;
}
