//! A job that could begin only after loading its model waits for a node that has it, if one becomes free sooner than the load
//! would end: it begins to render no later, and the farm is spared the load (delay scheduling: Zaharia et al., EuroSys 2010).

use flowai_actors::clock::Monotonic;

use super::jobs::{JobIx, Place};
use super::names::ModelIx;
use super::nodes::{Node, NodeIx};
use super::state::Scheduler;

impl Scheduler {
    /// Whether the job is kept from this node for now.
    pub(super) fn is_held(&self, ix: JobIx, node: NodeIx) -> bool {
        let (Some(job), Some(node)) = (self.jobs.get(ix), self.nodes.get(node)) else {
            return false;
        };
        self.now < job.hold_until && self.cold(job, node).model
    }

    /// Holds a job that has just come for as long as its model's load takes, if as many warm nodes as have to serve it and
    /// those before it will probably be free by then.
    pub(super) fn hold(&mut self, ix: JobIx) {
        let Some(until_s) = self.worth_holding_s(ix) else {
            self.relieve(ix);
            return;
        };
        self.hold_until(ix, self.now.plus_ms((1_000.0 * until_s) as u64));
    }

    /// Whoever is held at the head of a lane keeps those behind it from nodes that they would load: the last waits in its place.
    fn relieve(&mut self, ix: JobIx) {
        let Some(Place::Lane(lane)) = self.jobs.get(ix).map(|job| job.place.clone()) else {
            return;
        };
        let head = self.lanes.get(lane).and_then(|lane| lane.jobs.front());
        let Some(head) = head.copied().filter(|head| *head != ix) else {
            return;
        };
        let (now, kind) = (self.now, self.jobs.get(ix).map(|job| job.kind));
        let held = self.jobs.get_mut(head).filter(|job| now < job.hold_until);
        let Some(until) = held.map(|job| std::mem::take(&mut job.hold_until)) else {
            return;
        };
        self.hold_until(ix, until);
        self.dirty_kinds.extend(kind);
    }

    fn hold_until(&mut self, ix: JobIx, until: Monotonic) {
        if let Some(job) = self.jobs.get_mut(ix) {
            job.hold_until = until;
        }
        // Then it is a candidate for every node.
        self.pausing.insert((until, ix));
        self.wake_by(until);
    }

    fn worth_holding_s(&self, ix: JobIx) -> Option<f64> {
        // There is no node to hold it back from, and looking at all that run costs.
        if self.free.is_empty() {
            return None;
        }
        let job = self.jobs.get(ix)?;
        let model = self.kinds.get(job.kind)?.needs.model;
        if self.free.with_model(model).next().is_some() {
            return None;
        }
        let is_warm = |(ix, node): &(NodeIx, &Node)| {
            node.model == Some(model)
                && !self.is_slow(*ix)
                && node.takes_work()
                && node.reserved.is_none()
                && self.may_take(*ix, job.kind)
        };
        let warm = || self.nodes.iter().filter(is_warm);
        let (_, first) = warm().next()?;
        let class = self.kinds.get_group(first.group)?.class;
        // Nobody waits for a guess.
        let load_s = self.durations.learned_load_s(model, class)?;
        let runs = warm().filter_map(|(_, node)| node.running);
        let free_by_then = runs
            .filter(|running| running.left_s(self.now) <= load_s)
            .count();
        (free_by_then >= self.wait_for(model)).then_some(load_s)
    }

    /// Jobs that wait for the model and whose users may start one more. Whoever runs as many as it may is held all the same: it waits
    /// for its own, which end on warm nodes (docs/scheduler.md has the figures).
    fn wait_for(&self, model: ModelIx) -> usize {
        let kinds = self.kinds.waiting();
        let of_model = kinds.filter(|(_, kind)| kind.needs.model == model);
        let jobs = of_model.map(|(_, kind)| kind.waiting(false).sum());
        jobs.sum::<u32>() as usize
    }
}
