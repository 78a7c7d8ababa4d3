//! A node that steps much more slowly than others of its class: a clock that a hot device lowered, a neighbour that takes its
//! memory's bandwidth. What it renders goes on elsewhere where that is worth the swap, and it is the last to be given more. The
//! first steps that are as quick as they should be clear it.
//!
//! One job whose steps are slow from the first on says nothing of its node: it may be larger than was predicted. It is the node when the
//! same job had been quicker there, or when the next job is as slow.
//!
//! Nothing is rendered twice to be done sooner: a second copy costs as much as the first, and somebody else waits for that node.

use flowai_actors::ids::{JobId, NodeId};
use flowai_actors::limits::{
    JOB_MOVES_MAX, PREEMPTION_SWAP_S, PREEMPTION_SWAPS_WORTH, SLOW_MS_MIN, SLOW_STEPS_MIN,
    SLOW_TIMES,
};

use super::event::Effect;
use super::jobs::{Job, JobIx};
use super::lanes::Lane;
use super::nodes::{Node, NodeIx, Running};
use super::state::Scheduler;

/// What the newest steps on a node say of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slowness {
    /// Of what is usual.
    times: f64,
    /// Whose steps were the first that were slow.
    job: JobId,
    /// It is not the job.
    is_proven: bool,
}

impl Scheduler {
    /// Compares the newest steps on the node, of so many of the whole job, with what such a job usually takes there.
    pub(super) fn judge_pace(&mut self, ix: NodeIx, steps: u32) {
        let Some(running) = self.nodes.get(ix).and_then(|node| node.running) else {
            return;
        };
        let Some(usual_s) = self.usual_s(ix, &running) else {
            return;
        };
        let least = f64::from(SLOW_STEPS_MIN) / f64::from(steps);
        let node = self.nodes.get_mut(ix);
        let Some(running) = node.and_then(|node| node.running.as_mut()) else {
            return;
        };
        let Some(pace_s) = running.pace_s(least, SLOW_MS_MIN) else {
            return;
        };
        // The usual time has the decoding in it, which no step has: whoever is called slow is slower than that.
        let times = pace_s / usual_s;
        if times <= SLOW_TIMES {
            running.was_quick = true;
            self.slow.remove(&ix);
            return;
        }
        let was_quick = running.was_quick;
        let Some(job) = self.jobs.get(running.job).map(|job| job.id) else {
            return;
        };
        let known = self.slow.get(&ix);
        let others = known.is_some_and(|known| known.is_proven || known.job != job);
        let slowness = Slowness {
            times,
            job: known.map_or(job, |known| known.job),
            is_proven: was_quick || others,
        };
        self.slow.insert(ix, slowness);
    }

    /// Seconds that the whole job usually takes on nodes of this class; `None` until enough of its size ended there.
    fn usual_s(&self, node: NodeIx, running: &Running) -> Option<f64> {
        let job = self.jobs.get(running.job)?;
        let needs = self.kinds.get(job.kind)?.needs;
        let group = self.kinds.get_group(self.nodes.get(node)?.group)?;
        let ratio = self.durations.learned_ratio(needs, group.class)?;
        Some(job.cost * ratio).filter(|seconds| *seconds > 0.0)
    }

    fn times_slower(&self, node: NodeIx) -> Option<f64> {
        let slowness = self.slow.get(&node).filter(|slowness| slowness.is_proven);
        slowness.map(|slowness| slowness.times)
    }

    pub(super) fn is_slow(&self, node: NodeIx) -> bool {
        self.times_slower(node).is_some()
    }

    /// How many times as long as usual on its class the node's steps took lately, while that is much more.
    pub fn slowness(&self, node: &NodeId) -> Option<f64> {
        self.times_slower(self.nodes.find(node)?)
    }

    /// Seconds by which the job would end later there than on others of the class.
    pub(super) fn lag_s(&self, job: &Job, node: NodeIx) -> f64 {
        let times = self.times_slower(node);
        times.map_or(0.0, |times| (times - 1.0) * self.cost_of(job))
    }

    /// Whether the job ends sooner on a free node that is not slow: slow ones leave it alone then.
    pub(super) fn has_quicker(&self, lane: &Lane, job: JobIx) -> bool {
        let best = self.free_node_for(lane, job);
        best.is_some_and(|node| !self.is_slow(node))
    }

    /// Stops one job that goes on sooner elsewhere. One at a time, as the free node is one as well.
    pub(super) fn leave_slow_nodes(&mut self, effects: &mut Vec<Effect>) {
        let mut slow = self.slow.keys();
        let Some(&ix) = slow.find(|ix| self.is_worth_leaving(**ix)) else {
            return;
        };
        let running = self.nodes.get(ix).and_then(|node| node.running);
        if let Some(job) = running.and_then(|running| self.jobs.get_mut(running.job)) {
            job.story().moves += 1;
            self.stop_and_keep(ix, effects);
        }
    }

    fn is_worth_leaving(&self, ix: NodeIx) -> bool {
        let saved_s = || {
            let times = self.times_slower(ix)?;
            let node = self.nodes.get(ix).filter(|node| node.takes_work())?;
            let running = node.running.filter(|running| !running.is_stopping)?;
            let job = self.jobs.get(running.job)?;
            let may_move = job
                .story
                .as_ref()
                .is_none_or(|story| story.moves < JOB_MOVES_MAX && !story.cancel_asked);
            let other = self.quick_free_node(job, node).filter(|_| may_move)?;
            let usual_left_s = self.usual_s(ix, &running)? * (1.0 - running.done());
            Some((times - 1.0) * usual_left_s - self.load_s(job, other))
        };
        saved_s().is_some_and(|saved_s| saved_s > PREEMPTION_SWAPS_WORTH * PREEMPTION_SWAP_S)
    }

    /// A free node that can go on with what the job has done on the other one.
    fn quick_free_node(&self, job: &Job, than: &Node) -> Option<&Node> {
        let class = self.kinds.get_group(than.group)?.class;
        let is_of_class = |group| {
            let group = self.kinds.get_group(group);
            group.is_some_and(|group| group.class == class)
        };
        let has_failed = |node: &NodeIx| {
            let story = job.story.as_ref();
            story.is_some_and(|story| story.failed_on.contains(node))
        };
        let groups = self.free.groups().filter(|group| is_of_class(*group));
        let mut nodes = groups.flat_map(|group| self.free.of_group(group));
        let quick = nodes.find(|node| {
            !self.is_slow(*node) && !has_failed(node) && self.may_take(*node, job.kind)
        });
        quick.and_then(|node| self.nodes.get(node))
    }
}
