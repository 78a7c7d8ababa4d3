//! What rows say: news of jobs, and where memory had drifted from them.

use std::collections::BTreeSet;

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{JobId, Sha256};
use flowai_actors::spec::RenderSpec;
use flowai_actors::state::JobState;
use flowai_store::journal::Change;
use flowai_store::recovery::JobRow;

use super::event::Effect;
use super::state::{Held, State};
use crate::scheduler::{Checkpoint, Event as Heard, Recovered, Shape, WaitingJob};
use crate::{cost, metrics};

impl State {
    pub(super) fn rows_read(
        &mut self,
        now: Monotonic,
        asked: Vec<JobId>,
        rows: Vec<JobRow>,
        effects: &mut Vec<Effect>,
    ) {
        self.is_reading = false;
        let found: BTreeSet<JobId> = rows.iter().map(|row| row.job).collect();
        let touched = std::mem::take(&mut self.touched);
        for job in asked.into_iter().filter(|job| !found.contains(job)) {
            self.gone(now, job, None, effects);
        }
        for row in rows {
            if touched.contains(&row.job) || self.outbox.holds(row.job) {
                self.to_read.insert(row.job);
            } else {
                self.learn(now, row, effects);
            }
        }
    }

    /// Brings what is believed of a job in line with its row.
    pub(super) fn learn(&mut self, now: Monotonic, row: JobRow, effects: &mut Vec<Effect>) {
        let job = row.job;
        if row.state.is_end() {
            return self.gone(now, job, Some(&row), effects);
        }
        self.check_suspect(job, Some(&row));
        let is_cancelled = row.cancel_requested;
        let after = row.after;
        self.disbelieve_drift(now, &row, effects);
        if !self.scheduler.knows(job) {
            // Its owner asked between two tries. The scheduler would give it to a node in the step in which it arrives, its row
            // would refuse that and be read again, and so on for ever.
            if is_cancelled && row.state == JobState::Queued {
                let attempt = row.attempt;
                return self.write(Change::CancelWaiting { job, attempt });
            }
            let Some(event) = self.news_of(now, row) else {
                tracing::warn!(%job, "job was written by another version and waits for it");
                return;
            };
            self.step(now, event, effects);
        }
        if is_cancelled {
            self.step(now, Heard::CancelAsked(job), effects);
        }
        match after {
            Some(after) if after.has_failed => self.over(now, after.job, false, effects),
            // It may have ended since the row was read: its own row says so.
            Some(after) if !self.scheduler.knows(after.job) => drop(self.to_read.insert(after.job)),
            Some(_) | None => {}
        }
    }

    /// A job has ended, as its row says, or has no row any more: nothing is left to do for it.
    fn gone(
        &mut self,
        now: Monotonic,
        job: JobId,
        row: Option<&JobRow>,
        effects: &mut Vec<Effect>,
    ) {
        self.check_suspect(job, row);
        self.release(job, effects);
        self.discard_checkpoints(job, effects);
        let is_done = row.is_some_and(|row| row.state == JobState::Done);
        self.over(now, job, is_done, effects);
    }

    /// What is believed of a job that nothing is on its way for must be what its row says. If it is not, the row counts.
    fn disbelieve_drift(&mut self, now: Monotonic, row: &JobRow, effects: &mut Vec<Effect>) {
        let job = row.job;
        let node = row.held.as_ref().map(|held| &held.node);
        let believed = self.scheduler.believed(job);
        if believed.is_none_or(|believed| believed == (row.attempt, node)) {
            return;
        }
        tracing::error!(%job, ?believed, attempt = %row.attempt, ?node, "memory differs from the row; the row counts");
        metrics::record_drift();
        self.release(job, effects);
        self.step(now, Heard::Doubted(job), effects);
    }

    fn news_of(&mut self, now: Monotonic, row: JobRow) -> Option<Heard> {
        let spec = row.spec?;
        if row.kept.is_some() {
            self.checkpointed.insert(row.job);
        }
        let waiting = WaitingJob {
            job: row.job,
            owner: row.owner,
            tier: row.tier,
            class: row.class,
            model: row.model,
            keyframe_model: spec.keyframe().map(|keyframe| keyframe.model.clone()),
            adapters: adapters_of(&spec),
            shape: Shape {
                frames: spec.frames,
                width: spec.width,
                height: spec.height,
                steps: spec.steps,
            },
            cost: cost::predicted(&spec),
            queued_at: now.minus(row.waited),
            after: row.after.map(|after| after.job),
            preemptions: row.preemptions,
            attempt: row.attempt,
            failures: row.failures,
            failed_on: row.failed_on,
            node_deaths: row.node_deaths,
            died_on: row.died_on,
            resume: row.kept.map(|kept| Checkpoint {
                device_class: kept.device_class,
                step: kept.step,
            }),
        };
        let Some(holding) = row.held.filter(|_| row.state == JobState::Running) else {
            return Some(Heard::JobArrived(waiting));
        };
        let recovered = Recovered {
            waiting,
            node: holding.node.clone(),
            generation: holding.generation,
            cancel_requested: row.cancel_requested,
        };
        self.held.insert(row.job, Held::new(holding, now));
        Some(Heard::JobRecovered(recovered))
    }
}

/// Of both stages.
fn adapters_of(spec: &RenderSpec) -> Vec<Sha256> {
    let stages = spec.stages().flat_map(|(_, adapters)| adapters);
    stages.map(|used| used.sha256).collect()
}
