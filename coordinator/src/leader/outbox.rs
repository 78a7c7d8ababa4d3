//! Changes on their way to the journal: one batch at a time, the next one fills while it commits.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use flowai_actors::ids::JobId;
use flowai_store::journal::{Batch, Change};

#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Change>,
    /// Of them, those of each job.
    of_jobs: HashMap<JobId, u32>,
    committing: Option<Arc<Batch>>,
}

impl Outbox {
    pub(super) fn push(&mut self, change: Change) {
        *self.of_jobs.entry(change.job()).or_default() += 1;
        self.waiting.push_back(change);
    }

    /// The next batch, unless one is being committed or nothing waits. Changes keep their order.
    pub(super) fn next_batch(&mut self) -> Option<Arc<Batch>> {
        if self.committing.is_some() || self.waiting.is_empty() {
            return None;
        }
        let mut batch = Batch::default();
        while let Some(change) = self.waiting.pop_front() {
            let job = change.job();
            if let Err(change) = batch.push(change) {
                self.waiting.push_front(change);
                break;
            }
            self.leaves(job);
        }
        let batch = Arc::new(batch);
        self.committing = Some(batch.clone());
        Some(batch)
    }

    /// These could not be written and are the next ones again, in their order.
    pub(super) fn put_back(&mut self, changes: Vec<Change>) {
        for change in changes.into_iter().rev() {
            *self.of_jobs.entry(change.job()).or_default() += 1;
            self.waiting.push_front(change);
        }
    }

    /// Whether a change of the job is not written yet.
    pub(super) fn holds(&self, job: JobId) -> bool {
        let is_committing = |batch: &Arc<Batch>| batch.holds(job);
        self.of_jobs.contains_key(&job) || self.committing.as_ref().is_some_and(is_committing)
    }

    fn leaves(&mut self, job: JobId) {
        if let Entry::Occupied(mut waiting) = self.of_jobs.entry(job) {
            *waiting.get_mut() -= 1;
            if *waiting.get() == 0 {
                waiting.remove();
            }
        }
    }

    /// The batch that was committed just now.
    pub(super) fn committed(&mut self) -> Option<Arc<Batch>> {
        self.committing.take()
    }
}

#[cfg(test)]
mod tests {
    use flowai_actors::ids::{Attempt, JobId};

    use super::*;

    fn cancel(job: JobId, attempt: u32) -> Change {
        Change::CancelWaiting {
            job,
            attempt: Attempt::new(attempt),
        }
    }

    #[test]
    fn one_batch_at_a_time_and_the_changes_of_a_job_in_order() {
        let (one, other) = (JobId::generate(), JobId::generate());
        let mut outbox = Outbox::default();
        assert!(outbox.next_batch().is_none());
        for change in [
            cancel(one, 1),
            cancel(other, 1),
            cancel(one, 2),
            cancel(other, 2),
        ] {
            outbox.push(change);
        }
        let first = outbox.next_batch().unwrap();
        assert_eq!(first.changes(), [cancel(one, 1), cancel(other, 1)]);
        assert!(outbox.next_batch().is_none());
        assert!(outbox.holds(one) && !outbox.holds(JobId::generate()));
        assert!(Arc::ptr_eq(&outbox.committed().unwrap(), &first));
        assert!(outbox.holds(one) && outbox.holds(other));
        let second = outbox.next_batch().unwrap();
        assert_eq!(second.changes(), [cancel(one, 2), cancel(other, 2)]);
        assert!(outbox.holds(one) && outbox.holds(other));
        outbox.committed();
        assert!(!outbox.holds(one) && !outbox.holds(other));
    }
}
