//! What stopped and running attempts leave for the next one: where their checkpoints go, when one is written down, and what is
//! thrown away. A checkpoint that is lost on any of these ways costs steps, never a job.

use flowai_actors::checkpoint::{
    CheckpointFile, CheckpointPlace, CheckpointPlaced, PlaceCheckpoint,
};
use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{JobId, NodeId};
use flowai_actors::limits::CHECKPOINT_INTERVAL_MS;
use flowai_actors::messages::Holding;
use flowai_store::journal::Change;

use super::event::{Answer, Effect, ReplyId};
use super::state::State;
use crate::scheduler::{Checkpoint, Event as Heard};

/// Between two rows of one job. Half of what its node keeps, so that a message that comes a little sooner is not passed over.
const WRITE_INTERVAL_MS: u64 = CHECKPOINT_INTERVAL_MS / 2;

/// What one attempt has left so far.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    /// As its node told it; also what is not written yet.
    pub(super) newest: Option<CheckpointFile>,
    written_at: Option<Monotonic>,
}

impl Checkpoints {
    /// `false` when it is not newer than what is known, or not what a checkpoint can be.
    fn take(&mut self, holding: &Holding, file: CheckpointFile) -> bool {
        if let Err(invalid) = file.validate() {
            tracing::warn!(at = ?holding.at, node = %holding.node, %invalid, "checkpoint is not taken");
            return false;
        }
        let is_newer = self
            .newest
            .as_ref()
            .is_none_or(|newest| newest.step < file.step);
        if is_newer {
            self.newest = Some(file);
        }
        is_newer
    }
}

/// What the scheduler must know of it.
pub(super) fn outline(file: &CheckpointFile) -> Checkpoint {
    Checkpoint {
        device_class: file.device_class.clone(),
        step: file.step,
    }
}

impl State {
    pub(super) fn checkpoint_asked(
        &mut self,
        reply: ReplyId,
        question: PlaceCheckpoint,
        effects: &mut Vec<Effect>,
    ) {
        let held = Holding {
            at: question.at,
            node: question.node.clone(),
            generation: question.generation,
        };
        if question.file.validate().is_err() || !self.is_held(&held) {
            let answer = Answer::Checkpoint(CheckpointPlace::Refused);
            effects.push(Effect::Answer(reply, answer));
            return;
        }
        self.checkpointed.insert(held.at.job);
        effects.push(Effect::PresignCheckpoint { reply, question });
    }

    pub(super) fn checkpoint_placed(
        &mut self,
        now: Monotonic,
        node: &NodeId,
        placed: CheckpointPlaced,
        effects: &mut Vec<Effect>,
    ) {
        let CheckpointPlaced { at, file } = placed;
        let Some(held) = self.held.get_mut(&at.job) else {
            return;
        };
        if held.holding.node != *node || held.holding.at.attempt != at.attempt {
            return;
        }
        let checkpoint = outline(&file);
        if !held.checkpoints.take(&held.holding, file.clone()) {
            return;
        }
        held.heard_at = now;
        let written_at = held.checkpoints.written_at;
        let is_due = written_at.is_none_or(|at| at.plus_ms(WRITE_INTERVAL_MS) <= now);
        let change = is_due.then(|| Change::Keep {
            held: held.holding.clone(),
            checkpoint: file,
        });
        if let Some(change) = change {
            held.checkpoints.written_at = Some(now);
            self.write(change);
        }
        self.checkpointed.insert(at.job);
        let heard = Heard::Checkpointed {
            job: at.job,
            attempt: at.attempt,
            checkpoint,
        };
        self.step(now, heard, effects);
    }

    /// What a stopped attempt says that it left.
    pub(super) fn checkpoint_left(
        &mut self,
        holding: &Holding,
        told: Option<CheckpointFile>,
    ) -> Option<Checkpoint> {
        let held = self.held.get_mut(&holding.at.job)?;
        if let Some(file) = told {
            held.checkpoints.take(&held.holding, file);
        }
        let newest = held.checkpoints.newest.as_ref()?;
        self.checkpointed.insert(holding.at.job);
        Some(outline(newest))
    }

    /// A newer one is written down: those before it go.
    pub(super) fn superseded(
        &self,
        held: &Holding,
        newest: &CheckpointFile,
        effects: &mut Vec<Effect>,
    ) {
        effects.push(Effect::DiscardCheckpoints {
            job: held.at.job,
            before: Some((held.at.attempt, newest.step)),
        });
    }

    /// The job has ended, or its row knows of no checkpoint any more. What this term has not heard of is found by the sweep.
    pub(super) fn discard_checkpoints(&mut self, job: JobId, effects: &mut Vec<Effect>) {
        if self.checkpointed.remove(&job) {
            effects.push(Effect::DiscardCheckpoints { job, before: None });
        }
    }
}
