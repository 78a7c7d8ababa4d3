//! Goal: whatever a leader of an ended term, a zombie node or a doubled message asks for, the rows stay as they are (INV-2,
//! INV-3), and the events of a user have no gap.
//! Method: the leader's statements against a migrated PostgreSQL, several leaders at once.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::Utc;
use flowai_actors::ids::{Attempt, Epoch, Generation, JobId, UserId};
use flowai_actors::messages::{AttemptRef, Holding};
use flowai_actors::state::JobState;
use flowai_store::journal::{Change, JournalError, Unfinished, Written, commit};
use flowai_store::{join_tokens, leader, members, recovery};
use tokio::time::timeout;

use crate::farm::{FIRST, Farm, SECOND, batch, held, node, settle};

/// Every kind of change that ends attempt 1 of a job.
fn ends(held: &Holding) -> Vec<Change> {
    let held = || held.clone();
    let requeue = |outcome| Change::Requeue {
        held: held(),
        outcome,
        reason: "its node fell silent".to_owned(),
        checkpoint: None,
    };
    vec![
        settle(held()),
        requeue(Unfinished::Lost),
        requeue(Unfinished::Failed),
        requeue(Unfinished::Stopped),
        Change::Fail {
            held: held(),
            code: "bad_input".to_owned(),
            detail: "no picture".to_owned(),
        },
        Change::Cancel {
            held: held(),
            steps: None,
        },
        Change::Quarantine {
            held: held(),
            detail: "2 nodes died".to_owned(),
        },
    ]
}

fn requeue(held: Holding) -> Change {
    Change::Requeue {
        held,
        outcome: Unfinished::Lost,
        reason: "its node fell silent".to_owned(),
        checkpoint: None,
    }
}

#[tokio::test]
async fn each_change_does_what_it_says_once() {
    let mut farm = Farm::start().await;
    let expected = [
        (JobState::Done, "queued assigned done"),
        (JobState::Queued, "queued assigned retrying"),
        (JobState::Queued, "queued assigned retrying"),
        (JobState::Queued, "queued assigned retrying"),
        (JobState::Failed, "queued assigned failed"),
        (JobState::Cancelled, "queued assigned cancelled"),
        (JobState::Quarantined, "queued assigned quarantined"),
    ];
    for (kind, (state, events)) in expected.into_iter().enumerate() {
        let job = farm.queue().await;
        let assign = Change::Assign(held(job, 1));
        let end = ends(&held(job, 1)).remove(kind);
        assert_eq!(farm.write(assign.clone()).await, Written::Now(farm.user));
        // The confirmation was lost and the journal commits again.
        assert_eq!(farm.write(assign.clone()).await, Written::Before(farm.user));
        assert_eq!(farm.row(job).await.held, Some(held(job, 1)));
        assert_eq!(
            farm.write(end.clone()).await,
            Written::Now(farm.user),
            "{end:?}"
        );
        let rows = farm.rows(job).await;
        assert_eq!(
            farm.write(end.clone()).await,
            Written::Before(farm.user),
            "{end:?}"
        );
        assert_eq!(farm.write(assign).await, Written::Stale);
        assert_eq!(farm.rows(job).await, rows, "{end:?}");
        assert_eq!(farm.events(job).await, events);
        assert_eq!(farm.row(job).await.state, state);
    }
    let failures: Vec<u32> = {
        let rows = recovery::unfinished(&farm.database, None, None, Utc::now())
            .await
            .unwrap()
            .rows;
        rows.iter().map(|row| row.failures).collect()
    };
    assert_eq!(
        failures,
        [1, 1, 0],
        "lost and failed count, stopped does not"
    );
    let gapless = "select bool_and(user_seq = place) from
        (select user_seq, row_number() over (order by user_seq) as place from job_event) e";
    assert_eq!(farm.text(gapless).await, "true");
    assert_eq!(farm.text("select count(*) from artefact").await, "1");
}

#[tokio::test]
async fn an_ended_term_writes_nothing() {
    let mut farm = Farm::start().await;
    let (waiting, running) = (farm.queue().await, farm.queue().await);
    farm.write(Change::Assign(held(running, 1))).await;
    farm.next_term().await;
    let rows = (farm.rows(waiting).await, farm.rows(running).await);
    let mut changes = ends(&held(running, 1));
    changes.push(Change::Assign(held(waiting, 1)));
    changes.push(Change::Adopt(held(running, 1)));
    for change in changes {
        let refused = farm.commit(FIRST, vec![change]).await;
        assert!(
            matches!(
                refused,
                Err(JournalError::Fenced {
                    held: SECOND,
                    offered: FIRST
                })
            ),
            "{refused:?}"
        );
    }
    assert_eq!((farm.rows(waiting).await, farm.rows(running).await), rows);
    assert!(!leader::renew(&farm.database, FIRST, "c1").await.unwrap());
    assert!(!leader::give_up(&farm.database, FIRST, "c1").await.unwrap());
    assert!(leader::look(&farm.database).await.unwrap().is_held);
}

#[tokio::test]
async fn a_zombies_result_is_refused_whichever_of_the_four_differs() {
    let mut farm = Farm::start().await;
    let job = farm.queue().await;
    farm.write(Change::Assign(held(job, 1))).await;
    farm.write(requeue(held(job, 1))).await;
    farm.write(Change::Assign(held(job, 2))).await;
    let rows = farm.rows(job).await;

    let holder = held(job, 2);
    let mut zombies = vec![held(job, 1), held(job, 3)];
    zombies.push(Holding {
        node: node("n2"),
        ..holder.clone()
    });
    zombies.push(Holding {
        generation: Generation::new(2),
        ..holder.clone()
    });
    zombies.push(Holding {
        at: AttemptRef {
            epoch: SECOND,
            ..holder.at
        },
        ..holder.clone()
    });
    zombies.push(Holding {
        at: AttemptRef {
            job: JobId::generate(),
            ..holder.at
        },
        ..holder.clone()
    });
    for zombie in &zombies {
        // Adoption is by the present term whatever epoch the node names, so that one cannot be told by it.
        let adopt = (zombie.at.epoch == FIRST).then(|| Change::Adopt(zombie.clone()));
        for change in ends(zombie).into_iter().chain(adopt) {
            // The requeue of attempt 1 was written before, and a job that runs again is not what it wrote.
            assert_eq!(
                farm.write(change.clone()).await,
                Written::Stale,
                "{change:?}"
            );
        }
    }
    assert_eq!(farm.rows(job).await, rows);
    assert_eq!(
        farm.write(settle(holder.clone())).await,
        Written::Now(farm.user)
    );
    assert!(
        recovery::was_settled(&farm.database, &holder)
            .await
            .unwrap()
    );
    for zombie in &zombies {
        assert_eq!(farm.write(settle(zombie.clone())).await, Written::Stale);
    }
    assert_eq!(
        farm.text("select array_agg(attempt) from artefact").await,
        "{2}"
    );
}

#[tokio::test]
async fn a_new_term_adopts_and_only_then_ends() {
    let mut farm = Farm::start().await;
    let job = farm.queue().await;
    farm.write(Change::Assign(held(job, 1))).await;
    farm.next_term().await;
    let adopted = Holding {
        at: AttemptRef {
            epoch: SECOND,
            ..held(job, 1).at
        },
        ..held(job, 1)
    };
    let write = async |change| farm.commit(SECOND, vec![change]).await.unwrap()[0];
    assert_eq!(write(settle(adopted.clone())).await, Written::Stale);
    assert_eq!(
        write(Change::Adopt(held(job, 1))).await,
        Written::Now(farm.user)
    );
    assert_eq!(
        write(Change::Adopt(held(job, 1))).await,
        Written::Before(farm.user)
    );
    assert_eq!(farm.row(job).await.held, Some(adopted.clone()));
    assert_eq!(write(settle(held(job, 1))).await, Written::Stale);
    assert_eq!(write(settle(adopted)).await, Written::Now(farm.user));
    assert_eq!(farm.events(job).await, "queued assigned done");
}

#[tokio::test]
async fn what_its_owner_cancelled_is_not_assigned() {
    let mut farm = Farm::start().await;
    let job = farm.queue().await;
    farm.run(&format!(
        "update job_state set cancel_requested_at = now() where job_id = '{job}'"
    ))
    .await;
    assert_eq!(
        farm.write(Change::Assign(held(job, 1))).await,
        Written::Stale
    );
    let cancel = Change::CancelWaiting {
        job,
        attempt: Attempt::ZERO,
    };
    assert_eq!(farm.write(cancel.clone()).await, Written::Now(farm.user));
    assert_eq!(farm.write(cancel).await, Written::Stale);
    assert_eq!(farm.events(job).await, "queued cancelled");
}

#[tokio::test]
async fn two_leaders_at_once_never_both_hold_a_job() {
    let mut farm = Farm::start().await;
    let others: Vec<UserId> = (0..3).map(|_| UserId::generate()).collect();
    let mut jobs = Vec::new();
    for user in &others {
        farm.sign_up(*user).await;
        for _ in 0..20 {
            jobs.push(farm.queue_for(*user).await);
        }
    }
    let another = farm.another_leader().await;
    let assigned_by = |epoch: Epoch, name: &'static str, job: JobId, attempt: u32| {
        let mut held = held(job, attempt);
        held.at.epoch = epoch;
        held.node = node(name);
        Change::Assign(held)
    };
    let (first, second) = tokio::join!(
        async {
            let mut written = Vec::new();
            for job in &jobs {
                // It leads for long enough for another to come between.
                tokio::time::sleep(Duration::from_millis(5)).await;
                match farm
                    .commit(FIRST, vec![assigned_by(FIRST, "n1", *job, 1)])
                    .await
                {
                    Ok(verdict) if verdict == [Written::Stale] => {}
                    Ok(_) => written.push(*job),
                    Err(JournalError::Fenced { .. }) => break,
                    Err(error) => panic!("{error:?}"),
                }
            }
            written
        },
        async {
            // Some commits of the first come before, some would come after.
            while farm.row(jobs[5]).await.state == JobState::Queued {
                tokio::task::yield_now().await;
            }
            farm.next_term().await;
            let all = jobs
                .iter()
                .map(|job| assigned_by(SECOND, "n2", *job, 1))
                .collect();
            let verdicts = commit(&another, SECOND, &batch(all)).await.unwrap();
            let pairs = jobs.iter().zip(verdicts);
            pairs
                .filter(|(_, verdict)| *verdict != Written::Stale)
                .map(|(job, _)| *job)
                .collect::<Vec<_>>()
        }
    );
    let union: BTreeSet<JobId> = first.iter().chain(&second).copied().collect();
    assert_eq!(union.len(), jobs.len());
    assert_eq!(
        first.len() + second.len(),
        jobs.len(),
        "a job was given out twice"
    );
    assert!(!first.is_empty() && !second.is_empty());
    assert_eq!(
        farm.text("select count(*) from attempt").await,
        jobs.len().to_string()
    );
    let gapless = "select bool_and(user_seq = place) from (select user_seq,
        row_number() over (partition by owner_id order by user_seq) as place from job_event) e";
    assert_eq!(farm.text(gapless).await, "true");
}

#[tokio::test]
async fn one_of_two_takes_the_lease() {
    let farm = Farm::start().await;
    assert_eq!(
        leader::take_over(&farm.database, "c2", "127.0.0.1:2")
            .await
            .unwrap(),
        None
    );
    assert!(leader::renew(&farm.database, FIRST, "c1").await.unwrap());
    // A replica that was promoted without the newest term counts it once more, for another.
    assert!(!leader::renew(&farm.database, FIRST, "c2").await.unwrap());
    assert!(!leader::give_up(&farm.database, FIRST, "c2").await.unwrap());
    leader::give_up(&farm.database, FIRST, "c1").await.unwrap();
    let (one, other) = tokio::join!(
        leader::take_over(&farm.database, "c1", "127.0.0.1:1"),
        leader::take_over(&farm.database, "c2", "127.0.0.1:2"),
    );
    let winners: Vec<Epoch> = [one.unwrap(), other.unwrap()]
        .into_iter()
        .flatten()
        .collect();
    assert_eq!(winners, [SECOND]);
}

#[tokio::test]
async fn the_sweeps_find_what_no_doorbell_announced() {
    let mut farm = Farm::start().await;
    let (waiting, running) = (farm.queue().await, farm.queue().await);
    farm.write(Change::Assign(held(running, 1))).await;
    let minute = Duration::from_secs(60);
    assert_eq!(
        recovery::newcomers(&farm.database, minute).await.unwrap(),
        [waiting]
    );
    assert_eq!(
        recovery::unfinished_ids(&farm.database, None)
            .await
            .unwrap(),
        [waiting, running]
    );
    assert_eq!(
        recovery::unfinished_ids(&farm.database, Some(waiting))
            .await
            .unwrap(),
        [running]
    );

    let requests = async |farm: &Farm| {
        recovery::cancel_requests(&farm.database, &[waiting, running])
            .await
            .unwrap()
    };
    assert_eq!(requests(&farm).await, []);
    farm.run(&format!(
        "update job_state set cancel_requested_at = now() where job_id = '{running}'"
    ))
    .await;
    assert_eq!(requests(&farm).await, [running]);
    assert!(farm.row(running).await.cancel_requested);
}

/// An api that was frozen in the middle of a drain, or of the end of a token, holds up whoever renews or joins, and not the lease.
#[tokio::test]
async fn a_row_that_somebody_holds_keeps_no_lease_from_being_renewed() {
    let mut farm = Farm::start().await;
    farm.run("insert into node_member (node_id, joined_at) values ('n1', now())")
        .await;
    let mut frozen = farm.another_owner().await;
    sqlx::raw_sql("begin; update node_member set drain = 'lazy'")
        .execute(&mut frozen)
        .await
        .unwrap();
    let until = join_tokens::time_of(4_000_000_000).unwrap();
    let renewing = async {
        let name = node("n1");
        members::renew(&farm.database, FIRST, &name, until).await
    };
    let lease = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        timeout(
            Duration::from_secs(3),
            leader::renew(&farm.database, FIRST, "c1"),
        )
        .await
    };
    let (renewed, lease) = tokio::join!(renewing, lease);
    assert!(renewed.unwrap_err().is_outage(), "to be tried again");
    assert!(lease.expect("the lease is held up").unwrap());
}
