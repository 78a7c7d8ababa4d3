//! Changes on their way to the journal: one batch at a time, the next one fills while it commits.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::JobId;
use flowai_actors::limits::HELD_BACK_MS;
use flowai_store::journal::{Batch, Change};

#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Change>,
    /// Of them, those of each job.
    of_jobs: HashMap<JobId, u32>,
    committing: Option<Arc<Batch>>,
    /// Jobs whose rows somebody else held: their changes wait until then, and nobody else's.
    held_back: HashMap<JobId, Monotonic>,
}

impl Outbox {
    pub(super) fn push(&mut self, change: Change) {
        *self.of_jobs.entry(change.job()).or_default() += 1;
        self.waiting.push_back(change);
    }

    /// The next batch, unless one is being committed or nothing may be. The changes of a job keep their order, one in a batch.
    pub(super) fn next_batch(&mut self, now: Monotonic) -> Option<Arc<Batch>> {
        if self.committing.is_some() || self.waiting.is_empty() {
            return None;
        }
        self.held_back.retain(|_, until| now < *until);
        let mut batch = Batch::default();
        let mut set_aside = Vec::new();
        while let Some(change) = self.waiting.pop_front() {
            let job = change.job();
            if batch.holds(job) || self.held_back.contains_key(&job) {
                set_aside.push(change);
                continue;
            }
            if let Err(change) = batch.push(change) {
                set_aside.push(change);
                break;
            }
            self.leaves(job);
        }
        for change in set_aside.into_iter().rev() {
            self.waiting.push_front(change);
        }
        if batch.changes().is_empty() {
            return None;
        }
        let batch = Arc::new(batch);
        self.committing = Some(batch.clone());
        Some(batch)
    }

    /// Somebody else held the rows of these: they are before all others again, in their order, after a while.
    pub(super) fn put_back(&mut self, now: Monotonic, changes: Vec<Change>) {
        for change in changes.into_iter().rev() {
            let job = change.job();
            *self.of_jobs.entry(job).or_default() += 1;
            self.held_back.insert(job, now.plus_ms(HELD_BACK_MS));
            self.waiting.push_front(change);
        }
    }

    pub(super) fn is_committing(&self) -> bool {
        self.committing.is_some()
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

    const NOW: Monotonic = Monotonic::from_millis(1_000);

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
        assert!(outbox.next_batch(NOW).is_none());
        for change in [
            cancel(one, 1),
            cancel(other, 1),
            cancel(one, 2),
            cancel(other, 2),
        ] {
            outbox.push(change);
        }
        let first = outbox.next_batch(NOW).unwrap();
        assert_eq!(first.changes(), [cancel(one, 1), cancel(other, 1)]);
        assert!(outbox.next_batch(NOW).is_none());
        assert!(outbox.holds(one) && !outbox.holds(JobId::generate()));
        assert!(Arc::ptr_eq(&outbox.committed().unwrap(), &first));
        assert!(outbox.holds(one) && outbox.holds(other));
        let second = outbox.next_batch(NOW).unwrap();
        assert_eq!(second.changes(), [cancel(one, 2), cancel(other, 2)]);
        assert!(outbox.holds(one) && outbox.holds(other));
        outbox.committed();
        assert!(!outbox.holds(one) && !outbox.holds(other));
    }

    #[test]
    fn a_change_that_waits_lets_those_of_other_jobs_pass() {
        let [held, one, other] = [(); 3].map(|()| JobId::generate());
        let mut outbox = Outbox::default();
        for change in [cancel(held, 1), cancel(held, 2), cancel(one, 1)] {
            outbox.push(change);
        }
        let first = outbox.next_batch(NOW).unwrap();
        assert_eq!(first.changes(), [cancel(held, 1), cancel(one, 1)]);
        // Somebody held its row.
        outbox.committed();
        outbox.put_back(NOW, vec![cancel(held, 1)]);
        assert!(outbox.next_batch(NOW).is_none());
        outbox.push(cancel(other, 1));
        let second = outbox.next_batch(NOW).unwrap();
        assert_eq!(second.changes(), [cancel(other, 1)]);
        outbox.committed();
        let later = NOW.plus_ms(HELD_BACK_MS);
        for attempt in [1, 2] {
            let next = outbox.next_batch(later).unwrap();
            assert_eq!(next.changes(), [cancel(held, attempt)]);
            outbox.committed();
        }
        assert!(!outbox.holds(held));
    }
}
