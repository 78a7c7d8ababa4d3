use std::collections::VecDeque;

use super::super::{DeviceClass, Job, JobIx, Workload};
use super::greedy::Line;

/// First come, first served: a node gets the oldest job that it has the memory for.
#[derive(Debug, Default)]
pub(super) struct Fifo {
    arrivals: u64,
    /// Jobs that fit every node, and those that need the memory of a large one.
    any: VecDeque<(u64, JobIx)>,
    large: VecDeque<(u64, JobIx)>,
}

impl Fifo {
    pub(super) fn is_empty(&self) -> bool {
        self.any.is_empty() && self.large.is_empty()
    }

    /// What [`Line::pop`] would give.
    pub(super) fn first(&self, class: DeviceClass) -> Option<JobIx> {
        let any = self.any.front();
        let first = match class {
            DeviceClass::Large => any.into_iter().chain(self.large.front()).min(),
            DeviceClass::Small => any,
        };
        first.map(|(_, job)| *job)
    }
}

impl Line for Fifo {
    fn push(&mut self, ix: JobIx, job: &Job) {
        self.arrivals += 1;
        let lane = if DeviceClass::Small.fits(job.model) {
            &mut self.any
        } else {
            &mut self.large
        };
        lane.push_back((self.arrivals, ix));
    }

    fn pop(&mut self, class: DeviceClass, _workload: &Workload) -> Option<JobIx> {
        let first = self.first(class)?;
        let is_first =
            |lane: &VecDeque<(u64, JobIx)>| lane.front().is_some_and(|(_, job)| *job == first);
        let lane = if is_first(&self.any) {
            &mut self.any
        } else {
            &mut self.large
        };
        lane.pop_front();
        Some(first)
    }
}
