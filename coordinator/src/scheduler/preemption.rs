//! Work that makes room for somebody whose start bound would pass.
//!
//! A render stops at a step boundary, leaves a checkpoint, and goes on later where it fits: it loses a swap, not its work. So
//! it is worth it only for a bound that would be missed, of a tier above or over batch work, where much more than the swap is
//! left (arXiv 2604.04335 shows as much for images over videos).

use flowai_actors::limits::{
    JOB_PREEMPTIONS_MAX, PREEMPTION_GAP_MS, PREEMPTION_SWAP_S, PREEMPTION_SWAPS_WORTH,
    PREEMPTIONS_AT_ONCE_MAX,
};
use flowai_actors::state::Class;

use super::event::Effect;
use super::jobs::{Job, JobIx};
use super::kinds::Kind;
use super::nodes::{Node, NodeIx, Running};
use super::state::Scheduler;

impl Scheduler {
    /// Stops what has to make room. The node is free only when it says so: until then it is kept for the one it stops for.
    pub(super) fn preempt_for_bounds(&mut self, effects: &mut Vec<Effect>) {
        for job in self.endangered() {
            let id = self.jobs.get(job).map(|job| job.id);
            if let Some(node) = self.victim_for(job) {
                if let Some(node) = self.nodes.get_mut(node) {
                    node.reserved = id;
                }
                self.stop_and_keep(node, effects);
            }
        }
    }

    /// Waiting jobs whose bound passes before a node becomes free by itself, the most urgent first.
    fn endangered(&self) -> Vec<JobIx> {
        let lead_ms = (1_000.0 * PREEMPTION_SWAP_S) as u64;
        let soon = self.now.plus_ms(lead_ms);
        let waiting = self.kinds.waiting().flat_map(|(_, kind)| {
            let ending = kind.bounds.ending_by(soon, PREEMPTIONS_AT_ONCE_MAX);
            ending.map(move |(bound, lane)| (bound.ends_at(), lane, kind))
        });
        let mut urgent: Vec<_> = waiting.collect();
        urgent.sort_by_key(|(ends_at, lane, _)| (*ends_at, *lane));
        let mut jobs = Vec::new();
        for (_, lane, kind) in urgent.into_iter().take(PREEMPTIONS_AT_ONCE_MAX) {
            let Some(lane) = self.lanes.get(lane) else {
                continue;
            };
            let Some(job) = lane.jobs.front().copied() else {
                continue;
            };
            // One user has one such start at a time, as with all forced starts.
            let is_served = self
                .shares
                .get(lane.user)
                .is_some_and(|user| user.forced.is_some());
            if !is_served && !self.has_promise(job, kind, lead_ms) {
                jobs.push(job);
            }
        }
        jobs
    }

    /// Whether a node is being freed for the job, or becomes free by itself in time.
    fn has_promise(&self, job: JobIx, kind: &Kind, lead_ms: u64) -> bool {
        let id = self.jobs.get(job).map(|job| job.id);
        let lead_s = lead_ms as f64 / 1_000.0;
        self.nodes.iter().any(|(_, node)| {
            let is_for_it = id.is_some() && node.reserved == id;
            let ends_in_time =
                |running: Running| node.reserved.is_none() && running.left_s(self.now) <= lead_s;
            let fits = self
                .kinds
                .get_group(node.group)
                .is_some_and(|group| group.fits(&kind.needs));
            is_for_it || fits && node.takes_work() && node.running.is_some_and(ends_in_time)
        })
    }

    /// The running job with the longest way to go, of those that may be stopped for this one.
    fn victim_for(&self, ix: JobIx) -> Option<NodeIx> {
        let job = self.jobs.get(ix)?;
        let lane = match job.place {
            super::jobs::Place::Lane(lane) => self.lanes.get(lane)?,
            super::jobs::Place::Parked | super::jobs::Place::Running(_) => return None,
        };
        let may_go = |(node_ix, node): &(NodeIx, &Node)| {
            self.kinds.fits(job.kind, node.group)
                && node.takes_work()
                && node.reserved.is_none()
                && self.may_run(lane, ix, *node_ix)
                && node
                    .running
                    .is_some_and(|running| self.may_stop(running, job))
        };
        let left_ms = |node: &Node| {
            node.running
                .map(|running| (1_000.0 * running.left_s(self.now)) as u64)
        };
        let victims = self.nodes.iter().filter(may_go);
        let longest =
            victims.max_by_key(|(node_ix, node)| (left_ms(node), std::cmp::Reverse(*node_ix)));
        longest.map(|(node_ix, _)| node_ix)
    }

    fn may_stop(&self, running: Running, rival: &Job) -> bool {
        let Some(victim) = self.jobs.get(running.job).filter(|_| !running.is_stopping) else {
            return false;
        };
        let is_below = victim.class == Class::Batch || victim.tier.weight() < rival.tier.weight();
        let tag = |job: &Job| self.shares.get(job.owner).map(|user| user.tag);
        let is_ahead = victim.owner != rival.owner && tag(victim) >= tag(rival);
        let is_worth_it = running.left_s(self.now) > PREEMPTION_SWAPS_WORTH * PREEMPTION_SWAP_S;
        let story = victim.story.as_ref();
        let was_left_alone = story.is_none_or(|story| {
            let is_long_ago =
                |at: flowai_actors::clock::Monotonic| at.plus_ms(PREEMPTION_GAP_MS) <= self.now;
            story.preemptions < JOB_PREEMPTIONS_MAX
                && story.preempted_at.is_none_or(is_long_ago)
                && !story.cancel_asked
        });
        is_below && is_ahead && is_worth_it && was_left_alone
    }

    /// Tells the node to stop at its next step boundary and to keep what it has.
    pub(super) fn stop_and_keep(&mut self, ix: NodeIx, effects: &mut Vec<Effect>) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(ix) else {
            return;
        };
        let is_for_another = node.reserved.is_some();
        let Some(running) = node.running.as_mut().filter(|running| !running.is_stopping) else {
            return;
        };
        running.is_stopping = true;
        let attempt = running.attempt;
        let Some(job) = self.jobs.get_mut(running.job) else {
            return;
        };
        let id = job.id;
        let story = job.story();
        story.stop_asked = true;
        if is_for_another {
            self.preemptions += 1;
            story.preemptions += 1;
            story.preempted_at = Some(now);
        }
        let node = self.nodes.name(ix).clone();
        effects.push(Effect::Stop {
            node,
            job: id,
            attempt,
            keep: true,
        });
    }
}
