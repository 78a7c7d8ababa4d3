//! Goal: which nodes a job failed on, and which died under it, outlives the leader that saw it.
//! Method: attempts written by the journal, then read as a new term reads them.

use flowai_actors::messages::Holding;
use flowai_store::journal::{Change, MADE_ROOM, Unfinished};
use flowai_store::recovery;

use crate::farm::{Farm, held, node};

#[tokio::test]
async fn a_new_leader_knows_where_a_job_failed() {
    let farm = Farm::start().await;
    let (job, untried) = (farm.queue().await, farm.queue().await);
    let ends = [
        ("n1", Unfinished::Lost),
        ("n2", Unfinished::Failed),
        ("n3", Unfinished::Stopped),
        ("n1", Unfinished::Lost),
    ];
    let other = "stopped after step 3, to go on later";
    let made_room = format!("{MADE_ROOM}, after step 3");
    let stops = [other, &made_room, &made_room].map(|reason| ("n3", Unfinished::Stopped, reason));
    let ends = ends.map(|(name, outcome)| (name, outcome, "told so"));
    for (attempt, (name, outcome, reason)) in (1..).zip(ends.into_iter().chain(stops)) {
        let held = Holding {
            node: node(name),
            ..held(job, attempt)
        };
        farm.write(Change::Assign(held.clone())).await;
        farm.write(Change::Requeue {
            held,
            outcome,
            reason: reason.to_owned(),
            checkpoint: None,
        })
        .await;
    }
    farm.next_term().await;
    let rows = recovery::unfinished(&farm.database, None)
        .await
        .unwrap()
        .into_rows()
        .unwrap();
    let [row, fresh] = &rows[..] else {
        panic!("{rows:?}")
    };
    assert_eq!((row.job, row.failures, row.node_deaths), (job, 3, 2));
    assert_eq!((row.preemptions, fresh.preemptions), (2, 0));
    assert_eq!(row.failed_on, [node("n1"), node("n2")].into());
    assert_eq!(row.died_on, [node("n1")].into());
    assert_eq!((fresh.job, fresh.failures), (untried, 0));
    assert!(fresh.failed_on.is_empty() && fresh.died_on.is_empty());
}
