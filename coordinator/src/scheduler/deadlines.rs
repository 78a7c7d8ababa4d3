//! The longest that a job may wait and that an attempt may run.

use std::ops::Bound;

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, JobId};
use flowai_actors::limits::{
    ATTEMPT_MS_MIN, ATTEMPT_PREDICTIONS_MAX, DEADLINES_LOOK_MS, DEADLINES_LOOKED_AT_MAX,
    JOB_QUEUED_MS_MAX,
};
use flowai_actors::messages::Stage;
use flowai_store::journal::Unfinished;

use super::event::Effect;
use super::jobs::{JobIx, Place};
use super::lanes::LaneIx;
use super::nodes::Running;
use super::state::Scheduler;

/// How far the look at those who wait has come: it goes on where it stopped, as long as they are many.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Round {
    lane: Option<LaneIx>,
    parent: Option<JobId>,
}

impl Scheduler {
    /// Ends what has waited for too long, and takes back what has run for too long.
    pub(super) fn expire_jobs(&mut self, effects: &mut Vec<Effect>) {
        if self.now < self.next_deadlines {
            return;
        }
        self.next_deadlines = self.now.plus_ms(DEADLINES_LOOK_MS);
        for ix in self.overslept() {
            let Some(job) = self.jobs.get(ix) else {
                continue;
            };
            let what = match (&job.place, job.attempt) {
                (Place::Parked, _) => "the job that it starts after was not done",
                (_, Attempt::ZERO) => "no node could start it",
                _ => "no node could render it to its end",
            };
            let detail = format!("{what} within {} days", JOB_QUEUED_MS_MAX / 86_400_000);
            self.fail(ix, "waited_too_long".to_owned(), detail, effects);
        }
        for running in self.overrun() {
            let Some(job) = self.jobs.get(running.job) else {
                continue;
            };
            let Some(held) = job.holder().copied() else {
                continue;
            };
            let (job, node) = (job.id, self.nodes.name(held.node).clone());
            effects.push(Effect::Stop {
                node,
                job,
                attempt: running.attempt,
                keep: false,
            });
            self.note_failure(running.job, held.node, "ran_too_long", Stage::Clip, false);
            let reason = format!("ran for more than {} s", limit_ms(&running) / 1_000);
            self.requeue(running.job, Unfinished::Failed, reason, None, effects);
        }
    }

    /// The first jobs of the lanes wait longest: only they and those that wait for another job are looked at.
    fn overslept(&mut self) -> Vec<JobIx> {
        let is_over = |ix: &JobIx| {
            let queued_at = self.jobs.get(*ix).map(|job| job.queued_at);
            queued_at.is_some_and(|at| at.plus_ms(JOB_QUEUED_MS_MAX) <= self.now)
        };
        let from = self.round.lane.unwrap_or(LaneIx::FIRST);
        let (lanes, next_lane) = self.lanes.part(from, DEADLINES_LOOKED_AT_MAX);
        let first = lanes.flat_map(|lane| lane.jobs.iter().copied().take_while(is_over));
        let from = self.round.parent.map_or(Bound::Unbounded, Bound::Excluded);
        let parents = self.children.range((from, Bound::Unbounded));
        let parents: Vec<_> = parents.take(DEADLINES_LOOKED_AT_MAX).collect();
        let children = parents.iter().flat_map(|(_, children)| children.iter());
        let parked = children.copied().filter(is_over);
        let waits = |ix: &JobIx| {
            self.jobs
                .get(*ix)
                .is_some_and(|job| !matches!(job.place, Place::Running(_)))
        };
        let overslept = first.chain(parked).filter(waits).collect();
        let is_full = parents.len() == DEADLINES_LOOKED_AT_MAX;
        let last = parents.last().filter(|_| is_full);
        self.round = Round {
            lane: next_lane,
            parent: last.map(|(parent, _)| **parent),
        };
        overslept
    }

    fn overrun(&self) -> Vec<Running> {
        let is_over = |running: &Running| running.since.plus_ms(limit_ms(running)) <= self.now;
        self.nodes
            .iter()
            .filter_map(|(_, node)| node.running.filter(is_over))
            .collect()
    }
}

/// What an attempt may take, ms.
fn limit_ms(running: &Running) -> u64 {
    let predicted_ms = 1_000.0 * ATTEMPT_PREDICTIONS_MAX * running.expected_s;
    ATTEMPT_MS_MIN.max(predicted_ms as u64)
}

const _: () = assert!(Monotonic::from_millis(JOB_QUEUED_MS_MAX).as_millis() > ATTEMPT_MS_MIN);
