//! Goal: which nodes a job failed on, and which died under it, outlives the leader that saw it; and that it had begun.
//! Method: attempts written by the journal, then read as a new term reads them.

use chrono::Utc;
use flowai_actors::ids::UploadId;
use flowai_actors::messages::Holding;
use flowai_store::journal::{Change, MADE_ROOM, Unfinished};
use flowai_store::recovery;
use flowai_store::videos::{NewVideo, Purge, purge};

use crate::farm::{Farm, held, node, settle, spec};

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
    let rows = recovery::unfinished(&farm.database, None, None, Utc::now())
        .await
        .unwrap()
        .rows;
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

/// Its draft is done and gone; a job that never began would fail for that, and so no owner may purge it.
#[tokio::test]
async fn a_job_that_has_begun_no_longer_starts_after_another() {
    let mut farm = Farm::start().await;
    let draft = farm.queue().await;
    let spec = spec();
    let after = |image| NewVideo {
        after: Some(draft),
        ..NewVideo::new(farm.user, &spec, Some(image))
    };
    let image = UploadId::from_uuid(farm.user.as_uuid());
    let (begun, waits) = (
        farm.submit(&after(image)).await,
        farm.submit(&after(image)).await,
    );
    farm.write(Change::Assign(held(draft, 1))).await;
    farm.write(settle(held(draft, 1))).await;
    farm.write(Change::Assign(held(begun, 1))).await;
    farm.write(Change::Requeue {
        held: held(begun, 1),
        outcome: Unfinished::Stopped,
        reason: "made room".to_owned(),
        checkpoint: None,
    })
    .await;
    let mut transaction = farm.app.begin_as(farm.user).await.unwrap();
    assert_eq!(
        purge(&mut transaction, draft).await.unwrap(),
        Purge::Awaited
    );
    transaction.commit().await.unwrap();
    farm.run(&format!("delete from job where id = '{draft}'"))
        .await;
    let after = async |job| farm.row(job).await.after;
    assert_eq!(after(begun).await, None);
    assert!(after(waits).await.is_some_and(|after| after.has_failed));
}
