//! What a leader reads: `flowai_store::recovery` by its rules.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::time::Duration;

use flowai_actors::ids::{Attempt, Epoch, Generation, JobId, NodeId};
use flowai_actors::limits::RECOVERY_PAGE_JOBS;
use flowai_actors::messages::{AttemptRef, Holding};
use flowai_actors::state::JobState;
use flowai_store::recovery::{After, JobRow, Kept, UnfinishedRow};
use uuid::Uuid;

use super::{Row, Store};

impl Store {
    /// These jobs, finished ones too. Those that do not exist are left out.
    pub fn jobs(&self, now_ms: u64, wanted: &[JobId]) -> Vec<JobRow> {
        let found = wanted
            .iter()
            .filter_map(|job| Some((*job, self.jobs.get(job)?)));
        found
            .map(|(job, row)| self.read(now_ms, job, row))
            .collect()
    }

    /// All that is unfinished.
    pub fn recover(&self, now_ms: u64) -> Vec<JobRow> {
        self.jobs(now_ms, &self.unfinished.iter().copied().collect::<Vec<_>>())
    }

    /// Waiting jobs whose ids were made within `age_ms`, by the time in the id.
    pub fn newcomers(&self, now_ms: u64, age_ms: u64) -> Vec<JobId> {
        let oldest = JobId::from_uuid(id_of(now_ms.saturating_sub(age_ms), 0));
        let young = self.unfinished.range(oldest..).copied();
        let is_waiting = |job: &JobId| {
            let row = self.jobs.get(job);
            *job != oldest && row.is_some_and(|row| row.state == JobState::Queued)
        };
        young.filter(is_waiting).collect()
    }

    /// A page of the ids of unfinished rows, in order.
    pub fn unfinished_ids(&self, after: Option<JobId>) -> impl Iterator<Item = JobId> {
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let page = self.unfinished.range((first, Bound::Unbounded));
        page.copied().take(RECOVERY_PAGE_JOBS as usize)
    }

    /// A page of unfinished rows in the order of ids.
    pub fn unfinished_rows(&self, after: Option<JobId>) -> Vec<UnfinishedRow> {
        let rows = self
            .unfinished_ids(after)
            .filter_map(|job| Some((job, self.jobs.get(&job)?)));
        rows.map(|(job, row)| UnfinishedRow {
            job,
            attempt: Attempt::new(row.attempt),
            node: row.node.clone(),
        })
        .collect()
    }

    /// Those of the jobs that their owners want no more.
    pub fn cancel_requests(&self, among: &[JobId]) -> Vec<JobId> {
        let is_asked = |job: &JobId| self.jobs.get(job).is_some_and(|row| row.cancel_requested);
        among.iter().copied().filter(is_asked).collect()
    }
}

/// The first 48 bits of a UUID of version 7 are its time in milliseconds.
pub fn id_of(ms: u64, count: u64) -> Uuid {
    Uuid::from_u128(u128::from(ms) << 80 | u128::from(count))
}

impl Store {
    fn read(&self, now_ms: u64, job: JobId, row: &Row) -> JobRow {
        let bad = || {
            let attempts = row.attempts.iter();
            attempts.filter(|attempt| matches!(attempt.outcome, Some("failed" | "lost")))
        };
        let died = bad().filter(|attempt| attempt.outcome == Some("lost"));
        let died_on: BTreeSet<NodeId> = died.map(|attempt| attempt.node.clone()).collect();
        let made_room = row.attempts.iter().filter(|attempt| attempt.made_room);
        let attempt = Attempt::new(row.attempt);
        JobRow {
            job,
            owner: row.owner,
            tier: row.tier,
            class: row.class,
            waited: Duration::from_millis(now_ms.saturating_sub(row.created_ms)),
            after: row
                .after
                .and_then(|after| self.after(after))
                .filter(|_| row.attempt == 0),
            model: row.spec.model.clone(),
            spec: Some((*row.spec).clone()),
            state: row.state,
            attempt,
            failures: bad().count() as u32,
            failed_on: bad().map(|attempt| attempt.node.clone()).collect(),
            node_deaths: row.node_deaths,
            died_on,
            preemptions: made_room.count() as u32,
            held: row.node.clone().map(|node| Holding {
                at: AttemptRef {
                    job,
                    attempt,
                    epoch: Epoch::new(row.epoch),
                },
                node,
                generation: Generation::new(row.generation),
            }),
            cancel_requested: row.cancel_requested,
            kept: row.checkpoint.as_ref().map(|kept| Kept {
                step: kept.file.step,
                device_class: kept.file.device_class.clone(),
            }),
        }
    }

    /// `None` when it is done.
    fn after(&self, job: JobId) -> Option<After> {
        let state = self.jobs.get(&job).map(|row| row.state);
        let has_failed = state.is_none_or(JobState::is_end);
        (state != Some(JobState::Done)).then_some(After { job, has_failed })
    }
}
