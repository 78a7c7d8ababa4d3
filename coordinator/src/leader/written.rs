//! What became of a batch of changes: who is told now, and what is believed of a row that refused one.

use std::collections::BTreeSet;

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{JobId, UserId};
use flowai_actors::messages::{EndedAnswer, Holding, Registered, Verdict};
use flowai_store::journal::{Change, Unfinished, Written};

use super::event::{Answer, Effect, NotDispatched, Outcome};
use super::state::State;
use crate::metrics;
use crate::scheduler::Event as Heard;

impl State {
    pub(super) fn committed(
        &mut self,
        now: Monotonic,
        outcomes: Vec<Outcome>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(batch) = self.outbox.committed() else {
            return;
        };
        let mut users = BTreeSet::new();
        let (mut blocked, mut others) = (Vec::new(), Vec::new());
        for (change, outcome) in batch.changes().iter().zip(outcomes) {
            match outcome {
                Outcome::Blocked => blocked.push(change.clone()),
                Outcome::Written(_) | Outcome::Refused(_) => others.push((change, outcome)),
            }
        }
        // Before anything that follows from the others: the changes of a job keep their order.
        self.outbox.put_back(now, blocked);
        for (change, outcome) in others {
            if let Outcome::Written(Written::Now(user) | Written::Before(user)) = outcome {
                users.insert(user);
            }
            self.touched.insert(change.job());
            self.comparison.touch(change.job());
            self.written(now, change, outcome, effects);
        }
        if !users.is_empty() && !self.apis.is_empty() {
            effects.push(Effect::Hint {
                to: self.apis.iter().cloned().collect(),
                users: users.into_iter().collect::<Vec<UserId>>(),
            });
        }
    }

    fn written(
        &mut self,
        now: Monotonic,
        change: &Change,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let is_written = matches!(
            outcome,
            Outcome::Written(Written::Now(_) | Written::Before(_))
        );
        if outcome == Outcome::Written(Written::Stale) {
            metrics::record_fenced_write();
        }
        if let Outcome::Refused(reason) = &outcome {
            tracing::error!(job = %change.job(), reason, "database refuses a change");
        }
        match change {
            Change::Assign(held) if is_written => self.assigned(now, held, effects),
            Change::Assign(held) => self.doubt(now, held, effects),
            Change::Adopt(held) => self.adopted(now, held, is_written, effects),
            // Or the owner ended it without us.
            Change::CancelWaiting { job, .. } => {
                self.discard_checkpoints(*job, effects);
                self.over(now, *job, false, effects);
            }
            Change::FailWaiting { job, .. } if is_written => {
                self.discard_checkpoints(*job, effects);
                self.over(now, *job, false, effects);
            }
            Change::FailWaiting { job, .. } => drop(self.to_read.insert(*job)),
            Change::Keep { held, checkpoint } if is_written => {
                self.superseded(held, checkpoint, effects);
            }
            // Whether the attempt is over is for its end to say.
            Change::Keep { .. } => {}
            Change::Settle { held, .. } if matches!(outcome, Outcome::Refused(_)) => {
                // Whoever waits for the answer gets it when this is written.
                self.write(Change::Fail {
                    held: held.clone(),
                    code: "result_refused".to_owned(),
                    detail: "the database refuses what the render brought: its operator finds why in the coordinator's log".to_owned(),
                });
            }
            Change::Settle { held, .. }
            | Change::Requeue { held, .. }
            | Change::Fail { held, .. }
            | Change::Cancel { held, .. }
            | Change::Quarantine { held, .. } => {
                self.attempt_over(now, change, held, is_written, effects);
            }
        }
    }

    /// Whoever registered with the attempt hears whether it goes on.
    fn adopted(
        &mut self,
        now: Monotonic,
        held: &Holding,
        is_written: bool,
        effects: &mut Vec<Effect>,
    ) {
        let welcome = self.welcomes.remove(&(held.at.job, held.at.attempt));
        let running = if is_written {
            Verdict::GoOn
        } else {
            self.doubt(now, held, effects);
            Verdict::Drop
        };
        let epoch = self.epoch;
        let answer = Answer::Registered(Registered::Welcome { epoch, running });
        effects.extend(welcome.map(|reply| Effect::Answer(reply, answer)));
    }

    /// Whoever told the end of the attempt hears whether it counts.
    fn attempt_over(
        &mut self,
        now: Monotonic,
        change: &Change,
        held: &Holding,
        is_written: bool,
        effects: &mut Vec<Effect>,
    ) {
        let answer = if is_written {
            self.left_behind(change, effects);
            if matches!(change, Change::Requeue { .. }) {
                // Its owner may have asked for its end since: nobody asks the rows of waiting jobs for that.
                self.to_read.insert(held.at.job);
            }
            if change.ends_job() {
                let is_done = matches!(change, Change::Settle { .. });
                self.over(now, held.at.job, is_done, effects);
            }
            EndedAnswer::Settled
        } else {
            tracing::info!(at = ?held.at, node = %held.node, "stale write is refused");
            self.to_read.insert(held.at.job);
            EndedAnswer::Stale
        };
        self.answer_ended((held.at.job, held.at.attempt), answer, effects);
    }

    /// The end of a job is durable: what was to start after it may, or never will.
    pub(super) fn over(
        &mut self,
        now: Monotonic,
        job: JobId,
        is_done: bool,
        effects: &mut Vec<Effect>,
    ) {
        self.step(now, Heard::JobGone { job, is_done }, effects);
    }

    /// An attempt is over: of its job's checkpoints only what the next one may go on from is kept.
    fn left_behind(&mut self, change: &Change, effects: &mut Vec<Effect>) {
        match change {
            Change::Requeue {
                held,
                outcome: Unfinished::Lost | Unfinished::Stopped,
                checkpoint,
                ..
            } => {
                if let Some(newest) = checkpoint {
                    self.superseded(held, newest, effects);
                }
            }
            Change::Requeue {
                held,
                outcome: Unfinished::Failed,
                ..
            } => {
                if self.checkpointed.remove(&held.at.job) {
                    effects.push(Effect::DiscardCheckpoints {
                        job: held.at.job,
                        before: Some((held.at.attempt.next(), 0)),
                    });
                }
            }
            Change::Settle { .. }
            | Change::Fail { .. }
            | Change::FailWaiting { .. }
            | Change::Cancel { .. }
            | Change::Quarantine { .. }
            | Change::CancelWaiting { .. } => self.discard_checkpoints(change.job(), effects),
            Change::Assign(_) | Change::Adopt(_) | Change::Keep { .. } => {}
        }
    }

    /// An assignment is durable: its node is told, if it is still the one.
    fn assigned(&mut self, now: Monotonic, held: &Holding, effects: &mut Vec<Effect>) {
        if !self.is_held(held) {
            return;
        }
        match self.models_on(&held.node, held.at.job) {
            Some(models) => effects.push(Effect::Dispatch {
                held: held.clone(),
                models,
                may_resume: self.checkpointed.contains(&held.at.job),
            }),
            None => {
                let reason = "it no longer offers the model".to_owned();
                let result = Err(NotDispatched::NotTaken(reason));
                self.dispatched(now, held.clone(), result, effects);
            }
        }
    }

    /// The row says something else than what was believed: nothing is believed any more, the row is read.
    fn doubt(&mut self, now: Monotonic, held: &Holding, effects: &mut Vec<Effect>) {
        let job = held.at.job;
        if self.is_held(held) {
            self.release(job, effects);
            self.step(now, Heard::Doubted(job), effects);
        }
        self.to_read.insert(job);
    }
}
