//! What the jobs of a batch are made from, read in one statement while the batch commits: whoever gives them to their nodes then
//! need not ask the database again. A mere speed-up: what is not here is read when it is needed.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future;
use std::sync::{Arc, Mutex, PoisonError};

use flowai_actors::ids::JobId;
use flowai_actors::limits::JOURNAL_BATCH_MAX;
use flowai_store::database::Database;
use flowai_store::journal::{Batch, Change};
use flowai_store::sources::{self, Sources};

/// One batch is given to its nodes while the next one commits.
const KEPT_MAX: usize = 2 * JOURNAL_BATCH_MAX;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ahead(Arc<Mutex<HashMap<JobId, Sources>>>);

impl Ahead {
    /// Reads what the batch needs while `commit` goes on, and no longer.
    pub(super) async fn beside<T>(
        &self,
        database: &Database,
        batch: &Batch,
        commit: impl Future<Output = T>,
    ) -> T {
        let reading = async {
            self.read(database, batch).await;
            future::pending::<Infallible>().await
        };
        tokio::select! {
            committed = commit => committed,
            never = reading => match never {},
        }
    }

    /// What was read of a job, once.
    pub(super) fn take(&self, job: JobId) -> Option<Sources> {
        self.kept().remove(&job)
    }

    async fn read(&self, database: &Database, batch: &Batch) {
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
                let mut kept = self.kept();
                if kept.len() + jobs.len() > KEPT_MAX {
                    kept.clear();
                }
                kept.extend(found.filter_map(|(job, sources)| Some((job, sources.ok()?))));
            }
            Err(error) => tracing::debug!(%error, "sources are not read ahead"),
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, Sources>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
