//! How attempts end, and what becomes of their jobs.

use flowai_actors::ids::{Attempt, Generation, JobId, NodeId};
use flowai_actors::limits::{
    JOB_ASSIGNMENTS_MAX, JOB_ATTEMPTS_MAX, JOB_NODE_DEATHS_MAX, JOB_RETRY_MS,
};
#[cfg(feature = "planted-bugs")]
use flowai_actors::planted::{self, Bug};
use flowai_store::journal::{MADE_ROOM, Unfinished};

use super::event::{AttemptEnd, Checkpoint, Effect, Ran};
use super::jobs::JobIx;
use super::nodes::NodeIx;
use super::starts::Used;
use super::state::Scheduler;

impl Scheduler {
    pub(super) fn ended(
        &mut self,
        node: NodeId,
        generation: Generation,
        id: JobId,
        attempt: Attempt,
        end: AttemptEnd,
        effects: &mut Vec<Effect>,
    ) {
        let holder = self
            .holder_of(id, attempt)
            .filter(|_| self.is_holder(&node, generation, id, attempt));
        let (Some(held), Some(ix)) = (holder, self.jobs.find(id)) else {
            effects.push(Effect::Stale {
                node,
                job: id,
                attempt,
            });
            return;
        };
        self.took(held.node, ix);
        match end {
            // The clip came before the cancel could stop it: a late cancel destroys nothing.
            AttemptEnd::Rendered { ran } => {
                self.learn(ix, held.node, ran);
                let used = ran.map_or(Used::AsCharged, |ran| self.used(held.node, ran));
                self.forget(ix, used);
                effects.push(Effect::Settle { job: id, attempt });
            }
            AttemptEnd::Stopped { .. } if self.is_cancel_asked(id) => {
                self.forget(ix, Used::Elapsed);
                effects.push(Effect::Cancel { job: id, attempt });
            }
            AttemptEnd::Stopped { checkpoint } => {
                let reason = self.why_stopped(ix, held.node, checkpoint.as_ref());
                self.requeue(ix, Unfinished::Stopped, reason, checkpoint, effects);
            }
            AttemptEnd::Failed {
                code,
                detail,
                retryable,
                stage,
            } => {
                let asks_another = !retryable && self.is_worth_asking_another(ix, held.node);
                if retryable || asks_another {
                    self.note_failure(ix, held.node, &code, stage, asks_another);
                    let reason = format!("{code}: {detail}");
                    self.requeue(ix, Unfinished::Failed, reason, None, effects);
                } else {
                    if let Some(job) = self.jobs.get_mut(ix) {
                        job.story().failed_on.insert(held.node);
                    }
                    self.exonerate(ix);
                    self.fail(ix, code, detail, effects);
                }
            }
            AttemptEnd::Impossible { code, detail } => self.fail(ix, code, detail, effects),
        }
    }

    /// For good: nobody tries it any more.
    pub(super) fn fail(
        &mut self,
        ix: JobIx,
        code: String,
        detail: String,
        effects: &mut Vec<Effect>,
    ) {
        let Some((job, attempt)) = self.jobs.get(ix).map(|job| (job.id, job.attempt)) else {
            return;
        };
        self.forget(ix, Used::Elapsed);
        effects.push(Effect::Fail {
            job,
            attempt,
            code,
            detail,
        });
    }

    /// A node says that it is the job's own fault. It may be wrong: of a broken device's numbers too, and a node that is so fails all
    /// that it is given, and is free for more at once. So one other node is asked, if there is one.
    fn is_worth_asking_another(&self, ix: JobIx, node: NodeIx) -> bool {
        let Some(job) = self.jobs.get(ix) else {
            return false;
        };
        let story = job.story.as_ref();
        let may_be_tried_again = story
            .is_none_or(|story| !story.is_called_wrong && story.failures + 1 < JOB_ATTEMPTS_MAX);
        may_be_tried_again && self.has_untried_node_beside(job, node)
    }

    /// What its owner's share is charged for: a slow node is the farm's fault, and costs no more than was predicted. Nor does it pay
    /// for longer than the node had the job: a run that waits for a leader reports that time as well.
    fn used(&self, node: NodeIx, ran: Ran) -> Used {
        let running = self.nodes.get(node).and_then(|node| node.running);
        let most = running.map_or(f64::MAX, |running| {
            let had_s = self.now.since(running.since).as_secs_f64();
            match running.was_slow {
                true => running.charged,
                false => running.charged.max(had_s),
            }
        });
        Used::Measured(ran.busy.0.min(most))
    }

    /// In words for its owner.
    fn why_stopped(&self, job: JobIx, node: NodeIx, checkpoint: Option<&Checkpoint>) -> String {
        let story = self.jobs.get(job).and_then(|job| job.story.as_ref());
        let story = story.filter(|story| story.stop_asked);
        let known = self.nodes.get(node).filter(|_| story.is_some());
        let made_room = known.is_some_and(|node| node.reserved.is_some());
        let running = known.and_then(|node| node.running);
        let has_left = running.is_some_and(|running| running.is_leaving);
        let cause = match (made_room, has_left) {
            (true, _) => Some(MADE_ROOM),
            (false, true) => Some("left a slow node"),
            (false, false) => None,
        };
        match (cause, checkpoint) {
            (Some(cause), Some(kept)) => format!("{cause}, after step {}", kept.step),
            (Some(cause), None) => cause.to_owned(),
            (None, Some(kept)) => format!("stopped after step {}, to go on later", kept.step),
            (None, None) if story.is_some() => "stopped, to begin anew later".to_owned(),
            (None, None) => "its node stopped it".to_owned(),
        }
    }

    /// The attempt's node died. The job waits again, unless it looks like the killer or nobody wants it any more.
    pub(super) fn lose(&mut self, ix: JobIx, reason: &str, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(ix) else {
            return;
        };
        let (id, attempt, node) = (job.id, job.attempt, job.holder().map(|held| held.node));
        let (kind, cancel_asked) = (job.kind, job.cancel_asked());
        let story = job.story();
        story.node_deaths += 1;
        story.died_on.extend(node);
        let node_deaths = story.node_deaths;
        // One bad node dies of any job: it takes two to blame the job, or all tries where there is no second.
        let is_last_try = story.failures + 1 >= JOB_ATTEMPTS_MAX;
        let is_killer = story.died_on.len() >= JOB_NODE_DEATHS_MAX as usize
            || is_last_try && node_deaths >= JOB_NODE_DEATHS_MAX;
        #[cfg(feature = "planted-bugs")]
        let is_killer = is_killer && !planted::is(Bug::NoQuarantine);
        if let (Some(node), Some(needs)) = (node, self.kinds.get(kind).map(|kind| kind.needs)) {
            for model in needs.models() {
                self.trust.lost(node, model, id, self.now);
            }
            self.trust_changed();
        }
        if cancel_asked {
            self.forget(ix, Used::Elapsed);
            effects.push(Effect::Cancel { job: id, attempt });
        } else if is_killer {
            self.forget(ix, Used::Elapsed);
            effects.push(Effect::Quarantine {
                job: id,
                attempt,
                node_deaths,
            });
        } else {
            self.requeue(ix, Unfinished::Lost, reason.to_owned(), None, effects);
        }
    }

    /// The job waits again, if it may be tried again.
    pub(super) fn requeue(
        &mut self,
        ix: JobIx,
        outcome: Unfinished,
        reason: String,
        checkpoint: Option<Checkpoint>,
        effects: &mut Vec<Effect>,
    ) {
        let checkpoint = self.newest_left(ix, outcome, checkpoint);
        let node = self.release(ix, Used::Elapsed);
        let now = self.now;
        let Some(job) = self.jobs.get_mut(ix) else {
            return;
        };
        let (id, attempt, cancel_asked) = (job.id, job.attempt, job.cancel_asked());
        let story = job.story();
        story.stop_asked = false;
        story.resume = checkpoint.clone().or(story.resume.take());
        match outcome {
            Unfinished::Stopped => {}
            Unfinished::Failed | Unfinished::Lost => {
                story.back_at = now.plus_ms(JOB_RETRY_MS << story.failures.min(16));
                story.failures += 1;
                story.failed_on.extend(node);
            }
        }
        if outcome == Unfinished::Failed {
            story.resume = None;
        }
        let failures = story.failures;
        // Each lets other nodes have it.
        let pauses = [Some(story.back_at), story.given_from];
        let is_used_up = failures >= JOB_ATTEMPTS_MAX || attempt.get() >= JOB_ASSIGNMENTS_MAX;
        #[cfg(feature = "planted-bugs")]
        let is_used_up = is_used_up && !planted::is(Bug::NoQuarantine);
        if cancel_asked {
            self.forget(ix, Used::Elapsed);
            effects.push(Effect::Cancel { job: id, attempt });
        } else if is_used_up {
            self.exonerate(ix);
            let detail = format!(
                "given to a node {attempt} times, failed {failures} times; the last time: {reason}"
            );
            self.fail(ix, "attempts_used_up".to_owned(), detail, effects);
        } else {
            self.enqueue(ix);
            for until in pauses.into_iter().flatten().filter(|until| now < *until) {
                self.pausing.insert((until, ix));
                self.wake_by(until);
            }
            effects.push(Effect::Requeue {
                job: id,
                attempt,
                outcome,
                reason,
                checkpoint,
            });
        }
    }

    /// The running attempt left a checkpoint on its way.
    pub(super) fn checkpointed(&mut self, id: JobId, attempt: Attempt, checkpoint: Checkpoint) {
        let ix = self.jobs.find(id);
        let job = ix.and_then(|ix| self.jobs.get_mut(ix));
        if let Some(job) = job.filter(|job| job.attempt == attempt && job.holder().is_some()) {
            job.story().left = Some(checkpoint);
        }
    }

    /// What the next attempt may go on from: the last word of the one that ends, or what it left on its way. A failed one leaves
    /// nothing: what it left may be why it failed.
    fn newest_left(
        &mut self,
        ix: JobIx,
        outcome: Unfinished,
        last_word: Option<Checkpoint>,
    ) -> Option<Checkpoint> {
        let story = self.jobs.get_mut(ix)?.story.as_mut();
        let left = story.and_then(|story| story.left.take());
        match outcome {
            Unfinished::Stopped | Unfinished::Lost => last_word.or(left),
            Unfinished::Failed => None,
        }
    }

    /// Step 0 is a word of loads, and not of steps.
    pub(super) fn progressed(&mut self, id: JobId, attempt: Attempt, step: u32, steps: u32) {
        let Some(held) = self.holder_of(id, attempt) else {
            return;
        };
        let now = self.now;
        if let Some(running) = self
            .nodes
            .get_mut(held.node)
            .and_then(|node| node.running.as_mut())
            && step > 0
            && steps > 0
        {
            running.came_to(f64::from(step.min(steps)) / f64::from(steps), now);
            self.judge_pace(held.node, steps);
        }
        if let Some(ix) = self.jobs.find(id) {
            self.took(held.node, ix);
        }
    }
}
