//! What a leader reads: `flowai_store::recovery` by its rules.

use std::collections::BTreeSet;

use flowai_actors::ids::{Attempt, Epoch, Generation, JobId, NodeId};
use flowai_actors::messages::{AttemptRef, Holding};
use flowai_actors::state::JobState;
use flowai_store::recovery::JobRow;
use uuid::Uuid;

use super::{Row, Store};

impl Store {
    /// These jobs, finished ones too. Those that do not exist are left out.
    pub fn jobs(&self, wanted: &[JobId]) -> Vec<JobRow> {
        let found = wanted
            .iter()
            .filter_map(|job| Some((*job, self.jobs.get(job)?)));
        found.map(|(job, row)| row.read(job)).collect()
    }

    /// All that is unfinished.
    pub fn recover(&self) -> Vec<JobRow> {
        self.jobs(&self.unfinished.iter().copied().collect::<Vec<_>>())
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

impl Row {
    fn read(&self, job: JobId) -> JobRow {
        let bad = || {
            let attempts = self.attempts.iter();
            attempts.filter(|attempt| matches!(attempt.outcome, Some("failed" | "lost")))
        };
        let died = bad().filter(|attempt| attempt.outcome == Some("lost"));
        let died_on: BTreeSet<NodeId> = died.map(|attempt| attempt.node.clone()).collect();
        let attempt = Attempt::new(self.attempt);
        JobRow {
            job,
            owner: self.owner,
            tier: self.tier,
            model: self.spec.model.clone(),
            spec: Some((*self.spec).clone()),
            state: self.state,
            attempt,
            failures: bad().count() as u32,
            failed_on: bad().map(|attempt| attempt.node.clone()).collect(),
            node_deaths: self.node_deaths,
            died_on,
            held: self.node.clone().map(|node| Holding {
                at: AttemptRef {
                    job,
                    attempt,
                    epoch: Epoch::new(self.epoch),
                },
                node,
                generation: Generation::new(self.generation),
            }),
            cancel_requested: self.cancel_requested,
        }
    }
}
