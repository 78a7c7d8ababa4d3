//! Goal: what an attempt left is found by whoever leads when the next one starts, until the job ends; a stale word leaves nothing,
//! and nobody else can see or name it.
//! Method: the leader's statements against a migrated PostgreSQL.

use flowai_actors::checkpoint::CheckpointFile;
use flowai_actors::ids::{Attempt, JobId, Sha256, UserId};
use flowai_actors::manifest::Resumed;
use flowai_actors::messages::Holding;
use flowai_store::checkpoints::{self, StoredCheckpoint};
use flowai_store::journal::{Change, Unfinished, Written};

use crate::farm::{Farm, SECOND, held, settle};

fn file(step: u32) -> CheckpointFile {
    CheckpointFile {
        sha256: Sha256::from_bytes([step as u8; 32]),
        bytes: 10,
        step,
        steps: 25,
        device_class: "cpu".to_owned(),
        engine: "svd 1".to_owned(),
        resumed: vec![Resumed {
            attempt: Attempt::new(1),
            step: 0,
            anew: Some("was of another device class".to_owned()),
        }],
    }
}

fn requeue(held: Holding, outcome: Unfinished, checkpoint: Option<CheckpointFile>) -> Change {
    Change::Requeue {
        held,
        outcome,
        reason: "told so".to_owned(),
        checkpoint,
    }
}

impl Farm {
    async fn running(&self) -> JobId {
        let job = self.queue().await;
        self.written(Change::Assign(held(job, 1))).await;
        job
    }

    async fn written(&self, change: Change) {
        let written = self.write(change.clone()).await;
        assert_eq!(written, Written::Now(self.user), "{change:?}");
    }

    /// The newest checkpoint as dispatch and a new leader see it.
    async fn checkpoint(&mut self, job: JobId) -> Option<(u32, u32)> {
        let found = checkpoints::of_job(&self.database, job).await.unwrap();
        let row = self.row(job).await.kept;
        let kept = row.map(|kept| (kept.step, kept.device_class));
        let of_file = found.as_ref().map(|found| &found.file);
        assert_eq!(
            kept,
            of_file.map(|file| (file.step, file.device_class.clone()))
        );
        found.map(
            |StoredCheckpoint {
                 attempt,
                 file: found,
             }| {
                assert_eq!(found, file(found.step));
                (attempt.get(), found.step)
            },
        )
    }
}

#[tokio::test]
async fn a_checkpoint_waits_for_the_next_attempt() {
    let mut farm = Farm::start().await;
    let job = farm.running().await;
    assert_eq!(farm.checkpoint(job).await, None);
    let keep = |attempt, step| Change::Keep {
        held: held(job, attempt),
        checkpoint: file(step),
    };
    farm.written(keep(1, 3)).await;
    farm.written(keep(1, 6)).await;
    // Told late: the newer one stays.
    farm.written(keep(1, 5)).await;
    assert_eq!(farm.checkpoint(job).await, Some((1, 6)));
    assert_eq!(farm.events(job).await, "queued assigned", "nobody's news");

    farm.written(requeue(held(job, 1), Unfinished::Stopped, Some(file(8))))
        .await;
    assert_eq!(farm.checkpoint(job).await, Some((1, 8)));
    // The next one is lost before it has one of its own.
    farm.written(Change::Assign(held(job, 2))).await;
    farm.written(requeue(held(job, 2), Unfinished::Lost, None))
        .await;
    assert_eq!(farm.checkpoint(job).await, Some((1, 8)));
    // One that began anew is newer, wherever it is.
    farm.written(Change::Assign(held(job, 3))).await;
    farm.written(keep(3, 2)).await;
    assert_eq!(farm.checkpoint(job).await, Some((3, 2)));
    // What a failed attempt began with or left is not tried again.
    farm.written(requeue(held(job, 3), Unfinished::Failed, Some(file(9))))
        .await;
    assert_eq!(farm.checkpoint(job).await, None);
}

#[tokio::test]
async fn a_stale_word_leaves_no_checkpoint() {
    let mut farm = Farm::start().await;
    let job = farm.running().await;
    let stale = |change: &dyn Fn(&mut Holding)| {
        let mut holding = held(job, 1);
        change(&mut holding);
        holding
    };
    for holding in [
        stale(&|held| held.at.attempt = Attempt::new(2)),
        stale(&|held| held.at.epoch = SECOND),
        stale(&|held| held.node = "n2".parse().unwrap()),
        stale(&|held| held.generation = held.generation.next()),
    ] {
        for change in [
            Change::Keep {
                held: holding.clone(),
                checkpoint: file(3),
            },
            requeue(holding.clone(), Unfinished::Stopped, Some(file(3))),
        ] {
            assert_eq!(
                farm.write(change.clone()).await,
                Written::Stale,
                "{change:?}"
            );
        }
    }
    assert_eq!(farm.checkpoint(job).await, None);
}

#[tokio::test]
async fn an_ended_job_forgets_its_checkpoint_and_an_unfinished_one_does_not() {
    let mut farm = Farm::start().await;
    let (ended, running) = (farm.running().await, farm.running().await);
    for job in [ended, running] {
        farm.written(Change::Keep {
            held: held(job, 1),
            checkpoint: file(3),
        })
        .await;
    }
    farm.written(settle(held(ended, 1))).await;
    checkpoints::forget(&farm.database, running).await.unwrap();
    assert_eq!(farm.checkpoint(running).await, Some((1, 3)));
    let among = [ended, running];
    let unfinished = checkpoints::unfinished(&farm.database, &among).await;
    assert_eq!(unfinished.unwrap(), [running]);
    assert_eq!(checkpoints::forget_ended(&farm.database).await.unwrap(), 1);
    assert_eq!(farm.checkpoint(ended).await, None);
    assert_eq!(farm.checkpoint(running).await, Some((1, 3)));
}

#[tokio::test]
async fn the_api_sees_no_checkpoint_whoever_asks() {
    let farm = Farm::start().await;
    let job = farm.running().await;
    farm.written(Change::Keep {
        held: held(job, 1),
        checkpoint: file(3),
    })
    .await;
    for user in [farm.user, UserId::generate()] {
        let mut transaction = farm.app.begin_as(user).await.unwrap();
        let seen = sqlx::query_scalar::<_, i64>("select count(*) from checkpoint");
        let refused = seen.fetch_one(&mut *transaction).await.unwrap_err();
        assert!(
            refused.to_string().contains("permission denied"),
            "{refused}"
        );
    }
}
