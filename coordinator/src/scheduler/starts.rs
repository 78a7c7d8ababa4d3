//! How a job begins on a node, and how it leaves it.

use flowai_actors::ids::{Attempt, Generation};
use flowai_actors::limits::CHARGED_SHARE_MIN;

use super::bounds::Cause;
use super::event::Effect;
use super::jobs::{Holder, JobIx, Place};
use super::nodes::{NodeIx, Running};
use super::placement::Choice;
use super::state::Scheduler;

/// What of the charge for an attempt was used.
#[derive(Debug, Clone, Copy)]
pub(super) enum Used {
    /// GPU-seconds.
    Measured(f64),
    AsCharged,
    /// As long as it ran.
    Elapsed,
}

impl Scheduler {
    /// Gives a free node a job.
    pub(super) fn start(&mut self, choice: Choice, node_ix: NodeIx, effects: &mut Vec<Effect>) {
        let Choice {
            job: ix,
            cause,
            passes,
        } = choice;
        if let Some(passed) = passes.and_then(|job| self.jobs.get_mut(job)) {
            passed.skips = passed.skips.saturating_add(1);
        }
        let (Some(job), Some(node)) = (self.jobs.get(ix), self.nodes.get(node_ix)) else {
            return;
        };
        let (Some(kind), Some(group)) =
            (self.kinds.get(job.kind), self.kinds.get_group(node.group))
        else {
            return;
        };
        let baseline_s = job.cost_on(self.kinds.class_name(group.class));
        let ratio = self.durations.ratio(kind.needs, Some(group.class));
        let (charged, whole_s) = (baseline_s * ratio, job.cost * ratio);
        let is_whole = baseline_s == job.cost;
        let (load_s, cold) = (self.load_s(job, node), self.cold(job, node));
        let times = self.times_slower(node_ix);
        let (owner, tier, is_first, queued_at, quote) = (
            job.owner,
            job.tier,
            job.attempt == Attempt::ZERO,
            job.queued_at,
            job.quote,
        );
        self.dequeue(ix);
        self.shares.charge(owner, charged, tier.weight());
        self.shares.run(owner, tier.weight(), ix, charged);
        self.durations.charged(charged);
        self.forced_starts.started(cause);
        if is_first && let Some(quote) = quote {
            self.calibration
                .started(tier, quote, self.now.since(queued_at).as_secs_f64());
        }
        if let Some(user) = self.shares.get_mut(owner)
            && cause != Cause::Turn
        {
            user.forced = Some(ix);
        }
        self.rekey_user(owner);
        let load = &mut self.load[tier as usize];
        load.waiting -= 1;
        load.running += 1;
        let now = self.now;
        let (Some(job), Some(node)) = (self.jobs.get_mut(ix), self.nodes.get_mut(node_ix)) else {
            return;
        };
        job.attempt = job.attempt.next();
        job.place = Place::Running(Holder {
            node: node_ix,
            generation: node.generation,
            lost_at: None,
        });
        if let Some(story) = &mut job.story {
            story.stop_asked = false;
        }
        node.reserved = None;
        node.running = Some(Running {
            job: ix,
            attempt: job.attempt,
            since: now,
            charged,
            expected_s: charged * times + load_s,
            whole_s,
            is_whole,
            load_s,
            cold,
            progress: None,
            quickest_s: None,
            was_slow: false,
            is_stopping: false,
            is_leaving: false,
        });
        effects.push(Effect::Assign {
            job: job.id,
            attempt: job.attempt,
            node: self.nodes.name(node_ix).clone(),
            generation: self
                .nodes
                .get(node_ix)
                .map_or(Generation::ZERO, |node| node.generation),
        });
        self.free.update(node_ix, self.nodes.get(node_ix));
    }

    /// Takes a job from its node, if it has one, and says which.
    pub(super) fn release(&mut self, ix: JobIx, used: Used) -> Option<NodeIx> {
        let job = self.jobs.get_mut(ix)?;
        let Place::Running(held) = job.place else {
            return None;
        };
        job.place = Place::Parked;
        let (owner, tier) = (job.owner, job.tier);
        self.unclaimed.remove(&(held.node, ix));
        let running = self
            .nodes
            .get_mut(held.node)
            .and_then(|node| node.running.take_if(|running| running.job == ix));
        if let Some(running) = running {
            let had = self.now.since(running.since);
            if let Some(job) = self.jobs.get_mut(ix) {
                job.waits_since = job.waits_since.plus_ms(had.as_millis() as u64);
            }
            let ran_s = self.now.since(running.since).as_secs_f64() - running.load_s;
            let used = match used {
                Used::Measured(seconds) => seconds.max(CHARGED_SHARE_MIN * running.charged),
                Used::AsCharged => running.charged,
                Used::Elapsed => ran_s.clamp(0.0, running.charged),
            };
            self.shares
                .took(owner, used - running.charged, tier.weight());
            if let Some(node) = self.nodes.get_mut(held.node) {
                node.idle_since = self.now;
            }
            self.touch_node(held.node);
        }
        self.shares.rest(owner, ix);
        if let Some(user) = self.shares.get_mut(owner) {
            user.forced = user.forced.filter(|forced| *forced != ix);
        }
        let load = &mut self.load[tier as usize];
        load.waiting += 1;
        load.running -= 1;
        self.rekey_user(owner);
        self.changed();
        Some(held.node)
    }

    /// The node may have become free, or is no longer.
    pub(super) fn touch_node(&mut self, ix: NodeIx) {
        let node = self.nodes.get(ix);
        if node.is_some_and(|node| node.is_free()) {
            self.dirty_nodes.insert(ix);
        }
        self.free.update(ix, node);
    }
}
