//! Goal: which nodes a job failed on, and which died under it, outlives the leader that saw it.
//! Method: attempts written by the journal, then read as a new term reads them.

use flowai_actors::ids::{Attempt, Generation, NodeId};
use flowai_actors::messages::{AttemptRef, Holding};
use flowai_store::journal::{Batch, Change, Unfinished, commit};
use flowai_store::{leader, recovery};

use crate::farm::Farm;

#[tokio::test]
async fn a_new_leader_knows_where_a_job_failed() {
    let mut farm = Farm::start().await;
    let user = farm.sign_up().await;
    let job = farm.queue(user).await;
    let untried = farm.queue(user).await;
    let epoch = leader::take_over(&farm.database, "c1", "127.0.0.1:1").await;
    let epoch = epoch.unwrap().unwrap();
    let node = |name: &str| -> NodeId { name.parse().unwrap() };
    let ends = [
        ("n1", Unfinished::Lost),
        ("n2", Unfinished::Failed),
        ("n3", Unfinished::Stopped),
        ("n1", Unfinished::Lost),
    ];
    for (attempt, (name, outcome)) in (1..).zip(ends) {
        let held = Holding {
            at: AttemptRef {
                job,
                attempt: Attempt::new(attempt),
                epoch,
            },
            node: node(name),
            generation: Generation::new(1),
        };
        let requeue = Change::Requeue {
            held: held.clone(),
            outcome,
            reason: "told so".to_owned(),
        };
        for change in [Change::Assign(held), requeue] {
            let mut batch = Batch::default();
            batch.push(change).unwrap();
            commit(&farm.database, epoch, &batch).await.unwrap();
        }
    }
    let rows = recovery::unfinished(&farm.database, None).await.unwrap();
    let [row, fresh] = &rows[..] else {
        panic!("{rows:?}")
    };
    assert_eq!((row.job, row.failures, row.node_deaths), (job, 3, 2));
    assert_eq!(row.failed_on, [node("n1"), node("n2")].into());
    assert_eq!(row.died_on, [node("n1")].into());
    assert_eq!((fresh.job, fresh.failures), (untried, 0));
    assert!(fresh.failed_on.is_empty() && fresh.died_on.is_empty());
}
