//! What the policies without an eye for nodes share: a free node gets the first job in the line that fits it.

use std::collections::VecDeque;

use super::super::{DeviceClass, End, Fleet, Job, JobIx, Ms, NodeIx, Order, Workload};
use super::Policy;

/// In which order jobs are served.
pub(super) trait Line {
    fn push(&mut self, ix: JobIx, job: &Job);

    /// The first that fits a device of the class.
    fn pop(&mut self, class: DeviceClass, workload: &Workload) -> Option<JobIx>;
}

pub(super) struct Greedy<'a, L> {
    line: L,
    workload: &'a Workload,
    fleet: &'a Fleet,
    /// The one that is idle longest first.
    idle: VecDeque<NodeIx>,
}

impl<'a, L: Line> Greedy<'a, L> {
    pub(super) fn new(line: L, workload: &'a Workload, fleet: &'a Fleet) -> Self {
        Self {
            line,
            workload,
            fleet,
            idle: fleet.nodes().map(|(node, _)| node).collect(),
        }
    }

    fn place(&mut self) -> Vec<Order> {
        let mut orders = Vec::new();
        self.idle.retain(|node| {
            let job = self.line.pop(self.fleet.class(*node), self.workload);
            orders.extend(job.map(|job| Order::Start { job, node: *node }));
            job.is_none()
        });
        orders
    }
}

impl<L: Line> Policy for Greedy<'_, L> {
    fn arrived(&mut self, job: JobIx, _now: Ms) -> Vec<Order> {
        self.line.push(job, self.workload.job(job));
        self.place()
    }

    fn ended(&mut self, node: NodeIx, job: JobIx, end: End, _now: Ms) -> Vec<Order> {
        self.idle.push_back(node);
        match end {
            End::Rendered { .. } => {}
            // None of them ever stops one; were one stopped, it would wait again.
            End::Stopped { .. } => self.line.push(job, self.workload.job(job)),
        }
        self.place()
    }
}
