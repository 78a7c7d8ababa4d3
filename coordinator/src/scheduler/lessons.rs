//! What the end of an attempt says of its node and of jobs like it.

use flowai_actors::messages::Stage;

use super::event::Ran;
use super::jobs::JobIx;
use super::nodes::NodeIx;
use super::state::Scheduler;

/// As a node names a failure for lack of memory.
const OUT_OF_MEMORY: &str = "out_of_memory";

impl Scheduler {
    /// What a render says of its node and of renders like it.
    pub(super) fn learn(&mut self, ix: JobIx, node_ix: NodeIx, ran: Option<Ran>) {
        let Some(job) = self.jobs.get(ix) else { return };
        let Some(needs) = self.kinds.get(job.kind).map(|kind| kind.needs) else {
            return;
        };
        let failed_on = job
            .story
            .iter()
            .flat_map(|story| story.failed_on.iter().copied());
        let failed_on: Vec<NodeIx> = failed_on.filter(|other| *other != node_ix).collect();
        let died_on = job.story.as_ref().map(|story| story.died_on.clone());
        let (id, baseline_s, adapters) = (job.id, job.cost, job.adapters.clone());
        let kind = job.kind;
        for model in needs.models() {
            self.trust.succeeded(node_ix, model, self.now);
        }
        for other in &failed_on {
            let group = self.nodes.get(*other).map(|node| node.group);
            // For which it is too small: that says nothing of what it is given.
            if group.is_some_and(|group| self.kinds.is_short_on(kind, group, *other)) {
                continue;
            }
            let model = self.trust.failed_for(*other, needs.models(), id);
            let was_lost = died_on.as_ref().is_some_and(|died| died.contains(other));
            self.trust
                .proven(*other, model.unwrap_or(needs.model), was_lost, self.now);
        }
        if !failed_on.is_empty() {
            self.trust_changed();
        }
        let Some(group) = self.nodes.get(node_ix).map(|node| node.group) else {
            return;
        };
        let refitted = self.kinds.had_memory(kind, group, node_ix, self.now);
        self.refit(refitted);
        let class = self.kinds.get_group(group).map(|group| group.class);
        let running = self.nodes.get(node_ix).and_then(|node| node.running);
        let cold = running.map(|running| running.cold).unwrap_or_default();
        if let (Some(class), Some(ran)) = (class, ran) {
            if running.is_some_and(|running| running.is_whole) {
                self.durations.learn(needs, class, baseline_s, ran.busy.0);
            }
            self.durations
                .learn_load(needs.model, class, cold, ran.load.0);
        }
        // Its next beat says so too; until then it counts as what it has just used.
        if let Some(node) = self.nodes.get_mut(node_ix) {
            node.model = Some(needs.model);
            node.fused = adapters.iter().copied().collect();
            node.near.extend(adapters);
        }
    }

    /// A failure that may be the node's.
    pub(super) fn blame(&mut self, ix: JobIx, node_ix: NodeIx, code: &str, stage: Stage) {
        let Some(job) = self.jobs.get(ix) else { return };
        let (id, kind) = (job.id, job.kind);
        let Some(needs) = self.kinds.get(kind).map(|kind| kind.needs) else {
            return;
        };
        let group = self.nodes.get(node_ix).map(|node| node.group);
        let model = match (code == OUT_OF_MEMORY, stage) {
            // The picture's size was too large, which says nothing of clips.
            (true, Stage::Keyframe) => return,
            (true, Stage::Clip) => {
                let short =
                    group.map(|group| self.kinds.ran_out_of_memory(kind, group, node_ix, self.now));
                self.refit(short.unwrap_or_default());
                return;
            }
            (false, Stage::Keyframe) => needs.keyframe.unwrap_or(needs.model),
            (false, Stage::Clip) => needs.model,
        };
        self.trust.failed(node_ix, model, id, self.now);
        self.trust_changed();
    }

    /// A job that failed on more than one node, until nobody tries it any more, says nothing against them.
    pub(super) fn exonerate(&mut self, ix: JobIx) {
        let Some(job) = self.jobs.get(ix) else { return };
        let Some(kind) = self.kinds.get(job.kind) else {
            return;
        };
        let nodes = job.story.iter().flat_map(|story| &story.failed_on);
        let nodes: Vec<NodeIx> = nodes.copied().collect();
        if nodes.len() < 2 {
            return;
        }
        let (id, needs) = (job.id, kind.needs);
        for node in nodes {
            for model in needs.models() {
                self.trust.exonerated(node, model, id);
            }
            self.touch_node(node);
        }
    }
}
