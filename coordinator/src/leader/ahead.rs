//! What the jobs of a batch are made from, read in one statement and signed while the batch commits: whoever gives them to their nodes then
//! need not ask the database again. A mere speed-up: what does not come from here is read when it is needed.
//!
//! A reading is not cut off for its batch, be that ever so quick: a connection that is dropped in the middle of a statement is lost, and
//! whoever comes next waits for another one that has planned nothing yet (docs/adr/0022).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flowai_actors::ids::JobId;
use flowai_actors::limits::JOURNAL_BATCH_MAX;
use flowai_store::database::{Database, DatabaseError};
use flowai_store::journal::{Batch, Change};
use flowai_store::objects::Objects;
use flowai_store::sources;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::inputs::{self, Inputs};

/// One batch is given to its nodes while the next one commits, and there is room for what nobody takes.
const KEPT_MAX: usize = 4 * JOURNAL_BATCH_MAX;
/// What has not come for so long after its batch will not come soon: it is read once more, on another connection.
const WAITED_FOR: Duration = Duration::from_secs(1);

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ahead(Arc<Mutex<HashMap<JobId, oneshot::Receiver<Inputs>>>>);

/// What is about to be read.
pub(super) struct Reading(HashMap<JobId, oneshot::Sender<Inputs>>);

impl Ahead {
    /// Of the jobs that the batch gives to nodes, if it does. From now on, who takes one of them waits for the reading.
    pub(super) fn of(&self, batch: &Batch) -> Option<Reading> {
        let given = batch.changes().iter().filter_map(|change| match change {
            Change::Assign(held) => Some(held.at.job),
            _ => None,
        });
        self.expect(given)
    }

    fn expect(&self, jobs: impl Iterator<Item = JobId>) -> Option<Reading> {
        let mut coming = self.coming();
        // Some are of starts that were not written, and nobody takes them.
        if coming.len() > KEPT_MAX - JOURNAL_BATCH_MAX {
            coming.clear();
        }
        let senders = jobs.map(|job| {
            let (sender, receiver) = oneshot::channel();
            coming.insert(job, receiver);
            (job, sender)
        });
        Some(Reading(senders.collect())).filter(|reading| !reading.0.is_empty())
    }

    /// What is read of a job, once.
    pub(super) async fn take(&self, job: JobId) -> Option<Inputs> {
        let coming = self.coming().remove(&job)?;
        timeout(WAITED_FOR, coming).await.ok()?.ok()
    }

    fn coming(&self) -> MutexGuard<'_, HashMap<JobId, oneshot::Receiver<Inputs>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reading {
    /// # Errors
    /// Those of the database. Whoever waits reads it itself then, as it does what cannot be put together.
    pub(super) async fn read(
        self,
        database: &Database,
        objects: &Objects,
    ) -> Result<(), DatabaseError> {
        let jobs: Vec<JobId> = self.0.keys().copied().collect();
        let mut found = sources::of_jobs(database, &jobs).await?;
        for (job, sender) in self.0 {
            if let Some(Ok(sources)) = found.remove(&job)
                && let Ok(inputs) = inputs::signed(objects, sources).await
            {
                // Nobody may wait any more.
                drop(sender.send(inputs));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flowai_actors::ids::Sha256;
    use flowai_actors::spec::RenderSpec;

    use super::super::inputs::FirstFrameInputs;
    use super::*;

    fn inputs() -> Inputs {
        Inputs {
            spec: RenderSpec::small("tiny".parse().unwrap(), Sha256::from_bytes([1; 32])),
            first_frame: FirstFrameInputs::Keyframe(Vec::new()),
            adapters: Vec::new(),
        }
    }

    fn jobs(count: usize) -> Vec<JobId> {
        (0..count).map(|_| JobId::generate()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_a_job_to_its_node_waits_a_while_for_what_is_being_read() {
        let ahead = Ahead::default();
        let job = JobId::generate();
        assert_eq!(ahead.take(job).await, None);

        let mut reading = ahead.expect([job].into_iter()).unwrap();
        let slow = async {
            tokio::time::sleep(WAITED_FOR / 2).await;
            reading.0.remove(&job).unwrap().send(inputs()).unwrap();
        };
        let (taken, ()) = tokio::join!(ahead.take(job), slow);
        assert_eq!(taken, Some(inputs()));
        assert_eq!(ahead.take(job).await, None, "once");

        let failed = ahead.expect([job].into_iter());
        drop(failed);
        assert_eq!(ahead.take(job).await, None);
        let _silent = ahead.expect([job].into_iter());
        assert_eq!(ahead.take(job).await, None);
    }

    #[tokio::test]
    async fn what_nobody_takes_does_not_gather() {
        let ahead = Ahead::default();
        for _ in 0..5 {
            ahead.expect(jobs(JOURNAL_BATCH_MAX).into_iter());
            assert!(ahead.coming().len() <= KEPT_MAX);
        }
        let newest = JobId::generate();
        let mut reading = ahead.expect([newest].into_iter()).unwrap();
        reading.0.remove(&newest).unwrap().send(inputs()).unwrap();
        assert!(ahead.take(newest).await.is_some());
    }
}
