//! What the jobs of a batch are made from, read in one statement while the batch commits: whoever gives them to their nodes then
//! need not ask the database again. A mere speed-up: what is not here is read when it is needed.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowai_actors::ids::JobId;
use flowai_actors::limits::JOURNAL_BATCH_MAX;
use flowai_store::database::Database;
use flowai_store::journal::{Batch, Change};
use flowai_store::sources::{self, Sources};

/// One batch is given to its nodes while the next one commits, and there is room for what nobody takes.
const KEPT_MAX: usize = 4 * JOURNAL_BATCH_MAX;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ahead(Arc<Mutex<HashMap<JobId, Sources>>>);

impl Ahead {
    /// Carries out `reading` while `commit` goes on, and no longer.
    pub(super) async fn beside<T>(
        reading: impl Future<Output = ()>,
        commit: impl Future<Output = T>,
    ) -> T {
        let reading = async {
            reading.await;
            future::pending::<Infallible>().await
        };
        tokio::select! {
            committed = commit => committed,
            never = reading => match never {},
        }
    }

    /// Reads what the batch gives to nodes.
    pub(super) async fn read(&self, database: &Database, batch: &Batch) {
        let given = batch.changes().iter().filter_map(|change| match change {
            Change::Assign(held) => Some(held.at.job),
            _ => None,
        });
        let jobs: Vec<JobId> = given.collect();
        if jobs.is_empty() {
            return;
        }
        match sources::of_jobs(database, &jobs).await {
            Ok(found) => {
                let found = found.into_iter();
                self.keep(found.filter_map(|(job, sources)| Some((job, sources.ok()?))));
            }
            Err(error) => tracing::debug!(%error, "sources are not read ahead"),
        }
    }

    /// What was read of a job, once.
    pub(super) fn take(&self, job: JobId) -> Option<Sources> {
        self.kept().remove(&job)
    }

    fn keep(&self, found: impl Iterator<Item = (JobId, Sources)>) {
        let mut kept = self.kept();
        // Some are of starts that were not written, and nobody takes them.
        if kept.len() > KEPT_MAX - JOURNAL_BATCH_MAX {
            kept.clear();
        }
        kept.extend(found.take(JOURNAL_BATCH_MAX));
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<JobId, Sources>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use flowai_actors::ids::Sha256;
    use flowai_actors::spec::RenderSpec;
    use flowai_store::sources::FirstFrameFiles;

    use super::*;

    fn read(count: usize) -> Vec<(JobId, Sources)> {
        let sources = Sources {
            spec: RenderSpec::small("tiny".parse().unwrap(), Sha256::from_bytes([1; 32])),
            first_frame: FirstFrameFiles::Keyframe(Vec::new()),
            adapters: Vec::new(),
        };
        let one = |_| (JobId::generate(), sources.clone());
        (0..count).map(one).collect()
    }

    #[tokio::test]
    async fn it_is_read_while_the_batch_commits_and_holds_no_commit_up() {
        let ahead = Ahead::default();
        let found = read(1);
        let job = found[0].0;
        let (tell, told) = tokio::sync::oneshot::channel();
        let reading = async {
            ahead.keep(found.into_iter());
            tell.send(()).unwrap();
        };
        Ahead::beside(reading, async { told.await.unwrap() }).await;
        assert!(ahead.take(job).is_some());
        assert!(ahead.take(job).is_none(), "once");
        assert_eq!(Ahead::beside(future::pending(), async { 7 }).await, 7);
    }

    #[test]
    fn what_nobody_takes_does_not_gather() {
        let ahead = Ahead::default();
        for _ in 0..5 {
            ahead.keep(read(JOURNAL_BATCH_MAX).into_iter());
            assert!(ahead.kept().len() <= KEPT_MAX);
        }
        let newest = read(1);
        let job = newest[0].0;
        ahead.keep(newest.into_iter());
        assert!(ahead.take(job).is_some());
    }
}
