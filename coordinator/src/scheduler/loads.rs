//! What has to be brought to a node before a job can begin there.

use std::collections::BTreeSet;

use super::durations::Cold;
use super::jobs::Job;
use super::nodes::Node;
use super::state::Scheduler;

impl Scheduler {
    /// What has to be brought to the node before the job can begin.
    pub(super) fn cold(&self, job: &Job, node: &Node) -> Cold {
        let needs = self.kinds.get(job.kind).map(|kind| kind.needs);
        let model = needs.is_some_and(|needs| node.model != Some(needs.model));
        let far = job
            .adapters
            .iter()
            .filter(|key| !node.fused.contains(key) && !node.near.contains(key));
        Cold {
            model,
            adapters: far.count() as u32,
        }
    }

    /// Seconds until a job can begin on the node, as predicted.
    pub(super) fn load_s(&self, job: &Job, node: &Node) -> f64 {
        let (Some(kind), Some(group)) =
            (self.kinds.get(job.kind), self.kinds.get_group(node.group))
        else {
            return 0.0;
        };
        let cold = self.cold(job, node);
        let model_s = if cold.model {
            self.durations.model_load_s(kind.needs.model, group.class)
        } else {
            0.0
        };
        let adapters_s = f64::from(cold.adapters) * self.durations.adapter_load_s(group.class);
        let wanted: BTreeSet<_> = job.adapters.iter().copied().collect();
        let fuse_s = if !cold.model && wanted == node.fused {
            0.0
        } else {
            self.durations.adapter_fuse_s()
        };
        model_s + adapters_s + fuse_s
    }
}
