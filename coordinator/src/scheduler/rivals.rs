//! Who else could use a node: what a start beyond a cap is judged by, from outside.

use flowai_actors::ids::{JobId, NodeId, UserId};
use flowai_actors::state::Tier;

use super::jobs::Place;
use super::state::Scheduler;

/// A waiting job, the first of its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rival {
    pub job: JobId,
    pub user: UserId,
    pub tier: Tier,
    /// Jobs that its user runs.
    pub running: u32,
}

impl Scheduler {
    /// Jobs that this node could be given now were it free, whatever their users run. Looks at all that waits: for checks, not for
    /// decisions.
    pub fn rivals_for(&self, node: &NodeId) -> Vec<Rival> {
        let Some(ix) = self.nodes.find(node) else {
            return Vec::new();
        };
        let waiting = self.jobs.iter().filter_map(|(job_ix, job)| {
            let Place::Lane(lane) = job.place else {
                return None;
            };
            let lane = self.lanes.get(lane)?;
            let kind = self.kinds.get(job.kind)?;
            let can = lane.jobs.front() == Some(&job_ix)
                && self.kinds.fits(job.kind, self.nodes.get(ix)?.group)
                && self.trusts(ix, kind.needs)
                && self.may_run(lane, job_ix, ix);
            let user = self.shares.get(job.owner)?;
            can.then_some(Rival {
                job: job.id,
                user: user.id,
                tier: job.tier,
                running: self.running_of(job.owner),
            })
        });
        waiting.collect()
    }

    /// Counted anew, not as it is kept.
    fn running_of(&self, owner: super::shares::UserIx) -> u32 {
        let own = self.jobs.iter().filter(|(_, job)| job.owner == owner);
        own.filter(|(_, job)| job.holder().is_some()).count() as u32
    }
}
