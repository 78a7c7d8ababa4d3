//! A node that steps much more slowly than others of its class: a clock that a hot device lowered, a neighbour that takes its
//! memory's bandwidth. What it renders goes on elsewhere where that is worth the swap, and it is the last to be given more. Steps that
//! are as quick as they should be clear it, and so does time: somebody may have mended it while it stood idle.
//!
//! One job whose steps are slow from the first on says nothing of its node: it may be larger than was predicted. It is the node when the
//! same job had been quicker there, or when the next one, of somebody else, is as slow.
//!
//! Nothing is rendered twice to be done sooner: a second copy costs as much as the first, and somebody else waits for that node.

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{NodeId, UserId};
use flowai_actors::limits::{
    JOB_MOVES_MAX, PREEMPTION_SWAP_S, PREEMPTION_SWAPS_WORTH, SLOW_FORGOTTEN_MS, SLOW_JUMP,
    SLOW_MS_MIN, SLOW_STEPS_MIN, SLOW_TIMES,
};

use super::event::Effect;
use super::jobs::{Job, JobIx};
use super::lanes::Lane;
use super::nodes::{Node, NodeIx, Running};
use super::state::Scheduler;

/// What slow steps on a node say of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slowness {
    /// The time that the newest steps took, over the usual one.
    times: f64,
    /// When they did.
    at: Monotonic,
    /// Whose steps were the first that were slow.
    owner: UserId,
    /// It is not the job.
    is_proven: bool,
}

impl Scheduler {
    /// Compares the newest steps on the node, of so many of the whole job, with what such a job usually takes there.
    pub(super) fn judge_pace(&mut self, ix: NodeIx, steps: u32) {
        let (now, node) = (self.now, self.nodes.get(ix));
        let Some(running) = node.and_then(|node| node.running) else {
            return;
        };
        let owner = self.jobs.get(running.job).map(|job| job.owner);
        let owner = owner.and_then(|owner| Some(self.shares.get(owner)?.id));
        let (Some(usual_s), Some(owner)) = (self.usual_s(ix, &running), owner) else {
            return;
        };
        let known = self.slow.get(&ix).copied();
        let known = known.filter(|known| now < known.at.plus_ms(SLOW_FORGOTTEN_MS));
        let least = f64::from(SLOW_STEPS_MIN) / f64::from(steps);
        let node = self.nodes.get_mut(ix);
        let Some(running) = node.and_then(|node| node.running.as_mut()) else {
            return;
        };
        let Some(pace_s) = running.pace_s(least, SLOW_MS_MIN) else {
            return;
        };
        let was_quicker = running
            .quickest_s
            .is_some_and(|quickest_s| pace_s > SLOW_JUMP * quickest_s);
        running.quickest_s = Some(running.quickest_s.map_or(pace_s, |s| s.min(pace_s)));
        // The usual time has the decoding in it, which no step has: whoever is called slow is slower than that.
        let times = pace_s / usual_s;
        if times <= SLOW_TIMES {
            self.slow.remove(&ix);
            return;
        }
        let was_slow = known.is_some_and(|known| known.is_proven || known.owner != owner);
        let slowness = Slowness {
            times,
            at: now,
            owner: known.map_or(owner, |known| known.owner),
            is_proven: was_quicker || was_slow,
        };
        running.was_slow |= slowness.is_proven;
        self.slow.insert(ix, slowness);
    }

    /// Seconds that the whole job usually takes on nodes of this class; `None` until enough of its size ended there.
    fn usual_s(&self, node: NodeIx, running: &Running) -> Option<f64> {
        let job = self.jobs.get(running.job)?;
        let needs = self.kinds.get(job.kind)?.needs;
        let class = self.class_of(self.nodes.get(node)?.group)?;
        let ratio = self.durations.learned_ratio(needs, class)?;
        Some(job.cost * ratio).filter(|seconds| *seconds > 0.0)
    }

    /// How many times as long as usual on its class its steps take; 1 of a node that is not slow.
    pub(super) fn times_slower(&self, node: NodeIx) -> f64 {
        let is_fresh = |at: Monotonic| self.now < at.plus_ms(SLOW_FORGOTTEN_MS);
        let slowness = self.slow.get(&node);
        let slowness = slowness.filter(|slowness| slowness.is_proven && is_fresh(slowness.at));
        slowness.map_or(1.0, |slowness| slowness.times)
    }

    pub(super) fn is_slow(&self, node: NodeIx) -> bool {
        self.times_slower(node) > 1.0
    }

    /// How many times as long as usual on its class the node's steps took lately, while that is much more.
    pub fn slowness(&self, node: &NodeId) -> Option<f64> {
        let times = self.times_slower(self.nodes.find(node)?);
        (times > 1.0).then_some(times)
    }

    /// Seconds until the job would have ended on the node.
    pub(super) fn end_s(&self, job: &Job, ix: NodeIx) -> f64 {
        let seconds = || {
            let node = self.nodes.get(ix)?;
            let class = self.class_of(node.group)?;
            let needs = self.kinds.get(job.kind)?.needs;
            let cost = job.cost_on(self.kinds.class_name(class));
            let run_s = cost * self.durations.ratio(needs, Some(class)) * self.times_slower(ix);
            Some(self.load_s(job, node) + run_s)
        };
        seconds().unwrap_or(f64::MAX)
    }

    /// Whether the job is better off on a free node that is not slow: slow ones leave it alone then.
    pub(super) fn has_quicker(&self, lane: &Lane, job: JobIx) -> bool {
        let best = self.free_node_for(lane, job);
        best.is_some_and(|node| !self.is_slow(node))
    }

    /// Stops one job that goes on sooner elsewhere, and no other until it has left: the free node is one as well.
    pub(super) fn leave_slow_nodes(&mut self, effects: &mut Vec<Effect>) {
        let is_left = |ix: NodeIx| {
            let running = self.nodes.get(ix).and_then(|node| node.running);
            running.is_some_and(|running| running.is_leaving)
        };
        self.leaving = self.leaving.filter(|ix| is_left(*ix));
        if self.leaving.is_some() {
            return;
        }
        let mut slow = self.slow.keys().copied();
        let Some(ix) = slow.find(|ix| self.is_worth_leaving(*ix)) else {
            return;
        };
        let node = self.nodes.get_mut(ix);
        let Some(running) = node.and_then(|node| node.running.as_mut()) else {
            return;
        };
        running.is_leaving = true;
        if let Some(job) = self.jobs.get_mut(running.job) {
            job.story().moves += 1;
            // What it is to go on at is cold, maybe.
            job.hold_until = Monotonic::default();
        }
        self.leaving = Some(ix);
        self.stop_and_keep(ix, effects);
    }

    fn is_worth_leaving(&self, ix: NodeIx) -> bool {
        let saved_s = || {
            let node = self.nodes.get(ix).filter(|node| node.takes_work())?;
            let running = node.running.filter(|running| !running.is_stopping)?;
            let job = self.jobs.get(running.job)?;
            let story = job.story.as_ref();
            let may_move = story
                .is_none_or(|story| story.moves < JOB_MOVES_MAX && !story.cancel_asked)
                && self.is_slow(ix);
            let load_s = self.soonest_quick(job, node).filter(|_| may_move)?;
            let usual_left_s = self.usual_s(ix, &running)? * (1.0 - running.done());
            Some((self.times_slower(ix) - 1.0) * usual_left_s - load_s)
        };
        saved_s().is_some_and(|saved_s| saved_s > PREEMPTION_SWAPS_WORTH * PREEMPTION_SWAP_S)
    }

    /// Seconds of loading on the free node that goes on soonest with what the job has done on the other one.
    fn soonest_quick(&self, job: &Job, than: &Node) -> Option<f64> {
        let class = self.class_of(than.group)?;
        let is_of_class = |group| {
            let group = self.kinds.get_group(group);
            group.is_some_and(|group| group.class == class)
        };
        let has_failed = |node: &NodeIx| {
            let story = job.story.as_ref();
            story.is_some_and(|story| story.failed_on.contains(node))
        };
        let groups = self.free.groups().filter(|group| is_of_class(*group));
        let nodes = groups.flat_map(|group| self.free.of_group(group));
        let quick = nodes.filter(|node| {
            !self.is_slow(*node) && !has_failed(node) && self.may_take(*node, job.kind)
        });
        let loads = quick.filter_map(|node| Some(self.load_s(job, self.nodes.get(node)?)));
        loads.min_by(f64::total_cmp)
    }
}
