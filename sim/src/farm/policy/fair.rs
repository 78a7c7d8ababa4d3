use std::collections::{BTreeMap, BTreeSet};

use super::super::{DeviceClass, Job, JobIx, UserIx, Workload};
use super::fifo::Fifo;
use super::greedy::Line;

/// Start-time fair queueing (Goyal, Vin, Cheng 1996) of users by their tiers' weights: no locality, no start bound, no cap, and
/// nothing is ever stopped.
#[derive(Debug, Default)]
pub(super) struct Fair {
    /// The greatest start tag that was served.
    now: f64,
    /// Start tags of first jobs; of a user without one, where its last one ends.
    users: BTreeMap<UserIx, (f64, Fifo)>,
    waiting: BTreeSet<UserIx>,
}

impl Line for Fair {
    fn push(&mut self, ix: JobIx, job: &Job) {
        let (tag, jobs) = self.users.entry(job.user).or_default();
        if jobs.is_empty() {
            *tag = tag.max(self.now);
        }
        jobs.push(ix, job);
        self.waiting.insert(job.user);
    }

    fn pop(&mut self, class: DeviceClass, workload: &Workload) -> Option<JobIx> {
        let tags = self.waiting.iter().filter_map(|user| {
            let (tag, jobs) = self.users.get(user)?;
            Some((*tag, *user, jobs.first(class)?))
        });
        let (start, user, _) = tags.min_by(|a, b| a.0.total_cmp(&b.0).then(a.2.cmp(&b.2)))?;
        // What only large nodes can run may be served with an older tag.
        self.now = self.now.max(start);
        let (tag, jobs) = self.users.get_mut(&user)?;
        let ix = jobs.pop(class, workload)?;
        if jobs.is_empty() {
            self.waiting.remove(&user);
        }
        let job = workload.job(ix);
        *tag = start + job.predicted_s / f64::from(job.tier.weight());
        Some(ix)
    }
}
