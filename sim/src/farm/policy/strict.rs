use flowai_actors::state::Tier;

use super::super::{DeviceClass, Job, JobIx, Workload};
use super::fifo::Fifo;
use super::greedy::Line;

/// A tier is served only while none above it waits; first come, first served within.
#[derive(Debug, Default)]
pub(super) struct Strict {
    studio: Fifo,
    pro: Fifo,
    free: Fifo,
}

impl Line for Strict {
    fn push(&mut self, ix: JobIx, job: &Job) {
        match job.tier {
            Tier::Studio => self.studio.push(ix, job),
            Tier::Pro => self.pro.push(ix, job),
            Tier::Free => self.free.push(ix, job),
        }
    }

    fn pop(&mut self, class: DeviceClass, workload: &Workload) -> Option<JobIx> {
        let lanes = [&mut self.studio, &mut self.pro, &mut self.free];
        lanes.into_iter().find_map(|lane| lane.pop(class, workload))
    }
}
